//! Deployments, replica sets, daemon sets and their revisions.

use serde_json::{Value, json};
use skiff_api::status::StatusError;

use super::{Cx, Strategy};

pub(crate) struct Workloads;

impl Strategy for Workloads {
    fn prepare_create(&self, _cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        new["status"] = json!({});
        Ok(())
    }

    fn name_rule(&self) -> fn(&str) -> Option<String> {
        crate::names::subdomain
    }
}

pub(crate) struct ControllerRevisions;

impl Strategy for ControllerRevisions {}
