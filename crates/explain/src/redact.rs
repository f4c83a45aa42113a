//! What somebody may not see is taken out: host processes by name, and pods of other namespaces.

use crate::Missing;
use crate::namespaces::Word;
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
    for network in &mut told.other_networks {
        network.others.iter_mut().for_each(&mut hide);
        network.others.dedup();
    }
    let elsewhere = told.other_networks.iter_mut().flat_map(|network| network.listeners.iter_mut());
    for listener in told.listeners.iter_mut().chain(elsewhere) {
        listener.process.iter_mut().chain(&mut listener.also_held_by).for_each(&mut hide);
    }
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

    #[test]
    fn what_is_left_out_is_said_and_what_is_the_pods_own_stays() {
        use crate::pod::{Listener, OtherNetwork};
        let metadata = || Metadata { name: "p".into(), namespace: "n".into(), uid: String::new() };
        let whole = PodExplanation::empty(metadata());
        assert_eq!(pod(whole.clone()), whole);
        let listener = |of: &str| {
            let process = Process {
                pid: Some(7),
                command: "web".into(),
                pod: Some(of.into()),
                container: Some("main".into()),
            };
            Listener {
                protocol: "TCP".into(),
                address: "0.0.0.0".into(),
                port: 80,
                device: None,
                six_only: None,
                process: Some(process.clone()),
                also_held_by: vec![process],
                reachable: Vec::new(),
            }
        };
        let own = PodExplanation { listeners: vec![listener("n/p")], ..whole.clone() };
        assert_eq!(pod(own.clone()), own);
        let strange = pod(PodExplanation { listeners: vec![listener("n/other")], ..whole.clone() });
        assert_eq!(strange.missing.len(), 1);
        assert_eq!(
            strange.listeners[0].process.as_ref().map(|process| process.command.as_str()),
            Some(HIDDEN)
        );
        assert_eq!(strange.listeners[0].also_held_by[0].command, HIDDEN);
        // Nor who else is in a network that a process of the pod went to.
        let network = OtherNetwork {
            word: Word::Shared,
            inode: 7,
            others: vec![listener("n/other").process.unwrap(), listener("n/more").process.unwrap()],
            processes: vec![listener("n/p").process.unwrap()],
            listeners: vec![listener("n/p")],
        };
        let went = pod(PodExplanation { other_networks: vec![network], ..whole.clone() });
        let own = &went.other_networks[0];
        assert_eq!((own.others.len(), own.others[0].command.as_str()), (1, HIDDEN));
        assert_eq!((own.processes[0].command.as_str(), went.missing.len()), ("web", 1));
        let beside = pod(PodExplanation { other_listeners: vec![listener("n/other")], ..whole });
        assert_eq!((beside.other_listeners.len(), beside.missing.len()), (0, 1));
        let mut missing = Vec::new();
        waits(&mut missing);
        assert_eq!(missing[0].what, "processes of nodes that hold a port");
    }
}
