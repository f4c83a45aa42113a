//! Asking other servers about names that are not ours.
//!
//! Each question goes out once to each server in turn, from a fresh socket with a random port and ID, and
//! waits a second at most: a pod that asks for a name of the outside must not hang because there is none.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long each server may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Servers asked for one question.
const SERVERS_MAX: usize = 3;

/// Who knows the names of the outside.
#[derive(Debug, Clone)]
pub enum Forwarders {
    /// These, asked in this order; none without an uplink.
    These(Vec<SocketAddr>),
    /// Whom this resolv.conf(5) names when there is a question: a machine may join another network.
    Of(PathBuf),
}

/// The servers to ask, by what is known of them now.
pub(crate) struct Servers {
    /// This server, which must not ask itself.
    own: SocketAddr,
    file: Option<PathBuf>,
    known: Mutex<Known>,
}

struct Known {
    /// Of the file that they were read from.
    version: Option<Version>,
    servers: Arc<[SocketAddr]>,
}

/// Inode, and when it was changed, in seconds and nanoseconds.
type Version = (u64, i64, i64);

impl Servers {
    pub(crate) fn new(own: SocketAddr, forwarders: Forwarders) -> Self {
        let (file, servers) = match forwarders {
            Forwarders::These(servers) => (None, servers),
            Forwarders::Of(file) => (Some(file), Vec::new()),
        };
        let servers = without(own, servers);
        Self { own, file, known: Mutex::new(Known { version: None, servers }) }
    }

    /// Reads the file again where it has changed, which asks the kernel alone.
    pub(crate) fn now(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock();
        if let Some(file) = &self.file {
            let version = version(file);
            if version != known.version {
                let text = fs::read_to_string(file).unwrap_or_default();
                *known = Known { version, servers: without(self.own, named(&text)) };
            }
        }
        known.servers.clone()
    }
}

fn version(file: &Path) -> Option<Version> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn without(own: SocketAddr, mut servers: Vec<SocketAddr>) -> Arc<[SocketAddr]> {
    if servers.contains(&own) {
        warn!(address = %own, "left out a forwarder that is this server itself");
    }
    servers.retain(|server| *server != own);
    servers.into()
}

/// How the client asked, and so how the others are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The first usable response to `request`, under its own ID; `None` if nobody gives one.
pub(crate) async fn ask(
    servers: &[SocketAddr],
    patience: Duration,
    request: &Message,
    transport: Transport,
) -> Option<Message> {
    let mut question = request.clone();
    question.metadata.id = rand::random();
    let bytes = question.to_vec().ok()?;
    for server in servers.iter().take(SERVERS_MAX) {
        let exchange = async {
            match transport {
                Transport::Udp => over_udp(*server, &bytes, &question).await,
                Transport::Tcp => over_tcp(*server, &bytes, &question).await,
            }
        };
        match timeout(patience, exchange).await {
            Ok(Ok(mut response)) => {
                response.metadata.id = request.metadata.id;
                return Some(response);
            }
            Ok(Err(error)) => debug!(%server, %error, "a forwarder failed"),
            Err(_) => debug!(%server, "a forwarder is silent"),
        }
    }
    None
}

async fn over_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> std::io::Result<Message> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let count = socket.recv(&mut buffer).await?;
        // Anything else was sent by somebody who guesses.
        if let Some(response) = fitting(&buffer[..count], question) {
            return Ok(response);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], question: &Message) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(bytes).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    fitting(&buffer, question)
        .ok_or_else(|| std::io::Error::other("the response belongs to another question"))
}

fn fitting(bytes: &[u8], question: &Message) -> Option<Message> {
    let response = Message::from_vec(bytes).ok()?;
    let same = |a: &Query, b: &Query| a.query_type() == b.query_type() && a.name() == b.name();
    let fits = response.metadata.id == question.metadata.id
        && response.metadata.message_type == hickory_proto::op::MessageType::Response
        && response.queries.len() == question.queries.len()
        && response.queries.iter().zip(&question.queries).all(|(a, b)| same(a, b));
    fits.then_some(response)
}

/// The servers that a resolv.conf(5) names, without those on loopback: they are the node's own and a pod
/// network's server asking them may ask itself.
pub(crate) fn named(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        let address: std::net::IpAddr = address.parse().ok()?;
        (!address.is_loopback() && !address.is_unspecified()).then_some(SocketAddr::new(address, 53))
    };
    resolv_conf.lines().filter_map(server).take(SERVERS_MAX).collect()
}
