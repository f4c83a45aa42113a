//! What somebody may not see is taken out: host processes by name, and pods of other namespaces.

use crate::Missing;
use crate::namespaces::Word;
use crate::node::NodeExplanation;
use crate::pod::{PodExplanation, Process};

const HIDDEN: &str = "a process of the node";

/// For somebody who may see this pod but not the node's processes.
pub fn pod(mut told: PodExplanation) -> PodExplanation {
    let own = format!("{}/{}", told.metadata.namespace, told.metadata.name);
    let mut hidden = !told.other_listeners.is_empty();
    told.other_listeners.clear();
    let mut hide = |process: &mut Process| {
        if process.pod.as_ref() != Some(&own) {
            hidden = true;
            *process = Process { pid: None, command: HIDDEN.into(), pod: None, container: None };
        }
    };
    let members = told.containers.iter_mut().filter_map(|container| container.process.as_mut());
    let members = members.chain(told.sandbox.as_mut()).flat_map(|member| member.namespaces.iter_mut());
    for namespace in told.namespaces.iter_mut().chain(members) {
        namespace.others.iter_mut().for_each(&mut hide);
        namespace.others.dedup();
        if namespace.word == Word::Shared {
            let (held, _) = namespace.sentence.split_once("; ").unwrap_or((&namespace.sentence, ""));
            namespace.sentence = format!("{held}; processes outside of the pod are in it too");
        }
    }
    told.listeners.iter_mut().filter_map(|listener| listener.process.as_mut()).for_each(&mut hide);
    if hidden {
        let why = "you may not get nodes/explain";
        told.missing.push(Missing::new("names of processes and pods outside of this pod", why));
    }
    told
}

/// Says that the holders of ports are left out.
pub fn waits(missing: &mut Vec<Missing>) {
    missing.push(Missing::new("processes of nodes that hold a port", "you may not get nodes/explain"));
}

/// Pods of one namespace alone, for somebody who may see no others.
pub fn node(mut told: NodeExplanation, visible: impl Fn(&str) -> bool) -> NodeExplanation {
    for namespace in &mut told.namespaces {
        namespace.pods.retain(|pod| visible(pod));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metadata;
    use crate::namespaces::Kind;
    use crate::pod::Namespace;

    #[test]
    fn strangers_lose_their_names() {
        let metadata = Metadata { name: "p".into(), namespace: "n".into(), uid: String::new() };
        let mut told = PodExplanation::empty(metadata);
        let process = |pid, pod: Option<&str>| Process {
            pid: Some(pid),
            command: "secret".into(),
            pod: pod.map(str::to_owned),
            container: None,
        };
        told.namespaces.push(Namespace {
            namespace: Kind::Net,
            word: Word::Shared,
            inode: 1,
            sentence: "held by pause; process 7 (secret) uses its network too".into(),
            holder: "pause".into(),
            containers: Vec::new(),
            others: vec![process(7, None), process(8, Some("other/pod"))],
        });
        let told = pod(told);
        let text = serde_json::to_string(&told).unwrap();
        assert!(!text.contains("secret") && !text.contains("other/pod"), "{text}");
        assert_eq!(told.namespaces[0].sentence, "held by pause; processes outside of the pod are in it too");
        assert_eq!(told.missing.len(), 1);
    }
}
