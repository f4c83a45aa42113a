//! What an agent may do to objects that are its node's, and to those of others.

mod api;

use api::{Api, PODS, pod};
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::Identity;

const NODES: &str = "/api/v1/nodes";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn agent(node: &str) -> Identity {
    Identity::new(&format!("system:node:{node}"), &["system:nodes"])
}

/// Nodes `a` and `b`; on `a` the pod `p` of account `default`, which mounts the secret `s`.
async fn cluster() -> (Api, String) {
    let api = Api::new().await;
    for node in ["a", "b"] {
        api.ok(Method::POST, NODES, json!({"metadata": {"name": node}})).await;
    }
    for secret in ["s", "t"] {
        api.ok(Method::POST, SECRETS, json!({"metadata": {"name": secret}})).await;
    }
    let mut own = pod("p");
    own["spec"]["nodeName"] = "a".into();
    own["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    let made = api.ok(Method::POST, PODS, own).await;
    (api, made["metadata"]["uid"].as_str().expect("a UID").to_owned())
}

async fn code(api: &Api, node: &str, method: Method, path: &str, body: Value) -> (u16, String) {
    let (code, answer) = api.call_as(&agent(node), method, path, body).await;
    (code.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn an_agent_reads_the_secrets_of_its_pods_by_name() {
    let (api, _) = cluster().await;
    let one = |name: &str| format!("{SECRETS}/{name}");
    let list = |name: &str| format!("{SECRETS}?fieldSelector=metadata.name%3D{name}");
    assert_eq!(code(&api, "a", Method::GET, &one("s"), Value::Null).await.0, 200);
    assert_eq!(code(&api, "a", Method::GET, &list("s"), Value::Null).await.0, 200);
    assert_eq!(
        code(&api, "a", Method::GET, &one("t"), Value::Null).await,
        (
            403,
            "secrets \"t\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \
             \"\" in the namespace \"default\": no relationship found between node 'a' and this object"
                .to_owned()
        )
    );
    assert_eq!(code(&api, "b", Method::GET, &one("s"), Value::Null).await.0, 403);
    assert_eq!(code(&api, "a", Method::GET, &list("t"), Value::Null).await.0, 403);
    assert_eq!(code(&api, "a", Method::GET, SECRETS, Value::Null).await.0, 403);
    assert_eq!(code(&api, "a", Method::GET, "/api/v1/secrets", Value::Null).await.0, 403);
    // Gone with the pod.
    api.ok(Method::DELETE, &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code(&api, "a", Method::GET, &one("s"), Value::Null).await.0, 403);
}

#[tokio::test]
async fn an_agent_gets_tokens_bound_to_its_own_pods() {
    let (api, uid) = cluster().await;
    let path = format!("{ACCOUNTS}/default/token");
    let bound = |name: &str, uid: &str| {
        json!({"spec": {"audiences": [], "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}})
    };
    assert_eq!(code(&api, "a", Method::POST, &path, bound("p", &uid)).await.0, 201);
    let free = json!({"spec": {"audiences": []}});
    let (refusal, message) = code(&api, "a", Method::POST, &path, free).await;
    assert_eq!(refusal, 403);
    assert!(message.ends_with("node requested token not bound to a pod"), "{message}");
    let (refusal, message) = code(&api, "a", Method::POST, &path, bound("p", "")).await;
    assert_eq!(refusal, 403);
    assert!(message.ends_with("node requested token with a pod binding without a uid"), "{message}");
    let (refusal, message) = code(&api, "a", Method::POST, &path, bound("p", "other")).await;
    assert_eq!(refusal, 403);
    assert!(message.contains("does not match the UID in record"), "{message}");
    assert_eq!(code(&api, "b", Method::POST, &path, bound("p", &uid)).await.0, 403, "no pod of its own");
    let mut other = pod("q");
    other["spec"]["nodeName"] = "b".into();
    api.ok(Method::POST, PODS, other).await;
    let (refusal, message) = code(&api, "b", Method::POST, &path, bound("p", &uid)).await;
    assert_eq!(refusal, 403);
    assert!(
        message.ends_with("node requested token bound to a pod scheduled on a different node"),
        "{message}"
    );
}

#[tokio::test]
async fn an_agent_gets_tokens_for_the_audiences_that_its_pods_ask_for() {
    let (api, _) = cluster().await;
    let mut vaulted = pod("vaulted");
    vaulted["spec"]["nodeName"] = "a".into();
    vaulted["spec"]["automountServiceAccountToken"] = false.into();
    let token = json!({"serviceAccountToken": {"path": "t", "audience": "vault"}});
    vaulted["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [token]}}]);
    let made = api.ok(Method::POST, PODS, vaulted).await;
    let path = format!("{ACCOUNTS}/default/token");
    let ask = async |audiences: Value| {
        let bound =
            json!({"apiVersion": "v1", "kind": "Pod", "name": "vaulted", "uid": made["metadata"]["uid"]});
        let body = json!({"spec": {"audiences": audiences, "boundObjectRef": bound}});
        code(&api, "a", Method::POST, &path, body).await
    };
    let refused = |audience: &str| {
        let message = format!(
            "serviceaccounts \"default\" is forbidden: audience {audience:?} not found in pod spec volume, \
             system:node:a is not authorized to request tokens for this audience"
        );
        (403, message)
    };
    assert_eq!(ask(json!(["vault"])).await.0, 201);
    assert_eq!(ask(json!(["bank"])).await, refused("bank"));
    assert_eq!(ask(json!([])).await, refused(""), "it has none for the API server");
    let several =
        (403, "serviceaccounts \"default\" is forbidden: node may only request 0 or 1 audiences".to_owned());
    assert_eq!(ask(json!(["vault", "bank"])).await, several);

    // A role can name further ones.
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({
        "verbs": ["request-serviceaccounts-token-audience"], "apiGroups": [""], "resources": ["bank"],
        "resourceNames": ["default"],
    });
    let role = json!({"metadata": {"name": "bankers"}, "rules": [rule]});
    api.ok(Method::POST, &format!("{rbac}/clusterroles"), role).await;
    let binding = json!({
        "metadata": {"name": "bankers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bankers"},
        "subjects": [{"kind": "Group", "name": "system:nodes"}],
    });
    api.ok(Method::POST, &format!("{rbac}/clusterrolebindings"), binding).await;
    assert_eq!(ask(json!(["bank"])).await.0, 201);
}

#[tokio::test]
async fn an_agent_writes_its_own_node_and_pods() {
    let (api, _) = cluster().await;
    let node = |name: &str| json!({"metadata": {"name": name}, "status": {"phase": ""}});
    let status = |name: &str| format!("{NODES}/{name}/status");
    assert_eq!(code(&api, "a", Method::PUT, &status("a"), node("a")).await.0, 200);
    let (refusal, message) = code(&api, "a", Method::PUT, &status("b"), node("b")).await;
    assert_eq!(refusal, 403);
    assert_eq!(message, "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"");
    assert_eq!(code(&api, "a", Method::DELETE, &format!("{NODES}/a"), Value::Null).await.0, 403);

    let present = api.ok(Method::GET, &format!("{PODS}/p"), Value::Null).await;
    let path = format!("{PODS}/p/status");
    assert_eq!(code(&api, "a", Method::PUT, &path, present.clone()).await.0, 200);
    let (refusal, message) = code(&api, "b", Method::PUT, &path, present).await;
    assert_eq!(refusal, 403);
    assert!(
        message.contains("can only update pod status for pods with spec.nodeName set to itself"),
        "{message}"
    );
    let eviction = json!({"metadata": {"name": "p"}});
    let (refusal, message) = code(&api, "b", Method::POST, &format!("{PODS}/p/eviction"), eviction).await;
    assert_eq!(refusal, 403);
    assert!(message.ends_with("node b can only evict pods with spec.nodeName set to itself"), "{message}");
    let now = json!({"gracePeriodSeconds": 0});
    assert_eq!(code(&api, "b", Method::DELETE, &format!("{PODS}/p"), now.clone()).await.0, 403);
    assert_eq!(code(&api, "a", Method::DELETE, &format!("{PODS}/p"), now).await.0, 200);
    assert_eq!(code(&api, "a", Method::POST, PODS, pod("free")).await.0, 403);
}

#[tokio::test]
async fn an_agent_cant_label_itself_into_trust() {
    let api = Api::new().await;
    let node = |labels: Value| json!({"metadata": {"name": "c", "labels": labels}});
    assert_eq!(
        code(&api, "c", Method::POST, NODES, node(json!({"node-restriction.kubernetes.io/x": "y"}))).await,
        (
            403,
            "nodes \"c\" is forbidden: node \"c\" is not allowed to set the following labels: \
             node-restriction.kubernetes.io/x"
                .to_owned()
        )
    );
    assert_eq!(
        code(&api, "c", Method::POST, NODES, node(json!({"kubernetes.io/hostname": "c"}))).await.0,
        201
    );
    let mut present = api.ok(Method::GET, &format!("{NODES}/c"), Value::Null).await;
    present["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "".into();
    let (refusal, message) = code(&api, "c", Method::PUT, &format!("{NODES}/c"), present.clone()).await;
    assert_eq!(refusal, 403);
    assert!(
        message.ends_with("is not allowed to modify labels: node-role.kubernetes.io/control-plane"),
        "{message}"
    );
    let labels = present["metadata"]["labels"].as_object_mut().expect("labels");
    labels.remove("node-role.kubernetes.io/control-plane");
    present["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    let (refusal, message) = code(&api, "c", Method::PUT, &format!("{NODES}/c"), present).await;
    assert_eq!(refusal, 403);
    assert!(message.ends_with("node \"c\" is not allowed to modify taints"), "{message}");
}

#[tokio::test]
async fn who_bears_a_nodes_name_outside_of_their_group_is_nobody() {
    let (api, _) = cluster().await;
    let impostor = Identity::new("system:node:a", &[]);
    let (code, _) = api.call_as(&impostor, Method::GET, &format!("{SECRETS}/s"), Value::Null).await;
    assert_eq!(code, 403);
}

const MIRROR: &str = "kubernetes.io/config.mirror";

#[tokio::test]
async fn an_annotation_neither_keeps_nor_cuts_an_agents_access() {
    let (api, _) = cluster().await;
    let (one, path, secret) = (json!({MIRROR: "x"}), format!("{PODS}/p"), format!("{SECRETS}/s"));
    let refused = |what: &str| {
        format!("Pod \"p\" is invalid: metadata.annotations[{MIRROR}]: Forbidden: may not {what}")
    };
    for subresource in ["", "/status"] {
        let path = format!("{path}{subresource}");
        let mut pod = api.ok(Method::GET, &format!("{PODS}/p"), Value::Null).await;
        pod["metadata"]["annotations"] = one.clone();
        assert_eq!(
            api.refused(Method::PUT, &path, pod.clone(), 422).await,
            refused("add mirror pod annotation")
        );
        pod["metadata"]["annotations"] =
            json!({"container.apparmor.security.beta.kubernetes.io/c": "unconfined"});
        let message = api.refused(Method::PUT, &path, pod, 422).await;
        assert!(message.ends_with("Forbidden: may not add AppArmor annotations"), "{message}");
    }
    // A binding may write annotations, and this one neither.
    let mut free = pod("q");
    free["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    api.ok(Method::POST, PODS, free).await;
    let target = json!({"kind": "Node", "name": "b"});
    let binding = json!({"metadata": {"name": "q", "annotations": one}, "target": target});
    let message = api.refused(Method::POST, &format!("{PODS}/q/binding"), binding, 422).await;
    assert!(message.ends_with("Forbidden: may not add mirror pod annotation"), "{message}");
    let binding = json!({"metadata": {"name": "q", "annotations": {"x": "y"}}, "target": target});
    api.ok(Method::POST, &format!("{PODS}/q/binding"), binding).await;
    assert_eq!(code(&api, "b", Method::GET, &secret, Value::Null).await.0, 200);
    api.ok(Method::DELETE, &format!("{PODS}/q"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code(&api, "b", Method::GET, &secret, Value::Null).await.0, 403);
    assert_eq!(code(&api, "a", Method::GET, &secret, Value::Null).await.0, 200, "another pod's");
    api.ok(Method::DELETE, &path, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code(&api, "a", Method::GET, &secret, Value::Null).await.0, 403);
}

#[tokio::test]
async fn a_mirror_pod_needs_nothing_of_the_api() {
    let (api, _) = cluster().await;
    let mirror = |fields: Value| {
        let mut mirror = pod("m");
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        mirror["spec"]["nodeName"] = "a".into();
        for (field, value) in fields.as_object().into_iter().flatten() {
            mirror["spec"][field] = value.clone();
        }
        mirror
    };
    let token = json!({"serviceAccountToken": {"path": "t"}});
    let variable = json!({"name": "E", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}});
    let env = json!({"containers": [{"name": "c", "image": "i", "env": [variable]}]});
    for (fields, why) in [
        (json!({"serviceAccountName": "default"}), "reference service accounts"),
        (json!({"serviceAccount": "default"}), "reference service accounts"),
        (json!({"volumes": [{"name": "v", "secret": {"secretName": "t"}}]}), "reference secrets"),
        (json!({"imagePullSecrets": [{"name": "t"}]}), "reference secrets"),
        (env, "reference secrets"),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [token]}}]}),
            "use ServiceAccountToken volume projections",
        ),
    ] {
        assert_eq!(
            api.refused(Method::POST, PODS, mirror(fields), 403).await,
            format!("pods \"m\" is forbidden: a mirror pod may not {why}")
        );
    }
    assert_eq!(
        api.refused(Method::POST, PODS, mirror(json!({"nodeName": null})), 422).await,
        format!(
            "Pod \"m\" is invalid: metadata.annotations[{MIRROR}]: Invalid value: \"x\": must set spec.nodeName \
             if mirror pod annotation is set"
        )
    );
    // Nothing is added to what the node runs already.
    let made = api.ok(Method::POST, PODS, mirror(json!({}))).await;
    assert_eq!((&made["spec"]["serviceAccountName"], &made["spec"]["volumes"]), (&Value::Null, &Value::Null));
}
