//! Amounts of node resources as plain integers, and what a pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skiff_api::quantity;

/// What scoring assumes of a container that requests no CPU: 0.1 core.
const UNREQUESTED_MILLI_CPU: i64 = 100;
/// What scoring assumes of a container that requests no memory: 200 MB.
const UNREQUESTED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts: CPU in thousandths, memory and ephemeral storage in bytes, all else in units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
    /// Extended resources and huge pages, sorted by name; few, mostly none.
    pub(crate) extended: Vec<(String, i64)>,
}

impl Resources {
    /// Reads a resource list. `pods` is no part of it: pods are counted.
    pub(crate) fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            let amount = quantity::of(Some(amount));
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount.milli_value(),
                "memory" => resources.memory = amount.value(),
                "ephemeral-storage" => resources.ephemeral_storage = amount.value(),
                "pods" => {}
                name => resources.extended.push((name.to_owned(), amount.value())),
            }
        }
        resources
    }

    pub(crate) fn extended(&self, name: &str) -> i64 {
        self.extended
            .binary_search_by(|(own, _)| own.as_str().cmp(name))
            .map_or(0, |index| self.extended[index].1)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            match self.extended.binary_search_by(|(own, _)| own.cmp(name)) {
                Ok(index) => self.extended[index].1 = with(self.extended[index].1, *amount),
                Err(index) => self.extended.insert(index, (name.clone(), with(0, *amount))),
            }
        }
    }
}

/// What a pod needs to fit: the sum of its containers and sidecars, or an init container's own peak where
/// that is more, plus the overhead.
pub(crate) fn pod_request(pod: &Pod) -> Resources {
    effective(pod, |container| {
        Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    })
}

/// As [`pod_request`], with an assumed CPU and memory for containers that request none, so that scoring
/// spreads them too.
pub(crate) fn pod_request_for_scoring(pod: &Pod) -> (i64, i64) {
    let request = effective(pod, |container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut request = Resources::of(requests);
        let names = |name: &str| requests.is_some_and(|requests| requests.contains_key(name));
        if !names("cpu") {
            request.milli_cpu = UNREQUESTED_MILLI_CPU;
        }
        if !names("memory") {
            request.memory = UNREQUESTED_MEMORY;
        }
        request
    });
    (request.milli_cpu, request.memory)
}

