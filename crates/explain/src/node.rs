//! What `explain node` answers: the node's own namespaces, and which pods are in them.

use serde::{Deserialize, Serialize};

use crate::namespaces::{Inodes, Kind, Word};
use crate::pod::PodExplanation;
use crate::{API_VERSION, Metadata, Missing, counted};

/// The explanation of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExplanation {
    /// The kind of this answer.
    pub kind: String,
    /// The group and version of this answer.
    pub api_version: String,
    /// The node's name.
    pub metadata: Metadata,
    /// Everything that the node's PID namespace shows; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
    /// How many pods have processes on the node.
    /// Those of which something runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// The node's own, in the order in which they are told; each with the pods that are in it.
    pub namespaces: Vec<NodeNamespace>,
    /// Namespaces of pods that others are in too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<NodeNamespace>,
    /// What is left out of the answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

impl NodeExplanation {
    /// Of a node that tells nothing.
    pub fn unknown(name: &str, missing: Missing) -> Self {
        let told = node(name, Inodes::default(), 0, &[]);
        Self { processes: None, pods: None, missing: vec![missing], ..told }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {}

/// A namespace, and the pods that are in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeNamespace {
    /// The kind of namespace, as in /proc/PID/ns.
    pub namespace: Kind,
    /// Whose it is, in one word.
    pub word: Word,
    /// The kernel's number for it.
    pub inode: u64,
    /// `NAMESPACE/NAME`.
    pub pods: Vec<String>,
    /// What sharing it means.
    pub sentence: String,
}

/// Turns the pods of a node round: from pods with namespaces to namespaces with pods.
pub fn node(name: &str, inodes: Inodes, processes: usize, pods: &[PodExplanation]) -> NodeExplanation {
    let full = |pod: &PodExplanation| format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    // Of those that have ended, or have not begun, nothing is in any namespace.
    let pods: Vec<&PodExplanation> = pods.iter().filter(|pod| !pod.namespaces.is_empty()).collect();
    // What pods all share by nature would drown what matters, so those are counted only.
    let namespaces = Kind::ALL.into_iter().filter(|kind| inodes.of(*kind) != 0).map(|kind| {
        let inside = pods
            .iter()
            .filter(|pod| pod.namespaces.iter().any(|own| own.namespace == kind && own.word == Word::Host));
        let inside: Vec<String> = inside.map(|pod| full(pod)).collect();
        let sentence = match (inside.len(), pods.len()) {
            (0, _) => "no pod is in it".to_owned(),
            (some, all) if some == all => format!("all {} are in it", counted(all, "pod", "pods")),
            (some, all) => format!("{some} of {} in it", counted(all, "pod", "pods")),
        };
        NodeNamespace { namespace: kind, word: Word::Host, inode: inodes.of(kind), pods: inside, sentence }
    });
    let mut shared: Vec<NodeNamespace> = Vec::new();
    for pod in &pods {
        for own in pod.namespaces.iter().filter(|own| own.word == Word::Shared) {
            shared.push(NodeNamespace {
                namespace: own.namespace,
                word: own.word,
                inode: own.inode,
                pods: vec![full(pod)],
                sentence: own.sentence.clone(),
            });
        }
    }
    NodeExplanation {
        kind: "NodeExplanation".into(),
        api_version: API_VERSION.into(),
        metadata: Metadata { name: name.into(), ..Metadata::default() },
        processes: Some(processes),
        pods: Some(pods.len()),
        namespaces: namespaces.collect(),
        shared,
        missing: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Namespace;

    fn pod(name: &str, namespaces: &[(Kind, Word, u64)]) -> PodExplanation {
        let metadata = Metadata { name: name.into(), namespace: "a".into(), uid: String::new() };
        let mut told = PodExplanation::empty(metadata);
        told.namespaces = namespaces
            .iter()
            .map(|(kind, word, inode)| Namespace {
                namespace: *kind,
                word: *word,
                inode: *inode,
                sentence: format!("{name}'s"),
                holder: "pause".into(),
                containers: Vec::new(),
                others: Vec::new(),
            })
            .collect();
        told
    }

    #[test]
    fn each_namespace_of_the_node_names_the_pods_in_it() {
        let inodes = Inodes([1, 2, 0, 0, 0, 6, 0, 0]);
        let user = (Kind::User, Word::Host, 6);
        let pods = [
            pod("p", &[(Kind::Net, Word::Host, 1), user]),
            pod("q", &[(Kind::Net, Word::Own, 11), (Kind::Pid, Word::Shared, 12), user]),
            pod("ended", &[]),
        ];
        let told = node("n", inodes, 40, &pods);
        assert_eq!((told.processes, told.pods), (Some(40), Some(2)));
        let text = |own: &NodeNamespace| {
            format!("{} {} {}: {} ({})", own.namespace, own.word, own.inode, own.sentence, own.pods.join(" "))
        };
        assert_eq!(
            told.namespaces.iter().map(text).collect::<Vec<_>>(),
            [
                "net host 1: 1 of 2 pods in it (a/p)",
                "pid host 2: no pod is in it ()",
                "user host 6: all 2 pods are in it (a/p a/q)",
            ]
        );
        assert_eq!(told.shared.iter().map(text).collect::<Vec<_>>(), ["pid shared 12: q's (a/q)"]);
    }
}
