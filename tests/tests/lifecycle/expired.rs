//! A cluster that was down until the certificates of its nodes had ended.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skiff_tests::{Cluster, skiff, wait_until};

/// What a node keeps of its membership, wherever it is below the directory.
fn memberships(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Pods' own files may be links to anywhere.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => memberships(&entry.path(), found),
            Ok(_) if entry.file_name() == "membership.json" => found.push(entry.path()),
            _ => {}
        }
    }
}

/// A certificate of a node that ended years ago, and its key.
fn ended(node: &str) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![node.to_owned()]).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
}

#[test]
fn nodes_whose_certificates_have_ended_heal_themselves_at_the_next_start() {
    let cluster = Cluster::start("lc-expired", 2);
    let namespace = cluster.namespace("e");
    let node = cluster.worker(1);
    namespace
        .apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 1, containers: [{{name: main, image: alpine, command: [sleep, '999999']}}]}}}}"
        ))
        .ok();
    namespace.ready("p");
    let uid = namespace.pod("p")["metadata"]["uid"].clone();
    let mut kept = Vec::new();
    // Exec went over the serving certificate, so there is one of each by now.
    wait_until("a command runs", || namespace.exec("p", &["hostname"]).stdout == "p\n");
    skiff(&["down", "--name", "lc-expired", "--keep-data"]).ok();
    memberships(cluster.data_dir(), &mut kept);
    assert_eq!(kept.len(), 2, "of each node: {kept:?}");
    for path in &kept {
        let mut membership: Value =
            serde_json::from_str(&fs::read_to_string(path).expect("it is readable")).expect("JSON");
        let name = membership["node_name"].as_str().expect("a name").to_owned();
        for which in ["client", "serving"] {
            if membership[which].is_object() {
                let (certificate, key) = ended(&name);
                membership[which]["certificate"] = certificate.into();
                membership[which]["key"] = key.into();
            }
        }
        fs::write(path, membership.to_string()).expect("it is written");
    }
    let before: Vec<String> = kept.iter().map(|path| fs::read_to_string(path).expect("readable")).collect();

    // It comes up as ever, and says nothing of it.
    let data_dir = cluster.data_dir().to_str().expect("UTF-8");
    skiff(&["up", "--detach", "--name", "lc-expired", "--port", "0", "--data-dir", data_dir]).ok();
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    wait_until("a command runs again", || namespace.exec("p", &["hostname"]).stdout == "p\n");
    assert_eq!(namespace.pod("p")["metadata"]["uid"], uid, "it is the same pod");
    for (path, before) in kept.iter().zip(before) {
        assert_ne!(fs::read_to_string(path).expect("readable"), before, "{} has others", path.display());
    }
}
