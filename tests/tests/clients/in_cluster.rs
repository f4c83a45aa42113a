//! Clients in pods: every container finds a token of its pod's account, the cluster's CA and its namespace
//! where upstream puts them, and with them reaches the API.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace, Output, run, wait_for, wait_until};

const DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The machine's own programs and libraries, and `dirs`, in a pod that runs `command` once.
fn borrowed(name: &str, dirs: &[&Path], env: Value, command: &[&str]) -> String {
    let mut volumes = vec![
        ("/usr".to_owned(), "/usr"),
        ("/usr/lib".to_owned(), "/lib"),
        ("/usr/lib64".to_owned(), "/lib64"),
    ]
    .into_iter()
    .map(|(source, target)| (source, target.to_owned()))
    .collect::<Vec<_>>();
    volumes.extend(dirs.iter().map(|dir| {
        let dir = dir.to_str().expect("UTF-8").to_owned();
        (dir.clone(), dir)
    }));
    let named = |index: usize| format!("v{index}");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "alpine", "command": command, "env": env,
                "volumeMounts": volumes.iter().enumerate().map(|(index, (_, target))| {
                    json!({"name": named(index), "mountPath": target, "readOnly": true})
                }).collect::<Vec<_>>(),
            }],
            "volumes": volumes.iter().enumerate().map(|(index, (source, _))| {
                json!({"name": named(index), "hostPath": {"path": source}})
            }).collect::<Vec<_>>(),
        },
    })
    .to_string()
}

/// What a pod that runs once has printed.
fn printed(namespace: &Namespace, pod: &str) -> String {
    let phase = wait_for("the pod ends", || {
        let phase = namespace.pod(pod)["status"]["phase"].as_str().unwrap_or_default().to_owned();
        matches!(phase.as_str(), "Succeeded" | "Failed").then_some(phase)
    });
    let log = namespace.kubectl(&["logs", pod]).ok();
    assert_eq!(phase, "Succeeded", "{log}");
    log
}

fn let_see_pods(namespace: &Namespace) {
    let name = &namespace.name;
    namespace.kubectl(&["create", "role", "viewer", "--verb=get,list", "--resource=pods"]).ok();
    let account = format!("--serviceaccount={name}:default");
    namespace.kubectl(&["create", "rolebinding", "viewer", "--role=viewer", &account]).ok();
}

#[test]
fn the_python_client_in_a_pod_is_its_account() {
    let namespace = Cluster::shared().namespace("in-cluster-python");
    let_see_pods(&namespace);
    let packages =
        std::env::var("SKIFF_PYTHON_PACKAGES").expect("SKIFF_PYTHON_PACKAGES is set by `cargo xtask test`");
    let programs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"));
    let program = programs.join("in_cluster.py");
    let env =
        json!([{"name": "PYTHONPATH", "value": packages}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}]);
    let command = ["/usr/bin/python3", program.to_str().expect("UTF-8")];
    namespace.apply(&borrowed("robot", &[Path::new(&packages), programs], env, &command)).ok();
    let wanted = "\
namespace: in-cluster-python
user: system:serviceaccount:in-cluster-python:default
groups: ['system:authenticated', 'system:serviceaccounts', 'system:serviceaccounts:in-cluster-python']
pods: ['robot']
secrets: 403
";
    assert_eq!(printed(&namespace, "robot"), wanted);
}

#[test]
fn kubectl_in_a_pod_is_its_account() {
    let namespace = Cluster::shared().namespace("in-cluster-kubectl");
    let_see_pods(&namespace);
    let kubectl = std::env::var("KUBECTL").expect("KUBECTL is set by `cargo xtask test`");
    let kubectl = std::fs::canonicalize(kubectl).expect("it is there");
    let command = [kubectl.to_str().expect("UTF-8"), "get", "pods", "-o", "name"];
    let dir = kubectl.parent().expect("a directory");
    let env = json!([{"name": "HOME", "value": "/tmp"}]);
    namespace.apply(&borrowed("robot", &[dir], env, &command)).ok();
    assert_eq!(printed(&namespace, "robot"), "pod/robot\n");
}

fn read(namespace: &Namespace, pod: &str, container: &str, file: &str) -> Output {
    namespace.kubectl(&["exec", pod, "-c", container, "--", "cat", &format!("{DIR}/{file}")])
}

/// The claims of a token, which is base64url without padding.
fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).expect("three parts").replace('-', "+").replace('_', "/");
    let padded = format!("{body}{}", "=".repeat((4 - body.len() % 4) % 4));
    let mut decode = Command::new("sh");
    decode.args(["-c", "printf %s \"$0\" | base64 -d", &padded]);
    serde_json::from_str(&run(&mut decode).ok()).expect("JSON")
}

