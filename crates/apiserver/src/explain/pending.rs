//! Why a pod does not run: the scheduler says it of one that has no node, the node's agent of one that has.

use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::json::Json;
use skiff_api::status::StatusError;
use skiff_explain::pending::{Change, NodeVerdict, PendingExplanation, PortHolder};
use skiff_explain::waits::Wait;
use skiff_explain::{Metadata, Missing, redact};

use super::{Question, hidden, metadata, node_of};
use crate::resources::find;

/// Nodes that are asked who listens on a port.
const NODES_ASKED_MAX: usize = 32;

pub(super) async fn answer(question: &Question<'_>) -> Result<PendingExplanation, StatusError> {
    let told = whole(question).await?;
    // Ports and room are held by pods of every namespace.
    let mut hider = question.hider();
    let mut told = hider.answer(told).map_err(|error| StatusError::internal(error.to_string()))?;
    if hider.hid {
        told.missing.push(hidden());
    }
    Ok(told)
}

async fn whole(question: &Question<'_>) -> Result<PendingExplanation, StatusError> {
    let pod = question.pod()?;
    match (ended(&pod), node_of(&pod)) {
        (Some((state, summary)), node) => {
            let mut told = PendingExplanation::new(metadata(&pod), state, summary);
            told.node = node.unwrap_or_default().to_owned();
            Ok(told)
        }
        (None, Some(node)) => Ok(on_node(question, &pod, node).await),
        (None, None) => nowhere(question, pod).await,
    }
}

/// A pod that waits for nothing any more.
fn ended(pod: &Value) -> Option<(&'static str, String)> {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let until = pod["metadata"]["deletionTimestamp"].as_str().unwrap_or_default();
        let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
        let rest = match grace {
            Some(seconds) if seconds > 0 => format!("; its containers have until {until} to end"),
            _ => String::new(),
        };
        let names = pod["metadata"]["finalizers"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        let holds = match names.len() {
            0 => String::new(),
            1 => format!("; it stays until its finalizer {} is removed", names[0]),
            _ => format!("; it stays until its finalizers {} are removed", names.join(", ")),
        };
        return Some(("ending", format!("it is being deleted{rest}{holds}")));
    }
    let reason = |field: &str| pod["status"][field].as_str().unwrap_or_default();
    match reason("phase") {
        "Succeeded" => Some(("ended", "it has ended, successfully".into())),
        "Failed" => {
            let why = [reason("reason"), reason("message")].into_iter().filter(|text| !text.is_empty());
            let why = why.collect::<Vec<_>>().join(": ");
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            Some(("ended", format!("it has failed{why}, and will not run again")))
        }
        _ => None,
    }
}

async fn on_node(question: &Question<'_>, pod: &Value, node: &str) -> PendingExplanation {
    let own = metadata(pod);
    if question.node_exists(node).is_err() {
        let summary = format!("it is bound to node {node}, which does not exist");
        let told = PendingExplanation::new(own, "waiting for its node", summary);
        let change =
            Lift { field: "/spec/nodeName", value: None, text: "let the pod name no node", anew: true };
        let mut told = change.tell(question, pod, told).await;
        told.node = node.to_owned();
        return told;
    }
    let path = format!("waits/{}/{}", own.namespace, own.name);
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|own| own["type"] == "Ready" && own["status"] == "True");
    let (waits, missing) = match question.agent::<Vec<Wait>>(node, &path).await {
        Ok(waits) => (waits, None),
        Err(why) => (told_before(pod), Some(Missing::new("what its node knows of it", why))),
    };
    let last_told = missing.as_ref().and_then(|_| last_heard_of(question, node));
    let (state, summary) = match (waits.first(), ready, &missing) {
        (Some(first), _, Some(_)) => ("waiting on its node", waited(node, first, last_told.as_deref())),
        (None, true, Some(_)) => {
            let heard = heard(last_told.as_deref());
            (
                "unknown",
                format!(
                    "it is on {node}, which does not answer{heard}; it was ready when its status was written"
                ),
            )
        }
        (None, true, None) => ("running", format!("it runs on {node} and is ready")),
        (None, false, None) => ("running", format!("it is on {node}, which waits for nothing of it")),
        (None, false, Some(_)) => ("unknown", format!("it is on {node}, and what it waits for is not known")),
        (Some(first), _, None) => {
            ("waiting on its node", format!("it is on {node} and waits for {}", what(first)))
        }
    };
    let mut waits = waits;
    let ports = host_ports(pod);
    let crashes = waits.iter().any(|wait| wait.what == "container" && wait.last_error.is_some());
    if crashes && !ports.is_empty() && question.may_see_node(node) {
        let query: Vec<String> = ports.iter().map(|port| format!("port={port}")).collect();
        let path = format!("ports?{}", query.join("&"));
        // Who is silent here was silent above, or else the rest is told without it.
        let holders = question.agent::<Vec<PortHolder>>(node, &path).await.unwrap_or_default();
        name_rivals(&mut waits, &format!("{}/{}", own.namespace, own.name), &holders);
    }
    let mut told = PendingExplanation::new(own, state, summary);
    told.node = node.to_owned();
    told.waits = waits;
    told.last_told = last_told;
    told.missing.extend(missing);
    told
}

