//! Pods: what `STATUS` says is put together from phase, conditions and every container's state.

use serde_json::Value;

use super::format::{NONE, age, duration, list, name, number, seconds, text_or};
use super::{AGE, Column, NAME, col, wide};

pub(super) static COLUMNS: &[Column] = &[
    NAME,
    Column { description: "Ready containers of all.", ..col("Ready") },
    Column { description: "The state of the pod's containers in a word.", ..col("Status") },
    Column { description: "Restarts of the containers, and the last one's time.", ..col("Restarts") },
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let Summary { ready, total, reason, restarts, last_restart } = summary(pod);
    let restarts = match last_restart {
        Some(at) if restarts > 0 => format!("{restarts} ({} ago)", duration(now - at)),
        _ => restarts.to_string(),
    };
    vec![
        name(pod),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        age(pod, now).into(),
        text_or(&pod["status"]["podIP"], NONE).into(),
        text_or(&pod["spec"]["nodeName"], NONE).into(),
        text_or(&pod["status"]["nominatedNodeName"], NONE).into(),
        readiness_gates(pod).into(),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    /// Unix seconds.
    last_restart: Option<i64>,
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    list(&pod["status"]["conditions"]).iter().find(|c| c["type"] == type_)
}

fn is_true(pod: &Value, type_: &str) -> bool {
    condition(pod, type_).is_some_and(|c| c["status"] == "True")
}

fn exit(terminated: &Value) -> String {
    match number(&terminated["signal"]) {
        0 => format!("ExitCode:{}", number(&terminated["exitCode"])),
        signal => format!("Signal:{signal}"),
    }
}

fn last_end(status: &Value) -> Option<i64> {
    seconds(&status["lastState"]["terminated"]["finishedAt"])
}

fn summary(pod: &Value) -> Summary {
    let status = &pod["status"];
    let init = list(&pod["spec"]["initContainers"]);
    let is_sidecar = |name: &Value| init.iter().any(|c| c["name"] == *name && c["restartPolicy"] == "Always");
    let sidecars = init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut out = Summary {
        ready: 0,
        total: list(&pod["spec"]["containers"]).len() + sidecars,
        reason: text_or(&status["reason"], text_or(&status["phase"], "")).to_owned(),
        restarts: 0,
        last_restart: None,
    };
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        out.reason = "SchedulingGated".into();
    }

    let (mut sidecar_restarts, mut sidecar_last, mut initializing) = (0, None, false);
    for (i, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        let restarts = number(&container["restartCount"]);
        out.restarts += restarts;
        out.last_restart = out.last_restart.max(last_end(container));
        let sidecar = is_sidecar(&container["name"]);
        if sidecar {
            sidecar_restarts += restarts;
            sidecar_last = sidecar_last.max(last_end(container));
        }
        let state = &container["state"];
        let (terminated, waiting) = (&state["terminated"], &state["waiting"]);
        if terminated.is_object() && number(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            out.ready += usize::from(container["ready"] == true);
            continue;
        }
        let why = match (text_or(&terminated["reason"], ""), text_or(&waiting["reason"], "")) {
            (reason, _) if !reason.is_empty() => reason.to_owned(),
            _ if terminated.is_object() => exit(terminated),
            (_, reason) if !matches!(reason, "" | "PodInitializing") => reason.to_owned(),
            _ => format!("{i}/{}", init.len()),
        };
        out.reason = format!("Init:{why}");
        initializing = true;
        break;
    }

    if !initializing || is_true(pod, "Initialized") {
        out.restarts = sidecar_restarts;
        out.last_restart = sidecar_last;
        let mut running = false;
        for container in list(&status["containerStatuses"]).iter().rev() {
            out.restarts += number(&container["restartCount"]);
            out.last_restart = out.last_restart.max(last_end(container));
            let state = &container["state"];
            let (terminated, waiting) = (&state["terminated"], &state["waiting"]);
            match (text_or(&waiting["reason"], ""), text_or(&terminated["reason"], "")) {
                (reason, _) if !reason.is_empty() => out.reason = reason.to_owned(),
                (_, reason) if !reason.is_empty() => out.reason = reason.to_owned(),
                _ if terminated.is_object() => out.reason = exit(terminated),
                _ if container["ready"] == true && state["running"].is_object() => {
                    running = true;
                    out.ready += 1;
                }
                _ => {}
            }
        }
        if out.reason == "Completed" && running {
            out.reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }

    if pod["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            out.reason = "Unknown".into();
        } else if !matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")) {
            out.reason = "Terminating".into();
        }
    }
    out
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let open = gates.iter().filter(|g| g["conditionType"].as_str().is_some_and(|t| is_true(pod, t))).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(status: Value, expected: [&str; 3]) {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": status,
        });
        let cells = cells(&pod, 1000);
        let text: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
        assert_eq!(text, expected, "{}", pod["status"]);
    }

    #[test]
    fn status_is_the_word_people_look_for() {
        check(json!({"phase": "Pending"}), ["0/2", "Pending", "0"]);
        check(
            json!({"phase": "Running", "containerStatuses": [
                {"ready": true, "state": {"running": {}}, "restartCount": 2,
                 "lastState": {"terminated": {"finishedAt": "1970-01-01T00:15:00Z"}}},
                {"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]}),
            ["1/2", "CrashLoopBackOff", "2 (100s ago)"],
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}),
            ["0/2", "Init:0/1", "0"],
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"state": {"terminated": {"exitCode": 3}}}]}),
            ["0/2", "Init:ExitCode:3", "0"],
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}),
            ["0/2", "Signal:9", "0"],
        );
        check(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [
                    {"state": {"terminated": {"reason": "Completed"}}},
                    {"ready": true, "state": {"running": {}}},
            ]}),
            ["1/2", "NotReady", "0"],
        );
    }

    #[test]
    fn a_deleted_pod_is_terminating_until_it_is_over() {
        let pod = |phase: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase}});
        assert_eq!(cells(&pod("Running"), 0)[2], "Terminating");
        assert_eq!(cells(&pod("Succeeded"), 0)[2], "Succeeded");
    }
}
