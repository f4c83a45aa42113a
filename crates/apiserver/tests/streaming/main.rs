//! Streams through the whole server: a client over TLS, the API server, an agent over mutual TLS.

mod agent;
mod bounded;
mod dialing;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use skiff_apiserver::http_body::full;
use skiff_apiserver::pki::{AltName, Issued, Pki};
use skiff_apiserver::{ApiServer, Config, Identity, Limits};
use skiff_store::MemoryStore;
use skiff_streams::client::DialError;
use skiff_streams::spdy::{Connection, Headers, Opener, Role};
use skiff_streams::{Outcome, Wants, command};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

const POD: &str = "/api/v1/namespaces/default/pods/web";
const ALL: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

/// A server with one node and one running pod.
struct Cluster {
    port: u16,
    pki: Arc<Pki>,
    _stop: tokio_util::sync::DropGuard,
    directory: tempfile::TempDir,
}

impl Cluster {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(directory.path()).unwrap());
        let agent_tls = Some(pki.agent_client_config().unwrap());
        let config = Config { agent_tls, limits, ..Config::default() };
        let server = ApiServer::build(config, Arc::new(MemoryStore::default())).await.unwrap();

        let certificates = pki.issue_node("node1", &[]).unwrap();
        let agent_port = agent::serve(&pki, &certificates).await;
        let send = async |method: Method, path: &str, body: Value| {
            let mut request =
                Request::builder().method(method).uri(path).body(full(body.to_string())).unwrap();
            request.extensions_mut().insert(Identity::new("admin", &["system:masters"]));
            let response = server.router().call(request).await.unwrap();
            let code = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(code.is_success(), "{path}: {code} {}", String::from_utf8_lossy(&body));
            serde_json::from_slice::<Value>(&body).unwrap()
        };
        let namespace = "/api/v1/namespaces/default";
        let account = json!({"metadata": {"name": "default"}});
        send(Method::POST, &format!("{namespace}/serviceaccounts"), account).await;
        let mut node = send(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": "node1"}})).await;
        node["status"] = json!({
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": agent_port}},
        });
        send(Method::PUT, "/api/v1/nodes/node1/status", node).await;
        for (name, node) in [("web", "node1"), ("pending", "")] {
            let mut spec = json!({"containers": [
                {"name": "app", "image": "i"}, {"name": "waiting", "image": "i"}, {"name": "absent", "image": "i"},
            ]});
            if !node.is_empty() {
                spec["nodeName"] = node.into();
            }
            let pod = json!({"metadata": {"name": name}, "spec": spec});
            let mut pod = send(Method::POST, &format!("{namespace}/pods"), pod).await;
            if !node.is_empty() {
                pod["status"]["phase"] = "Running".into();
                send(Method::PUT, &format!("{namespace}/pods/{name}/status"), pod).await;
            }
        }

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = pki.server_tls(&[AltName::Ip("127.0.0.1".parse().unwrap())]).unwrap();
        let stop = CancellationToken::new();
        let serving = stop.clone();
        tokio::spawn(async move { server.serve(vec![listener], tls, serving).await });
        Self { port, pki, _stop: stop.drop_guard(), directory }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as(&self.pki.admin().unwrap()).await
    }

    async fn connect_as(&self, who: &Issued) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca().as_bytes()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(who.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(who.key.as_bytes()).unwrap(),
                )
                .unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// The answer as it begins, for who takes it compressed.
    async fn begin(&self, path: &str) -> hyper::Response<hyper::body::Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "127.0.0.1").header("accept-encoding", "gzip");
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "127.0.0.1")
            .header("authorization", "Bearer secret")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let code = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    async fn message(&self, path: &str) -> (u16, String) {
        let (code, body) = self.get(path).await;
        let status: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("no Status: {body}"));
        (code.as_u16(), status["message"].as_str().unwrap_or_default().to_owned())
    }

    /// As new clients do: GET, `v5.channel.k8s.io`.
    async fn dial(&self, path: &str) -> Result<command::Dialed, DialError> {
        let request = Request::get(path).header("host", "127.0.0.1").body(()).unwrap();
        command::dial(self.connect().await, request).await
    }

    /// As old clients do: POST, SPDY.
    async fn spdy(&self, path: &str, version: &str) -> Opener {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::post(path)
            .header("host", "127.0.0.1")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", version)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["x-stream-protocol-version"], version);
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let (connection, opener, _) = Connection::new(io, Role::Client);
        let (close, closing) = oneshot::channel();
        tokio::spawn(async move {
            let _close = close;
            connection.run(closing).await
        });
        opener
    }
}

