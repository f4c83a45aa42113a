//! A small node agent: its containers are this machine, its commands run as processes of the test.

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use skiff_apiserver::pki::{NodeCertificates, Pki};
use skiff_streams::{Forward, Outcome, Session, Wants, command, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves as the agent of the node whose certificates these are. Gives its port.
pub(crate) async fn serve(pki: &Pki, certificates: &NodeCertificates) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(tls(pki, certificates));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    port
}

/// TLS that demands the API server's certificate.
fn tls(pki: &Pki, certificates: &NodeCertificates) -> Arc<rustls::ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let chain = CertificateDer::from_pem_slice(certificates.serving.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificates.serving.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![chain], key)
        .unwrap();
    Arc::new(config)
}

/// A way that ends at a process of the node itself, whatever it was.
fn arrives() -> String {
    let tuple = serde_json::json!({
        "source": "127.0.0.1", "sourcePort": 40_000, "destination": "127.0.0.1", "destinationPort": 80,
    });
    let end = serde_json::json!({"delivered": {"place": "node node1", "process": "process 7 (it)"}});
    serde_json::json!([{"chance": 1.0, "hops": [], "end": end, "tuple": tuple, "conversations": []}])
        .to_string()
}

fn text(status: u16, text: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn answer(request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let query: Vec<(String, String)> = form(request.uri().query().unwrap_or_default()).collect();
    let is = |name: &str| query.iter().any(|(key, value)| key == name && matches!(&**value, "1" | "true"));
    let wants = Wants { stdin: is("input"), stdout: is("output"), stderr: is("error"), tty: is("tty") };
    match parts[..] {
        [_, _, _, "absent"] => text(404, "container not found (\"absent\")"),
        ["exec", ..] => {
            let words = query.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.clone());
            let words: Vec<String> = words.collect();
            upgrade(request, wants, move |session| run(words, session))
        }
        ["attach", ..] => upgrade(request, wants, echo),
        ["portForward", ..] => {
            let port = query.iter().find(|(key, _)| key == "port").unwrap().1.parse().unwrap();
            forward_ports(request, port)
        }
        ["containerLogs", _, _, "waiting"] => {
            text(400, "container \"waiting\" in pod \"web\" is waiting to start: ContainerCreating")
        }
        ["containerLogs", ..] if is("follow") => follow(),
        ["containerLogs", ..] => {
            text(200, format!("a line\n{}\n", request.uri().query().unwrap_or_default()))
        }
        ["skiff", "endless"] => endless(),
        ["skiff", "explain", "walk"] => text(200, arrives()),
        ["skiff", ..] => text(200, format!("{} {:?}", request.method(), names(request.headers()))),
        _ => text(404, "404 page not found"),
    }
}

fn form(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let mut bytes = Vec::new();
        let mut rest = value.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => {
                    let digits = [rest.next()?, rest.next()?];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                }
                byte => bytes.push(byte),
            }
        }
        Some((name.to_owned(), String::from_utf8(bytes).ok()?))
    })
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn upgrade<R, F>(request: Request<Incoming>, wants: Wants, run: R) -> Answer
where
    R: FnOnce(Session) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let front = match command::negotiate(request.headers()) {
        Ok(front) => front,
        Err(error) => return text(error.status().as_u16(), error.to_string()),
    };
    let response = front.response().map(|()| Full::default().boxed_unsync());
    tokio::spawn(async move {
        let io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let _ = command::serve(io, &front, wants, run).await;
    });
    response
}

async fn run(words: Vec<String>, session: Session) {
    let Session { stdin, stdout, stderr, exit, .. } = session;
    let child = tokio::process::Command::new(&words[0])
        .args(&words[1..])
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return exit.send(&Outcome::Failed(error.to_string())).await,
    };
    let (to_stdin, mut out, mut err) =
        (child.stdin.take(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let feeding = async {
        if let (Some(mut from), Some(mut to)) = (stdin, to_stdin) {
            let _ = tokio::io::copy(&mut from, &mut to).await;
            drop(to);
        }
        std::future::pending::<()>().await
    };
    let output = async {
        let copy_out = async {
            if let Some(mut to) = stdout {
                let _ = tokio::io::copy(&mut out, &mut to).await;
            }
        };
        let copy_err = async {
            if let Some(mut to) = stderr {
                let _ = tokio::io::copy(&mut err, &mut to).await;
            }
        };
        tokio::join!(copy_out, copy_err);
        child.wait().await.unwrap()
    };
    let status = tokio::select! {
        status = output => status,
        () = feeding => unreachable!(),
    };
    let outcome = match status.code() {
        Some(0) => Outcome::Success,
        Some(code) => Outcome::ExitCode(code),
        None => Outcome::Failed(status.to_string()),
    };
    exit.send(&outcome).await;
}

/// What attach finds: a process that says hello and then repeats its input.
async fn echo(mut session: Session) {
    let mut stdout = session.stdout.take().unwrap();
    stdout.write_all(b"hello\n").await.unwrap();
    if let Some(mut stdin) = session.stdin.take() {
        let _ = tokio::io::copy(&mut stdin, &mut stdout).await;
    }
    drop(stdout);
    drop(session.stderr.take());
    session.exit.send(&Outcome::Success).await;
}

fn forward_ports(request: Request<Incoming>, port: u16) -> Answer {
    let front = match forward::negotiate(request.headers()) {
        Ok(front) => front,
        Err(error) => return text(error.status().as_u16(), error.to_string()),
    };
    let response = front.response().map(|()| Full::default().boxed_unsync());
    tokio::spawn(async move {
        let io = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let _ = forward::serve(io, &front, &[port], connect).await;
    });
    response
}

async fn connect(mut forward: Forward) {
    match TcpStream::connect(("127.0.0.1", forward.port)).await {
        Ok(stream) => {
            let _ = forward::join(forward.data, stream).await;
        }
        Err(error) => {
            let text = format!("failed to connect to localhost:{}: {error}", forward.port);
            let _ = forward.error.write_all(text.as_bytes()).await;
        }
    }
}

/// Says that it is long, and never comes to an end.
fn endless() -> Answer {
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"the beginning")))]);
    let body = StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending()));
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    response.headers_mut().insert("content-length", "600000000".parse().unwrap());
    response
}

/// Lines that come one by one, each once the one before has been taken.
fn follow() -> Answer {
    let (mut write, read) = tokio::io::duplex(16);
    tokio::spawn(async move {
        for line in 1..=3 {
            if write.write_all(format!("line {line}\n").as_bytes()).await.is_err() {
                return;
            }
            // Not waited for by anybody: it only spaces the lines, as a follower would see them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let frames = futures_util::stream::unfold(read, |mut read| async move {
        let mut chunk = vec![0; 64];
        match read.read(&mut chunk).await {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(Frame::data(Bytes::from(chunk))), read))
            }
        }
    });
    Response::new(StreamBody::new(frames).boxed_unsync())
}
