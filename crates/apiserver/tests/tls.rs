//! The API on a socket: who a certificate makes one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use skiff_apiserver::pki::{self, Issued, Pki};
use skiff_apiserver::{ApiServer, Config};
use skiff_store::MemoryStore;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Served {
    address: SocketAddr,
    pki: Arc<Pki>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn serve() -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Arc::new(Pki::open(dir.path()).expect("an authority"));
    let config = Config { pki: Some(Arc::clone(&pki)), ..Config::default() };
    let service = IpAddr::V4(config.service_cidr.nth(1));
    let tls = pki.server_tls(&pki::server_names(&[], service, &config.cluster_domain)).expect("TLS");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = ApiServer::build(config, Arc::new(MemoryStore::default())).await.expect("builds");
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let serving = tokio::spawn(async move { server.serve(vec![listener], tls, token).await });
    Served { address, pki, shutdown, serving, _dir: dir }
}

impl Served {
    async fn send(
        &self,
        client: Option<&Issued>,
        name: &'static str,
        request: http::Request<Full<bytes::Bytes>>,
    ) -> (StatusCode, Value) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca().as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
                )
                .expect("a client certificate"),
        };
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(name).expect("a name");
        let stream = connector.connect(name, stream).await.expect("TLS");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        let code = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        drop(sender);
        driving.await.expect("ends").expect("cleanly");
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.expect("the server ends");
    }
}

fn get(path: &str) -> http::Request<Full<bytes::Bytes>> {
    http::Request::builder().uri(path).body(Full::default()).expect("a request")
}

#[tokio::test]
async fn a_certificate_says_who_one_is() {
    let served = serve().await;
    let (code, body) = served.send(None, "localhost", get("/api/v1/namespaces/default/secrets/x")).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        body["message"],
        "secrets \"x\" is forbidden: User \"system:anonymous\" cannot get resource \"secrets\" in API group \
         \"\" in the namespace \"default\""
    );
    let (code, _) = served.send(None, "localhost", get("/version")).await;
    assert_eq!(code, StatusCode::OK);
    let admin = served.pki.admin().expect("issued");
    let name = "kubernetes.default.svc.cluster.local";
    let (code, body) = served.send(Some(&admin), name, get("/api/v1/namespaces")).await;
    assert_eq!((code, body["kind"].as_str()), (StatusCode::OK, Some("NamespaceList")));
    served.stop().await;
}
