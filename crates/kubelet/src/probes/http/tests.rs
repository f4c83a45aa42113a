//! Redirects, headers and TLS of HTTP probes, against a server that notes what it is asked.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Answers `/STATUS` with that status, `/to/PLACE` with a redirect there, `/loop` with one to itself.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn plain() -> Self {
        Self::with(None).await
    }

    /// With a certificate that nobody signed, for a name that nobody asks for.
    async fn tls() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["elsewhere".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signs itself").der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .expect("a key for its certificate");
        Self::with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer(stream, &seen).await,
                        Err(_) => continue,
                    },
                    None => answer(stream, &seen).await,
                }
            }
        });
        Self { port, requests }
    }

    async fn ask(&self, action: Value) -> Result<Success, String> {
        let mut action = action;
        action["port"] = json!(self.port);
        let action: HTTPGetAction = serde_json::from_value(action).expect("an action");
        let container = Container { name: "c".into(), ..Container::default() };
        let asked = get(&container, &action, IpAddr::from([127, 0, 0, 1]), Duration::from_secs(30)).await;
        asked.map_err(|failure| match failure {
            Failure::Failed(why) => why,
            Failure::Unknown(why) => panic!("it was not asked: {why}"),
        })
    }

    async fn path(&self, path: &str) -> Result<Success, String> {
        self.ask(json!({ "path": path })).await
    }

    /// The first lines of the requests.
    fn asked(&self) -> Vec<String> {
        let path = |request: &String| request.split(' ').nth(1).unwrap_or_default().to_owned();
        self.requests.lock().iter().map(path).collect()
    }

    /// A header's values in the last request.
    fn last(&self, name: &str) -> Vec<String> {
        let requests = self.requests.lock();
        let lines = requests.last().expect("was asked").lines();
        let of_name = lines.filter_map(|line| line.split_once(": ")).filter(|(key, _)| *key == name);
        of_name.map(|(_, value)| value.to_owned()).collect()
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut some = [0; 1_024];
        match stream.read(&mut some).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&some[..count]),
        }
    }
    let request = String::from_utf8(request).expect("text");
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().push(request);
    let (status, location) = match path.strip_prefix("/to/") {
        Some(place) => ("302", format!("Location: {place}\r\n")),
        None if path == "/loop" => ("307", "Location: /loop\r\n".to_owned()),
        None => (path.trim_start_matches('/').split('?').next().unwrap_or_default(), String::new()),
    };
    let answer = format!("HTTP/1.1 {status} X\r\n{location}Content-Length: 4\r\n\r\nbody");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn warned() -> Result<Success, String> {
    Ok(Success::Warned("Probe terminated redirects, Response body: body".into()))
}