#[test]
fn a_pods_token_is_bound_to_the_pod_and_ends_with_it() {
    let namespace = Cluster::shared().namespace("in-cluster-token");
    let pod = |name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, {more} \
             initContainers: [{{name: init, image: alpine, command: [test, -s, {DIR}/token]}}], containers: [\
             {{name: a, image: alpine, command: [sleep, '999999']}}, {{name: b, image: alpine, command: [sleep, '999999']}}]}}}}"
        )
    };
    namespace.apply(&pod("p", "")).ok();
    namespace.ready("p");
    let token = read(&namespace, "p", "a", "token").ok();
    assert_eq!(read(&namespace, "p", "b", "token").ok(), token);
    assert_eq!(read(&namespace, "p", "a", "namespace").ok(), "in-cluster-token");
    let ca =
        namespace.kubectl(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"]).ok();
    assert_eq!(read(&namespace, "p", "a", "ca.crt").ok(), ca);
    let object = namespace.pod("p");
    let bound = &claims(&token)["kubernetes.io"];
    assert_eq!(bound["pod"], json!({"name": "p", "uid": object["metadata"]["uid"]}));
    assert_eq!(
        (&bound["namespace"], &bound["serviceaccount"]["name"]),
        (&json!("in-cluster-token"), &json!("default"))
    );
    assert!(namespace.exec("p", &["touch", &format!("{DIR}/x")]).err().contains("Read-only"));
    let secret = "tmpfs on /run/secrets/kubernetes.io/serviceaccount type tmpfs (ro";
    assert!(namespace.exec("p", &["mount"]).stdout.replace("/var/run", "/run").contains(secret));

    // From outside it works as long as the pod is there.
    let server = namespace
        .cluster
        .kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"])
        .ok();
    let as_pod = || {
        let mut kubectl = namespace.cluster.command("KUBECTL");
        kubectl.env("KUBECONFIG", "/dev/null").args(["--server", &server, "--insecure-skip-tls-verify"]);
        run(kubectl.args(["--token", &token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]))
    };
    assert_eq!(as_pod().ok(), "system:serviceaccount:in-cluster-token:default");
    namespace.delete("pod", "p");
    wait_until("the token is refused", || as_pod().stderr.contains("Unauthorized"));

    namespace.apply(&pod("none", "automountServiceAccountToken: false,")).ok();
    let why = wait_for("its init container fails", || {
        let status = namespace.pod("none")["status"]["initContainerStatuses"][0].clone();
        status["lastState"]["terminated"]["exitCode"]
            .as_i64()
            .or(status["state"]["terminated"]["exitCode"].as_i64())
    });
    assert_eq!(why, 1, "it finds no token");
    assert_eq!(namespace.pod("none")["spec"]["volumes"], Value::Null);
}

#[test]
fn a_projected_volume_holds_all_kinds_of_sources() {
    let namespace = Cluster::shared().namespace("projected");
    namespace.kubectl(&["create", "configmap", "m", "--from-literal=k=v", "--from-literal=l=w"]).ok();
    namespace.kubectl(&["create", "secret", "generic", "s", "--from-literal=pass=word"]).ok();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "x"}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "alpine", "command": ["sleep", "999999"],
                "volumeMounts": [{"name": "all", "mountPath": "/all"}]}],
            "volumes": [{"name": "all", "projected": {"defaultMode": 0o400, "sources": [
                {"configMap": {"name": "m", "items": [{"key": "k", "path": "from/map"}]}},
                {"secret": {"name": "s", "items": [{"key": "pass", "path": "from/secret", "mode": 0o440}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"serviceAccountToken": {"path": "vault/token", "audience": "vault", "expirationSeconds": 600}},
                {"configMap": {"name": "absent", "optional": true}},
            ]}}],
        },
    });
    namespace.apply(&pod.to_string()).ok();
    namespace.ready("p");
    let shell = |script: &str| namespace.exec("p", &["sh", "-c", script]).ok();
    assert_eq!(shell("cat /all/from/map /all/from/secret /all/labels"), "vwordapp=\"x\"");
    assert_eq!(shell("stat -L -c %a /all/from/map /all/from/secret /all/vault/token"), "400\n440\n400\n");
    let token = claims(&shell("cat /all/vault/token"));
    assert_eq!(token["aud"], json!(["vault"]));
    assert_eq!(token["exp"].as_i64().expect("a time") - token["iat"].as_i64().expect("a time"), 600);
    // A change arrives, and all of it at once.
    namespace.kubectl(&["patch", "configmap", "m", "--type=merge", "-p", "{\"data\":{\"k\":\"new\"}}"]).ok();
    namespace.kubectl(&["label", "pod", "p", "--overwrite", "app=y"]).ok();
    wait_until("the change arrives", || shell("cat /all/from/map /all/labels") == "newapp=\"y\"");
}
