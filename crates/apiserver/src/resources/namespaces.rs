//! Namespaces: marked when deleted, gone when their last finalizer is.

use serde_json::{Value, json};
use skiff_api::status::StatusError;

use super::{Cx, DeleteMode, Strategy};
use crate::metadata;

pub(crate) struct Namespaces;

fn own_finalizers(namespace: &Value) -> usize {
    namespace["spec"]["finalizers"].as_array().map_or(0, Vec::len)
}

impl Strategy for Namespaces {
    fn prepare_create(&self, _cx: &Cx<'_>, new: &mut Value) -> Result<(), StatusError> {
        new["status"] = json!({"phase": "Active"});
        if !new["spec"].is_object() {
            new["spec"] = json!({});
        }
        let mut finalizers = new["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.contains(&json!("kubernetes")) {
            finalizers.push("kubernetes".into());
        }
        new["spec"]["finalizers"] = finalizers.into();
        Ok(())
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) -> Result<(), StatusError> {
        if cx.subresource != "finalize" {
            new["spec"] = old["spec"].clone();
        }
        Ok(())
    }

    fn name_rule(&self) -> fn(&str) -> Option<String> {
        crate::names::label
    }

    fn delete_mode(&self, object: &Value, _grace: Option<i64>) -> DeleteMode {
        if own_finalizers(object) > 0 { DeleteMode::Mark } else { DeleteMode::Now }
    }

    fn marked(&self, object: &mut Value) {
        object["status"]["phase"] = "Terminating".into();
    }

    fn is_finished(&self, new: &Value, old: &Value) -> bool {
        metadata::is_deleting(old) && own_finalizers(new) == 0 && metadata::finalizers(new).is_empty()
    }
}
