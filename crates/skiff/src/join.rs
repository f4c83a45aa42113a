//! How an agent gets its credentials: by the cluster's join token, once.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skiff_apiserver::join::{JoinRequest, JoinResponse, PATH};
use skiff_client::{Client, Remote, RemoteConfig, full};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::agent::AgentConfig;
use crate::up::record::write_private;

/// An agent's credentials and what it knows of its cluster.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) response: JoinResponse,
    /// PEM. Made here and never sent.
    key: String,
    /// They name these, so another name or address needs others.
    node_name: String,
    node_ip: Ipv4Addr,
}

impl Membership {
    /// What was kept from an earlier start, or what the server gives for the token; asks until it answers.
    pub(crate) async fn obtain(config: &AgentConfig) -> anyhow::Result<Self> {
        let path = config.data_dir.join("membership.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let kept: Self = serde_json::from_slice(&bytes)
                    .with_context(|| format!("cannot parse {}", path.display()))?;
                if kept.node_name == config.node_name && kept.node_ip == config.node_ip {
                    return Ok(kept);
                }
                info!("the node has another name or address: joining anew");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        let mut delay = Duration::from_millis(5);
        loop {
            match join(config).await {
                Ok(membership) => {
                    write_private(&path, &serde_json::to_vec_pretty(&membership).context("cannot encode")?)?;
                    return Ok(membership);
                }
                Err(error) => {
                    if delay > Duration::from_millis(500) {
                        warn!(
                            server = config.server,
                            error = format!("{error:#}"),
                            "cannot join the cluster, retrying"
                        );
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// A client of the API as this node.
    pub(crate) fn client(&self, config: &AgentConfig) -> anyhow::Result<Client> {
        let (chain, key) = self.identity(&self.response.client_certificate)?;
        let remote = RemoteConfig {
            authority: config.server.clone(),
            server_name: None,
            roots: vec![self.ca()?],
            identity: Some((chain, key)),
            bearer_token: None,
        };
        Ok(Client::new(
            Remote::new(remote)
                .map_err(|error| anyhow::anyhow!(error))
                .context("cannot use the credentials")?,
        ))
    }

    /// TLS for the agent's own port: only clients of the cluster's authority get in.
    pub(crate) fn serving_tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca()?).context("cannot use the cluster's CA")?;
        let provider = provider();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .context("cannot use the cluster's CA")?;
        let (chain, key) = self.identity(&self.response.serving_certificate)?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("cannot use TLS")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .context("cannot use the serving certificate")?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(tls))
    }

    fn ca(&self) -> anyhow::Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.response.ca.as_bytes()).context("cannot parse the cluster's CA")
    }

    fn identity(&self, pem: &str) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .context("cannot parse the node's certificate")?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("cannot parse the node's key")?;
        Ok((chain, key))
    }
}

async fn join(config: &AgentConfig) -> anyhow::Result<Membership> {
    let token = config.token()?;
    let (pin, _) = token.split_once('.').context("the token is malformed: it has no dot")?;
    let ca = pinned_authority(&config.server, pin).await?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let request = CertificateParams::new(vec![config.node_name.clone()])
        .and_then(|parameters| parameters.serialize_request(&key))
        .and_then(|request| request.pem())
        .context("cannot make a certificate request")?;
    let body = JoinRequest {
        node_name: config.node_name.clone(),
        ips: vec![IpAddr::V4(config.node_ip)],
        csr: request,
    };
    let remote = RemoteConfig {
        authority: config.server.clone(),
        server_name: None,
        roots: vec![ca],
        identity: None,
        bearer_token: Some(token),
    };
    let client = Client::new(Remote::new(remote).map_err(|error| anyhow::anyhow!(error))?);
    let request = http::Request::post(PATH)
        .header("content-type", "application/json")
        .body(full(serde_json::to_vec(&body).context("cannot encode")?))
        .context("cannot make the request")?;
    let response = client.send(request).await.context("cannot reach the server")?;
    let status = response.status();
    let bytes = http_body_util::BodyExt::collect(response.into_body())
        .await
        .map_err(|error| anyhow::anyhow!(error))?
        .to_bytes();
    if !status.is_success() {
        bail!("the server answered {status}: {}", String::from_utf8_lossy(&bytes));
    }
    let response = serde_json::from_slice(&bytes).context("cannot decode the server's answer")?;
    info!(server = config.server, "joined the cluster");
    Ok(Membership {
        response,
        key: key.serialize_pem(),
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificate authority of the server at `authority`, if it is the one whose hash the token names.
async fn pinned_authority(authority: &str, pin: &str) -> anyhow::Result<CertificateDer<'static>> {
    let (host, _) = authority.rsplit_once(':').context("the server address has no port")?;
    let found = Arc::new(Mutex::new(None));
    let verifier = PinVerifier { pin: pin.to_owned(), found: found.clone(), provider: provider() };
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot use TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).context("the server address is malformed")?;
    let connect = async {
        let socket = TcpStream::connect(authority).await?;
        TlsConnector::from(Arc::new(tls)).connect(name, socket).await
    };
    tokio::time::timeout(Duration::from_secs(5), connect)
        .await
        .context("the server did not answer within 5 s")?
        .with_context(|| format!("cannot connect to {authority}"))?;
    let found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    found.context("the server showed no certificate authority")
}

/// Takes a server whose chain holds an authority with the pinned hash, and whose certificate that
/// authority signed.
#[derive(Debug)]
struct PinVerifier {
    /// SHA-256 of the authority's certificate, in hexadecimal digits.
    pin: String,
    found: Arc<Mutex<Option<CertificateDer<'static>>>>,
    provider: Arc<CryptoProvider>,
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|certificate| fingerprint(certificate) == self.pin);
        let Some(pinned) = pinned else {
            return Err(rustls::Error::General(
                "the server's certificate authority is not the one that the token names".to_owned(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(pinned.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
