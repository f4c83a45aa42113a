//! Client certificates: any is taken in the handshake (its key must be the client's), and who it stands
//! for is judged afterwards, so that a client with a wrong one is answered 401 with a Status, as upstream
//! does, and not by a broken connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Life, Pki};
use crate::auth::{Extra, Identity};

const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What a connection's certificate stands for.
#[derive(Debug, Clone)]
pub(crate) enum Presented {
    Good {
        identity: Identity,
        /// Unix seconds. A connection may outlive its certificate.
        not_after: i64,
    },
    Bad,
}

/// TLS for the API's listeners: the handshake, and the judgement of client certificates.
#[derive(Clone)]
pub struct ServerTls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    pub(crate) clients: Arc<Clients>,
}

/// Judges client certificates by the authority.
pub(crate) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) pki: Arc<Pki>,
}

impl Clients {
    /// `None` when the client showed no certificate.
    pub(crate) fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Presented> {
        let (leaf, intermediates) = chain?.split_first()?;
        let now = u64::try_from(self.pki.clock.now()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        match self.verifier.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => Some(self.of_certificate(leaf).unwrap_or(Presented::Bad)),
            Err(error) => {
                tracing::debug!(%error, "a client certificate was refused");
                Some(Presented::Bad)
            }
        }
    }

    /// Keeps in mind where a node's connection comes from.
    pub(crate) fn note_address(&self, presented: Option<&Presented>, from: IpAddr) {
        if let Some(Presented::Good { identity, .. }) = presented
            && let Some(node) = identity.node_name()
        {
            self.pki.saw_node(node, from);
        }
    }

    /// Common name and organizations.
    fn of_certificate(&self, certificate: &CertificateDer<'_>) -> Option<Presented> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let subject = parsed.subject();
        let name = skiff_api::certificates::common_name(subject)?;
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        let digest: String = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect();
        let extra = Extra::from([(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")])]);
        let identity = Identity { extra: Arc::new(extra), ..Identity::new(&name, &groups) };
        let life = Life {
            name,
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        };
        let not_after = life.not_after;
        if identity.node_name().is_some() {
            self.pki.note(life);
        }
        Some(Presented::Good { identity, not_after })
    }
}

/// The handshake's part: that the client has the key of whatever it shows.
#[derive(Debug)]
pub(super) struct AnyClient(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Judged by `Clients`, before the connection's first request.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
