//! Every namespace has a config map `kube-root-ca.crt` with the certificate that pods trust the API by.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::{Error, ObjectKey, Requeue, WorkQueue, work};

use crate::context::{Context, feed, feed_own};
use crate::service_accounts::{takes_new, unless_there};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
    guaranteed across distributions of Kubernetes clusters.";

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let of_map = |map: &ConfigMap| {
        let namespace = map.metadata.namespace.clone().unwrap_or_default();
        let ours = map.metadata.name.as_deref() == Some(NAME);
        if ours { vec![ObjectKey::new("", namespace)] } else { Vec::new() }
    };
    let reconciler = context.clone();
    let all = context.caches.namespaces.clone();
    tokio::join!(
        feed_own(context.caches.namespaces.clone(), queue.clone()),
        feed(context.caches.config_maps.clone(), queue.clone(), of_map, move || all.keys()),
        work("root-ca", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(namespace) = context.caches.namespaces.get(key) else { return Ok(Requeue::Never) };
    if !takes_new(&namespace) {
        return Ok(Requeue::Never);
    }
    let present = context.caches.config_maps.get(&ObjectKey::new(&*key.name, NAME));
    let ca = &context.config.ca_pem;
    match present {
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(key.name.clone()),
                    annotations: Some(BTreeMap::from([(
                        "kubernetes.io/description".to_owned(),
                        DESCRIPTION.to_owned(),
                    )])),
                    ..ObjectMeta::default()
                },
                data: Some(data(ca)),
                ..ConfigMap::default()
            };
            unless_there(context.client.create(&map).await)?;
        }
        Some(present) if present.data.as_ref() != Some(&data(ca)) => {
            let mut map = (*present).clone();
            map.data = Some(data(ca));
            context.client.update(&map).await?;
        }
        Some(_) => {}
    }
    Ok(Requeue::Never)
}

fn data(ca: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(FILE.to_owned(), ca.to_owned())])
}
