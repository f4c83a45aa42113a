//! Deletes certificate signing requests that are done with: decided ones after an hour, those that nobody
//! decides after a day.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skiff_client::{DeleteOptions, Error, ObjectKey, Requeue, WorkQueue, now, work};

use crate::certificates::condition;
use crate::context::{Context, feed_own};

const DECIDED_S: i64 = 3600;
const PENDING_S: i64 = 24 * 3600;

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    tokio::join!(
        feed_own(context.caches.certificate_signing_requests.clone(), queue.clone()),
        work("certificate-cleaner", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

/// When a request is done with, in Unix seconds.
fn end(csr: &CertificateSigningRequest) -> Option<i64> {
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let decided = ["Approved", "Denied", "Failed"].into_iter().filter_map(|type_| {
        let condition = condition(csr, type_)?;
        condition.last_update_time.as_ref().map(|time| time.0.as_second()).or(created)
    });
    match decided.min() {
        Some(decided) => Some(decided + DECIDED_S),
        None => created.map(|created| created + PENDING_S),
    }
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(csr) = context.caches.certificate_signing_requests.get(key) else { return Ok(Requeue::Never) };
    let Some(end) = end(&csr) else { return Ok(Requeue::Never) };
    let left = end - now().as_second();
    if let Ok(left @ 1..) = u64::try_from(left) {
        return Ok(Requeue::After(Duration::from_secs(left)));
    }
    let deleted =
        context.client.delete::<CertificateSigningRequest>("", &key.name, &DeleteOptions::default()).await;
    match deleted {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Requeue::Never),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_end_an_hour_after_their_decision_or_a_day_after_they_came() {
        let check = |conditions: serde_json::Value, expected: i64| {
            let csr: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": "1970-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "a.b/c"}, "status": {"conditions": conditions},
            }))
            .expect("a request");
            assert_eq!(end(&csr), Some(expected));
        };
        check(json!([]), PENDING_S);
        let at = "1970-01-01T00:10:00Z";
        check(json!([{"type": "Denied", "status": "True", "lastUpdateTime": at}]), 600 + DECIDED_S);
        check(json!([{"type": "Approved", "status": "True"}]), DECIDED_S);
    }
}
