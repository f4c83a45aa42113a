//! Pods that die or are deleted while they are looked at.

use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::json;
use skiff_runtime::{Sandbox, SandboxConfig, SandboxId};

use super::*;
use crate::fakes;

fn pod() -> Pod {
    let value = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c"}]},
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_pod_that_dies_while_it_is_looked_at_is_told_as_past() {
    // What it is does not matter, only that it is alive and then is not.
    let mut process = Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn().unwrap();
    let sandbox = Sandbox {
        id: SandboxId("s".into()),
        config: SandboxConfig { labels: labels::of_pod(&pod(), 0), ..SandboxConfig::default() },
        ready: true,
        created_at: SystemTime::UNIX_EPOCH,
        pid: process.id(),
        netns: None,
    };
    let own = Inodes(processes::namespaces(std::process::id()).unwrap());
    let all = processes::processes().unwrap();
    let scan = Scan::new("node".into(), own, all, vec![sandbox], Vec::new());
    let config = fakes::config();
    let reader = Reader::new(&scan, &config, &[], Vec::new());
    let mut facts = reader.facts(&pod());
    mark_ended(&mut facts);
    assert_eq!(facts.past, None);
    process.kill().unwrap();
    process.wait().unwrap();
    mark_ended(&mut facts);
    let told = judge::pod(&facts);
    assert_eq!(told.past.as_deref(), Some("the pod's sandbox ended while it was being looked at"));
    // What was seen stays.
    assert_eq!(told.sandbox.map(|own| own.pid), Some(process.id()));
    assert!(!told.namespaces.is_empty() && !told.interfaces.is_empty());
    // And one that was dead before has nothing to be seen.
    let facts = reader.facts(&pod());
    assert!(facts.sandbox.is_none() && facts.missing[0].why.contains("ended"), "{:?}", facts.missing);
}

#[test]
fn a_pod_that_is_deleted_while_it_is_looked_at_is_told_as_past() {
    let of = |uid: &str| PodExplanation::empty(Metadata { uid: uid.into(), ..Metadata::default() });
    let past = |mut told: PodExplanation, now: Option<&Pod>| {
        mark_deleted(&mut told, now);
        told.past
    };
    let deleted = Some("the pod was deleted while it was being looked at".to_owned());
    assert_eq!(past(of("u"), Some(&pod())), None);
    assert_eq!(past(of("u"), None), deleted);
    assert_eq!(past(of("before"), Some(&pod())), deleted);
    // What was found out first is said.
    let dead = PodExplanation { past: Some("dead".into()), ..of("u") };
    assert_eq!(past(dead, None).as_deref(), Some("dead"));
}