/// `container main: CrashLoopBackOff`.
fn what(wait: &Wait) -> String {
    let subject = wait.subject();
    let the = if subject.starts_with("container ") { "" } else { "the " };
    format!("{the}{subject}: {}", wait.reason)
}

/// What nobody on the node says now, but the pod's status did last.
fn waited(node: &str, wait: &Wait, last_told: Option<&str>) -> String {
    let heard = heard(last_told);
    format!(
        "it is on {node}, which does not answer{heard}; its status says last that it waits for {}",
        what(wait)
    )
}

fn heard(last_told: Option<&str>) -> String {
    last_told.map(|at| format!(" and was last heard of at {at}")).unwrap_or_default()
}

/// When the node renewed its lease last.
fn last_heard_of(question: &Question<'_>, node: &str) -> Option<String> {
    let row = find("coordination.k8s.io", "leases").expect("leases are in the table");
    let lease = question.server.caches.of(row).get(&row.key("kube-node-lease", node))?.value(row);
    lease["spec"]["renewTime"].as_str().map(str::to_owned)
}

/// Says of containers that do not stay up who else holds a port of the node that the pod asks for: that may
/// be why, and the container's own exit code does not tell it.
fn name_rivals(waits: &mut [Wait], own: &str, holders: &[PortHolder]) {
    let others = holders.iter().filter(|holder| holder.pod.as_deref() != Some(own));
    let named = others.map(|holder| {
        let PortHolder { address, port, protocol, pid, command, pod } = holder;
        let of = pod.as_ref().map(|pod| format!(" of pod {pod}")).unwrap_or_default();
        format!("{address}:{port}/{protocol} of the node is held by process {pid} ({command}){of}")
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() {
        return;
    }
    for wait in waits.iter_mut().filter(|wait| wait.what == "container") {
        if let Some(error) = &mut wait.last_error {
            *error = format!("{error}; {}", named.join(", "));
        }
    }
}

/// What the pod's status says where its node is silent.
fn told_before(pod: &Value) -> Vec<Wait> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    let waiting = statuses.filter_map(|status| {
        let waiting = &status["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        Some(Wait {
            what: if reason.contains("Image") { "image".into() } else { "container".into() },
            container: status["name"].as_str().map(str::to_owned),
            reason: reason.to_owned(),
            // Since when its container is not running is the nearest to it that a status has.
            since: status["lastState"]["terminated"]["finishedAt"].as_str().map(str::to_owned),
            last_error: waiting["message"].as_str().map(str::to_owned),
            next_try: None,
        })
    });
    waiting.collect()
}

