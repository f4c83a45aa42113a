//! A client that costs little: HTTP/1.1 over TLS, requests sent as they lie, answers read and not parsed.
//!
//! It shares the machine with the server, so what it spends is missing from the figure.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the server is, and keys that all connections share.
#[derive(Clone)]
pub(crate) struct Target {
    authority: Arc<str>,
    name: ServerName<'static>,
    tls: TlsConnector,
    /// Lines that every request has besides.
    headers: Arc<str>,
}

impl Target {
    /// The first cluster and user of a kubeconfig.
    pub(crate) fn read(kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(kubeconfig)?;
        let config: Value = serde_yaml_ng::from_slice(&text).context("the kubeconfig is no YAML")?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let pem = |value: &Value| {
            let text = value.as_str().context("the kubeconfig lacks a certificate or key")?;
            anyhow::Ok(STANDARD.decode(text)?)
        };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])?)?)?;
        let chain = vec![CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])?)?];
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server = cluster["server"].as_str().context("the kubeconfig names no server")?;
        let authority = server.strip_prefix("https://").context("the server is not HTTPS")?;
        let host = authority.rsplit_once(':').context("the server has no port")?.0.to_owned();
        Ok(Self {
            name: ServerName::try_from(host)?,
            authority: authority.into(),
            tls: TlsConnector::from(Arc::new(tls)),
            headers: "".into(),
        })
    }

    /// With these header lines in every request.
    pub(crate) fn with_headers(self, headers: &str) -> Self {
        Self { headers: headers.into(), ..self }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Wire> {
        let socket = TcpStream::connect(&*self.authority).await?;
        socket.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), socket).await?;
        let headers = Arc::clone(&self.headers);
        Ok(Wire { stream, headers, buffer: Vec::with_capacity(64 << 10), begin: 0 })
    }
}

/// One connection. Bytes before `begin` have been read.
pub(crate) struct Wire {
    stream: TlsStream<TcpStream>,
    headers: Arc<str>,
    buffer: Vec<u8>,
    begin: usize,
}

impl Wire {
    /// Sends a request and reads its answer's body, which is lent until the next one.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        body: &str,
    ) -> anyhow::Result<&[u8]> {
        let (status, length) = self.send(method, path, media, body).await?;
        if let Some(length) = length {
            self.fill(length).await?;
            self.begin += length;
            let body = &self.buffer[self.begin - length..self.begin];
            if !(200..300).contains(&status) {
                bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(body));
            }
            return Ok(body);
        }
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(chunk);
        }
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&whole));
        }
        self.buffer = whole;
        self.begin = self.buffer.len();
        Ok(&self.buffer)
    }

    /// Begins a watch: [`Wire::chunk`] reads on.
    pub(crate) async fn watch(&mut self, path: &str) -> anyhow::Result<()> {
        let (status, _) = self.send("GET", path, "", "").await?;
        anyhow::ensure!(status == 200, "GET {path}: {status}");
        Ok(())
    }

    /// The next chunk of a body without a length, `None` at its end.
    pub(crate) async fn chunk(&mut self) -> anyhow::Result<Option<&[u8]>> {
        let line = self.until(b"\r\n").await?;
        let length = usize::from_str_radix(std::str::from_utf8(&self.buffer[line.clone()])?.trim(), 16)?;
        self.fill(length + 2).await?;
        self.begin += length + 2;
        let end = self.begin - 2;
        Ok((length > 0).then(|| &self.buffer[end - length..end]))
    }

    /// Answers the status, and the body's length unless it comes in chunks.
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        media: &str,
        body: &str,
    ) -> anyhow::Result<(u16, Option<usize>)> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: skiff\r\naccept: application/json\r\n");
        if !media.is_empty() {
            request += &format!("content-type: {media}\r\ncontent-length: {}\r\n", body.len());
        }
        request += &self.headers;
        request += "\r\n";
        request += body;
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.buffer.drain(..self.begin);
        self.begin = 0;
        let head = self.until(b"\r\n\r\n").await?;
        let head = std::str::from_utf8(&self.buffer[head])?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        Ok((status, length.map(|(_, value)| value.trim().parse()).transpose()?))
    }

    async fn until(&mut self, end: &[u8]) -> anyhow::Result<std::ops::Range<usize>> {
        let mut searched = self.begin;
        loop {
            let from = searched.saturating_sub(end.len()).max(self.begin);
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|window| window == end) {
                let range = self.begin..from + at;
                self.begin = range.end + end.len();
                return Ok(range);
            }
            searched = self.buffer.len();
            self.more(64 << 10).await?;
        }
    }

    async fn fill(&mut self, length: usize) -> anyhow::Result<()> {
        while self.buffer.len() - self.begin < length {
            let missing = length - (self.buffer.len() - self.begin);
            self.more(missing).await?;
        }
        Ok(())
    }

    async fn more(&mut self, about: usize) -> anyhow::Result<()> {
        self.buffer.reserve(about);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}
