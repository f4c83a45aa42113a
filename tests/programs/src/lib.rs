//! What the containers' programs share: the smallest web server that serves the scenarios.

use std::ffi::CStr;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// The host name, as the kernel knows it in this UTS namespace.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Every IPv4 address of this network namespace except those of the loopback link, in the kernel's order.
pub fn addresses() -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the result, which is freed below and not kept.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return found;
    }
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: `entry` is an element of the list that getifaddrs made and that is not freed yet.
        let (address, flags, next) = unsafe { ((*entry).ifa_addr, (*entry).ifa_flags, (*entry).ifa_next) };
        let loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
        // SAFETY: a non-null ifa_addr points to a sockaddr, which for AF_INET is a sockaddr_in.
        if !address.is_null() && i32::from(unsafe { (*address).sa_family }) == libc::AF_INET {
            // SAFETY: as above.
            let raw = unsafe { (*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr };
            let ip = Ipv4Addr::from(u32::from_be(raw));
            if !loopback {
                found.push(ip);
            }
        }
        entry = next;
    }
    // SAFETY: it came from getifaddrs and is not used after this.
    unsafe { libc::freeifaddrs(list) };
    found
}

/// Serves `answer` to every HTTP request on a port of all addresses, and says on failure what the kernel
/// said. Ends on SIGTERM, also as PID 1.
pub fn serve(
    port: u16,
    answer: impl Fn(SocketAddr) -> String + Send + Sync + Clone + 'static,
) -> io::Result<()> {
    end_on_sigterm();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("listening on {port}");
    for stream in listener.incoming() {
        let answer = answer.clone();
        std::thread::spawn(move || {
            // A client that goes away is no news.
            let _ = stream.and_then(|stream| respond(stream, &answer));
        });
    }
    Ok(())
}

fn respond(mut stream: TcpStream, answer: &impl Fn(SocketAddr) -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = answer(peer);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{body}", body.len())
}

/// The kernel delivers no signal to a PID 1 that has no handler for it.
pub fn end_on_sigterm() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(0) }
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler calls nothing but _exit.
        unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// The message behind an errno, as the C library words it.
pub fn strerror(errno: i32) -> String {
    // SAFETY: strerror returns a valid C string, which is copied at once; this program has one thread here.
    unsafe { CStr::from_ptr(libc::strerror(errno)) }.to_string_lossy().into_owned()
}
