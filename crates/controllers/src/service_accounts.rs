//! Every namespace has a service account `default`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, work};

use crate::context::{Context, feed, feed_own};

const NAME: &str = "default";

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let namespaces = context.caches.namespaces.clone();
    let of_account = |account: &ServiceAccount| {
        let name = account.metadata.name.as_deref();
        let namespace = account.metadata.namespace.clone().unwrap_or_default();
        if name == Some(NAME) { vec![ObjectKey::new("", namespace)] } else { Vec::new() }
    };
    let reconciler = context.clone();
    let all = context.caches.namespaces.clone();
    tokio::join!(
        feed_own(namespaces, queue.clone()),
        feed(context.caches.service_accounts.clone(), queue.clone(), of_account, move || all.keys()),
        work("serviceaccount", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(namespace) = context.caches.namespaces.get(key) else { return Ok(Requeue::Never) };
    let account = context.caches.service_accounts.get(&ObjectKey::new(&*key.name, NAME));
    if account.is_none() && takes_new(&namespace) {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        unless_there(context.client.create(&account).await)?;
    }
    Ok(Requeue::Never)
}

/// Whether objects can still be created in a namespace.
pub(crate) fn takes_new(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

/// Takes an object that exists already, or a namespace that ends meanwhile, as done.
pub(crate) fn unless_there<K>(created: Result<K, Error>) -> Result<(), Error> {
    match created {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() || error.is_not_found() => Ok(()),
        Err(error) if error.code() == Some(403) && is_namespace_end(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_namespace_end(error: &Error) -> bool {
    let Error::Status(status) = error else { return false };
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    causes.into_iter().flatten().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
        || status.message.as_deref().is_some_and(|message| message.contains("is being terminated"))
}
