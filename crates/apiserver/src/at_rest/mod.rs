//! Encryption at rest: between an object and the store, which sees bytes only.
//!
//! Which resources are encrypted, and how, is an `EncryptionConfiguration` of upstream's format
//! ([`AtRest::read`]); without one of the user's a cluster makes its own for Secrets ([`keys`]). Of a
//! resource's providers the first one writes, all of them read. What another than the first has written is
//! written anew when a server starts ([`rewrite`]), so a changed configuration reaches everything.

mod chain;
mod cipher;
mod configuration;
pub mod keys;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tracing::{info, warn};

use self::chain::Step;
pub use self::chain::Unreadable;
pub(crate) use self::chain::{Chain, Opened};
pub use self::configuration::ConfigurationError;
use self::configuration::Rule;
use crate::claims::Taken;
use crate::resources::Resource;
use crate::server::Inner;
use crate::write::{Step as Write, modify};

/// Which resources are encrypted, and how. The default: none.
#[derive(Clone, Default)]
pub struct AtRest {
    rules: Arc<Vec<Rule>>,
    /// Their keys only read.
    readers: Arc<Vec<Rule>>,
}

impl fmt::Debug for AtRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtRest").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl AtRest {
    /// From a document of the kind `EncryptionConfiguration`.
    pub fn read(document: &Value) -> Result<Self, ConfigurationError> {
        Ok(Self { rules: Arc::new(configuration::read(document)?), readers: Arc::default() })
    }

    /// Reads also what another configuration has encrypted.
    pub fn reading_also(mut self, document: &Value) -> Result<Self, ConfigurationError> {
        self.readers = Arc::new(configuration::read(document)?);
        Ok(self)
    }

    /// How a resource is stored; `None` for as it is.
    pub(crate) fn chain(&self, stored: &Resource) -> Option<Chain> {
        let rule_of = |rules: &[Rule]| {
            rules.iter().find(|rule| rule.covers(stored.group, stored.plural)).map(|r| r.steps.clone())
        };
        let (own, reading) = (rule_of(&self.rules), rule_of(&self.readers).unwrap_or_default());
        let reading: Vec<_> = reading.into_iter().filter(|step| matches!(**step, Step::Key { .. })).collect();
        let mut steps = match own {
            Some(steps) => steps,
            None if reading.is_empty() => return None,
            None => vec![Arc::new(Step::Identity)],
        };
        steps.extend(reading);
        Some(Chain { steps })
    }
}

/// Writes anew what another provider or key than the first has written.
pub(crate) async fn rewrite(server: Arc<Inner>, stale: Vec<(&'static Resource, Arc<str>)>) {
    if stale.is_empty() {
        return;
    }
    let (total, mut failed) = (stale.len(), 0);
    for (resource, key) in stale {
        let written = modify(&server, resource, resource, &key, false, |current| {
            let value = current.value(resource);
            Ok(Write::Put { value: value.clone(), old: value, volatile: false, taken: Taken::default() })
        });
        match written.await {
            Ok(_) => {}
            // Deleted meanwhile, which is as good.
            Err(error) if error.reason() == "NotFound" => {}
            Err(error) => {
                failed += 1;
                warn!(%key, %error, "cannot write an object anew with the present encryption");
            }
        }
    }
    info!(objects = total - failed, failed, "written anew with the present encryption");
}
