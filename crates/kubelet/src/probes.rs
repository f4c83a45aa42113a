//! Asking containers how they are: exec, http and tcp, from the node to the pod's address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_runtime::{ContainerId, Runtime};
use tokio::net::TcpStream;

/// A body longer than this is cut off in messages, as upstream cuts it.
const BODY_BYTES_MAX: usize = 10 * 1_024;

/// The first probe of a kind, or why it failed, in upstream's words.
pub(crate) async fn probe(
    runtime: &Arc<dyn Runtime>,
    id: &ContainerId,
    container: &Container,
    probe: &Probe,
    ip: IpAddr,
) -> Result<(), String> {
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(id, &command, timeout).await {
            Ok(output) if output.timed_out => Err(format!(
                "command timed out: \"{}\" timed out after {}",
                command.join(" "),
                crate::time::go_duration(timeout)
            )),
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                Err(String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) => Err(crate::images::chain(&error)),
        };
    }
    if let Some(http) = &probe.http_get {
        return match tokio::time::timeout(timeout, http_get(container, http, ip)).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                url(container, http, ip).unwrap_or_default()
            )),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.as_deref().filter(|host| !host.is_empty());
        let address = SocketAddr::new(
            host.and_then(|host| host.parse().ok()).unwrap_or(ip),
            port(container, &tcp.port)?,
        );
        return match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {address}: {}", plain(&error))),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    Ok(())
}

/// A probe's number of seconds, with its default.
pub(crate) fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default),
    )
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_err(|_| format!("invalid port number: {number}"))
        }
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("couldn't find port: {name}")),
    }
}

fn url(container: &Container, action: &HTTPGetAction, ip: IpAddr) -> Result<String, String> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = action.host.as_deref().filter(|host| !host.is_empty()).map_or(ip.to_string(), str::to_owned);
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{host}:{}{slash}{path}", port(container, &action.port)?))
}

async fn http_get(container: &Container, action: &HTTPGetAction, ip: IpAddr) -> Result<(), String> {
    let url = url(container, action, ip)?;
    let fail = |why: String| format!("Get \"{url}\": {why}");
    let uri: http::Uri = url.parse().map_err(|_| fail("invalid URL".into()))?;
    let host = uri.host().unwrap_or_default().to_owned();
    let number = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.as_str(), number))
        .await
        .map_err(|error| fail(format!("dial tcp {host}:{number}: {}", plain(&error))))?;
    let mut request = http::Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("user-agent", "kube-probe/1.36")
        .header("accept", "*/*")
        .header("connection", "close");
    let mut named_host = false;
    for header in action.http_headers.iter().flatten() {
        named_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !named_host {
        request = request.header("host", format!("{host}:{number}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| fail(error.to_string()))?;
    if uri.scheme_str() == Some("https") {
        let stream =
            crate::tls::connect_unverified(stream, &host).await.map_err(|error| fail(plain(&error)))?;
        ask(stream, request).await.map_err(|error| verdict(error, &fail))
    } else {
        ask(stream, request).await.map_err(|error| verdict(error, &fail))
    }
}

enum Refused {
    Transport(String),
    Status(u16),
}

fn verdict(refused: Refused, fail: &impl Fn(String) -> String) -> String {
    match refused {
        Refused::Transport(why) => fail(why),
        Refused::Status(code) => format!("HTTP probe failed with statuscode: {code}"),
    }
}

async fn ask<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<(), Refused>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let refused = |error: hyper::Error| Refused::Transport(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(refused)?;
    // It ends when `sender` and the answer are dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(refused)?;
    let status = response.status().as_u16();
    // Read on, so that the server sees its answer taken; redirects count as success.
    let _ = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    if (200..400).contains(&status) { Ok(()) } else { Err(Refused::Status(status)) }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::fakes::FakeRuntime;

    async fn check(probe_of: Value, ports: Value) -> Result<(), String> {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": ports, "readinessProbe": probe_of}))
                .expect("a container");
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::default());
        let id = ContainerId("none".into());
        let of = container.readiness_probe.clone().expect("has one");
        probe(&runtime, &id, &container, &of, IpAddr::from([127, 0, 0, 1])).await
    }

    async fn serve(status: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn http_counts_two_and_three_hundreds_as_success() {
        for (status, expected) in [
            ("200 OK", Ok(())),
            ("302 Found", Ok(())),
            ("500 No", Err("HTTP probe failed with statuscode: 500".to_owned())),
        ] {
            let port = serve(status).await;
            let result = check(
                json!({"httpGet": {"port": "web", "path": "/x"}}),
                json!([{"name": "web", "containerPort": port}]),
            );
            assert_eq!(result.await, expected, "{status}");
        }
    }

    #[tokio::test]
    async fn refused_connections_say_so() {
        // Bound and dropped: nobody listens there now.
        let port = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(check(json!({"tcpSocket": {"port": port}}), json!([])).await, Err(refused.clone()));
        assert_eq!(
            check(json!({"httpGet": {"port": port, "path": "/"}}), json!([])).await,
            Err(format!("Get \"http://127.0.0.1:{port}/\": {refused}"))
        );
        let port = serve("200 OK").await;
        assert_eq!(check(json!({"tcpSocket": {"port": port}}), json!([])).await, Ok(()));
    }
}
