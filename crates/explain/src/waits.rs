//! What a pod that has a node waits for there: an image, a volume, a container or a probe.

use serde::{Deserialize, Serialize};

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// `image`, `volume`, `sandbox`, `network`, `container`, `probe` or `agent`.
    pub what: String,
    /// The container that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// As the pod's status says: `ImagePullBackOff`, `CrashLoopBackOff`, …
    pub reason: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it is tried again, RFC 3339; `never`, and what would be, where nothing but another pod helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
}

impl Wait {
    /// `container main`, `image of container main`, `volume`.
    pub fn subject(&self) -> String {
        match (self.what.as_str(), &self.container) {
            ("container", Some(name)) => format!("container {name}"),
            (what, Some(name)) => format!("{what} of container {name}"),
            (what, None) => what.to_owned(),
        }
    }
}
