//! The first contact: a server is trusted whose authority has the hash that the join token names.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::provider;

/// TLS to a server whose authority has that hash, and what was found of it.
pub(super) fn tls(pin: &str) -> Result<(ClientConfig, Seen), rustls::Error> {
    let seen = Seen::default();
    let verifier = PinVerifier { pin: pin.to_owned(), found: seen.0.clone(), provider: provider() };
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((tls, seen))
}

/// What the servers that were spoken to have shown.
#[derive(Default, Clone)]
pub(super) struct Seen(Arc<Mutex<Option<Found>>>);

impl Seen {
    /// The authority of the pinned hash.
    pub(super) fn authority(&self) -> Option<CertificateDer<'static>> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Found::Pinned(authority)) => Some(authority.clone()),
            _ => None,
        }
    }

    /// A server answered, and it is another cluster's.
    pub(super) fn is_other(&self) -> bool {
        matches!(&*self.0.lock().unwrap_or_else(PoisonError::into_inner), Some(Found::Other))
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

pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
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
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
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