fn effective(pod: &Pod, request: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&request(container));
    }
    // A sidecar starts in its place and runs on, so a later init container needs room beside it.
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut beside = sidecars.clone();
            beside.add(&own);
            peak.raise_to(&beside);
        }
    }
    total.add(&sidecars);
    total.raise_to(&peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        // Pod-level requests stand in place of the containers' sum, resource by resource.
        let own = Resources::of(Some(requests));
        if requests.contains_key("cpu") {
            total.milli_cpu = own.milli_cpu;
        }
        if requests.contains_key("memory") {
            total.memory = own.memory;
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_pod_asks_for_its_containers_or_an_init_containers_peak() {
        let ask = |spec| {
            let request = pod_request(&pod("p", spec));
            (request.milli_cpu, request.memory, request.extended)
        };
        let c = |cpu: &str| serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| {
            let mut sidecar = c(cpu);
            sidecar["restartPolicy"] = "Always".into();
            sidecar
        };
        assert_eq!(ask(serde_json::json!({"containers": [c("1"), c("500m")]})).0, 1500);
        assert_eq!(
            ask(serde_json::json!({"containers": [c("1")], "initContainers": [c("3"), c("2")]})).0,
            3000
        );
        assert_eq!(
            ask(serde_json::json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("2")]})).0,
            3000
        );
        assert_eq!(
            ask(serde_json::json!({"containers": [c("1")], "initContainers": [c("2"), sidecar("2")]})).0,
            3000
        );
        let overhead =
            serde_json::json!({"containers": [c("1")], "overhead": {"cpu": "250m", "memory": "1Mi"}});
        assert_eq!(ask(overhead), (1250, 1 << 20, vec![]));
        let gpu = serde_json::json!({"containers": [
            {"name": "c", "resources": {"requests": {"x.io/b": "2", "x.io/a": "1"}}},
            {"name": "d", "resources": {"requests": {"x.io/b": "1"}}}]});
        assert_eq!(ask(gpu).2, vec![("x.io/a".to_owned(), 1), ("x.io/b".to_owned(), 3)]);
        assert_eq!(
            pod_request_for_scoring(&pod("p", serde_json::json!({"containers": [c("1"), {"name": "d"}]}))),
            (1100, 400 << 20)
        );
    }

    #[test]
    fn a_list_is_read_by_its_names() {
        let list = |value: serde_json::Value| Resources::of(Some(&serde_json::from_value(value).unwrap()));
        let all = list(serde_json::json!({
            "cpu": "1500m", "memory": "1Ki", "ephemeral-storage": "2Ki", "pods": "110",
            "hugepages-2Mi": "4Mi", "x.io/gpu": "3",
        }));
        let expected = Resources {
            milli_cpu: 1500,
            memory: 1024,
            ephemeral_storage: 2048,
            extended: vec![("hugepages-2Mi".to_owned(), 4 << 20), ("x.io/gpu".to_owned(), 3)],
        };
        assert_eq!(all, expected);
        assert_eq!((all.extended("x.io/gpu"), all.extended("x.io/other")), (3, 0));
        let mut sum = all.clone();
        sum.add(&all);
        assert_eq!((sum.milli_cpu, sum.memory, sum.ephemeral_storage), (3000, 2048, 4096));
        assert_eq!(sum.extended("x.io/gpu"), 6);
        sum.subtract(&all);
        assert_eq!(sum, all);
    }

    #[test]
    fn what_the_pod_itself_requests_stands_in_place_of_its_containers() {
        let ask = |requests: serde_json::Value| {
            let container =
                serde_json::json!({"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}}});
            let spec = serde_json::json!({
                "containers": [container], "resources": {"requests": requests}, "overhead": {"cpu": "100m"},
            });
            let request = pod_request(&pod("p", spec));
            (request.milli_cpu, request.memory)
        };
        assert_eq!(ask(serde_json::json!({})), (1100, 1024));
        assert_eq!(ask(serde_json::json!({"cpu": "3"})), (3100, 1024));
        assert_eq!(ask(serde_json::json!({"memory": "5Ki"})), (1100, 5120));
        assert_eq!(ask(serde_json::json!({"cpu": "500m", "memory": "5Ki"})), (600, 5120));
    }

    #[test]
    fn sidecars_that_are_there_before_count_beside_an_init_container() {
        let memory = |init: serde_json::Value| {
            let spec = serde_json::json!({"containers": [{"name": "c"}], "initContainers": init});
            pod_request(&pod("p", spec)).memory
        };
        let init = |name: &str, memory: &str, policy: Option<&str>| {
            serde_json::json!({"name": name, "restartPolicy": policy,
                "resources": {"requests": {"memory": memory}}})
        };
        let sidecar = |name: &str, memory: &str| init(name, memory, Some("Always"));
        assert_eq!(
            memory(serde_json::json!([sidecar("a", "1"), sidecar("b", "2"), init("c", "4", None)])),
            7
        );
        assert_eq!(
            memory(serde_json::json!([sidecar("a", "1"), init("c", "4", None), sidecar("b", "2")])),
            5
        );
        assert_eq!(
            memory(serde_json::json!([init("c", "4", None), sidecar("a", "1"), sidecar("b", "2")])),
            4
        );
        assert_eq!(memory(serde_json::json!([init("c", "4", None), init("d", "3", None)])), 4);
        assert_eq!(
            memory(serde_json::json!([init("c", "4", None), sidecar("a", "5"), sidecar("b", "6")])),
            11
        );
    }
}
