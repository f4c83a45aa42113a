//! A small world of network namespaces: nodes on one bridge of a router, sandboxes in the nodes.
//!
//! Nothing in it has a way out: no default route leaves the router, and all of it is gone when the last
//! file descriptor is closed. Work is done in threads that entered a namespace.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own share of it")]

pub mod walking;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use skiff_network::{Cidr, Config, HostPort, LocalNetwork, Network, Protocol};
use skiff_sys::netlink::in_netns;
use skiff_sys::netlink::route::{Connection, VethEnd};
use skiff_sys::nft::Ruleset;
use tempfile::TempDir;

/// Far more than a packet between namespaces takes; only failing tests wait that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// A namespace of its own, loopback up.
pub struct Netns {
    file: File,
}

impl Netns {
    pub fn new() -> Netns {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Connection::open().unwrap().set_up("lo").unwrap();
            // The kernel's settings of the thread's own namespace.
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Netns { file: file.join().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    pub fn links(&self) -> Connection {
        Connection::open_in(self.file.as_fd()).unwrap()
    }

    /// Runs in a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(self.file.as_fd(), work).unwrap()
    }

    /// The table of the packet filter, in `nft`'s words. Empty if there is none.
    pub fn nft(&self) -> String {
        self.command("nft", &["-n", "list", "ruleset"])
    }

    /// The same in an order of its own: neither elements nor chains have one that says anything.
    pub fn rules(&self) -> Vec<String> {
        let text = self.nft();
        let words = ["elements = {", "}"].iter().fold(text, |text, word| text.replace(word, ",\n"));
        let mut lines: Vec<_> = words
            .split([',', '\n'])
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines.sort();
        lines
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| std::process::Command::new(program).args(arguments).output().unwrap());
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Answers every connection with `name`, a blank and the caller's address.
    pub fn serve_tcp(&self, address: &str, name: &str) -> Server {
        let listener = self.run(|| TcpListener::bind(address).unwrap());
        let name = name.to_owned();
        Server::start(listener, move |listener| {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = write!(stream, "{name} {}", from.ip());
            }
        })
    }

    pub fn serve_udp(&self, address: &str, name: &str) -> Server {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        let name = name.to_owned();
        Server::start(socket, move |socket| {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        })
    }

    pub fn try_tcp(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    #[track_caller]
    pub fn tcp(&self, address: &str) -> String {
        self.try_tcp(address).unwrap_or_else(|error| panic!("{address}: {error}\n{}", self.nft()))
    }

    #[track_caller]
    pub fn refused(&self, address: &str) {
        let result = self.try_tcp(address);
        let kind = result.as_ref().map_err(io::Error::kind);
        assert_eq!(kind, Err(io::ErrorKind::ConnectionRefused), "{address}\n{}", self.nft());
    }

    /// No answer at all, within a time in which any would have come.
    #[track_caller]
    pub fn silent(&self, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let result = self.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)));
        assert_eq!(result.map_err(|error| error.kind()).unwrap_err(), io::ErrorKind::TimedOut, "{address}");
    }

    pub fn udp_socket(&self) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Who answered, of those that tell their name first.
pub fn names(answers: impl Iterator<Item = String>) -> BTreeSet<String> {
    answers.map(|answer| answer.split(' ').next().unwrap_or_default().to_owned()).collect()
}

/// A port of every address of a node.
pub fn host_port(protocol: Protocol, host_port: u16, container_port: u16) -> HostPort {
    HostPort { host_ip: Ipv4Addr::UNSPECIFIED, host_port, protocol, container_port }
}