async fn nowhere(question: &Question<'_>, pod: Value) -> Result<PendingExplanation, StatusError> {
    let own = metadata(&pod);
    let gates = pod["spec"]["schedulingGates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !gates.is_empty() {
        let names: Vec<&str> = gates.iter().filter_map(|gate| gate["name"].as_str()).collect();
        let summary = format!("no node is looked for while it has scheduling gates: {}", names.join(", "));
        let text = format!("remove the scheduling gates {}", names.join(", "));
        let change = Lift { field: "/spec/schedulingGates", value: None, text: &text, anew: false };
        return Ok(change.tell(question, &pod, PendingExplanation::new(own, "gated", summary)).await);
    }
    let scheduler = pod["spec"]["schedulerName"].as_str().unwrap_or("default-scheduler");
    if scheduler != "default-scheduler" {
        let summary = format!("it waits for scheduler {scheduler:?}, which is not Skiff's");
        let told = PendingExplanation::new(own, "waiting for another scheduler", summary);
        let (field, value) = ("/spec/schedulerName", Some("default-scheduler"));
        let change = Lift { field, value, text: "let Skiff's scheduler place the pod", anew: true };
        return Ok(change.tell(question, &pod, told).await);
    }
    let ports = host_ports(&pod);
    let typed: Pod = Pod::from_value(&pod).map_err(|error| StatusError::internal(error.to_string()))?;
    let asked = match &question.server.config.pending {
        Some(source) => source(Arc::new(typed)).await,
        None => None,
    };
    let Some(mut told) = asked else {
        let mut told = PendingExplanation::new(own, "waiting for a node", "it waits for a node");
        told.missing.push(Missing::new("the filters' verdicts", "the scheduler does not answer"));
        return Ok(told);
    };
    if !ports.is_empty() {
        name_holders(question, &mut told, &ports).await;
    }
    Ok(told)
}

/// One field of a pod by which no node is looked for.
struct Lift<'a> {
    /// As a JSON pointer.
    field: &'a str,
    /// In its place; nothing where it goes.
    value: Option<&'a str>,
    text: &'a str,
    /// It may not change in a pod that exists.
    anew: bool,
}

impl Lift<'_> {
    /// Adds what the filters say of the pod without it, and that change where it is enough.
    async fn tell(
        &self,
        question: &Question<'_>,
        pod: &Value,
        mut told: PendingExplanation,
    ) -> PendingExplanation {
        let Some(source) = &question.server.config.pending else { return told };
        let Ok(changed) = Pod::from_value(&self.of(pod)) else { return told };
        let Some(found) = source(Arc::new(changed)).await else {
            told.missing.push(Missing::new("the filters' verdicts", "the scheduler does not answer"));
            return told;
        };
        let fits = found.nodes.iter().find(|node| node.fits).map(|node| node.node.clone());
        told.smallest_change = fits.map(|node| Change {
            of: "pod".into(),
            node,
            text: self.text.to_owned(),
            how: self.how(&metadata(pod)),
            checked: true,
        });
        // Each node's own change would be one more.
        told.nodes = found.nodes.into_iter().map(|node| NodeVerdict { change: None, ..node }).collect();
        told
    }

    fn of(&self, pod: &Value) -> Value {
        let mut changed = pod.clone();
        if let Some((parent, last)) = self.field.rsplit_once('/')
            && let Some(Value::Object(fields)) = changed.pointer_mut(parent)
        {
            match self.value {
                Some(value) => drop(fields.insert(last.to_owned(), value.into())),
                None => drop(fields.remove(last)),
            }
        }
        changed
    }

    fn how(&self, pod: &Metadata) -> String {
        let edit = match self.value {
            Some(value) => json!([{"op": "replace", "path": self.field, "value": value}]),
            None => json!([{"op": "remove", "path": self.field}]),
        };
        let Metadata { namespace, name, .. } = pod;
        let patch = format!("kubectl -n {namespace} patch pod {name} --type=json -p '{edit}'");
        match self.anew {
            true => format!("{patch} --dry-run=client -o json | kubectl -n {namespace} replace --force -f -"),
            false => patch,
        }
    }
}

/// The processes of nodes that listen on the pod's ports: no filter counts them, and its server would find
/// the port taken.
async fn name_holders(question: &Question<'_>, told: &mut PendingExplanation, ports: &[String]) {
    let query: Vec<String> = ports.iter().map(|port| format!("port={port}")).collect();
    let path = format!("ports?{}", query.join("&"));
    let (seen, hidden): (Vec<_>, Vec<_>) =
        told.nodes.iter_mut().take(NODES_ASKED_MAX).partition(|node| question.may_see_node(&node.node));
    let asked = seen.iter().map(|node| question.agent::<Vec<PortHolder>>(&node.node, &path));
    let answers = join_all(asked).await;
    let hides = !hidden.is_empty();
    for (node, answer) in seen.into_iter().zip(answers) {
        match answer {
            Ok(holders) => node.port_holders = holders,
            Err(why) => {
                told.missing.push(Missing::new(format!("processes that hold a port on {}", node.node), why));
            }
        }
    }
    if hides {
        redact::waits(&mut told.missing);
    }
}