#[tokio::test]
async fn codes_are_judged_as_upstream_judges_them() {
    let server = Server::plain().await;
    assert_eq!(server.path("/200").await, Ok(Success::Plain));
    assert_eq!(server.path("204?a=b#part").await, Ok(Success::Plain));
    assert_eq!(server.asked(), ["/200", "/204?a=b"]);
    assert_eq!(server.path("/300").await, warned());
    assert_eq!(server.path("/301").await, warned(), "it leads nowhere");
    for code in ["404", "500"] {
        let failed = format!("HTTP probe failed with statuscode: {code}");
        assert_eq!(server.path(&format!("/{code}")).await, Err(failed));
    }
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed() {
    let server = Server::plain().await;
    let other = Server::tls().await;
    assert_eq!(server.path("/to//200").await, Ok(Success::Plain));
    assert_eq!(server.path("/to//503").await, Err("HTTP probe failed with statuscode: 503".into()));
    // A path of its own, and another port and scheme, are on the same host still.
    assert_eq!(server.path(&format!("/to/https://127.0.0.1:{}/200", other.port)).await, Ok(Success::Plain));
    assert_eq!(
        (other.asked(), other.last("Host")),
        (vec!["/200".into()], vec![format!("127.0.0.1:{}", other.port)])
    );
    let looped = "Get \"/loop\": stopped after 10 redirects".to_owned();
    let before = server.asked().len();
    assert_eq!(server.path("/loop").await, Err(looped));
    assert_eq!(server.asked().len() - before, 10);
}

#[tokio::test]
async fn redirects_to_other_hosts_are_a_warning_and_not_followed() {
    let server = Server::plain().await;
    let other = format!("/to/http://localhost:{}/500", server.port);
    assert_eq!(server.path(&other).await, warned());
    assert_eq!(server.path("/to///169.254.169.254/latest").await, warned());
    assert_eq!(server.path("/to/mailto:somebody").await, warned());
    assert_eq!(server.asked().len(), 3);
    let scheme = server.path("/to/ftp://127.0.0.1/x").await;
    assert_eq!(scheme, Err("Get \"ftp://127.0.0.1/x\": unsupported protocol scheme \"ftp\"".into()));
}

#[tokio::test]
async fn headers_and_the_hosts_name_are_as_given() {
    let server = Server::plain().await;
    server.path("/200").await.expect("succeeds");
    assert_eq!(server.last("Host"), [format!("127.0.0.1:{}", server.port)]);
    assert_eq!(
        (server.last("User-Agent"), server.last("Accept")),
        (vec!["kube-probe/1.36".into()], vec!["*/*".into()])
    );
    let given = json!([
        {"name": "host", "value": "web.example"}, {"name": "user-agent", "value": "mine"},
        {"name": "X-Many", "value": "1"}, {"name": "x-many", "value": "2"},
        {"name": "Accept", "value": ""}, {"name": "Content-Length", "value": "5"},
    ]);
    let again = "/to//200";
    server.ask(json!({"path": again, "httpHeaders": given})).await.expect("succeeds");
    // A path alone keeps them all, and says whence it came.
    assert_eq!(
        (server.last("Host"), server.last("User-Agent")),
        (vec!["web.example".into()], vec!["mine".into()])
    );
    assert_eq!(server.last("X-Many"), ["1", "2"]);
    assert_eq!(server.last("Referer"), [format!("http://127.0.0.1:{}{again}", server.port)]);
    let none: [&str; 0] = [];
    assert_eq!(
        (server.last("Accept"), server.last("Content-Length")),
        (none.map(String::from).to_vec(), vec![])
    );
    let whole = format!("/to/http://127.0.0.1:{}/200", server.port);
    server.ask(json!({"path": whole, "httpHeaders": given})).await.expect("succeeds");
    assert_eq!(server.last("Host"), [format!("127.0.0.1:{}", server.port)], "another place was named");
}

#[tokio::test]
async fn certificates_are_nobodys_business() {
    let server = Server::tls().await;
    assert_eq!(server.ask(json!({"path": "/200", "scheme": "HTTPS"})).await, Ok(Success::Plain));
    let again = json!({"path": "/to//500", "scheme": "HTTPS"});
    assert_eq!(server.ask(again).await, Err("HTTP probe failed with statuscode: 500".into()));
}

#[tokio::test]
async fn bodies_are_read_so_far_and_no_further() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("is asked");
        let _ = stream.read(&mut [0; 4_096]).await;
        let answer = format!("HTTP/1.1 300 X\r\nContent-Length: 999999\r\n\r\n{}", "x".repeat(20_000));
        let _ = stream.write_all(answer.as_bytes()).await;
        // Without an end: who reads on for ever fails by its time.
        std::future::pending::<()>().await;
    });
    let action = HTTPGetAction { port: IntOrString::Int(port.into()), ..HTTPGetAction::default() };
    let (container, ip) = (Container::default(), IpAddr::from([127, 0, 0, 1]));
    let result = get(&container, &action, ip, Duration::from_secs(30)).await;
    let told = format!("Probe terminated redirects, Response body: {}", "x".repeat(10 * 1_024));
    assert_eq!(result, Ok(Success::Warned(told)));
}
