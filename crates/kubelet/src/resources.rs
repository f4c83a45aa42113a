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

    #[test]
    fn each_container_needs_both_limits_for_the_first_class() {
        let class = |containers: Value, inits: Value| {
            let spec = json!({"containers": containers, "initContainers": inits});
            qos_class(&serde_json::from_value(spec).unwrap()).to_string()
        };
        let with = |resources: Value| json!({"name": "a", "resources": resources});
        let full = || with(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        let none = || with(json!({}));
        assert_eq!(class(json!([full(), full()]), json!([full()])), "Guaranteed");
        assert_eq!(class(json!([full(), none()]), json!([])), "Burstable");
        assert_eq!(class(json!([full()]), json!([none()])), "Burstable");
        assert_eq!(class(json!([none()]), json!([none()])), "BestEffort");
        for resources in [
            json!({"limits": {"cpu": "1"}}),
            json!({"limits": {"memory": "1Gi"}}),
            json!({"requests": {"cpu": "1", "memory": "1Gi"}}),
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"memory": "2Gi"}}),
        ] {
            assert_eq!(class(json!([with(resources.clone())]), json!([])), "Burstable", "{resources}");
        }
        let same = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(class(json!([with(same)]), json!([])), "Guaranteed");
        // Other resources are no matter of it.
        let other = json!({"requests": {"ephemeral-storage": "1Gi"}});
        assert_eq!(class(json!([with(other)]), json!([])), "BestEffort");
    }

    #[test]
    fn a_pods_cgroup_is_as_big_as_its_containers_together() {
        let pod: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "900m"},
                "limits": {"cpu": "100m", "memory": "512Mi"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "64Mi"}}}],
        }))
        .unwrap();
        let all = of_pod(&pod);
        assert_eq!((all.cpu_shares, all.cpu_quota, all.cpu_period), (921, 150_000, 100_000));
        assert_eq!(all.memory_bytes, 512 << 20);
        // One without a limit makes the whole pod one without.
        let mut open = pod.clone();
        open.containers[1].resources.as_mut().unwrap().limits.as_mut().unwrap().remove("cpu");
        let all = of_pod(&open);
        assert_eq!((all.cpu_quota, all.cpu_period, all.memory_bytes), (0, 0, 512 << 20));
        open.containers[1].resources.as_mut().unwrap().limits = None;
        assert_eq!(of_pod(&open).memory_bytes, 0);
        let guaranteed = spec(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        assert_eq!(cgroup_parent(&guaranteed, "u"), "podu");
        assert_eq!(cgroup_parent(&spec(json!({})), "u"), "besteffort/podu");
    }

    #[test]
    fn a_limit_stands_for_a_request_that_is_not_there() {
        let shares = |resources: Value| {
            let spec = spec(resources);
            of_container(&spec, &spec.containers[0], 1 << 30).cpu_shares
        };
        assert_eq!(shares(json!({"limits": {"cpu": "500m"}})), 512);
        assert_eq!(shares(json!({"limits": {"cpu": "500m"}, "requests": {"memory": "1Mi"}})), 512);
        assert_eq!(shares(json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}})), 256);
        assert_eq!(shares(json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "0"}})), 2);
    }

    #[test]
    fn shares_and_quotas_keep_the_kernels_bounds() {
        for (milli, expected) in
            [(-1, 2), (0, 2), (1, 2), (2, 2), (3, 3), (1_000, 1_024), (1_000_000, 262_144)]
        {
            assert_eq!(shares(milli), expected, "{milli}");
        }
        for (milli, expected) in [(-1, (0, 0)), (0, (0, 0)), (1, (1_000, 100_000)), (11, (1_100, 100_000))] {
            assert_eq!(quota(milli), expected, "{milli}");
        }
    }

    #[test]
    fn who_asked_for_more_of_the_memory_goes_later() {
        let score = |memory: &str, priority: i32| {
            let mut spec = spec(json!({"requests": {"memory": memory}}));
            spec.priority = Some(priority);
            oom_score_adj(&spec, &spec.containers[0], 1 << 30)
        };
        assert_eq!(score("1Ki", 0), 999);
        assert_eq!(score("256Mi", 0), 750);
        assert_eq!(score("1Gi", 0), 3);
        assert_eq!(score("9Gi", 0), 3);
        assert_eq!(score("256Mi", 2_000_000_999), 750);
        assert_eq!(score("256Mi", 2_000_001_000), -997);
        let guaranteed = spec(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        assert_eq!(oom_score_adj(&guaranteed, &guaranteed.containers[0], 1 << 30), -997);
        let small = spec(json!({"requests": {"cpu": "1"}}));
        assert_eq!(oom_score_adj(&small, &small.containers[0], 0), 999);
    }
}
