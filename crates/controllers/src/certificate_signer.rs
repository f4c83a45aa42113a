//! Signs approved requests to the cluster's own signers, and marks those failed that a signer does not sign.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use skiff_api::certificates::{Request, Signer};
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, now, work};
use tracing::{error, info};

use crate::authority::SigningRequest;
use crate::certificates::{certificate, has_condition, request_of};
use crate::context::{Context, feed_own};

/// Clocks may be apart.
const BACKDATED_S: i64 = 300;
/// No request may ask for less; where all certificates are to be good for less, they are backdated by a tenth
/// of that, as they would else be near their end when they are new.
const ASKED_S_MIN: i64 = 600;
/// A certificate for less than this loses nothing by being backdated.
const SHORT_S: i64 = 8 * 3600;
/// After the authority failed, which it has no reason to.
const AGAIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    tokio::join!(
        feed_own(context.caches.certificate_signing_requests.clone(), queue.clone()),
        work("certificate-signer", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Leave,
    Fail(String),
    Sign(SigningRequest),
}

/// `longest` is for how long certificates are good, in seconds, and no request gets more.
fn step(csr: &CertificateSigningRequest, request: Option<&Request>, now: i64, longest: i64) -> Step {
    if !has_condition(csr, "Approved") || has_condition(csr, "Denied") || has_condition(csr, "Failed") {
        return Step::Leave;
    }
    let (Some(signer), None) = (Signer::of(&csr.spec.signer_name), certificate(csr)) else {
        return Step::Leave;
    };
    let Some(request) = request else { return Step::Fail("unable to parse the request".into()) };
    let usages = csr.spec.usages.clone().unwrap_or_default();
    if let Some(fault) = signer.fault(request, &usages) {
        return Step::Fail(fault);
    }
    let wanted = csr.spec.expiration_seconds.map_or(longest, i64::from).min(longest);
    let not_before = now - if wanted < ASKED_S_MIN { wanted / 10 } else { BACKDATED_S };
    Step::Sign(SigningRequest {
        request: String::from_utf8_lossy(&csr.spec.request.0).into_owned(),
        not_before,
        not_after: if wanted < SHORT_S { now + wanted } else { not_before + wanted },
        usages,
    })
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(csr) = context.caches.certificate_signing_requests.get(key) else { return Ok(Requeue::Never) };
    let Some(authority) = &context.config.authority else { return Ok(Requeue::Never) };
    let longest = i64::try_from(context.config.certificate_life.as_secs()).unwrap_or(i64::MAX);
    match step(&csr, request_of(&csr).as_ref(), now().as_second(), longest) {
        Step::Leave => {}
        Step::Fail(message) => {
            context.client.update_status(&failed(&csr, message)).await?;
        }
        Step::Sign(wanted) => match authority.sign(&wanted) {
            Ok(pem) => {
                let mut signed = (*csr).clone();
                signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
                context.client.update_status(&signed).await?;
                info!(request = %key, signer = csr.spec.signer_name, "signed a certificate");
            }
            Err(error) => {
                error!(request = %key, error = &error as &dyn std::error::Error, "cannot sign a certificate");
                return Ok(Requeue::After(AGAIN));
            }
        },
    }
    Ok(Requeue::Never)
}

fn failed(csr: &CertificateSigningRequest, message: String) -> CertificateSigningRequest {
    let mut failed = csr.clone();
    let status = failed.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Failed".to_owned(),
        status: "True".to_owned(),
        reason: Some("SignerValidationFailure".to_owned()),
        message: Some(message),
        ..CertificateSigningRequestCondition::default()
    });
    failed
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const YEAR_S: i64 = 365 * 24 * 3600;

    fn step(csr: &CertificateSigningRequest, request: Option<&Request>, now: i64) -> Step {
        super::step(csr, request, now, YEAR_S)
    }

    fn csr(conditions: &[&str], seconds: Option<i32>) -> CertificateSigningRequest {
        let conditions: Vec<Value> =
            conditions.iter().map(|type_| json!({"type": type_, "status": "True"})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "r"},
            "spec": {"request": "UEVN", "signerName": "kubernetes.io/kube-apiserver-client",
                "usages": ["client auth"], "expirationSeconds": seconds},
            "status": {"conditions": conditions},
        }))
        .expect("a request")
    }

    #[test]
    fn what_is_approved_is_signed_once() {
        let request = Request::default();
        assert_eq!(step(&csr(&[], None), Some(&request), 0), Step::Leave);
        assert_eq!(step(&csr(&["Denied"], None), Some(&request), 0), Step::Leave);
        assert_eq!(step(&csr(&["Approved", "Failed"], None), Some(&request), 0), Step::Leave);
        let signing = |not_after| {
            Step::Sign(SigningRequest {
                request: "PEM".into(),
                not_before: 700,
                not_after,
                usages: vec!["client auth".into()],
            })
        };
        assert_eq!(step(&csr(&["Approved"], None), Some(&request), 1000), signing(700 + YEAR_S));
        assert_eq!(step(&csr(&["Approved"], Some(600)), Some(&request), 1000), signing(1600));
        assert_eq!(step(&csr(&["Approved"], Some(i32::MAX)), Some(&request), 1000), signing(700 + YEAR_S));
        let mut issued = csr(&["Approved"], None);
        issued.status.as_mut().expect("a status").certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(step(&issued, Some(&request), 0), Step::Leave);
    }

    #[test]
    fn no_certificate_is_good_for_longer_than_the_cluster_says() {
        let lives = |asked: Option<i32>, longest: i64| match super::step(
            &csr(&["Approved"], asked),
            Some(&Request::default()),
            1000,
            longest,
        ) {
            Step::Sign(signing) => (signing.not_before, signing.not_after),
            other => panic!("{other:?}"),
        };
        assert_eq!(lives(None, 3600), (700, 4600));
        assert_eq!(lives(Some(7200), 3600), (700, 4600));
        assert_eq!(lives(Some(600), 3600), (700, 1600));
        assert_eq!(lives(Some(600), 60), (994, 1060), "new when it is new");
    }

    #[test]
    fn what_a_signer_does_not_sign_fails() {
        let mut wrong = csr(&["Approved"], None);
        wrong.spec.usages = Some(vec!["server auth".into()]);
        let why = "invalid usage for client certificate: server auth";
        assert_eq!(step(&wrong, Some(&Request::default()), 0), Step::Fail(why.into()));
        wrong.spec.signer_name = "example.com/other".into();
        assert_eq!(step(&wrong, Some(&Request::default()), 0), Step::Leave);
    }
}
