//! What tokens depend on, looked up in the watch caches.

use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::clock;
use crate::object::Object;
use crate::resources::{Resource, find};
use crate::server::Inner;
use crate::tokens::{INVALID_SINCE, Kind, Lookup, Present};

pub(crate) struct CachedObjects<'a>(pub(crate) &'a Inner);

fn row(kind: Kind) -> &'static Resource {
    let plural = match kind {
        Kind::Account => "serviceaccounts",
        Kind::Pod => "pods",
        Kind::Secret => "secrets",
        Kind::Node => "nodes",
    };
    find("", plural).expect("what tokens depend on is in the table")
}

impl Lookup for CachedObjects<'_> {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Present> {
        let row = row(kind);
        let object = self.0.caches.of(row).get(&row.key(namespace, name))?;
        Some(Present { uid: object.uid.clone(), ends: end(&object) })
    }

    fn secret_invalid_since(&self, namespace: &str, name: &str) -> Option<String> {
        let row = row(Kind::Secret);
        let object = self.0.caches.of(row).get(&row.key(namespace, name))?;
        object.labels.get(INVALID_SINCE).filter(|since| !since.is_empty()).map(ToString::to_string)
    }

    fn note_use(&self, namespace: &str, name: &str) {
        let row = row(Kind::Secret);
        if let Some(object) = self.0.caches.of(row).get(&row.key(namespace, name)) {
            self.0.token_uses.note(&object, self.0.config.clock.now());
        }
    }

    fn secret_token(&self, namespace: &str, name: &str) -> Option<Vec<u8>> {
        let row = row(Kind::Secret);
        let object = self.0.caches.of(row).get(&row.key(namespace, name))?;
        let secret = object.typed(row)?.downcast::<Secret>().ok()?;
        Some(secret.data.as_ref()?.get("token")?.0.clone())
    }
}

/// When an object that is being deleted is to be gone.
fn end(object: &Object) -> Option<i64> {
    #[derive(Deserialize)]
    struct Partial {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<String>,
    }
    if !object.deleting {
        return None;
    }
    let partial: Partial = serde_json::from_slice(&object.body).ok()?;
    clock::parse(&partial.metadata.deletion_timestamp?)
}
