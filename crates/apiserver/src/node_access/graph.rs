//! Which objects the pods of each node name.

use std::collections::{BTreeSet, HashMap};

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
}

/// The objects of one namespace that pods of one node name.
type Named = HashMap<Reference, usize>;

impl Graph {
    pub(super) fn leads(&self, node: &str, vertex: Vertex, namespace: &str, name: &str) -> bool {
        let named = self.nodes.get(node).and_then(|namespaces| namespaces.get(namespace));
        named.is_some_and(|named| named.contains_key(&(vertex, Box::from(name))))
    }

    fn add(&mut self, node: &str, namespace: &str, references: BTreeSet<Reference>) {
        let named = self.nodes.entry(node.into()).or_default().entry(namespace.into()).or_default();
        for reference in references {
            *named.entry(reference).or_default() += 1;
        }
    }

    fn remove(&mut self, node: &str, namespace: &str, references: &BTreeSet<Reference>) {
        let Some(namespaces) = self.nodes.get_mut(node) else { return };
        let Some(named) = namespaces.get_mut(namespace) else { return };
        for reference in references {
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
            self.nodes.remove(node);
        }
    }
}

impl Derive for Graph {
    const STORAGES: &'static [&'static str] = &["pods"];

    fn change(&mut self, kind: &'static Resource, old: Option<&Object>, new: Option<&Object>) {
        // Nothing a pod names can change once it is bound, so most changes (of status) end here.
        let place = |object: Option<&Object>| {
            object.map(|object| {
                (field(kind, object, "spec.nodeName").to_owned(), is_over(kind, object), object.uid.clone())
            })
        };
        if old.is_some() && place(old) == place(new) {
            return;
        }
        for (object, there) in [(old, false), (new, true)] {
            let Some(object) = object else { continue };
            let node = field(kind, object, "spec.nodeName");
            if node.is_empty() || is_over(kind, object) {
                continue;
            }
            let Some(pod) = object.typed(kind).and_then(|value| value.downcast::<Pod>().ok()) else {
                continue;
            };
            let references = references(&pod);
            match there {
                true => self.add(node, object.namespace(), references),
                false => self.remove(node, object.namespace(), &references),
            }
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
        graph.add("a", "n", BTreeSet::from([(Vertex::Secret, Box::from("pull"))]));
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
}
