//! H: who has an account on the machine, and nothing else, reaches no data of a cluster.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_tests::{Cluster, run};

/// What others may do with what lies below a cluster's directories, where that must be: all of these lie in
/// directories that are root's alone, and are seen by pods through mounts. A `*` is one name, `**` all below.
const MUST_BE: [(&str, &str); 12] = [
    ("images/**", "layers have the modes that their archives say"),
    ("nodes/*/pods/*/volumes", "directories of the kubelet's above volumes"),
    ("nodes/*/pods/*/volumes/**", "a volume belongs to its pod, whoever that runs as"),
    ("nodes/*/pods/*/volume-subpaths", "directories of the kubelet's above parts of volumes"),
    ("nodes/*/pods/*/volume-subpaths/**", "the same"),
    ("nodes/*/pods/*/containers/*/*-termination", "messages, which a container's user writes"),
    ("nodes/*/pods/*/etc-*", "shown to a pod as /etc/hosts and the like"),
    ("nodes/*/runtime/containers/*/upper", "a container's /"),
    ("nodes/*/runtime/containers/*/upper/**", "what a container writes"),
    ("nodes/*/runtime/pause/**", "the program that nobody runs, in a sandbox"),
    ("nodes/*/runtime/pause", "and all that it sees"),
    ("nodes/*/pods-log/*/*/*.log*", "upstream's mode of logs: a group may read them"),
];

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 0
  nodeName: NODE
  EXTRA
  containers:
  - name: c
    image: alpine
    command: ["sh", "-c", "echo run > /scratch/f; exec sleep 3600"]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: s, key: a}}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: secret, mountPath: /secret}
    - {name: map, mountPath: /one, subPath: b}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: secret, secret: {secretName: s}}
  - {name: map, configMap: {name: m}}
"#;

fn matches(pattern: &str, path: &str) -> bool {
    fn of(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            (["**"], rest) => !rest.is_empty(),
            ([], []) => true,
            ([first, pattern @ ..], [name, path @ ..]) => one(first, name) && of(pattern, path),
            _ => false,
        }
    }
    /// Each part between stars in turn, the first at the beginning.
    fn one(pattern: &str, name: &str) -> bool {
        let mut rest = name;
        pattern.split('*').enumerate().all(|(at, part)| match rest.find(part) {
            Some(found) if at > 0 || found == 0 => {
                rest = &rest[found + part.len()..];
                true
            }
            _ => false,
        }) && (pattern.ends_with('*') || rest.is_empty())
    }
    let parts = |text| str::split(text, '/').collect::<Vec<_>>();
    of(&parts(pattern), &parts(path))
}

/// All that others have any right to, but for links, which have none. Pods come and go meanwhile.
fn open_to_others(top: &Path, dir: &Path, found: &mut Vec<String>) {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let look = |path: &Path| match fs::symlink_metadata(path) {
        Err(error) if gone(&error) => None,
        answer => Some(answer.unwrap_or_else(|error| panic!("{}: {error}", path.display()))),
    };
    let Some(own) = look(dir) else { return };
    let mode = own.permissions().mode();
    let below = dir.strip_prefix(top).expect("it is below").to_string_lossy();
    if !own.is_symlink() && mode & 0o077 != 0 && !MUST_BE.iter().any(|(pattern, _)| matches(pattern, &below))
    {
        found.push(format!("{mode:o} {}", dir.display()));
    }
    // Images are many files, and all of them are let pass.
    if !own.is_dir() || below == "images" {
        return;
    }
    let entries = match fs::read_dir(dir) {
        Err(error) if gone(&error) => return,
        entries => entries.unwrap_or_else(|error| panic!("{}: {error}", dir.display())),
    };
    for entry in entries.flatten() {
        open_to_others(top, &entry.path(), found);
    }
}

#[test]
fn h_whoever_else_is_on_the_machine_reaches_no_data() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h-private");
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=a=hidden-from-others"]).ok();
    namespace.kubectl(&["create", "configmap", "m", "--from-literal=b=shown"]).ok();
    let node = cluster.worker(1);
    // Who has users of its own, and who is not root, must reach what they are given all the same.
    let kinds = [
        ("plain", ""),
        ("nobody", "securityContext: {runAsUser: 12345, runAsGroup: 12345, fsGroup: 2000}"),
        ("users", "hostUsers: false"),
        ("users-nobody", "hostUsers: false\n  securityContext: {runAsUser: 12345, fsGroup: 2000}"),
    ];
    for (name, extra) in kinds {
        let text = POD.replace("NAME", name).replace("NODE", &node).replace("EXTRA", extra);
        namespace.apply(&text).ok();
    }
    for (name, _) in kinds {
        namespace.ready(name);
        let seen = namespace.exec(name, &["cat", "/scratch/f", "/secret/a", "/one"]).ok();
        assert_eq!(seen, "run\nhidden-from-othersshown", "{name}");
    }

    let data = fs::canonicalize(cluster.data_dir()).expect("the cluster's data");
    let run_dir = PathBuf::from("/run/skiff").join(&cluster.name);
    let mut found = Vec::new();
    assert_eq!(
        fs::metadata(&data).expect("it is there").permissions().mode() & 0o077,
        0,
        "the data directory"
    );
    // Beside these, tests keep files of their own there.
    let own = [
        "images",
        "kubeconfig",
        "nodes",
        "ranges.json",
        "server",
        "skiff-data",
        "skiff-data.lock",
        "stock.json",
    ];
    own.iter().for_each(|name| open_to_others(&data, &data.join(name), &mut found));
    open_to_others(&run_dir, &run_dir, &mut found);
    // A namespace kept by a mount has a mode that nobody can change; the directory above it is root's.
    // Profiles of seccomp are put there by administrators: of these, by another test.
    found.retain(|path| !path.contains("/netns") && !path.contains("/seccomp/"));
    assert!(found.is_empty(), "others have rights to:\n{}", found.join("\n"));

    let uid = namespace.pod("plain")["metadata"]["uid"].as_str().expect("a UID").to_owned();
    let volume = data.join("nodes").join(&node).join("pods").join(uid).join("volumes");
    for path in [volume, data.join("server/store.db"), data.join("nodes").join(&node), run_dir] {
        assert!(path.exists(), "{}", path.display());
        let seen = run(Command::new("ls").arg("-d").arg(path.join(".")).uid(65534).gid(65534));
        assert!(seen.err().contains("Permission denied") || path.is_file(), "{}", path.display());
    }
}

#[test]
fn h_patterns_of_modes_mean_what_they_say() {
    for (pattern, path, expected) in [
        ("a/**", "a/b/c", true),
        ("a/**", "a", false),
        ("a/*/c", "a/b/c", true),
        ("a/*/c", "a/b/d/c", false),
        ("a/etc-*", "a/etc-hosts", true),
        ("a/etc-*", "a/my-etc-hosts", false),
        ("*.log*", "0.log.1", true),
        ("*.log", "0.log.1", false),
    ] {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}
