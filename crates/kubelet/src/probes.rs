//! Asking containers how they are: exec, http and tcp, from the node to the pod's address.

mod http;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_runtime::{ContainerId, Runtime};
use tokio::net::TcpStream;

/// How a probe succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Success {
    Plain,
    /// What people should hear of all the same.
    Warned(String),
}

/// How one did not, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The container gave no good answer, or none: that counts.
    Failed(String),
    /// It could not be asked, so nothing is known of it and nothing counts.
    Unknown(String),
}

/// Asks once.
pub(crate) async fn probe(
    runtime: &Arc<dyn Runtime>,
    id: &ContainerId,
    container: &Container,
    probe: &Probe,
    ip: IpAddr,
) -> Result<Success, Failure> {
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(id, &command, timeout).await {
            Ok(output) if output.timed_out => Err(Failure::Failed(format!(
                "command timed out: \"{}\" timed out after {}",
                command.join(" "),
                crate::time::go_duration(timeout)
            ))),
            Ok(output) if output.exit_code == 0 => Ok(Success::Plain),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                Err(Failure::Failed(String::from_utf8_lossy(&text).into_owned()))
            }
            // No program ran, so no program said anything.
            Err(error) => Err(Failure::Unknown(crate::images::chain(&error))),
        };
    }
    if let Some(http) = &probe.http_get {
        return http::get(container, http, ip, timeout).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.as_deref().filter(|host| !host.is_empty());
        let address = SocketAddr::new(
            host.and_then(|host| host.parse().ok()).unwrap_or(ip),
            port(container, &tcp.port).map_err(Failure::Unknown)?,
        );
        return match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(Success::Plain),
            Ok(Err(error)) => Err(Failure::Failed(format!("dial tcp {address}: {}", plain(&error)))),
            Err(_) => Err(Failure::Failed(format!("dial tcp {address}: i/o timeout"))),
        };
    }
    Ok(Success::Plain)
}

/// A probe's number of seconds, with its default.
pub(crate) fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default),
    )
}

/// A number, the name of one of the container's ports, or a number as text.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            let number = named.map(|port| port.container_port).or_else(|| name.parse().ok());
            // As Go's parser says it, which upstream asks at last.
            number.ok_or_else(|| format!("strconv.Atoi: parsing \"{name}\": invalid syntax"))?
        }
    };
    let usable = u16::try_from(number).ok().filter(|number| *number > 0);
    usable.ok_or_else(|| format!("invalid port number: {number}"))
}

/// An I/O error as Go words it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        std::io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::fakes::FakeRuntime;

    async fn check(probe_of: Value, ports: Value) -> Result<Success, Failure> {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": ports, "readinessProbe": probe_of}))
                .expect("a container");
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::default());
        let id = ContainerId("none".into());
        let of = container.readiness_probe.clone().expect("has one");
        probe(&runtime, &id, &container, &of, IpAddr::from([127, 0, 0, 1])).await
    }

    #[tokio::test]
    async fn refused_connections_say_so() {
        // Bound and dropped: nobody listens there now.
        let port = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(
            check(json!({"tcpSocket": {"port": port}}), json!([])).await,
            Err(Failure::Failed(refused.clone()))
        );
        assert_eq!(
            check(json!({"httpGet": {"port": port, "path": "/"}}), json!([])).await,
            Err(Failure::Failed(format!("Get \"http://127.0.0.1:{port}/\": {refused}")))
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let named = json!([{"name": "web", "containerPort": port}]);
        assert_eq!(check(json!({"tcpSocket": {"port": "web"}}), named).await, Ok(Success::Plain));
        assert_eq!(
            check(json!({"tcpSocket": {"port": port.to_string()}}), json!([])).await,
            Ok(Success::Plain)
        );
    }

    #[test]
    fn numbers_of_seconds_are_what_they_say_or_the_default() {
        for (value, expected) in [(None, 10), (Some(0), 10), (Some(-1), 10), (Some(1), 1), (Some(30), 30)] {
            assert_eq!(seconds(value, 10), Duration::from_secs(expected), "{value:?}");
        }
    }

    #[tokio::test]
    async fn what_can_not_be_asked_is_not_known() {
        let unknown = |why: &str| Err(Failure::Unknown(why.to_owned()));
        // The stand-in runtime knows no container of that ID.
        let exec = check(json!({"exec": {"command": ["true"]}}), json!([])).await;
        assert_eq!(exec, unknown("container ContainerId(\"none\") is not running"));
        for (port, why) in [
            (json!("web"), "strconv.Atoi: parsing \"web\": invalid syntax"),
            (json!(0), "invalid port number: 0"),
            (json!("65536"), "invalid port number: 65536"),
        ] {
            assert_eq!(check(json!({"tcpSocket": {"port": port}}), json!([])).await, unknown(why));
            assert_eq!(check(json!({"httpGet": {"port": port}}), json!([])).await, unknown(why));
        }
        let bad = json!({"httpGet": {"port": 1, "host": "a b"}});
        let asked = check(bad, json!([])).await;
        assert!(matches!(&asked, Err(Failure::Unknown(why)) if why.contains("a b")), "{asked:?}");
    }
}
