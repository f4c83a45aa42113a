//! A server on a socket, and clients that write what they like.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use skiff_apiserver::pki::{Issued, Pki};
use skiff_apiserver::{Config, Limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::socket::{Listening, listen};

/// For all that must happen at some time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client without a certificate.
pub(crate) const SILENT: &Option<Issued> = &None;

pub(crate) type Tls = tokio_rustls::client::TlsStream<TcpStream>;

pub(crate) struct Served {
    address: SocketAddr,
    pki: Arc<Pki>,
    _stop: tokio_util::sync::DropGuard,
    _dir: tempfile::TempDir,
}

/// Answers that nobody reads, on an HTTP/2 connection that is kept.
pub(crate) struct Unread {
    answers: Vec<http::Response<hyper::body::Incoming>>,
    _sender: hyper::client::conn::http2::SendRequest<http_body_util::Empty<bytes::Bytes>>,
    connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Unread {
    /// Until the server ends the connection.
    pub(crate) async fn ended(self) {
        let Self { answers, connection, .. } = self;
        let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it is ended");
        drop((answers, ended));
    }

    /// Goes away.
    pub(crate) fn end(self) {
        self.connection.abort();
    }
}

impl Served {
    pub(crate) async fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Arc::new(Pki::open(dir.path()).expect("an authority"));
        let config = Config { pki: Some(Arc::clone(&pki)), limits, ..Config::default() };
        let Listening { address, shutdown, .. } = listen(config).await;
        Self { address, pki, _stop: shutdown.drop_guard(), _dir: dir }
    }

    pub(crate) fn admin(&self) -> Option<Issued> {
        Some(self.pki.admin().expect("issued"))
    }

    pub(crate) fn node(&self, name: &str) -> Option<Issued> {
        let user = format!("system:node:{name}");
        Some(self.pki.issue_client(&user, &["system:nodes"]).expect("issued"))
    }

    pub(crate) fn user(&self, name: &str) -> Option<Issued> {
        Some(self.pki.issue_client(name, &[]).expect("issued"))
    }

    /// A connection on which nothing is said, not even of TLS.
    pub(crate) async fn raw(&self) -> Socket {
        Socket::new(Box::new(TcpStream::connect(self.address).await.expect("connects")))
    }

    pub(crate) async fn raw_from(&self, source: [u8; 4]) -> Socket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::from(source), 0).into()).expect("an address");
        Socket::new(Box::new(socket.connect(self.address).await.expect("connects")))
    }

    pub(crate) async fn connect(&self, client: &Option<Issued>) -> std::io::Result<Socket> {
        self.connect_from([127, 0, 0, 1], client).await
    }

    pub(crate) async fn connect_from(
        &self,
        source: [u8; 4],
        client: &Option<Issued>,
    ) -> std::io::Result<Socket> {
        let mut stream = self.tls(source, client, b"http/1.1").await?;
        // With TLS 1.3 a client is done before the server is: only an answer says that the server took it.
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut socket = Socket::new(Box::new(stream));
        match socket.next_head().await {
            Some(head) if head.status == 200 => {
                socket.body(head).await;
                Ok(socket)
            }
            _ => Err(std::io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Tries until there is room.
    pub(crate) async fn connected(&self, client: &Option<Issued>) -> Socket {
        let trying = async {
            loop {
                if let Ok(socket) = self.connect(client).await {
                    return socket;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, trying).await.expect("there is room again")
    }

    async fn tls(&self, source: [u8; 4], client: &Option<Issued>, protocol: &[u8]) -> std::io::Result<Tls> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca().as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
                )
                .expect("a client certificate"),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::from(source), 0).into())?;
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A connection on which HTTP/2 was agreed upon, and nothing said.
    pub(crate) async fn http2(&self, client: &Option<Issued>) -> Tls {
        self.tls([127, 0, 0, 1], client, b"h2").await.expect("connects")
    }

    /// Asks for the headers alone on HTTP/2: the status, the length that is told, and how many bytes came.
    pub(crate) async fn head_by_http2(&self, client: &Option<Issued>, path: &str) -> (u16, String, usize) {
        let stream = self.tls([127, 0, 0, 1], client, b"h2").await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        let request = http::Request::head(format!("https://localhost{path}"));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        let length =
            answer.headers().get("content-length").map(|value| value.to_str().expect("text").to_owned());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("an end").to_bytes();
        (status, length.unwrap_or_default(), body.len())
    }

    /// Asks that many times on one HTTP/2 connection, and reads no more than the heads of the answers.
    pub(crate) async fn unread_by_http2(&self, client: &Option<Issued>, path: &str, count: usize) -> Unread {
        let stream = self.tls([127, 0, 0, 1], client, b"h2").await.expect("connects");
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1_024)
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..count {
            let request = http::Request::get(format!("https://localhost{path}"));
            let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            answers.push(answer);
        }
        Unread { answers, _sender: sender, connection }
    }

    /// Begins that many requests on one HTTP/2 connection and takes each back before it is answered. Says
    /// whether the connection is still of use then.
    pub(crate) async fn reset_streams(&self, client: &Option<Issued>, count: usize) -> bool {
        let stream = self.tls([127, 0, 0, 1], client, b"h2").await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        let driving = tokio::spawn(connection);
        let request = |method: &str, path: &str| {
            let (bodies, rest) = tokio::sync::mpsc::channel::<std::io::Error>(1);
            let stream = futures_util::stream::unfold(rest, |mut rest| async move {
                let end: std::io::Result<http_body::Frame<bytes::Bytes>> = Err(rest.recv().await?);
                Some((end, rest))
            });
            let request = http::Request::builder()
                .method(method)
                .uri(format!("https://localhost{path}"))
                .header("content-type", "application/json")
                .body(BodyExt::boxed_unsync(StreamBody::new(stream)))
                .expect("a request");
            (request, bodies)
        };
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut taken_back = 0;
        while taken_back < count {
            let (mut asked, mut bodies) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                if sender.ready().await.is_err() {
                    return false;
                }
                let (post, body) = request("POST", path);
                asked.push(sender.send_request(post));
                bodies.push(body);
            }
            // The answer to a request behind them says that the server has begun with these.
            if sender.clone().send_request(request("GET", "/livez").0).await.is_err() {
                return false;
            }
            // A body that breaks off resets its stream.
            for (body, asked) in bodies.into_iter().zip(asked) {
                let _ = body.send(std::io::ErrorKind::Other.into()).await;
                let _ = asked.await;
                taken_back += 1;
            }
        }
        let alive = match sender.ready().await {
            Ok(()) => {
                let asked = sender.send_request(request("GET", "/livez").0).await;
                asked.is_ok_and(|answer| answer.status() == 200)
            }
            Err(_) => false,
        };
        driving.abort();
        alive
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection, on which bytes are written as they are given.
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: String,
    pub(crate) body: String,
    bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    }

    /// The body, unpacked.
    pub(crate) fn gunzip(&self) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&self.bytes[..]).read_to_string(&mut text).expect("gzip");
        text
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Socket {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Writes as far as the server takes it.
    pub(crate) async fn send(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    pub(crate) async fn ask(&mut self, bytes: &str) -> Answer {
        self.send(bytes).await;
        let head = self.head().await;
        self.body(head).await
    }

    /// Asks until the answer is of this status.
    pub(crate) async fn until_status(&mut self, bytes: &str, status: u16) -> Answer {
        let asking = async {
            loop {
                let answer = self.ask(bytes).await;
                if answer.status == status {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("the status is answered at last")
    }

    pub(crate) async fn head(&mut self) -> Answer {
        self.next_head().await.expect("an answer")
    }

    /// Reads until these bytes have come.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.read.windows(text.len()).any(|window| window == text.as_bytes()) {
            assert!(self.more().await, "the answer goes on");
        }
    }

    /// All that comes until the server closes.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Waits until the server has closed.
    pub(crate) async fn closed(mut self) {
        while self.more().await {}
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        // Whether an end or a reset: the server is gone.
        read.expect("the server answers or closes").unwrap_or(0) > 0
    }

    async fn next_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let headers = String::from_utf8(self.read.drain(..end).collect()).expect("a header is text");
        let status = headers.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, headers, body: String::new(), bytes: Vec::new() })
    }

    async fn body(&mut self, mut answer: Answer) -> Answer {
        let length: usize = answer.header("content-length").and_then(|l| l.parse().ok()).expect("a length");
        while self.read.len() < length {
            assert!(self.more().await, "the body goes on");
        }
        answer.bytes = self.read.drain(..length).collect();
        answer.body = String::from_utf8_lossy(&answer.bytes).into_owned();
        answer
    }
}
