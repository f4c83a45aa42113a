//! A certificate with its key: made into what TLS shows, and exchanged for another while it is in use.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, crypto::ring};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

/// Both PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Issued")
    }
}

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Issued {
    pub(super) fn life(&self) -> anyhow::Result<Life> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .context("cannot parse the node's certificate")?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).context("cannot parse the node's certificate")?;
        let validity = parsed.validity();
        Ok(Life { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    /// Whether the certificate is for this address too.
    pub(super) fn names(&self, ip: Ipv4Addr) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(self.certificate.as_bytes()) else { return false };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let names = parsed.subject_alternative_name().ok().flatten();
        names.is_some_and(|names| {
            let mut names = names.value.general_names.iter();
            names.any(|name| matches!(name, GeneralName::IPAddress(bytes) if *bytes == ip.octets()))
        })
    }

    fn certified(&self) -> anyhow::Result<CertifiedKey> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .context("cannot parse the node's certificate")?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("cannot parse the node's key")?;
        let key = ring::sign::any_supported_type(&key).context("cannot use the node's key")?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().context("the node's key is not its certificate's")?;
        Ok(certified)
    }
}

/// What a node shows, now. Connections that stand keep what was shown when they were made.
#[derive(Debug, Default)]
pub(crate) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows this from now on.
    pub(super) fn show(&self, issued: &Issued) -> anyhow::Result<()> {
        let certified = Arc::new(issued.certified()?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
        Ok(())
    }

    fn now(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.now()
    }

    fn has_certs(&self) -> bool {
        self.now().is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.now()
    }
}
