//! What the controllers of certificate signing requests have in common: how far a request is.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use skiff_api::certificates::Request;

pub(crate) fn condition<'a>(
    csr: &'a CertificateSigningRequest,
    type_: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = csr.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

pub(crate) fn has_condition(csr: &CertificateSigningRequest, type_: &str) -> bool {
    condition(csr, type_).is_some()
}

/// Approved or denied.
pub(crate) fn is_decided(csr: &CertificateSigningRequest) -> bool {
    has_condition(csr, "Approved") || has_condition(csr, "Denied")
}

/// The certificate, if it is there.
pub(crate) fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = csr.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

/// What is asked for. The API has checked it; what can't be read all the same is nobody's business.
pub(crate) fn request_of(csr: &CertificateSigningRequest) -> Option<Request> {
    Request::parse(&csr.spec.request.0).ok()
}
