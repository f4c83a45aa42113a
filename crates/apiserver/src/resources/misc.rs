//! Kinds with a rule or two of their own.

use serde_json::Value;

use super::{Cx, Strategy};
use skiff_api::status::StatusError;

pub(crate) struct ConfigMaps;

impl Strategy for ConfigMaps {}

pub(crate) struct Endpoints;

impl Strategy for Endpoints {
    fn creates_on_update(&self) -> bool {
        true
    }
}

pub(crate) struct Secrets;

impl Strategy for Secrets {}

pub(crate) struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    fn returns_deleted(&self) -> bool {
        true
    }
}

pub(crate) struct Leases;

impl Strategy for Leases {
    /// A node's lease is renewed within seconds anyhow.
    fn volatile(&self, new: &Value, _old: Option<&Value>) -> bool {
        new["metadata"]["namespace"] == "kube-node-lease"
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }
}

pub(crate) struct EndpointSlices;

impl Strategy for EndpointSlices {
    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        // The kind may change only by delete and create.
        if let Some(kind) = old.get("addressType")
            && new.get("addressType").is_none()
        {
            new["addressType"] = kind.clone();
        }
        Ok(())
    }
}

pub(crate) struct PriorityClasses;

impl Strategy for PriorityClasses {}