/// One question and its answer over a UDP socket connected to `address`.
pub fn try_udp(socket: &UdpSocket, address: &str) -> io::Result<String> {
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A server in a thread, until dropped.
pub struct Server {
    stop: Option<Box<dyn FnOnce() + Send>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start<S: AsFd + Send + 'static>(socket: S, serve: impl FnOnce(S) + Send + 'static) -> Server {
        let handle = socket.as_fd().try_clone_to_owned().unwrap();
        let stop = Box::new(move || {
            use std::os::fd::AsRawFd;
            // Wakes accept and receive.
            let _ = nix::sys::socket::shutdown(handle.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        });
        let thread = std::thread::spawn(move || serve(socket));
        Server { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until it holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::yield_now();
    }
}

pub struct Node {
    pub netns: Netns,
    pub ip: Ipv4Addr,
    pub network: LocalNetwork,
    pub ruleset: Arc<Ruleset>,
    pub config: Config,
    runtime: tokio::runtime::Runtime,
    _state: TempDir,
}

/// A router with nodes: node N (from 1) is 10.100.0.N+1 and has 10.244.N.0/24.
pub struct Lab {
    pub router: Netns,
    pub nodes: Vec<Node>,
}

impl Lab {
    pub fn new(count: u8) -> Lab {
        let router = Netns::new();
        let links = router.links();
        links.add_bridge("br0", [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let bridge = links.link("br0").unwrap().unwrap().index;
        links.add_address(bridge, ip("10.100.0.1"), 24).unwrap();
        router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        let nodes: Vec<Node> = (1..=count).map(|number| Node::new(number, &links, bridge)).collect();
        let lab = Lab { router, nodes };
        for node in &lab.nodes {
            let others = lab.nodes.iter().filter(|other| other.ip != node.ip);
            let routes: Vec<_> = others
                .map(|other| skiff_network::Route { destination: other.config.pod_cidr, via: other.ip })
                .collect();
            node.block_on(node.network.set_routes(&routes)).unwrap();
        }
        lab
    }
}

impl Node {
    fn new(number: u8, router: &Connection, bridge: u32) -> Node {
        let netns = Netns::new();
        let ip = Ipv4Addr::new(10, 100, 0, number + 1);
        let port = format!("node{number}");
        let near = VethEnd { name: &port, bridge: Some(bridge), ..VethEnd::default() };
        let far = VethEnd { name: "eth0", netns: Some(netns.file.as_fd()), ..VethEnd::default() };
        router.add_veth(&near, &far, 1400).unwrap();
        netns.links().configure_sandbox("eth0", ip, 24, Ipv4Addr::new(10, 100, 0, 1)).unwrap();
        let state = tempfile::tempdir().unwrap();
        let config = Config {
            bridge: "cbr0".into(),
            pod_cidr: cidr(&format!("10.244.{number}.0/24")),
            cluster_cidr: cidr("10.244.0.0/16"),
            service_cidr: cidr("10.96.0.0/16"),
            node_ip: ip,
            mtu: 0,
            state_dir: state.path().to_owned(),
            own_ports: vec![(Protocol::Tcp, 10250)],
        };
        let runtime = netns.runtime();
        let (network, ruleset) = start(&netns, &runtime, &config, &[]);
        Node { netns, ip, network, ruleset, config, runtime, _state: state }
    }

    /// As after the end of the node's agent: everything of the process is new, the kernel's is not.
    pub fn restart(&mut self) {
        self.restart_awaiting(&[]);
    }

    /// The same, with parts of the ruleset that will be defined later.
    pub fn restart_awaiting(&mut self, parts: &[&'static str]) {
        let (network, ruleset) = start(&self.netns, &self.runtime, &self.config, parts);
        (self.network, self.ruleset) = (network, ruleset);
    }

    pub fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.runtime.block_on(work)
    }

    /// On a thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// A sandbox on this node and its address.
    pub fn sandbox(&self, name: &str) -> (Netns, Ipv4Addr) {
        let netns = Netns::new();
        let attachment = self.block_on(self.network.attach(name, &netns.path())).unwrap();
        (netns, attachment.ip)
    }

    /// This node's end of the link of the sandbox with that address.
    pub fn host_link(&self, ip: Ipv4Addr) -> String {
        let attachments = self.block_on(self.network.attachments()).unwrap();
        attachments.into_iter().find(|this| this.ip == ip).unwrap().host_link
    }
}

impl Netns {
    /// A runtime all of whose threads are inside.
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let file = Arc::new(self.file.try_clone().unwrap());
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || nix::sched::setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap())
            .build()
            .unwrap()
    }
}

fn start(
    netns: &Netns,
    runtime: &tokio::runtime::Runtime,
    config: &Config,
    awaited: &[&'static str],
) -> (LocalNetwork, Arc<Ruleset>) {
    let ruleset = netns.run(|| Ruleset::open().unwrap());
    ruleset.await_parts(awaited);
    let network = runtime.block_on(LocalNetwork::start(config.clone(), ruleset.clone())).unwrap();
    (network, ruleset)
}
