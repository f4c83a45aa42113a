//! A pod (or a template's) as the checks look at it.

use serde_json::Value;

/// A view of a pod's metadata and specification.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    metadata: &'a Value,
    pub(crate) spec: &'a Value,
}

/// The three lists of containers, in the order that messages name them.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

impl<'a> Pod<'a> {
    /// From anything with `metadata` and `spec`: a pod, or a pod template.
    pub fn of(object: &'a Value) -> Self {
        Self { metadata: &object["metadata"], spec: &object["spec"] }
    }

    pub(crate) fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let annotations = self.metadata["annotations"].as_object();
        annotations.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub(crate) fn annotation(self, key: &str) -> Option<&'a str> {
        self.metadata["annotations"].get(key)?.as_str()
    }

    pub(crate) fn containers(self) -> impl Iterator<Item = Container<'a>> {
        LISTS.iter().filter_map(move |list| self.spec[*list].as_array()).flatten().map(Container)
    }

    /// The names of the containers that this holds for.
    pub(crate) fn containers_where(self, mut is: impl FnMut(Container<'a>) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| is(*container)).map(Container::name).collect()
    }

    pub(crate) fn security_context(self) -> &'a Value {
        &self.spec["securityContext"]
    }

    pub(crate) fn runtime_class(self) -> &'a str {
        self.spec["runtimeClassName"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_windows(self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether the pod has users of its own (`hostUsers: false`).
    pub(crate) fn has_own_users(self) -> bool {
        self.spec["hostUsers"] == false
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a>(&'a Value);

impl<'a> Container<'a> {
    pub(crate) fn name(self) -> &'a str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn image(self) -> &'a str {
        self.0["image"].as_str().unwrap_or_default()
    }

    pub(crate) fn security_context(self) -> &'a Value {
        &self.0["securityContext"]
    }

    /// The capabilities that are added or dropped.
    pub(crate) fn capabilities(self, which: &str) -> impl Iterator<Item = &'a str> {
        let list = self.security_context()["capabilities"][which].as_array();
        list.into_iter().flatten().filter_map(Value::as_str)
    }

    pub(crate) fn field(self, name: &str) -> &'a Value {
        &self.0[name]
    }
}
