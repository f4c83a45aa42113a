//! Certificates that are always good: each handshake takes the present one, and the one that finds it
//! near its end (or not valid yet, after the clock was set back) has it issued anew. So nothing waits for
//! a timer, and neither a long run nor a clock that jumps leaves the server with a certificate that
//! nobody takes.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{DAY_S, Issued, Life, Pki, PkiError, RENEW_DAYS};

type Issue = Box<dyn Fn(&Pki) -> Result<Issued, PkiError> + Send + Sync>;

/// A leaf certificate of this process.
pub(super) struct LiveCertificate {
    pki: Arc<Pki>,
    name: &'static str,
    issue: Issue,
    present: RwLock<(Life, Arc<CertifiedKey>)>,
}

impl LiveCertificate {
    pub(super) fn new(
        pki: &Arc<Pki>,
        name: &'static str,
        issue: impl Fn(&Pki) -> Result<Issued, PkiError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, PkiError> {
        let present = RwLock::new(certified(pki, name, &issue)?);
        let live = Arc::new(Self { pki: Arc::clone(pki), name, issue: Box::new(issue), present });
        Ok(live)
    }

    fn present(&self) -> Arc<CertifiedKey> {
        let now = self.pki.clock.now();
        if let (life, key) = &*self.present.read()
            && life.is_fresh(now)
        {
            return Arc::clone(key);
        }
        let mut present = self.present.write();
        if !present.0.is_fresh(now) {
            match certified(&self.pki, self.name, &self.issue) {
                Ok(renewed) => {
                    tracing::info!(certificate = self.name, "renewed a certificate");
                    *present = renewed;
                }
                Err(error) => tracing::error!(
                    certificate = self.name,
                    error = &error as &dyn std::error::Error,
                    "cannot renew a certificate"
                ),
            }
        }
        Arc::clone(&present.1)
    }
}

impl Life {
    /// Neither near its end nor before its start.
    pub(super) fn is_fresh(&self, now: i64) -> bool {
        // A leaf can't outlive the authority, which may itself be near its end.
        let margin = (RENEW_DAYS * DAY_S).min((self.not_after - self.not_before) / 3);
        (self.not_before..self.not_after - margin).contains(&now)
    }
}

fn certified(
    pki: &Arc<Pki>,
    name: &'static str,
    issue: &(impl Fn(&Pki) -> Result<Issued, PkiError> + ?Sized),
) -> Result<(Life, Arc<CertifiedKey>), PkiError> {
    let issued = issue(pki)?;
    let (chain, key) = pki.chain(&issued)?;
    let life = Life::of(name, &issued.certificate).ok_or_else(|| PkiError::Pem { path: pki.dir.clone() })?;
    pki.note(life.clone());
    Ok((life, Arc::new(CertifiedKey::new(chain, any_supported_type(&key)?))))
}

impl fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveCertificate").field(&self.name).finish()
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
