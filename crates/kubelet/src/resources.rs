//! Requests and limits as cgroups and scores have them, by the rules of upstream's QoS classes.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skiff_api::quantity;
use skiff_runtime::Resources;

const CPU_PERIOD: u64 = 100_000;
const CPU_QUOTA_MIN: i64 = 1_000;
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// What a pod may expect when its node runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl fmt::Display for Qos {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// The class by the rule of the API's documentation: CPU and memory alone count.
pub(crate) fn qos_class(spec: &PodSpec) -> Qos {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for resource in ["cpu", "memory"] {
            let request = get(requests(container), resource);
            let limit = get(limits(container), resource);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && (request == 0 || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// The pod's cgroup below the runtime's root, which bears upstream's name `kubepods`.
pub(crate) fn cgroup_parent(spec: &PodSpec, uid: &str) -> String {
    match qos_class(spec) {
        Qos::Guaranteed => format!("pod{uid}"),
        Qos::Burstable => format!("burstable/pod{uid}"),
        Qos::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// The pod's cgroup as a whole. Limits hold only where every container has one.
pub(crate) fn of_pod(spec: &PodSpec) -> Resources {
    let cpu_request = effective(spec, |container| get(requests(container), "cpu"));
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let cpu_limit = effective(spec, |container| get(limits(container), "cpu"));
    let memory_limit = effective(spec, |container| get(limits(container), "memory"));
    let limited = |resource| all().all(|container| get(limits(container), resource) > 0);
    let mut resources = Resources { cpu_shares: shares(cpu_request), ..Resources::default() };
    if limited("cpu") {
        (resources.cpu_quota, resources.cpu_period) = quota(cpu_limit);
    }
    if limited("memory") {
        // Quantities are in thousandths here, memory too.
        resources.memory_bytes = u64::try_from(memory_limit / 1_000).unwrap_or(0);
    }
    resources
}

/// A container's cgroup and score. `capacity_bytes` is the node's memory.
pub(crate) fn of_container(spec: &PodSpec, container: &Container, capacity_bytes: u64) -> Resources {
    let limit = get(limits(container), "cpu");
    let request = match get(requests(container), "cpu") {
        0 if requests(container).is_none_or(|requests| !requests.contains_key("cpu")) => limit,
        request => request,
    };
    let (cpu_quota, cpu_period) = quota(limit);
    Resources {
        cpu_shares: shares(request),
        cpu_quota,
        cpu_period,
        memory_bytes: u64::try_from(get(limits(container), "memory") / 1_000).unwrap_or(0),
        pids_max: 0,
        oom_score_adj: oom_score_adj(spec, container, capacity_bytes),
    }
}

/// Guaranteed pods go last, best effort first, others by the share of the node that they asked for.
fn oom_score_adj(spec: &PodSpec, container: &Container, capacity_bytes: u64) -> i32 {
    const GUARANTEED: i32 = -997;
    // `system-node-critical` starts here.
    if spec.priority.is_some_and(|priority| priority >= 2_000_001_000) {
        return GUARANTEED;
    }
    match qos_class(spec) {
        Qos::Guaranteed => GUARANTEED,
        Qos::BestEffort => 1_000,
        Qos::Burstable => {
            let request = get(requests(container), "memory") / 1_000;
            let capacity = i64::try_from(capacity_bytes.max(1)).unwrap_or(i64::MAX);
            let score = 1_000 - i128::from(request) * 1_000 / i128::from(capacity);
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The sum of the containers, or the greatest init container where that is more.
fn effective(spec: &PodSpec, of: impl Fn(&Container) -> i64) -> i64 {
    let sum = spec.containers.iter().map(&of).sum::<i64>();
    spec.init_containers.iter().flatten().map(&of).fold(sum, i64::max)
}

fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu <= 0 {
        return CPU_SHARES_MIN;
    }
    (u64::try_from(milli_cpu).unwrap_or(0) * 1_024 / 1_000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

fn quota(milli_cpu: i64) -> (i64, u64) {
    if milli_cpu <= 0 {
        return (0, 0);
    }
    ((milli_cpu * CPU_PERIOD as i64 / 1_000).max(CPU_QUOTA_MIN), CPU_PERIOD)
}

type List<'a> = Option<&'a BTreeMap<String, Text>>;

fn resources(container: &Container) -> Option<&ResourceRequirements> {
    container.resources.as_ref()
}

pub(crate) fn requests(container: &Container) -> List<'_> {
    resources(container).and_then(|resources| resources.requests.as_ref())
}

pub(crate) fn limits(container: &Container) -> List<'_> {
    resources(container).and_then(|resources| resources.limits.as_ref())
}

/// In thousandths of a CPU, byte or other unit; 0 where absent.
fn get(list: List<'_>, resource: &str) -> i64 {
    quantity::of(list.and_then(|list| list.get(resource))).milli_value()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(resources: Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]})).expect("a pod")
    }

    #[test]
    fn classes() {
        assert_eq!(qos_class(&spec(json!({}))), Qos::BestEffort);
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "1"}}))), Qos::Burstable);
        assert_eq!(qos_class(&spec(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), Qos::Guaranteed);
        let lower = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
        assert_eq!(qos_class(&spec(lower)), Qos::Burstable);
    }

    #[test]
    fn cgroups() {
        let spec = spec(json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}));
        let own = of_container(&spec, &spec.containers[0], 1 << 30);
        assert_eq!((own.cpu_shares, own.cpu_quota, own.cpu_period), (256, 50_000, 100_000));
        assert_eq!((own.memory_bytes, own.oom_score_adj), (64 << 20, 999));
        let pod = of_pod(&spec);
        assert_eq!((pod.cpu_shares, pod.cpu_quota, pod.memory_bytes), (256, 50_000, 64 << 20));
        assert_eq!(cgroup_parent(&spec, "u"), "burstable/podu");
    }

    #[test]
    fn best_effort_asks_for_the_least() {
        let spec = spec(json!({}));
        let own = of_container(&spec, &spec.containers[0], 1 << 30);
        assert_eq!((own.cpu_shares, own.cpu_quota, own.memory_bytes, own.oom_score_adj), (2, 0, 0, 1_000));
    }
}