/// The host ports that the pod asks for, `TCP/8080`.
fn host_ports(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let named = ports.filter_map(|port| {
        let number = port["hostPort"].as_u64().filter(|number| *number > 0)?;
        Some(format!("{}/{number}", port["protocol"].as_str().unwrap_or("TCP")))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_keeps_the_scheduler_away_is_lifted_by_a_command() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"schedulingGates": [{"name": "g"}], "schedulerName": "x"}});
        let gates = Lift { field: "/spec/schedulingGates", value: None, text: "", anew: false };
        assert_eq!(gates.of(&pod)["spec"], json!({"schedulerName": "x"}));
        assert_eq!(
            gates.how(&metadata(&pod)),
            r#"kubectl -n n patch pod p --type=json -p '[{"op":"remove","path":"/spec/schedulingGates"}]'"#
        );
        let field = "/spec/schedulerName";
        let other = Lift { field, value: Some("default-scheduler"), text: "", anew: true };
        assert_eq!(other.of(&pod)["spec"]["schedulerName"], "default-scheduler");
        assert!(
            other
                .how(&metadata(&pod))
                .ends_with(" --dry-run=client -o json | kubectl -n n replace --force -f -")
        );
    }

    #[test]
    fn what_a_silent_node_told_last_is_no_present() {
        let pod = json!({"status": {"containerStatuses": [{
            "name": "main",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:05Z"}},
        }]}});
        let told = told_before(&pod).remove(0);
        assert_eq!(told.since.as_deref(), Some("2026-01-01T00:00:05Z"));
        let last = "its status says last that it waits for container main: CrashLoopBackOff";
        assert_eq!(waited("n", &told, None), format!("it is on n, which does not answer; {last}"));
        let at = "2026-01-01T00:00:40.000000Z";
        assert_eq!(
            waited("n", &told, Some(at)),
            format!("it is on n, which does not answer and was last heard of at {at}; {last}")
        );
    }

    #[test]
    fn what_a_deleted_pod_still_waits_for_is_named() {
        let pod =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "finalizers": ["x.com/y"]}});
        let told = ended(&pod).expect("it is ending").1;
        assert_eq!(told, "it is being deleted; it stays until its finalizer x.com/y is removed");
    }

    #[test]
    fn until_when_a_pod_that_is_deleted_may_end_is_told() {
        let at = "2026-01-01T00:00:30Z";
        let pod = |grace: u64| {
            json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        };
        let told = |grace| ended(&pod(grace)).expect("it is ending").1;
        assert_eq!(told(30), format!("it is being deleted; its containers have until {at} to end"));
        assert_eq!(told(0), "it is being deleted");
    }

    #[test]
    fn who_holds_the_port_of_a_container_that_does_not_stay_up_is_named() {
        let wait = |what: &str| Wait {
            what: what.into(),
            container: Some("c".into()),
            reason: "CrashLoopBackOff".into(),
            since: None,
            last_error: Some("exit code 1".into()),
            next_try: None,
        };
        let holder = |pod: &str| PortHolder {
            address: "0.0.0.0".into(),
            port: 80,
            protocol: "TCP".into(),
            pid: 7,
            command: "peer tcp 80".into(),
            pod: Some(pod.into()),
        };
        let errors = |holders: &[PortHolder]| {
            let mut waits = [wait("container"), wait("image")];
            name_rivals(&mut waits, "n/own", holders);
            waits.map(|wait| wait.last_error.unwrap_or_default())
        };
        assert_eq!(errors(&[holder("n/own")]), ["exit code 1", "exit code 1"], "its own is no rival");
        let named =
            "exit code 1; 0.0.0.0:80/TCP of the node is held by process 7 (peer tcp 80) of pod n/other";
        assert_eq!(errors(&[holder("n/own"), holder("n/other")]), [named, "exit code 1"]);
    }
}
