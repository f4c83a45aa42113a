//! When a token that a Secret holds was used last: a label of the Secret says the day, as upstream's. Whoever looks
//! for tokens that nobody needs any more goes by it.
//!
//! A request does not wait for the label: its use is noted, and written by a task of its own, once a day.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::status::StatusError;
use tokio::sync::mpsc;

use crate::claims::Taken;
use crate::object::Object;
use crate::resources::{Resource, find};
use crate::server::Inner;
use crate::write::{Step, modify};
use crate::{clock, metadata};

const LABEL: &str = "kubernetes.io/legacy-token-last-used";
const DAY_S: i64 = 86_400;
/// Secrets that wait for their label. One that finds no room is noted again by the next request.
const WAITING_MAX: usize = 64;

/// Namespace and name of a Secret whose token was used.
type Used = (String, String);

pub(crate) struct Uses(mpsc::Sender<Used>);

impl Uses {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Used>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Notes a use now, unless the Secret tells of it already.
    pub(super) fn note(&self, secret: &Object, now: i64) {
        if !is_told(secret, now) {
            let _ = self.0.try_send((secret.namespace().to_owned(), secret.name().to_owned()));
        }
    }
}

fn day(seconds: i64) -> String {
    clock::rfc3339(seconds).chars().take("2006-01-02".len()).collect()
}

/// Another server's clock may be a day ahead, and its label is not taken back.
fn is_told(secret: &Object, now: i64) -> bool {
    secret.labels.get(LABEL).is_some_and(|told| *told == *day(now) || *told == *day(now + DAY_S))
}

/// Writes the labels until the server stops.
pub(crate) async fn keep(server: Arc<Inner>, mut uses: mpsc::Receiver<Used>) {
    loop {
        // Both are cancel-safe.
        let used = tokio::select! {
            used = uses.recv() => used,
            () = server.stopping() => None,
        };
        let Some((namespace, name)) = used else { return };
        if let Err(error) = label(&server, &namespace, &name).await
            && error.reason() != "NotFound"
        {
            tracing::warn!(%error, namespace, secret = name, "cannot say when a kept token was used");
        }
    }
}

async fn label(server: &Inner, namespace: &str, name: &str) -> Result<(), StatusError> {
    let secrets: &'static Resource = find("", "secrets").expect("secrets are in the table");
    let now = server.config.clock.now();
    modify(server, secrets, secrets, &secrets.key(namespace, name), false, |present| {
        if is_told(present, now) {
            return Ok(Step::Keep);
        }
        let old = present.value(secrets);
        let mut new = old.clone();
        let labels =
            metadata::of_mut(&mut new).entry("labels").or_insert_with(|| Value::Object(Default::default()));
        labels[LABEL] = day(now).into();
        Ok(Step::Put { value: new, old, volatile: false, taken: Taken::default() })
    })
    .await
    .map(drop)
}
