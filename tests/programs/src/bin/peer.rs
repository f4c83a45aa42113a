//! The tests' own network and IPC tool, since busybox lacks time limits and System V IPC.
//!
//! - `peer tcp PORT [ADDRESS]`, `peer udp PORT`: serve; each answer is `HOSTNAME PEER_IP`
//! - `peer many PORT`: serve at that port by TCP, at it by UDP, at the next one by IPv6 alone, at the one after it on
//!   the link `lo` alone, and at the one after that with another process that holds the same socket
//! - `peer get ADDRESS:PORT [MILLISECONDS]`: print what a TCP server says; exit 1 on refusal, 2 on silence
//! - `peer ask ADDRESS:PORT [MILLISECONDS]`: the same over UDP
//! - `peer echo PORT`: send back what comes over a TCP connection
//! - `peer beat ADDRESS:PORT`: say something over one connection to it ten times a second, until no answer
//!   comes for five seconds, which no load of the machine is taken for; then exit 2
//! - `peer shm-put KEY TEXT`, `peer shm-get KEY`: a System V segment
//! - `peer sem-put KEY VALUE`, `peer sem-get KEY`: a System V semaphore
//! - `peer msg-put KEY TEXT`, `peer msg-get KEY`: a System V queue
//! - `peer mq-put NAME TEXT`, `peer mq-get NAME`: a POSIX queue
//! - `peer eat MEGABYTES`: allocate and touch memory, then wait
//! - `peer spin`: use a CPU

use std::ffi::CString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use skiff_test_programs::{end_on_sigterm, hostname, strerror};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["tcp", port] => serve_tcp(port, "0.0.0.0"),
        ["tcp", port, address] => serve_tcp(port, address),
        ["udp", port] => serve_udp(port),
        ["many", port] => serve_many(port),
        ["hold"] => loop {
            std::thread::park();
        },
        ["get", target] => get(target, "3000"),
        ["get", target, millis] => get(target, millis),
        ["ask", target] => ask(target, "3000"),
        ["ask", target, millis] => ask(target, millis),
        ["echo", port] => serve_echo(port),
        ["beat", target] => beat(target),
        ["shm-put", key, text] => shm(key, Some(text)),
        ["shm-get", key] => shm(key, None),
        ["sem-put", key, value] => sem(key, Some(value)),
        ["sem-get", key] => sem(key, None),
        ["msg-put", key, text] => msg(key, Some(text)),
        ["msg-get", key] => msg(key, None),
        ["mq-put", name, text] => mq(name, Some(text)),
        ["mq-get", name] => mq(name, None),
        ["eat", megabytes] => eat(megabytes),
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        _ => Err((64, "usage: see the source".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            eprintln!("peer: {message}");
            ExitCode::from(code)
        }
    }
}

type Outcome = Result<(), (u8, String)>;

fn number<T: std::str::FromStr>(text: &str) -> Result<T, (u8, String)> {
    text.parse().map_err(|_| (64, format!("{text:?} is no number")))
}

fn io(error: std::io::Error) -> (u8, String) {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let code = if matches!(error.kind(), TimedOut | WouldBlock) { 2 } else { 1 };
    (code, error.to_string())
}

fn serve_tcp(port: &str, address: &str) -> Outcome {
    end_on_sigterm();
    let listener = TcpListener::bind((number::<Ipv4Addr>(address)?, number(port)?)).map_err(io)?;
    println!("listening on {port}");
    for mut stream in listener.incoming().flatten() {
        if let Ok(peer) = stream.peer_addr() {
            let _ = writeln!(stream, "{} {}", hostname(), peer.ip());
        }
    }
    Ok(())
}

fn serve_many(port: &str) -> Outcome {
    end_on_sigterm();
    let first: u16 = number(port)?;
    let (six, bound) = (listening(first + 1, true, None)?, listening(first + 2, false, Some(c"lo"))?);
    let shared = listening(first + 3, false, None)?;
    let handed = shared.try_clone().map_err(io)?;
    let mut holder = std::process::Command::new("/proc/self/exe");
    let _holder = holder.arg("hold").stdin(std::os::fd::OwnedFd::from(handed)).spawn().map_err(io)?;
    for listener in [six, bound, shared] {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if let Ok(peer) = stream.peer_addr() {
                    let _ = writeln!(stream, "{} {}", hostname(), peer.ip());
                }
            }
        });
    }
    let udp = port.to_owned();
    std::thread::spawn(move || serve_udp(&udp));
    serve_tcp(port, "0.0.0.0")
}

