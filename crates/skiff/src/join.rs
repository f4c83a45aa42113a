//! How an agent gets its credentials: by the cluster's join token, once.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
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
use skiff_apiserver::pki::{RENEW_DAYS, days_left};
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

/// What came of asking to join.
pub(crate) enum Answer {
    Joined(Box<Membership>),
    /// Asking again would be answered the same.
    Refused(anyhow::Error),
}

impl Membership {
    /// What was kept from an earlier start, or what the server gives for the token; asks until it answers.
    pub(crate) async fn obtain(config: &AgentConfig) -> anyhow::Result<Self> {
        let mut delay = Duration::from_millis(5);
        loop {
            match Self::ask(config).await {
                Ok(Answer::Joined(membership)) => return Ok(*membership),
                Ok(Answer::Refused(error)) => return Err(error),
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

    /// As [`Membership::obtain`], but asks once.
    pub(crate) async fn ask(config: &AgentConfig) -> anyhow::Result<Answer> {
        let path = config.data_dir.join("membership.json");
        if let Some(kept) = Self::kept(&path, config) {
            return Ok(Answer::Joined(Box::new(kept)));
        }
        let answer = join(config).await?;
        if let Answer::Joined(membership) = &answer {
            write_private(&path, &serde_json::to_vec_pretty(membership).context("cannot encode")?)?;
        }
        Ok(answer)
    }

    /// What an earlier start kept, if it is still of use.
    fn kept(path: &Path, config: &AgentConfig) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let kept = match serde_json::from_slice::<Self>(&bytes) {
            Ok(kept) => kept,
            Err(error) => {
                warn!(path = %path.display(), error = %error, "the kept credentials are damaged: joining anew");
                return None;
            }
        };
        match kept.staleness(config) {
            None => Some(kept),
            Some(why) => {
                info!(why, "joining anew");
                None
            }
        }
    }

    /// Why these credentials are of no use any more.
    fn staleness(&self, config: &AgentConfig) -> Option<&'static str> {
        if self.node_name != config.node_name || self.node_ip != config.node_ip {
            return Some("the node has another name or address");
        }
        let pin = config.token.as_deref().and_then(|token| token.trim().split_once('.')).map(|(pin, _)| pin);
        let authority = self.ca().ok().map(|ca| fingerprint(&ca));
        if authority.is_none() || pin.is_some_and(|pin| authority.as_deref() != Some(pin)) {
            return Some("the token is that of another cluster");
        }
        let response = &self.response;
        let days = [&response.client_certificate, &response.serving_certificate].map(|pem| days_left(pem));
        match days.iter().all(|days| days.is_some_and(|days| days > RENEW_DAYS)) {
            true => None,
            false => Some("the certificates end soon"),
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

    /// TLS for the agent's own port: a client shows a certificate of the cluster's authority, or none.
    pub(crate) fn serving_tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca()?).context("cannot use the cluster's CA")?;
        let provider = provider();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
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

async fn join(config: &AgentConfig) -> anyhow::Result<Answer> {
    let token = config.token()?;
    let Some((pin, _)) = token.split_once('.') else {
        return Ok(Answer::Refused(anyhow!("the join token is malformed: it has no dot")));
    };
    let Some(ca) = pinned_authority(&config.server, pin).await? else {
        return Ok(Answer::Refused(anyhow!(
            "the authority of the server at {} is not the one that the join token names: take the token from \
             this cluster's server",
            config.server
        )));
    };
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
    if status == http::StatusCode::UNAUTHORIZED {
        return Ok(Answer::Refused(anyhow!(
            "the server at {} does not know the join token: take it from this cluster's server",
            config.server
        )));
    }
    if !status.is_success() {
        let message = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|answer| answer.get("message")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        let error = anyhow!("the server at {} answered {status}: {message}", config.server);
        return if status.is_client_error() { Ok(Answer::Refused(error)) } else { Err(error) };
    }
    let response = serde_json::from_slice(&bytes).context("cannot decode the server's answer")?;
    info!(server = config.server, "joined the cluster");
    Ok(Answer::Joined(Box::new(Membership {
        response,
        key: key.serialize_pem(),
        node_name: config.node_name.clone(),
        node_ip: config.node_ip,
    })))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificate authority of the server at `authority`; `None` if its hash is not the one that the token
/// names.
async fn pinned_authority(authority: &str, pin: &str) -> anyhow::Result<Option<CertificateDer<'static>>> {
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
    let connected = tokio::time::timeout(Duration::from_secs(5), connect)
        .await
        .context("the server did not answer within 5 s")?;
    match found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        Some(Found::Other) => Ok(None),
        Some(Found::Pinned(ca)) => {
            connected.with_context(|| format!("cannot connect to {authority}"))?;
            Ok(Some(ca))
        }
        None => {
            connected.with_context(|| format!("cannot connect to {authority}"))?;
            bail!("the server showed no certificate")
        }
    }
}

/// What a server's chain holds.
#[derive(Debug)]
enum Found {
    Pinned(CertificateDer<'static>),
    /// No authority of the pinned hash.
    Other,
}

/// Takes a server whose chain holds an authority with the pinned hash, and whose certificate that
/// authority signed.
#[derive(Debug)]
struct PinVerifier {
    /// SHA-256 of the authority's certificate, in hexadecimal digits.
    pin: String,
    found: Arc<Mutex<Option<Found>>>,
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
        let mut found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(pinned) = pinned else {
            *found = Some(Found::Other);
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
        *found = Some(Found::Pinned(pinned.clone().into_owned()));
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
