//! Whether a registry's name has an address, told at once where nobody can be asked.
//!
//! The system's resolver waits for each name server in turn, also for one that no route leads to, as it
//! doesn't hear what the network says. So the way to the name servers is tried beside it: a connection that
//! a router refuses is refused at once. Errors are worded as containerd's, which come from Go.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// What is known without a name server (hosts(5)) is known within this.
const OWN_KNOWLEDGE: Duration = Duration::from_millis(250);
/// Where one of these is set, it is the proxy that looks for the registry.
pub(super) const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Fails if `registry` (`host` or `host:port`) is a name for which no address can be found within `limit`.
pub(super) async fn check(registry: &str, limit: Duration) -> Result<(), String> {
    let Some(host) = name(registry) else { return Ok(()) };
    if PROXIES.iter().any(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty())) {
        return Ok(());
    }
    let servers = name_servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let asked = async { tokio::net::lookup_host((host, 0)).await.map(drop) };
    let found = found(asked, unreachable(&servers), limit).await;
    found.map_err(|why| match (why, servers.first()) {
        (Missing::NoSuchHost, _) => format!("dial tcp: lookup {host}: no such host"),
        (Missing::Other(said), Some(server)) => format!("dial tcp: lookup {host} on {server}: {said}"),
        (Missing::Other(said), None) => format!("dial tcp: lookup {host}: {said}"),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Missing {
    NoSuchHost,
    Other(String),
}

/// The answer, unless it is known before that there will be none.
async fn found(
    asked: impl Future<Output = io::Result<()>>,
    unreachable: impl Future<Output = String>,
    limit: Duration,
) -> Result<(), Missing> {
    let in_vain = async {
        let said = unreachable.await;
        tokio::time::sleep(OWN_KNOWLEDGE).await;
        said
    };
    // All are cancel-safe: what is dropped has no effect but on itself.
    tokio::select! {
        biased;
        answer = asked => answer.map_err(|error| missing(&error.to_string())),
        said = in_vain => Err(Missing::Other(said)),
        () = tokio::time::sleep(limit) => Err(Missing::Other("i/o timeout".into())),
    }
}

/// What the resolver's words mean; they are glibc's or musl's.
fn missing(said: &str) -> Missing {
    let unknown =
        ["Name or service not known", "Name does not resolve", "No address associated", "has no usable"];
    if unknown.iter().any(|words| said.contains(words)) {
        return Missing::NoSuchHost;
    }
    let said = said.strip_prefix("failed to lookup address information: ").unwrap_or(said);
    Missing::Other(said.to_owned())
}

/// Comes back only if no route leads to any of the servers, with what the network said of the last.
async fn unreachable(servers: &[SocketAddr]) -> String {
    let mut last = None;
    for server in servers {
        match TcpStream::connect(server).await {
            Err(error) if is_without_route(&error) => last = Some(error),
            // Whether it answers is the resolver's to find out.
            _ => return std::future::pending().await,
        }
    }
    match last.as_ref().map(io::Error::kind) {
        Some(io::ErrorKind::HostUnreachable) => "no route to host".into(),
        Some(_) => "network is unreachable".into(),
        // The resolver asks this machine then.
        None => std::future::pending().await,
    }
}

fn is_without_route(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), NetworkUnreachable | HostUnreachable | NetworkDown)
}

/// The part of a registry's name that has to be looked up; none of an address.
fn name(registry: &str) -> Option<&str> {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_err().then_some(host)
}

/// Those of a resolv.conf(5).
fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let address = words.next().filter(|_| is_server)?.parse().ok()?;
        Some(SocketAddr::new(address, DNS_PORT))
    };
    resolv_conf.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn names_are_looked_up_and_addresses_are_not() {
        for (registry, expected) in [
            ("docker.io", Some("docker.io")),
            ("registry.example:5000", Some("registry.example")),
            ("localhost:5000", Some("localhost")),
            ("127.0.0.1:5000", None),
            ("10.0.0.1", None),
            ("[::1]:5000", None),
            ("[fd00::1]", None),
        ] {
            assert_eq!(name(registry), expected, "{registry}");
        }
    }

    #[test]
    fn servers_are_those_of_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\nnameserver\tfd00::1 # second\nnameserver x\n";
        let expected: Vec<SocketAddr> =
            ["10.0.0.1:53", "[fd00::1]:53"].map(|text| text.parse().unwrap()).into();
        assert_eq!(name_servers(text), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_know_is_believed() {
        let no_way = || ready("network is unreachable".to_owned());
        assert_eq!(found(ready(Ok(())), no_way(), LIMIT).await, Ok(()));
        let soon = async {
            tokio::time::sleep(OWN_KNOWLEDGE / 2).await;
            Ok(())
        };
        assert_eq!(found(soon, no_way(), LIMIT).await, Ok(()), "a file of hosts knows it");
        let began = tokio::time::Instant::now();
        let other = |said: &str| Err(Missing::Other(said.to_owned()));
        assert_eq!(found(pending(), no_way(), LIMIT).await, other("network is unreachable"));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(found(pending(), pending(), LIMIT).await, other("i/o timeout"));
        let unknown = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(found(ready(Err(unknown)), pending(), LIMIT).await, Err(Missing::NoSuchHost));
        let silent =
            io::Error::other("failed to lookup address information: Temporary failure in name resolution");
        assert_eq!(
            found(ready(Err(silent)), pending(), LIMIT).await,
            other("Temporary failure in name resolution")
        );
    }

    /// No connection is ever made to a group of machines, whatever routes there are.
    #[tokio::test]
    async fn a_server_without_a_way_to_it_is_known_at_once() {
        let group: SocketAddr = "224.0.0.1:53".parse().unwrap();
        assert_eq!(unreachable(&[group]).await, "network is unreachable");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        for servers in [&[][..], &[near], &[group, near]] {
            let mut asked = Box::pin(unreachable(servers));
            // The accepted connection shows that it was tried.
            let tried = async {
                match servers.is_empty() {
                    true => tokio::task::yield_now().await,
                    false => drop(listener.accept().await.unwrap()),
                }
            };
            tokio::select! {
                biased;
                said = &mut asked => panic!("{servers:?}: {said}"),
                () = tried => {}
            }
        }
    }
}