async fn open(opener: &Opener, headers: &[(&str, &str)]) -> DuplexStream {
    opener.open(Headers::of(headers)).await.unwrap().io
}

async fn read_all(mut from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_command_runs_for_new_clients() {
    let cluster = Cluster::new().await;
    let path = format!(
        "{POD}/exec?container=app&stdin=true&stdout=true&stderr=true&command=sh&command=-c&\
         command=tr+a-z+A-Z%3B+echo+oops+%3E%262%3B+exit+3"
    );
    let dialed = cluster.dial(&path).await.unwrap();
    let (stdout, stderr, outcome) = dialed
        .run(ALL, |mut remote| async move {
            let mut stdin = remote.stdin.take().unwrap();
            stdin.write_all(b"shout").await.unwrap();
            drop(stdin);
            let (stdout, stderr) = (remote.stdout.take().unwrap(), remote.stderr.take().unwrap());
            tokio::join!(read_all(stdout), read_all(stderr), remote.outcome())
        })
        .await;
    assert_eq!((&*stdout, &*stderr, outcome), ("SHOUT", "oops\n", Outcome::ExitCode(3)));
}

#[tokio::test]
async fn a_command_runs_for_old_clients() {
    let cluster = Cluster::new().await;
    let path = format!("{POD}/exec?container=app&stdin=true&stdout=true&stderr=true&command=cat");
    let opener = cluster.spdy(&path, "v4.channel.k8s.io").await;
    let error = open(&opener, &[("streamType", "error")]).await;
    let mut stdin = open(&opener, &[("streamType", "stdin")]).await;
    let stdout = open(&opener, &[("streamType", "stdout")]).await;
    let stderr = open(&opener, &[("streamType", "stderr")]).await;
    let input = "0123456789".repeat(50_000);
    let feeding = async {
        stdin.write_all(input.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let (stdout, stderr, error, ()) =
        tokio::join!(read_all(stdout), read_all(stderr), read_all(error), feeding);
    assert!(stdout == input, "{} bytes came back", stdout.len());
    assert_eq!((&*stderr, &*error), ("", r#"{"metadata":{},"status":"Success"}"#));
}

#[tokio::test]
async fn attach_reaches_what_runs() {
    let cluster = Cluster::new().await;
    let path = format!("{POD}/attach?container=app&stdin=true&stdout=true&stderr=true");
    let told = cluster
        .dial(&path)
        .await
        .unwrap()
        .run(ALL, |mut remote| async move {
            let mut stdin = remote.stdin.take().unwrap();
            stdin.write_all(b"and again").await.unwrap();
            drop(stdin);
            (read_all(remote.stdout.take().unwrap()).await, remote.outcome().await)
        })
        .await;
    assert_eq!(told, ("hello\nand again".to_owned(), Outcome::Success));
}

#[tokio::test]
async fn ports_are_forwarded() {
    let cluster = Cluster::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let opener = cluster.spdy(&format!("{POD}/portforward"), "portforward.k8s.io").await;
    let stream = async |kind: &str, port: &str, request: &str| {
        open(&opener, &[("streamType", kind), ("port", port), ("requestID", request)]).await
    };
    for request in ["0", "1"] {
        let error = stream("error", &port, request).await;
        let mut data = stream("data", &port, request).await;
        data.write_all(b"there and back").await.unwrap();
        data.shutdown().await.unwrap();
        assert_eq!(read_all(data).await, "there and back");
        assert_eq!(read_all(error).await, "");
    }
    // Nothing listens there: port 1 is nobody's.
    let error = stream("error", "1", "2").await;
    let _data = stream("data", "1", "2").await;
    let told = read_all(error).await;
    assert!(told.starts_with("failed to connect to localhost:1:"), "{told}");
}

#[tokio::test]
async fn logs_are_streamed() {
    let cluster = Cluster::new().await;
    let (code, text) = cluster.get(&format!("{POD}/log?container=app&tailLines=5&previous=true")).await;
    assert_eq!((code.as_u16(), &*text), (200, "a line\nprevious=true&tailLines=5\n"));
    let (code, text) = cluster.get(&format!("{POD}/log?container=app&follow=true")).await;
    assert_eq!((code.as_u16(), &*text), (200, "line 1\nline 2\nline 3\n"));
    let (code, text) = cluster.get("/api/v1/namespaces/default/pods/pending/log?container=app").await;
    assert_eq!((code.as_u16(), &*text), (200, ""), "what never ran has said nothing");
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let cluster = Cluster::new().await;
    let check = async |path: String, code: u16, message: &str| {
        assert_eq!(cluster.message(&path).await, (code, message.to_owned()), "{path}");
    };
    let exec = "stdout=true&command=ls";
    check(format!("{POD}/exec?container=x&{exec}"), 400, "container x is not valid for pod web").await;
    let choose = "a container name must be specified for pod web, choose one of: [app waiting absent]";
    check(format!("{POD}/exec?{exec}"), 400, choose).await;
    check(format!("{POD}/log"), 400, choose).await;
    check(format!("{POD}/exec?container=app&{exec}"), 400, "Upgrade request required").await;
    let nothing = "you must specify at least 1 of stdin, stdout, stderr";
    check(format!("{POD}/exec?container=app&command=ls"), 400, nothing).await;
    let pending = "/api/v1/namespaces/default/pods/pending";
    let no_host = "pod pending does not have a host assigned";
    check(format!("{pending}/exec?container=app&{exec}"), 400, no_host).await;
    check(format!("{pending}/portforward"), 400, no_host).await;
    let none = "/api/v1/namespaces/default/pods/none/exec?stdout=true&command=ls";
    check(none.into(), 404, "pods \"none\" not found").await;
    let waiting = "container \"waiting\" in pod \"web\" is waiting to start: ContainerCreating";
    check(format!("{POD}/log?container=waiting"), 400, waiting).await;
    let minus =
        "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
    check(format!("{POD}/log?container=app&tailLines=-1"), 422, minus).await;
    check("/api/v1/nodes/gone/proxy/x".into(), 404, "nodes \"gone\" not found").await;

    // An agent's own refusal is handed on in its words, which clients print.
    match cluster.dial(&format!("{POD}/exec?container=absent&{exec}")).await.err() {
        Some(DialError::Refused { status, body, .. }) => {
            assert_eq!((status.as_u16(), &body[..]), (404, &b"container not found (\"absent\")"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_node_proxy_hands_requests_to_the_agent_without_tokens() {
    let cluster = Cluster::new().await;
    let (code, text) = cluster.get("/api/v1/nodes/node1/proxy/skiff/ps?all=1").await;
    assert_eq!((code.as_u16(), &*text), (200, r#"GET ["host"]"#));
    let (code, text) = cluster.get("/api/v1/nodes/node1/proxy/nothing").await;
    assert_eq!((code.as_u16(), &*text), (404, "404 page not found"));
}

#[tokio::test]
async fn what_is_proxied_is_handed_on_as_it_comes() {
    let cluster = Cluster::new().await;
    let patience = Duration::from_secs(60);
    let asked = cluster.begin("/api/v1/nodes/node1/proxy/skiff/endless");
    let answer = tokio::time::timeout(patience, asked).await.expect("it is not waited for its end");
    assert_eq!(answer.headers()["content-length"], "600000000");
    assert!(!answer.headers().contains_key("content-encoding"));
    let mut body = answer.into_body();
    let first = tokio::time::timeout(patience, body.frame()).await.expect("what is there comes").unwrap();
    assert_eq!(first.unwrap().into_data().unwrap(), "the beginning");
}

/// `KUBECTL=/path/1:/path/2 cargo t -p skiff-apiserver --test streaming -- --ignored`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs kubectl; KUBECTL names the versions to try, separated by colons"]
async fn real_kubectls_work() {
    let cluster = Cluster::new().await;
    let directory = cluster.directory.path();
    let admin = cluster.pki.admin().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("a.crt", &admin.certificate);
    write("a.key", &admin.key);
    write("api.crt", cluster.pki.ca());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://127.0.0.1:{}", cluster.port), "certificate-authority": "api.crt",
        }}],
        "users": [{"name": "c", "user": {"client-certificate": "a.crt", "client-key": "a.key"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    write("config", &config.to_string());
    let page = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let page_port = page.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = page.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nforwarded").await;
            });
        }
    });

    for kubectl in std::env::var("KUBECTL").expect("KUBECTL").split(':') {
        let command = |words: &[&str]| {
            let mut command = tokio::process::Command::new(kubectl);
            command.args(["--kubeconfig", directory.join("config").to_str().unwrap()]).args(words);
            command.kill_on_drop(true);
            command
        };
        let run = async |words: &[&str], input: &str| {
            let mut child = command(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let input = input.as_bytes().to_vec();
            let feeding = tokio::spawn(async move {
                let _ = stdin.write_all(&input).await;
            });
            let limit = std::time::Duration::from_secs(60);
            let output = tokio::time::timeout(limit, child.wait_with_output()).await;
            let output = output.unwrap_or_else(|_| panic!("{kubectl} {words:?} hangs")).unwrap();
            feeding.await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (code, out, err) = run(&["exec", "web", "-c", "app", "--", "echo", "hi there"], "").await;
        assert_eq!((code, &*out, &*err), (Some(0), "hi there\n", ""), "{kubectl}");
        let script = "echo out; echo err >&2; exit 3";
        let (code, out, err) = run(&["exec", "web", "-c", "app", "--", "sh", "-c", script], "").await;
        assert_eq!((code, &*out), (Some(3), "out\n"), "{kubectl}: {err}");
        assert!(err.starts_with("err\ncommand terminated with exit code 3"), "{kubectl}: {err}");
        let input = "line of input\n".repeat(20_000);
        let (code, out, err) = run(&["exec", "-i", "web", "-c", "app", "--", "cat"], &input).await;
        assert!(code == Some(0) && out == input, "{kubectl}: {code:?} {} bytes {err}", out.len());
        let (code, out, err) = run(&["exec", "web", "-c", "app", "--", "seq", "200000"], "").await;
        assert!(code == Some(0) && out.ends_with("\n199999\n200000\n"), "{kubectl}: {code:?} {err}");
        let (code, _, err) = run(&["exec", "web", "-c", "absent", "--", "ls"], "").await;
        assert!(code == Some(1) && err.contains("container not found (\"absent\")"), "{kubectl}: {err}");
        let (code, _, err) = run(&["exec", "web", "-c", "x", "--", "ls"], "").await;
        assert!(code == Some(1) && err.contains("container"), "{kubectl}: {err}");
        let (code, out, err) = run(&["attach", "-i", "web", "-c", "app"], "typed").await;
        assert!(code == Some(0) && out.contains("hello\ntyped"), "{kubectl}: {out} {err}");
        let (code, out, err) = run(&["logs", "web", "-c", "app", "-f"], "").await;
        assert_eq!((code, &*out), (Some(0), "line 1\nline 2\nline 3\n"), "{kubectl}: {err}");

        let (here, there) = (directory.join("here"), directory.join("there"));
        std::fs::create_dir_all(&there).unwrap();
        std::fs::write(&here, input.as_bytes()).unwrap();
        let to = format!("web:{}/copied", there.display());
        let (code, _, err) = run(&["cp", "-c", "app", here.to_str().unwrap(), &to], "").await;
        assert_eq!(code, Some(0), "{kubectl}: {err}");
        assert_eq!(std::fs::read_to_string(there.join("copied")).unwrap(), input);
        let back = directory.join("back");
        let (code, _, err) = run(&["cp", "-c", "app", &to, back.to_str().unwrap()], "").await;
        assert_eq!(code, Some(0), "{kubectl}: {err}");
        assert_eq!(std::fs::read_to_string(&back).unwrap(), input);
        std::fs::remove_file(&back).unwrap();

        let mut forwarding = command(&["port-forward", "pod/web", &format!(":{page_port}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut lines = tokio::io::BufReader::new(forwarding.stdout.take().unwrap());
        tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.unwrap();
        let port: u16 = line
            .trim_start_matches("Forwarding from 127.0.0.1:")
            .split(' ')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or_else(|| panic!("{kubectl}: {line}"));
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let answer = tokio::time::timeout(std::time::Duration::from_secs(60), read_all(stream)).await;
            assert!(answer.as_ref().is_ok_and(|text| text.ends_with("forwarded")), "{kubectl}: {answer:?}");
        }
        forwarding.kill().await.unwrap();
        println!("{kubectl}: exec, attach, logs, cp, port-forward");
    }
}

#[tokio::test]
async fn the_node_proxy_hands_streams_on_too() {
    let cluster = Cluster::new().await;
    let path = "/api/v1/nodes/node1/proxy/exec/default/web/app?command=echo&command=straight&output=1";
    let wants = Wants { stdout: true, ..Wants::default() };
    let told = cluster
        .dial(path)
        .await
        .unwrap()
        .run(wants, |mut remote| async move {
            (read_all(remote.stdout.take().unwrap()).await, remote.outcome().await)
        })
        .await;
    assert_eq!(told, ("straight\n".to_owned(), Outcome::Success));
}
