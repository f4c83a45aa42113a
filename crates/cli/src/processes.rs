//! A row of `skiff status`: one of the platform's own processes, of this machine or of a node elsewhere.

use serde::Serialize;

use crate::output::{Row, age};

/// What is not known of it is left out, or a dash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// Of which cluster of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Empty where nobody says.
    pub node: String,
    pub role: String,
    /// As this machine numbers it, or the node that is elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    pub health: String,
    /// As it says itself, where it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl ProcessRow {
    /// One of which nothing more is known.
    pub fn new(node: impl Into<String>, role: impl Into<String>, health: impl Into<String>) -> Self {
        Self {
            cluster: None,
            node: node.into(),
            role: role.into(),
            pid: None,
            since_seconds: None,
            memory_bytes: None,
            health: health.into(),
            version: None,
        }
    }
}

impl Row for ProcessRow {
    const COLUMNS: &'static [&'static str] =
        &["CLUSTER", "NODE", "ROLE", "PID", "SINCE", "MEMORY", "HEALTH", "VERSION"];
    const OPTIONAL: &'static [&'static str] = &["CLUSTER", "VERSION"];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".into());
        vec![
            or_dash(self.cluster.clone()),
            or_dash(Some(self.node.clone())),
            self.role.clone(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            or_dash(self.since_seconds.map(age)),
            or_dash(self.memory_bytes.map(|bytes| format!("{:.1}MB", bytes as f64 / 1e6))),
            self.health.clone(),
            or_dash(self.version.clone()),
        ]
    }
}
