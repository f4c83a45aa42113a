//! An API server over TLS.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::RwLock;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::Error;
use crate::transport::{Body, BoxError, Transport};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the server is and who we are.
pub struct RemoteConfig {
    /// `host:port`.
    pub authority: String,
    /// The name in its certificate, where that differs from the authority's host.
    pub server_name: Option<String>,
    /// The authorities whose word for the server's name we take.
    pub roots: Vec<CertificateDer<'static>>,
    /// Our certificate chain and key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    pub bearer_token: Option<String>,
}

type Pool = hyper_util::client::legacy::Client<Connector, Body>;

/// A transport over pooled TLS connections, HTTP/2 where the server speaks it.
pub struct Remote {
    pool: RwLock<Pool>,
    connector: Connector,
    authority: String,
    bearer_token: Option<http::HeaderValue>,
}

impl Remote {
    /// Checks keys and names; connects with the first request.
    pub fn new(config: RemoteConfig) -> Result<Self, BoxError> {
        let mut roots = RootCertStore::empty();
        for root in config.roots {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match config.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        Self::with_tls(&config.authority, config.server_name, tls, config.bearer_token.as_deref())
    }

    /// A transport with another view of who the server and the client are. It speaks both versions of
    /// HTTP, whatever `tls` says.
    pub fn with_tls(
        authority: &str,
        server_name: Option<String>,
        mut tls: ClientConfig,
        bearer_token: Option<&str>,
    ) -> Result<Self, BoxError> {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (host, _) = authority.rsplit_once(':').ok_or("the server address has no port")?;
        let name = server_name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
        let connector = Connector {
            authority: authority.into(),
            server_name: ServerName::try_from(name)?,
            tls: TlsConnector::from(Arc::new(tls)),
        };
        let bearer_token = match bearer_token {
            Some(token) => {
                let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let pool = RwLock::new(pool(&connector));
        Ok(Self { pool, connector, authority: authority.to_owned(), bearer_token })
    }

    /// Sends what comes from now on over connections of its own: a server knows a client by what it showed
    /// when it connected. What runs already, runs on.
    pub fn reconnect(&self) {
        *self.pool.write() = pool(&self.connector);
    }
}

fn pool(connector: &Connector) -> Pool {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        // A silent peer is found out while only watches are open.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .http2_keep_alive_while_idle(false)
        .build(connector.clone())
}

#[async_trait]
impl Transport for Remote {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = Uri::builder()
            .scheme("https")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| Error::Encode(error.into()))?;
        if let Some(token) = &self.bearer_token {
            parts.headers.insert(http::header::AUTHORIZATION, token.clone());
        }
        let pool = self.pool.read().clone();
        let response = pool
            .request(Request::from_parts(parts, body))
            .await
            .map_err(|error| Error::Transport(error.into()))?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }
}

#[derive(Clone)]
struct Connector {
    authority: Arc<str>,
    server_name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsIo>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let connect = async {
                let socket = TcpStream::connect(&*this.authority).await?;
                socket.set_nodelay(true)?;
                this.tls.connect(this.server_name, socket).await
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
                .await
                .map_err(|_| format!("{} did not answer within 5 s", this.authority))?
                .map_err(|error| format!("cannot connect to {}: {error}", this.authority))?;
            Ok(TokioIo::new(TlsIo(stream)))
        })
    }
}

struct TlsIo(TlsStream<TcpStream>);

impl Connection for TlsIo {
    fn connected(&self) -> Connected {
        match self.0.get_ref().1.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl tokio::io::AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
