//! What a reason claims of policies.

use serde_json::Value;

use super::super::truth::text;
use super::ground::{Found, Ground, Told, holds};

impl Ground<'_> {
    /// The policies of the namespace that select the pod for what comes in, `NAMESPACE/NAME`.
    pub(super) fn selecting(&self) -> Vec<String> {
        let all = self.cluster().object(&["-n", &self.namespace.name, "networkpolicies"]);
        let labels = &self.pod["metadata"]["labels"];
        let selects = |policy: &&Value| {
            let wanted =
                policy["spec"]["podSelector"]["matchLabels"].as_object().cloned().unwrap_or_default();
            let kinds = policy["spec"]["policyTypes"].to_string();
            kinds.contains("Ingress") && wanted.iter().all(|(key, value)| labels[key] == *value)
        };
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let name = |policy: &Value| format!("{}/{}", self.namespace.name, text(&policy["metadata"]["name"]));
        all.iter().filter(selects).map(name).collect()
    }

    /// The policies that let somebody in are those that select the pod and have a rule for it.
    pub(super) fn allowed(&self, told: &Told<'_>, policies: Option<(Vec<String>, bool)>) -> Found {
        let selecting = self.selecting();
        let Some((named, everybody)) = policies else {
            let free = selecting.is_empty() || told.from == "node" || self.on_host_network();
            return holds(free, &format!("{selecting:?} are not named"));
        };
        for name in &named {
            holds(selecting.contains(name), &format!("{name} does not select the pod"))?;
            let (_, own) = name.split_once('/').ok_or("a namespace and a name")?;
            let policy = self.cluster().object(&["-n", &self.namespace.name, "networkpolicy", own]);
            let rules = policy["spec"]["ingress"].as_array().cloned().unwrap_or_default();
            let speaks = |rule: &&Value| match rule["ports"].as_array() {
                None => true,
                Some(ports) => ports.iter().any(|own| own["port"] == told.port),
            };
            let open = rules.iter().filter(speaks).any(|rule| rule["from"].is_null());
            holds(rules.iter().any(|rule| speaks(&rule)), &format!("{name} lets nobody in there"))?;
            holds(open == everybody, &format!("{name} lets everybody in: {open}"))?;
        }
        holds(everybody == (told.answer == "yes") || told.from == "outside", "all, or some?")
    }
}

/// What policies let in, by the end of a reason: their names, and whether it is everybody.
pub(super) fn split_policies(reason: &str) -> (&str, Option<(Vec<String>, bool)>) {
    for (begin, end, everybody) in [
        (", as policy ", " allows", false),
        (", as policies ", " allow", false),
        ("; policy ", " lets everybody in", true),
        ("; policies ", " let everybody in", true),
    ] {
        if let Some(rest) = reason.strip_suffix(end)
            && let Some((reason, named)) = rest.rsplit_once(begin)
        {
            return (reason, Some((names(named), everybody)));
        }
    }
    (reason, None)
}

/// `a`, `a and b`, `a, b and c`, in the order of names.
pub(super) fn names(listed: &str) -> Vec<String> {
    let mut all: Vec<String> =
        listed.split(", ").flat_map(|part| part.split(" and ")).map(str::to_owned).collect();
    all.sort();
    all
}