/// A socket that listens on every address: of IPv4, or of IPv6 alone; on every link, or on one.
fn listening(port: u16, six: bool, link: Option<&std::ffi::CStr>) -> Result<TcpListener, (u8, String)> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let failed = |what: &str| (1, format!("{what}: {}", std::io::Error::last_os_error()));
    let family = if six { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: it takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("socket"));
    }
    // SAFETY: the descriptor was just made, and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let set = |level, name, value: &[u8]| {
        let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
        // SAFETY: the value is as long as is said, and read alone.
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) }
    };
    if six && set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32.to_ne_bytes()) != 0 {
        return Err(failed("IPV6_V6ONLY"));
    }
    if let Some(link) = link
        && set(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, link.to_bytes_with_nul()) != 0
    {
        return Err(failed("SO_BINDTODEVICE"));
    }
    // SAFETY: an address of zeros is one: unspecified, of no family yet.
    let (mut four, mut all): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
    four.sin_family = libc::AF_INET as libc::sa_family_t;
    four.sin_port = port.to_be();
    all.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    all.sin6_port = port.to_be();
    let (address, length) = match six {
        true => ((&raw const all).cast(), size_of_val(&all)),
        false => ((&raw const four).cast(), size_of_val(&four)),
    };
    // SAFETY: the address is of that length, and outlives the call; listening takes no pointers.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), address, length as libc::socklen_t) } == 0
        && unsafe { libc::listen(fd.as_raw_fd(), 16) } == 0;
    if bound { Ok(TcpListener::from(fd)) } else { Err(failed("bind")) }
}

fn serve_echo(port: &str) -> Outcome {
    end_on_sigterm();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number(port)?)).map_err(io)?;
    println!("listening on {port}");
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn beat(to: &str) -> Outcome {
    let mut stream = TcpStream::connect(self::target(to)?).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(io)?;
    loop {
        stream.write_all(b"!").map_err(io)?;
        stream.read_exact(&mut [0]).map_err(io)?;
        println!("beat");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn serve_udp(port: &str) -> Outcome {
    end_on_sigterm();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, number(port)?)).map_err(io)?;
    println!("listening on {port}");
    let mut buffer = [0; 512];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{} {}\n", hostname(), peer.ip()).as_bytes(), peer);
        }
    }
}

fn target(text: &str) -> Result<SocketAddr, (u8, String)> {
    use std::net::ToSocketAddrs;
    let mut found = text.to_socket_addrs().map_err(|error| (3, format!("{text}: {error}")))?;
    found.next().ok_or((3, format!("{text} has no address")))
}

fn get(text: &str, millis: &str) -> Outcome {
    let timeout = Duration::from_millis(number(millis)?);
    let mut stream = TcpStream::connect_timeout(&target(text)?, timeout).map_err(io)?;
    stream.set_read_timeout(Some(timeout)).map_err(io)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(io)?;
    print!("{answer}");
    Ok(())
}

fn ask(text: &str, millis: &str) -> Outcome {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(io)?;
    socket.set_read_timeout(Some(Duration::from_millis(number(millis)?))).map_err(io)?;
    socket.connect(target(text)?).map_err(io)?;
    socket.send(b"?").map_err(io)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).map_err(io)?;
    print!("{}", String::from_utf8_lossy(&buffer[..length]));
    Ok(())
}

fn checked(result: i64) -> Result<i64, (u8, String)> {
    match result {
        -1 => {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            Err((1, strerror(errno)))
        }
        other => Ok(other),
    }
}

const SEGMENT_BYTES: usize = 256;
const RIGHTS: i32 = 0o666;

