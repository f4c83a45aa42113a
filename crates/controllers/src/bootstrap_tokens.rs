//! Deletes bootstrap tokens that have expired. (That they are not taken any more is the API's to see to.)

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use k8s_openapi::jiff::Timestamp;
use skiff_client::{DeleteOptions, Error, ObjectKey, Requeue, WorkQueue, now, work};

use crate::context::{Context, feed};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    let all = context.caches.secrets.clone();
    let keys = |secret: &Secret| if is_token(secret) { vec![ObjectKey::of(secret)] } else { Vec::new() };
    let every = move || all.list_namespace(NAMESPACE).iter().flat_map(|secret| keys(secret)).collect();
    tokio::join!(
        feed(context.caches.secrets.clone(), queue.clone(), keys, every),
        work("bootstrap-tokens", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

fn is_token(secret: &Secret) -> bool {
    secret.metadata.namespace.as_deref() == Some(NAMESPACE) && secret.type_.as_deref() == Some(TYPE)
}

/// When a token ends. One that says so in no way that can be read has ended.
fn end(secret: &Secret) -> Option<Timestamp> {
    let expiration = secret.data.as_ref()?.get("expiration")?;
    let text = std::str::from_utf8(&expiration.0).unwrap_or_default();
    Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(secret) = context.caches.secrets.get(key).filter(|secret| is_token(secret)) else {
        return Ok(Requeue::Never);
    };
    let Some(end) = end(&secret) else { return Ok(Requeue::Never) };
    let left = end.as_second() - now().as_second();
    if let Ok(left @ 1..) = u64::try_from(left) {
        return Ok(Requeue::After(Duration::from_secs(left)));
    }
    let options = DeleteOptions {
        preconditions: Some(Preconditions { uid: secret.metadata.uid.clone(), resource_version: None }),
        ..DeleteOptions::default()
    };
    match context.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(Requeue::Never),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_ends_when_it_says_so() {
        let check = |expiration: Option<&str>, expected: Option<i64>| {
            let data = expiration
                .map(|text| json!({"expiration": k8s_openapi::ByteString(text.as_bytes().to_vec())}));
            let secret: Secret =
                serde_json::from_value(json!({"metadata": {}, "data": data})).expect("a secret");
            assert_eq!(end(&secret).map(Timestamp::as_second), expected);
        };
        check(None, None);
        check(Some("1970-01-01T01:00:00Z"), Some(3600));
        check(Some("tomorrow"), Some(0));
    }
}
