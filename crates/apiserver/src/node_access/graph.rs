//! Which objects the pods of each node name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSpec, ProjectedVolumeSource, Volume,
};

use crate::derived::Derive;
use crate::object::Object;
use crate::resources::Resource;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Vertex {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Account,
}

type Reference = (Vertex, Box<str>);

/// Per node, how many of its pods name an object.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<Box<str>, HashMap<Box<str>, Named>>,
    /// By the pod's key, what it counts for. Exactly that is taken off again, whatever the pod says by then.
    pods: HashMap<Arc<str>, Counted>,
}

/// The objects of one namespace that pods of one node name.
type Named = HashMap<Reference, usize>;

/// What one pod counts for on its node.
struct Counted {
    node: Box<str>,
    references: Box<[Reference]>,
}

impl Graph {
    pub(super) fn leads(&self, node: &str, vertex: Vertex, namespace: &str, name: &str) -> bool {
        let named = self.nodes.get(node).and_then(|namespaces| namespaces.get(namespace));
        named.is_some_and(|named| named.contains_key(&(vertex, Box::from(name))))
    }

    /// Counts the references of the pod in place of those that it counted for before.
    fn count(&mut self, key: &Arc<str>, namespace: &str, node: &str, references: BTreeSet<Reference>) {
        self.forget(key, namespace);
        let named = self.nodes.entry(node.into()).or_default().entry(namespace.into()).or_default();
        for reference in &references {
            *named.entry(reference.clone()).or_default() += 1;
        }
        let counted = Counted { node: node.into(), references: references.into_iter().collect() };
        self.pods.insert(Arc::clone(key), counted);
    }

    fn forget(&mut self, key: &str, namespace: &str) {
        let Some(Counted { node, references }) = self.pods.remove(key) else { return };
        let Some(namespaces) = self.nodes.get_mut(&node) else { return };
        let Some(named) = namespaces.get_mut(namespace) else { return };
        for reference in &references {
            if let Some(count) = named.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    named.remove(reference);
                }
            }
        }
        if named.is_empty() {
            namespaces.remove(namespace);
        }
        if namespaces.is_empty() {
            self.nodes.remove(&node);
        }
    }
}

impl Derive for Graph {
    const STORAGES: &'static [&'static str] = &["pods"];

    fn change(&mut self, kind: &'static Resource, old: Option<&Object>, new: Option<&Object>) {
        let Some(object) = new.or(old) else { return };
        // Nothing a pod names can change once it is bound, so most changes (of status) end here.
        let place = |object: &Object| {
            let node = field(kind, object, "spec.nodeName").to_owned();
            (node, is_over(kind, object), object.uid.clone())
        };
        if old.is_some() && old.map(place) == new.map(place) {
            return;
        }
        let bound = |pod: &&Object| !field(kind, pod, "spec.nodeName").is_empty() && !is_over(kind, pod);
        let pod = new.filter(bound).and_then(|pod| pod.typed(kind)?.downcast::<Pod>().ok());
        match pod {
            Some(pod) => {
                let node = field(kind, object, "spec.nodeName");
                self.count(&object.key, object.namespace(), node, references(&pod));
            }
            None => self.forget(&object.key, object.namespace()),
        }
    }
}

fn field<'a>(kind: &Resource, object: &'a Object, name: &str) -> &'a str {
    let index = kind.fields.iter().position(|field| field.name == name);
    index.and_then(|index| object.fields.get(index)).map_or("", |value| value)
}

/// A pod that ended needs nothing more.
fn is_over(kind: &Resource, object: &Object) -> bool {
    matches!(field(kind, object, "status.phase"), "Succeeded" | "Failed")
}

/// What a pod names, and itself. A mirror pod was written by the agent, so it leads nowhere.
fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut found =
        BTreeSet::from([(Vertex::Pod, Box::from(pod.metadata.name.as_deref().unwrap_or_default()))]);
    let mirror =
        pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(super::restriction::MIRROR));
    let Some(spec) = pod.spec.as_ref().filter(|_| !mirror) else { return found };
    found.extend(of_spec(spec, pod.metadata.name.as_deref().unwrap_or_default()));
    found
}