fn shm(key: &str, text: Option<&str>) -> Outcome {
    let flags = if text.is_some() { libc::IPC_CREAT | RIGHTS } else { 0 };
    // SAFETY: shmget takes no pointers.
    let id = checked(i64::from(unsafe { libc::shmget(number(key)?, SEGMENT_BYTES, flags) }))? as i32;
    // SAFETY: the kernel chooses where the segment goes.
    let place = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    checked(place as i64)?;
    // SAFETY: the segment has SEGMENT_BYTES bytes and stays attached until this process ends.
    let bytes = unsafe { std::slice::from_raw_parts_mut(place.cast::<u8>(), SEGMENT_BYTES) };
    match text {
        Some(text) => {
            let text = text.as_bytes();
            let length = text.len().min(SEGMENT_BYTES - 1);
            bytes[..length].copy_from_slice(&text[..length]);
            bytes[length] = 0;
        }
        None => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(SEGMENT_BYTES);
            println!("{}", String::from_utf8_lossy(&bytes[..end]));
        }
    }
    Ok(())
}

fn sem(key: &str, value: Option<&str>) -> Outcome {
    let flags = if value.is_some() { libc::IPC_CREAT | RIGHTS } else { 0 };
    // SAFETY: semget takes no pointers.
    let id = checked(i64::from(unsafe { libc::semget(number(key)?, 1, flags) }))? as i32;
    match value {
        // SAFETY: SETVAL takes an int as its fourth argument.
        Some(value) => {
            checked(i64::from(unsafe { libc::semctl(id, 0, libc::SETVAL, number::<i32>(value)?) }))?;
        }
        // SAFETY: GETVAL takes no fourth argument.
        None => println!("{}", checked(i64::from(unsafe { libc::semctl(id, 0, libc::GETVAL) }))?),
    }
    Ok(())
}

#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; SEGMENT_BYTES],
}

fn msg(key: &str, text: Option<&str>) -> Outcome {
    let flags = if text.is_some() { libc::IPC_CREAT | RIGHTS } else { 0 };
    // SAFETY: msgget takes no pointers.
    let id = checked(i64::from(unsafe { libc::msgget(number(key)?, flags) }))? as i32;
    let mut message = Message { kind: 1, text: [0; SEGMENT_BYTES] };
    let pointer = std::ptr::from_mut(&mut message).cast::<libc::c_void>();
    match text {
        Some(text) => {
            let length = text.len().min(SEGMENT_BYTES);
            message.text[..length].copy_from_slice(&text.as_bytes()[..length]);
            // SAFETY: the message has `length` bytes of text behind its type.
            checked(i64::from(unsafe { libc::msgsnd(id, pointer, length, libc::IPC_NOWAIT) }))?;
        }
        None => {
            // SAFETY: the message has room for SEGMENT_BYTES bytes of text behind its type.
            let length =
                checked(unsafe { libc::msgrcv(id, pointer, SEGMENT_BYTES, 0, libc::IPC_NOWAIT) } as i64)?;
            println!("{}", String::from_utf8_lossy(&message.text[..length as usize]));
        }
    }
    Ok(())
}

fn mq(name: &str, text: Option<&str>) -> Outcome {
    let name = CString::new(name).map_err(|_| (64, "a name has no zero byte".to_owned()))?;
    let flags = libc::O_RDWR | libc::O_NONBLOCK | if text.is_some() { libc::O_CREAT } else { 0 };
    // SAFETY: the name is a C string; a null attribute means the defaults.
    let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o666, std::ptr::null::<libc::mq_attr>()) };
    let queue = checked(i64::from(queue))? as libc::mqd_t;
    match text {
        Some(text) => {
            // SAFETY: pointer and length are of one string.
            checked(i64::from(unsafe { libc::mq_send(queue, text.as_ptr().cast(), text.len(), 0) }))?;
        }
        None => {
            let mut buffer = vec![0u8; 8192];
            // SAFETY: the buffer has the default message size, 8,192 bytes.
            let length = unsafe {
                libc::mq_receive(queue, buffer.as_mut_ptr().cast(), buffer.len(), std::ptr::null_mut())
            };
            let length = checked(length as i64)? as usize;
            println!("{}", String::from_utf8_lossy(&buffer[..length]));
        }
    }
    Ok(())
}

fn eat(megabytes: &str) -> Outcome {
    end_on_sigterm();
    let memory = vec![1u8; number::<usize>(megabytes)? << 20];
    println!("ate {}", memory.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>());
    loop {
        std::thread::park();
    }
}
