//! What a kind may add to the common path of a write.

use serde_json::Value;
use skiff_api::status::{Cause, StatusError};

use crate::auth::Identity;
use crate::claims::Taken;
use crate::notes::Notes;
use crate::server::Inner;

/// Whom and what a strategy is asked about.
pub(crate) struct Cx<'a> {
    pub(crate) server: &'a Inner,
    pub(crate) who: &'a Identity,
    /// The request's subresource, empty for the object itself.
    pub(crate) subresource: &'a str,
    /// The key in the store.
    pub(crate) key: &'a str,
    /// What is said beside the answer.
    pub(crate) notes: &'a Notes,
}

/// How a deletion that the generic rules let through is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeleteMode {
    Now,
    /// Marked only; whoever runs it deletes it with grace period 0 when it is gone.
    Graceful {
        seconds: i64,
    },
    /// Marked only, and gone when [`Strategy::is_finished`] says so.
    Mark,
}

/// A kind's own rules. All of them are synchronous and see only caches and the two states; the common
/// rules (names, metadata, status split, generation) are not repeated here.
pub(crate) trait Strategy: Send + Sync {
    /// Completes a new object, after defaulting and before validation.
    fn prepare_create(&self, _cx: &Cx<'_>, _new: &mut Value) -> Result<(), StatusError> {
        Ok(())
    }

    /// Completes an update of the object (`subresource` empty) or through a subresource.
    fn prepare_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) -> Result<(), StatusError> {
        Ok(())
    }

    /// Faults that need the server's state; what the object alone shows is found by `api::validate`.
    fn validate(&self, _cx: &Cx<'_>, _new: &Value, _old: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }

    /// Takes what the new state needs beyond the old one and no other object may have, once all else is
    /// found good.
    fn allocate(&self, _cx: &Cx<'_>, _new: &mut Value, _old: Option<&Value>) -> Result<Taken, StatusError> {
        Ok(Taken::default())
    }

    /// Which rule the name must obey.
    fn name_rule(&self) -> fn(&str) -> Option<String> {
        crate::names::subdomain
    }

    /// How to delete `object` when the client asked for `grace` seconds.
    fn delete_mode(&self, _object: &Value, _grace: Option<i64>) -> DeleteMode {
        DeleteMode::Now
    }

    /// Completes an object that [`DeleteMode::Mark`] has just marked.
    fn marked(&self, _object: &mut Value) {}

    /// Whether this update of a deleted object removes what kept it.
    fn is_finished(&self, new: &Value, old: &Value) -> bool {
        crate::metadata::finalizers(new).is_empty()
            && old["metadata"]["deletionGracePeriodSeconds"].as_i64() == Some(0)
    }

    /// Whether a successful deletion answers with the object instead of a Status.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// Whether a crash may lose this write.
    fn volatile(&self, _new: &Value, _old: Option<&Value>) -> bool {
        false
    }

    /// Whether an update may omit the resource version (and then overwrites).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Whether PUT on a name that is not there creates it.
    fn creates_on_update(&self) -> bool {
        false
    }
}

/// A kind without rules of its own.
pub(crate) struct Plain;

impl Strategy for Plain {}