/// What a pod's specification names.
pub(super) fn of_spec(spec: &PodSpec, pod_name: &str) -> BTreeSet<Reference> {
    let mut found = Found::default();
    found.add(Vertex::Account, spec.service_account_name.as_deref());
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.add(Vertex::Secret, Some(&secret.name));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.for_each(|container| found.container(container));
    spec.ephemeral_containers.iter().flatten().for_each(|container| found.ephemeral(container));
    spec.volumes.iter().flatten().for_each(|volume| found.volume(volume, pod_name));
    found.0
}

/// Whether it names a secret anywhere.
pub(crate) fn names_secrets(spec: &PodSpec) -> bool {
    of_spec(spec, "").iter().any(|(vertex, _)| *vertex == Vertex::Secret)
}

#[derive(Default)]
struct Found(BTreeSet<Reference>);

impl Found {
    fn add(&mut self, vertex: Vertex, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.0.insert((vertex, name.into()));
        }
    }

    fn container(&mut self, container: &Container) {
        self.environment(container.env.as_deref(), container.env_from.as_deref());
    }

    fn ephemeral(&mut self, container: &EphemeralContainer) {
        self.environment(container.env.as_deref(), container.env_from.as_deref());
    }

    fn environment(
        &mut self,
        env: Option<&[k8s_openapi::api::core::v1::EnvVar]>,
        from: Option<&[k8s_openapi::api::core::v1::EnvFromSource]>,
    ) {
        for source in env.unwrap_or_default().iter().filter_map(|one| one.value_from.as_ref()) {
            self.add(Vertex::Secret, source.secret_key_ref.as_ref().map(|key| key.name.as_str()));
            self.add(Vertex::ConfigMap, source.config_map_key_ref.as_ref().map(|key| key.name.as_str()));
        }
        for source in from.unwrap_or_default() {
            self.add(Vertex::Secret, source.secret_ref.as_ref().map(|one| one.name.as_str()));
            self.add(Vertex::ConfigMap, source.config_map_ref.as_ref().map(|one| one.name.as_str()));
        }
    }

    fn volume(&mut self, volume: &Volume, pod_name: &str) {
        self.add(Vertex::Secret, volume.secret.as_ref().and_then(|one| one.secret_name.as_deref()));
        self.add(Vertex::ConfigMap, volume.config_map.as_ref().map(|one| one.name.as_str()));
        let claim = volume.persistent_volume_claim.as_ref();
        self.add(Vertex::Claim, claim.map(|one| one.claim_name.as_str()));
        if volume.ephemeral.is_some() {
            self.add(Vertex::Claim, Some(&format!("{pod_name}-{}", volume.name)));
        }
        if let Some(projected) = &volume.projected {
            self.projected(projected);
        }
        let plugins = [
            volume.azure_file.as_ref().map(|one| one.secret_name.as_str()),
            volume.cephfs.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.cinder.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.flex_volume.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.rbd.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.scale_io.as_ref().map(|one| one.secret_ref.name.as_str()),
            volume.iscsi.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.storageos.as_ref().and_then(|one| Some(one.secret_ref.as_ref()?.name.as_str())),
            volume.csi.as_ref().and_then(|one| Some(one.node_publish_secret_ref.as_ref()?.name.as_str())),
        ];
        plugins.into_iter().for_each(|name| self.add(Vertex::Secret, name));
    }

    fn projected(&mut self, volume: &ProjectedVolumeSource) {
        for source in volume.sources.iter().flatten() {
            self.add(Vertex::Secret, source.secret.as_ref().map(|one| one.name.as_str()));
            self.add(Vertex::ConfigMap, source.config_map.as_ref().map(|one| one.name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::to_stored;
    use crate::resources::find;

    fn object(pod: &Value) -> Object {
        let kind = find("", "pods").expect("served");
        Object::from_stored(kind, "/pods/n/p".into(), 1, to_stored(pod)).expect("readable")
    }

    fn change(graph: &mut Graph, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (old.map(object), new.map(object));
        graph.change(find("", "pods").expect("served"), old.as_ref(), new.as_ref());
    }

    fn pod(node: &str, phase: &str) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "account",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{
                    "name": "c", "image": "i",
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "all"}}],
                }],
                "ephemeralContainers": [{
                    "name": "e", "image": "i",
                    "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "debug", "key": "k"}}}],
                }],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "mounted"}},
                    {"name": "b", "projected": {"sources": [{"configMap": {"name": "projected"}}]}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                ],
            },
            "status": {"phase": phase},
        })
    }

    const NAMED: &[(Vertex, &str)] = &[
        (Vertex::Pod, "p"),
        (Vertex::Account, "account"),
        (Vertex::Secret, "pull"),
        (Vertex::Secret, "key"),
        (Vertex::Secret, "debug"),
        (Vertex::Secret, "mounted"),
        (Vertex::ConfigMap, "all"),
        (Vertex::ConfigMap, "projected"),
        (Vertex::Claim, "claim"),
    ];

    fn leads(graph: &Graph, node: &str) -> bool {
        let found: Vec<bool> =
            NAMED.iter().map(|(vertex, name)| graph.leads(node, *vertex, "n", name)).collect();
        assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
        found[0]
    }

    #[test]
    fn a_bound_pod_leads_to_all_it_names_until_it_is_over() {
        let mut graph = Graph::default();
        let (unbound, bound, over) = (pod("", "Pending"), pod("a", "Running"), pod("a", "Succeeded"));
        change(&mut graph, None, Some(&unbound));
        assert!(graph.nodes.is_empty());
        change(&mut graph, Some(&unbound), Some(&bound));
        assert!(leads(&graph, "a"));
        assert!(!leads(&graph, "b"));
        assert!(!graph.leads("a", Vertex::Secret, "m", "pull"), "of another namespace");
        change(&mut graph, Some(&bound), Some(&over));
        assert!(graph.nodes.is_empty());
        change(&mut graph, Some(&over), None);
        assert!(graph.nodes.is_empty());
    }

    #[test]
    fn an_object_is_led_to_as_long_as_one_pod_names_it() {
        let mut graph = Graph::default();
        let first = pod("a", "Running");
        change(&mut graph, None, Some(&first));
        graph.count(&"/pods/n/q".into(), "n", "a", BTreeSet::from([(Vertex::Secret, Box::from("pull"))]));
        change(&mut graph, Some(&first), None);
        assert!(graph.leads("a", Vertex::Secret, "n", "pull"));
        assert!(!graph.leads("a", Vertex::Secret, "n", "key"));
    }

    #[test]
    fn a_mirror_pod_leads_nowhere() {
        let mut graph = Graph::default();
        let mut mirror = pod("a", "Running");
        mirror["metadata"]["annotations"][super::super::restriction::MIRROR] = "x".into();
        change(&mut graph, None, Some(&mirror));
        assert!(graph.leads("a", Vertex::Pod, "n", "p"));
        assert!(!graph.leads("a", Vertex::Secret, "n", "key"));
    }

    #[test]
    fn what_a_pod_has_counted_for_goes_with_it_whatever_it_says_by_then() {
        let mut graph = Graph::default();
        let (plain, mut mirror) = (pod("a", "Running"), pod("a", "Running"));
        mirror["metadata"]["annotations"][super::super::restriction::MIRROR] = "x".into();
        // Bound without the annotation, deleted with it.
        change(&mut graph, None, Some(&plain));
        change(&mut graph, Some(&plain), Some(&mirror));
        change(&mut graph, Some(&mirror), None);
        assert!(graph.nodes.is_empty() && graph.pods.is_empty());
        // Bound with it, deleted without: the other pod's references stay.
        graph.count(&"/pods/n/q".into(), "n", "a", BTreeSet::from([(Vertex::Secret, Box::from("pull"))]));
        change(&mut graph, None, Some(&mirror));
        change(&mut graph, Some(&mirror), Some(&plain));
        change(&mut graph, Some(&plain), None);
        assert!(graph.leads("a", Vertex::Secret, "n", "pull"));
        assert_eq!(graph.pods.len(), 1);
    }

    #[test]
    fn another_pod_of_the_same_name_counts_for_what_it_names_itself() {
        let mut graph = Graph::default();
        let first = pod("a", "Running");
        let mut second = pod("b", "Running");
        second["metadata"]["uid"] = "v".into();
        second["spec"]["imagePullSecrets"] = json!([]);
        change(&mut graph, None, Some(&first));
        change(&mut graph, Some(&first), Some(&second));
        assert!(!graph.nodes.contains_key("a"));
        assert!(graph.leads("b", Vertex::Secret, "n", "key"));
        assert!(!graph.leads("b", Vertex::Secret, "n", "pull"));
    }
}
