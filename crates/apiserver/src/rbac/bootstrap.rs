//! Brings the platform's own roles and bindings to what they should be, at the server's start.
//!
//! All that differs is written at once, so that a first start waits for the disk once and a later one not
//! at all. These writes are the server's own: they pass no admission, and validity is tested with the table.

use serde_json::Value;
use skiff_api::status::StatusError;
use skiff_store::{CommitError, Expect, Write};

use super::reconcile::{Step, step};
use super::{GROUP, policy};
use crate::metadata;
use crate::object::to_stored;
use crate::resources::{Resource, find};
use crate::server::Inner;

pub(crate) async fn run(server: &Inner) -> Result<(), StatusError> {
    let writes: Vec<Write> =
        policy::wanted().into_iter().filter_map(|wanted| write(server, wanted)).collect();
    if writes.is_empty() {
        return Ok(());
    }
    let mut reached = 0;
    for result in server.store.commit(writes).await {
        match result {
            Ok(revision) => reached = reached.max(revision),
            // Somebody else's write came between, and the next start looks again.
            Err(CommitError::Conflict { key, .. }) => {
                tracing::warn!(%key, "a role or binding of the platform changed while it was completed");
            }
            Err(error) => return Err(StatusError::internal(error)),
        }
    }
    server.caches.reached(reached).await;
    Ok(())
}

fn write(server: &Inner, wanted: policy::Wanted) -> Option<Write> {
    let kind = find(GROUP, wanted.plural).expect("roles and bindings are in the table");
    let key = kind.key(wanted.namespace, metadata::text(&wanted.object, "name"));
    let (expect, value) = match server.caches.of(kind).get(&key) {
        None => (Expect::Absent, fresh(kind, wanted.object, wanted.namespace)),
        Some(present) => match step(&present.value(kind), &wanted.object) {
            Step::Keep => return None,
            Step::Update(value) => (Expect::Revision(present.revision), value),
            Step::Replace(value) => {
                (Expect::Revision(present.revision), fresh(kind, value, wanted.namespace))
            }
        },
    };
    let value = server.caches.of(kind).seal(&key, &to_stored(&value));
    Some(Write { key: key.into(), expect, value: Some(value), volatile: false })
}

fn fresh(kind: &Resource, mut object: Value, namespace: &str) -> Value {
    metadata::prepare_create(&mut object, namespace, kind.generation);
    object
}
