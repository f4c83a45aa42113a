//! Private images: a real registry on a node's loopback, and pods with the secrets that open it or without.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, run, skiff_path, wait_for};

/// The password of `user1` is `pass1`.
const PASSWORDS: &str = "user1:$2y$05$abcdefghijklmnopqrstuu5mgrGG5HIqhtVXkz32HTDr8Qq1PG0X2\n";
/// Both as a header and a secret have them.
const ENCODED: &str = "dXNlcjE6cGFzczE";

/// Debian's `docker-registry` on a node, with the image `app:v1`. It ends with its standard input.
struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`, which is spoken to in the clear.
    host: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start(cluster: &Cluster, node: &str) -> Registry {
        let dir = tempfile::tempdir_in(cluster.data_dir()).expect("a directory");
        let path = dir.path().display();
        fill(&dir.path().join("data"));
        fs::write(dir.path().join("htpasswd"), PASSWORDS).expect("a file");
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\nauth: {{htpasswd: {{realm: test, path: {path}/htpasswd}}}}\n"
        );
        fs::write(dir.path().join("config.yml"), config).expect("a file");
        let script = format!("docker-registry serve {path}/config.yml >&2 & cat; kill $!; wait");
        let mut process = Command::new(skiff_path())
            .args(["node", "shell", "--name", &cluster.name, node, "--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("skiff starts");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let host = loop {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("text");
            assert!(read > 0, "this test needs Debian's package docker-registry, which ended: {said}");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', '\n']).next().unwrap_or_default().to_owned();
            }
            said += &line;
        };
        // Its log must be read on, or it blocks when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry { process, host, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Lays an image of the tests out as the registry keeps it on its disk.
fn fill(data: &Path) {
    let unpacked = tempfile::tempdir().expect("a directory");
    let archive = PathBuf::from(std::env::var_os("SKIFF_IMAGES").expect("the images are named"));
    let archive = archive.join("alpine-latest.tar");
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(unpacked.path())).ok();
    let top = data.join("docker/registry/v2");
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    };
    let read = |digest: &str| {
        fs::read(unpacked.path().join("blobs").join(digest.replace(':', "/"))).expect("a blob")
    };
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let digest = |descriptor: &Value| descriptor["digest"].as_str().expect("a digest").to_owned();
    let index = json(&fs::read(unpacked.path().join("index.json")).expect("an index"));
    let manifest = digest(&index["manifests"][0]);
    let content = json(&read(&manifest));
    let layers = content["layers"].as_array().expect("layers").iter().map(digest);
    let parts: Vec<String> = layers.chain([digest(&content["config"])]).collect();
    let link = |path: &str, digest: &str| write(top.join("repositories/app").join(path), digest.as_bytes());
    for digest in parts.iter().chain([&manifest]) {
        let hex = digest.trim_start_matches("sha256:");
        write(top.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2])), &read(digest));
    }
    for digest in &parts {
        link(&format!("_layers/{}/link", digest.replace(':', "/")), digest);
    }
    let place = manifest.replace(':', "/");
    for path in [
        format!("_manifests/revisions/{place}/link"),
        "_manifests/tags/v1/current/link".to_owned(),
        format!("_manifests/tags/v1/index/{place}/link"),
    ] {
        link(&path, &manifest);
    }
}

fn pod(registry: &Registry, node: &str, name: &str, policy: &str, more: &str) -> String {
    let image = format!("{}/app:v1", registry.host);
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 1, {more} containers: [{{name: main, image: '{image}', \
         imagePullPolicy: {policy}, command: [sleep, '999999']}}]}}}}"
    )
}

/// That the registry lets nobody in.
#[track_caller]
fn stays_shut(namespace: &Namespace, name: &str) {
    let message = wait_for(&format!("{name} can't be pulled"), || {
        let waiting = &namespace.pod(name)["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        ["ErrImagePull", "ImagePullBackOff"]
            .contains(&reason)
            .then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(message.contains("pull access denied") || message.contains("authoriz"), "{message}");
}

#[test]
fn private_images_are_pulled_with_the_secrets_of_pod_and_account() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pull-secrets");
    let node = cluster.worker(1);
    let registry = Registry::start(&cluster, &node);
    for (name, password) in [("wrong", "pass2"), ("right", "pass1")] {
        let (server, password) =
            (format!("--docker-server={}", registry.host), format!("--docker-password={password}"));
        let args =
            ["create", "secret", "docker-registry", name, &server, "--docker-username=user1", &password];
        namespace.kubectl(&args).ok();
    }
    let apply_as = |name: &str, policy: &str, more: &str| {
        namespace.apply(&pod(&registry, &node, name, policy, more)).ok()
    };
    let apply = |name: &str, more: &str| apply_as(name, "Always", more);

    apply("without", "");
    stays_shut(&namespace, "without");
    apply("refused", "imagePullSecrets: [{name: wrong}],");
    stays_shut(&namespace, "refused");

    apply("opened", "imagePullSecrets: [{name: wrong}, {name: gone}, {name: right}],");
    namespace.ready("opened");
    assert_eq!(
        namespace.event("opened", "FailedToRetrieveImagePullSecret", "gone"),
        "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed."
    );

    // It is on the node now, and still nobody else's.
    apply("later", "");
    stays_shut(&namespace, "later");
    apply_as("present", "IfNotPresent", "");
    stays_shut(&namespace, "present");
    apply_as("own", "Never", "imagePullSecrets: [{name: right}],");
    namespace.ready("own");
    namespace.event("own", "Pulled", "already present on machine and can be accessed by the pod");

    namespace.kubectl(&["create", "serviceaccount", "robot"]).ok();
    let patch = "{\"imagePullSecrets\": [{\"name\": \"right\"}]}";
    namespace.kubectl(&["patch", "serviceaccount", "robot", "-p", patch]).ok();
    apply("by-account", "serviceAccountName: robot,");
    namespace.ready("by-account");
    assert_eq!(namespace.pod("by-account")["spec"]["imagePullSecrets"][0]["name"], "right");

    let logs = cluster.data_dir().join("nodes").join(&node).join("logs");
    for file in fs::read_dir(logs).expect("the node's logs").flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        for secret in ["pass1", "pass2", ENCODED] {
            assert!(!text.contains(secret), "{} shows a password", file.path().display());
        }
    }
}
