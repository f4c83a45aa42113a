//! Roles and bindings with real clients: kubectl's questions, its refusals, and a client that is a service
//! account.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace, Output};

use crate::{BOTH, sleeper, with};

/// As the account `default` of the namespace.
fn as_account(namespace: &Namespace, which: &str, args: &[&str]) -> Output {
    let who = format!("--as=system:serviceaccount:{}:default", namespace.name);
    with(namespace, which, &[&[who.as_str()], args].concat())
}

fn let_view(namespace: &Namespace) {
    let account = format!("--serviceaccount={}:default", namespace.name);
    namespace.kubectl(&["create", "rolebinding", "viewer", "--clusterrole=view", &account]).ok();
}

#[test]
fn both_kubectls_ask_what_a_user_may() {
    let namespace = Cluster::shared().namespace("questions");
    let_view(&namespace);
    for which in BOTH {
        assert_eq!(as_account(&namespace, which, &["auth", "can-i", "list", "pods"]).ok(), "yes\n");
        let no = as_account(&namespace, which, &["auth", "can-i", "create", "pods"]);
        assert_eq!((no.code, no.stdout.as_str()), (1, "no\n"));
        assert_eq!(as_account(&namespace, which, &["auth", "can-i", "get", "pods/log"]).ok(), "yes\n");
        assert_eq!(as_account(&namespace, which, &["auth", "can-i", "get", "secrets"]).code, 1);
        assert_eq!(as_account(&namespace, which, &["auth", "can-i", "get", "/healthz"]).ok(), "yes\n");
        assert_eq!(with(&namespace, which, &["auth", "can-i", "*", "*", "--all-namespaces"]).ok(), "yes\n");
        let list = as_account(&namespace, which, &["auth", "can-i", "--list"]).ok();
        let line = |start: &str| {
            let line = list.lines().find(|line| line.split_whitespace().next() == Some(start));
            line.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(line("pods").as_deref(), Some("[] [] [get list watch]"), "{list}");
        assert_eq!(
            line("selfsubjectaccessreviews.authorization.k8s.io").as_deref(),
            Some("[] [] [create]"),
            "{list}"
        );
        assert_eq!(line("secrets"), None, "{list}");
        assert!(list.contains("[/healthz]"), "{list}");
    }
}

#[test]
fn kubectl_shows_what_is_forbidden_and_to_whom() {
    let namespace = Cluster::shared().namespace("forbidden");
    let who = "system:serviceaccount:forbidden:default";
    for which in BOTH {
        assert_eq!(
            as_account(&namespace, which, &["get", "pods"]).err(),
            format!(
                "Error from server (Forbidden): pods is forbidden: User \"{who}\" cannot list resource \
                 \"pods\" in API group \"\" in the namespace \"forbidden\"\n"
            )
        );
        let from_stdin = as_account(&namespace, which, &["delete", "pod", "p"]).err();
        assert!(from_stdin.contains(&format!("User \"{who}\" cannot")), "{from_stdin}");
    }
    let whoami =
        as_account(&namespace, "KUBECTL", &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]).ok();
    let user: Value = serde_json::from_str(&whoami).expect("JSON");
    assert_eq!(user["username"], who);
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:forbidden", "system:authenticated"])
    );
}

#[test]
fn kubectl_writes_and_shows_roles_and_bindings() {
    let namespace = Cluster::shared().namespace("roles");
    for (index, which) in BOTH.into_iter().enumerate() {
        let name = format!("r{index}");
        let run = |args: &[&str]| with(&namespace, which, args);
        run(&["create", "role", &name, "--verb=get,list", "--resource=pods,pods/log"]).ok();
        run(&[
            "create",
            "rolebinding",
            &name,
            "--role",
            &name,
            "--user=jane",
            "--serviceaccount=roles:default",
        ])
        .ok();
        let described = run(&["describe", "role", &name]).ok();
        assert!(described.contains("pods/log") && described.contains("[get list]"), "{described}");
        let wide = run(&["get", "rolebinding", &name, "-o", "wide", "--no-headers"]).ok();
        let cells: Vec<&str> = wide.split_whitespace().collect();
        assert_eq!(cells[..2], [name.as_str(), &format!("Role/{name}")], "{wide}");
        assert_eq!(cells[3..], ["jane", "roles/default"], "{wide}");
        // A name with a colon is one for roles.
        run(&["get", "clusterrole", "system:basic-user"]).ok();
    }
}

#[test]
fn kubectl_reconciles_roles() {
    let namespace = Cluster::shared().namespace("reconcile");
    namespace.kubectl(&["create", "role", "r", "--verb=get", "--resource=secrets"]).ok();
    let wanted = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "r", "namespace": "reconcile"},
        "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}],
    });
    let file = std::env::temp_dir().join(format!("skiff-reconcile-{}.json", std::process::id()));
    std::fs::write(&file, wanted.to_string()).expect("written");
    let path = file.to_str().expect("UTF-8");
    for which in BOTH {
        let said = with(&namespace, which, &["auth", "reconcile", "-f", path]).ok();
        assert!(said.contains("role.rbac.authorization.k8s.io/r reconciled"), "{said}");
    }
    std::fs::remove_file(&file).expect("removed");
    let rules: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "role", "r", "-o", "jsonpath={.rules}"]).ok())
            .expect("JSON");
    assert_eq!(
        rules,
        json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]},
            {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]},
        ])
    );
}

#[test]
fn rules_that_are_aggregated_reach_who_is_bound_to_the_whole() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("aggregated");
    let_view(&namespace);
    let question = ["auth", "can-i", "list", "leases.coordination.k8s.io"];
    assert_ne!(as_account(&namespace, "KUBECTL", &question).code, 0);
    let part = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {
            "name": "aggregated-part",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [{"verbs": ["list"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}],
    });
    namespace.apply(&part.to_string()).ok();
    skiff_tests::wait_until("the rule is part of the role", || {
        as_account(&namespace, "KUBECTL", &question).code == 0
    });
    namespace.kubectl(&["delete", "clusterrole", "aggregated-part"]).ok();
    skiff_tests::wait_until("the rule is gone again", || {
        as_account(&namespace, "KUBECTL", &question).code != 0
    });
}

#[tokio::test]
async fn the_kube_crate_is_a_service_account() {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let namespace = Cluster::shared().namespace("kube-account");
    let_view(&namespace);
    namespace.apply(&sleeper("seen")).ok();
    let token = namespace.kubectl(&["create", "token", "default"]).ok();
    let view = namespace.cluster.kubectl(&["config", "view", "--raw", "-o", "json"]).ok();
    let mut file: Value = serde_json::from_str(&view).expect("JSON");
    file["users"][0]["user"] = json!({"token": token.trim()});
    let file = Kubeconfig::from_yaml(&file.to_string()).expect("kube reads it");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("complete");
    let client = Client::try_from(config).expect("a client");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace.name);
    let names: Vec<Option<String>> = pods
        .list(&ListParams::default())
        .await
        .expect("it may")
        .into_iter()
        .map(|pod| pod.metadata.name)
        .collect();
    assert_eq!(names, [Some("seen".to_owned())]);
    let secrets: Api<Secret> = Api::namespaced(client, &namespace.name);
    match secrets.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
        }
        other => panic!("not refused: {other:?}"),
    }
}
