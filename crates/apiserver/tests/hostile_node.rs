//! What an agent tries that was taken over: to be led to by others, to read and mint what is not its pods', and
//! to look like another node.

mod api;

use api::{Api, PODS, pod};
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::Identity;

const NODES: &str = "/api/v1/nodes";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Nodes `own` (10.244.1.0/24) and `other` (10.244.2.0/24), each with a pod of its name, which mounts the
/// secret of its name.
async fn cluster() -> Api {
    let api = Api::new().await;
    for (name, range) in [("own", "10.244.1.0/24"), ("other", "10.244.2.0/24")] {
        let node = json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        api.ok(Method::POST, NODES, node).await;
        api.ok(Method::POST, SECRETS, json!({"metadata": {"name": name}})).await;
        api.ok(Method::POST, ACCOUNTS, json!({"metadata": {"name": name}})).await;
        let mut bound = pod(name);
        bound["spec"]["nodeName"] = name.into();
        bound["spec"]["serviceAccountName"] = name.into();
        bound["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": name}}]);
        api.ok(Method::POST, PODS, bound).await;
    }
    api
}

/// As the agent of `own`: the answer's code and message.
async fn ask(api: &Api, method: Method, path: &str, body: Value) -> (u16, String) {
    let agent = Identity::new("system:node:own", &["system:nodes"]);
    let (code, answer) = api.call_as(&agent, method, path, body).await;
    (code.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
}

async fn present(api: &Api, path: &str) -> Value {
    api.ok(Method::GET, path, Value::Null).await
}

/// As a merge patch.
async fn patch(api: &Api, path: &str, body: Value) -> (u16, String) {
    let mut request = api.request(Method::PATCH, path, &body);
    request.extensions_mut().insert(Identity::new("system:node:own", &["system:nodes"]));
    request.headers_mut().insert("content-type", "application/merge-patch+json".parse().expect("a type"));
    api.told(request).await
}

#[tokio::test]
async fn nobody_is_led_to_an_address_that_is_not_its_pods() {
    let api = cluster().await;
    let status = format!("{PODS}/own/status");
    let told = |ip: &str| json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    for ip in ["10.244.2.7", "10.96.0.1", "192.0.2.1"] {
        let expected = format!(
            "pods \"own\" is forbidden: node \"own\" can only report pod addresses of its own range, not {ip}"
        );
        assert_eq!(patch(&api, &status, told(ip)).await, (403, expected));
    }
    assert_eq!(patch(&api, &status, told("10.244.1.7")).await.0, 200);
    assert_eq!(present(&api, &format!("{PODS}/own")).await["status"]["podIP"], "10.244.1.7");
    // An administrator may say what they like, and is led to no loopback by it all the same.
    for ip in ["127.0.0.1", "169.254.169.254"] {
        let mut pod = present(&api, &format!("{PODS}/own")).await;
        pod["status"]["podIP"] = ip.into();
        pod["status"]["podIPs"] = json!([{"ip": ip}]);
        api.ok(Method::PUT, &status, pod).await;
        let refused = api.refused(Method::GET, &format!("{PODS}/own:80/proxy/"), Value::Null, 400).await;
        assert_eq!(refused, "address not allowed", "{ip}");
    }
    let mut pod = present(&api, &format!("{PODS}/own")).await;
    pod["status"]["podIPs"] = json!([{"ip": "::ffff:127.0.0.1"}]);
    let refused = api.refused(Method::PUT, &status, pod, 422).await;
    assert!(refused.ends_with("must not be an IPv4-mapped IPv6 address"), "{refused}");
}

#[tokio::test]
async fn an_agent_reaches_no_pod_and_no_node_through_the_server() {
    let api = cluster().await;
    for name in ["own", "other"] {
        for path in [
            format!("{PODS}/{name}/proxy/"),
            format!("{PODS}/{name}:80/proxy/x"),
            format!("{PODS}/{name}/log"),
            format!("{PODS}/{name}/exec?command=sh&stdout=1"),
            format!("{PODS}/{name}/attach?stdout=1"),
            format!("{PODS}/{name}/portforward?ports=80"),
            format!("{NODES}/{name}/proxy/pods"),
            format!("{NODES}/{name}:10250/proxy/"),
            "/api/v1/namespaces/default/services/kubernetes/proxy/".to_owned(),
            format!("/apis/explain.skiff.dev/v1/nodes/{name}"),
            format!("/apis/explain.skiff.dev/v1/namespaces/default/pods/{name}"),
            format!("/apis/explain.skiff.dev/v1/namespaces/default/pods/{name}/start"),
            format!("/apis/explain.skiff.dev/v1/namespaces/default/pods/{name}/pending"),
            "/apis/explain.skiff.dev/v1/pods".to_owned(),
            "/apis/explain.skiff.dev/v1/namespaces/default/traces?from=own&to=other".to_owned(),
            "/skiff/v1/certificates".to_owned(),
            "/skiff/v1/anything".to_owned(),
            "/metrics".to_owned(),
        ] {
            assert_eq!(ask(&api, Method::GET, &path, Value::Null).await.0, 403, "{path}");
            assert_eq!(ask(&api, Method::POST, &path, Value::Null).await.0, 403, "POST {path}");
        }
    }
    assert_eq!(ask(&api, Method::POST, "/skiff/v1/cluster", Value::Null).await.0, 403);
}

#[tokio::test]
async fn no_pod_becomes_a_mirror_and_none_is_relabelled() {
    let api = cluster().await;
    let mirror = json!({"kubernetes.io/config.mirror": "x"});
    let annotated = json!({"metadata": {"annotations": mirror}});
    let (code, message) = patch(&api, &format!("{PODS}/own/status"), annotated.clone()).await;
    let key = "metadata.annotations[kubernetes.io/config.mirror]";
    assert_eq!(code, 422);
    assert_eq!(
        message,
        format!("Pod \"own\" is invalid: {key}: Forbidden: may not add mirror pod annotation")
    );
    assert_eq!(patch(&api, &format!("{PODS}/other/status"), annotated.clone()).await.0, 403);
    assert_eq!(
        patch(&api, &format!("{PODS}/own"), annotated).await.0,
        403,
        "the pod itself is not the agent's"
    );

    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    for (pod, why) in [
        ("own", "node \"own\" cannot update labels through pod status"),
        ("other", "node \"own\" can only update pod status for pods with spec.nodeName set to itself"),
    ] {
        let expected = format!("pods {pod:?} is forbidden: {why}");
        assert_eq!(patch(&api, &format!("{PODS}/{pod}/status"), labelled.clone()).await, (403, expected));
        assert_eq!(patch(&api, &format!("{PODS}/{pod}"), labelled.clone()).await.0, 403);
    }
    // What else is in it is not the status, and stays.
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "own",
        "uid": "u"}], "finalizers": ["example.com/x"]}, "spec": {"nodeName": "other", "hostNetwork": true}});
    let before = present(&api, &format!("{PODS}/own")).await;
    patch(&api, &format!("{PODS}/own/status"), owned).await;
    let after = present(&api, &format!("{PODS}/own")).await;
    assert_eq!((&before["spec"], &before["metadata"]["uid"]), (&after["spec"], &after["metadata"]["uid"]));
    for field in ["ownerReferences", "finalizers"] {
        assert_eq!(after["metadata"][field], Value::Null, "{field}");
    }
    // Binding is the scheduler's.
    api.ok(Method::POST, PODS, pod("free")).await;
    let binding = json!({"metadata": {"name": "free"}, "target": {"kind": "Node", "name": "own"}});
    assert_eq!(ask(&api, Method::POST, &format!("{PODS}/free/binding"), binding).await.0, 403);
}

#[tokio::test]
async fn a_node_stays_what_others_made_it() {
    let api = cluster().await;
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "own", "uid": "u"}]);
    for (change, why) in [
        (
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            "is not allowed to modify labels: node-role.kubernetes.io/control-plane",
        ),
        (
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}),
            "is not allowed to modify labels: node-restriction.kubernetes.io/x",
        ),
        (
            json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
            "node \"own\" is not allowed to modify taints",
        ),
        (
            json!({"metadata": {"ownerReferences": owner}}),
            "node \"own\" is not allowed to modify ownerReferences",
        ),
        (
            json!({"spec": {"podCIDR": "10.96.0.0/16"}}),
            "node \"own\" is not allowed to take the pod range 10.96.0.0/16, which is not of 10.244.0.0/16",
        ),
    ] {
        let expected = format!("nodes \"own\" is forbidden: {why}");
        assert_eq!(patch(&api, &format!("{NODES}/own"), change.clone()).await, (403, expected), "{change}");
        let other = "nodes \"other\" is forbidden: node \"own\" is not allowed to modify node \"other\"";
        for path in ["other", "other/status"] {
            assert_eq!(
                patch(&api, &format!("{NODES}/{path}"), change.clone()).await,
                (403, other.to_owned())
            );
        }
        // Labels may come with the status, and what is refused of them is refused there.
        let code = if change["metadata"]["labels"].is_object() { 403 } else { 200 };
        assert_eq!(patch(&api, &format!("{NODES}/own/status"), change.clone()).await.0, code, "{change}");
    }
    let node = present(&api, &format!("{NODES}/own")).await;
    assert_eq!(node["spec"], json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}));
    assert_eq!(
        (&node["metadata"]["labels"], &node["metadata"]["ownerReferences"]),
        (&Value::Null, &Value::Null)
    );
    // Nor another part of the cluster's, by the one field or both.
    let (code, message) =
        patch(&api, &format!("{NODES}/own"), json!({"spec": {"podCIDR": "10.244.9.0/24"}})).await;
    assert_eq!(code, 400);
    assert!(message.ends_with("conversion Error: v1.PodCIDR and v1.CIDRs[0] do not match"), "{message}");
    let both = json!({"spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}});
    let (code, message) = patch(&api, &format!("{NODES}/own"), both).await;
    assert_eq!(code, 422);
    assert!(message.contains("node updates may not change podCIDR except from \"\" to valid"), "{message}");
    assert_eq!(ask(&api, Method::DELETE, &format!("{NODES}/own"), Value::Null).await.0, 403);
    assert_eq!(ask(&api, Method::POST, NODES, json!({"metadata": {"name": "third"}})).await.0, 403);
    let lease = |name: &str| json!({"metadata": {"name": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(ask(&api, Method::POST, leases, lease("other")).await.0, 403);
}

#[tokio::test]
async fn a_node_takes_no_address_of_others() {
    let api = cluster().await;
    let at = |ips: &[&str]| {
        let internal = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
        let hostname = json!({"type": "Hostname", "address": "own"});
        json!({"status": {"addresses": internal.chain([hostname]).collect::<Vec<_>>()}})
    };
    let other = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.3"}]}});
    let mut node = present(&api, &format!("{NODES}/other")).await;
    node["status"] = other["status"].clone();
    api.ok(Method::PUT, &format!("{NODES}/other/status"), node).await;
    let status = format!("{NODES}/own/status");
    assert_eq!(patch(&api, &status, at(&["10.0.0.2"])).await.0, 200);
    for (ip, why) in [
        ("10.244.2.7", "it is of the pods' range 10.244.0.0/16"),
        ("10.244.1.1", "it is of the pods' range 10.244.0.0/16"),
        ("10.96.0.1", "it is of the services' range 10.96.0.0/16"),
        ("192.0.2.1", "it is the API server's"),
        ("10.0.0.3", "it is node \"other\"'s"),
        ("127.0.0.1", "it is another place on each node"),
        ("api.example", "it is no IP address"),
    ] {
        let expected = |index: usize| {
            let field = format!("status.addresses[{index}].address");
            (
                403,
                format!(
                    "nodes \"own\" is forbidden: node \"own\" is not allowed to set {field} to {ip:?}: {why}"
                ),
            )
        };
        assert_eq!(patch(&api, &status, at(&[ip])).await, expected(0));
        assert_eq!(patch(&api, &status, at(&["10.0.0.2", ip])).await, expected(1));
        // Nor by the node itself, which has no say in its status, or by making it anew.
        let whole = patch(&api, &format!("{NODES}/own"), at(&[ip])).await;
        assert!(whole == expected(0) || whole.0 == 200, "{whole:?}");
    }
    let told = async || present(&api, &format!("{NODES}/own")).await["status"]["addresses"].clone();
    assert_eq!(told().await, at(&["10.0.0.2"])["status"]["addresses"]);
    // It may move, and have the address that another has given up.
    assert_eq!(patch(&api, &status, at(&["10.0.0.9"])).await.0, 200);
    api.ok(Method::DELETE, &format!("{NODES}/other"), Value::Null).await;
    assert_eq!(patch(&api, &status, at(&["10.0.0.3"])).await.0, 200);
    assert_eq!(told().await, at(&["10.0.0.3"])["status"]["addresses"]);
    // Others than agents write what they like, as they might have before.
    let mut node = present(&api, &format!("{NODES}/own")).await;
    node["status"]["addresses"] = at(&["10.96.0.1"])["status"]["addresses"].clone();
    api.ok(Method::PUT, &status, node).await;
    assert_eq!(patch(&api, &status, at(&["10.96.0.1"])).await.0, 200, "what stands already");
}

#[tokio::test]
async fn tokens_are_minted_for_own_pods_and_their_accounts_alone() {
    let api = cluster().await;
    let uid = async |path: String| present(&api, &path).await["metadata"]["uid"].clone();
    let (own, other) = (uid(format!("{PODS}/own")).await, uid(format!("{PODS}/other")).await);
    let node = uid(format!("{NODES}/own")).await;
    let secret = uid(format!("{SECRETS}/own")).await;
    let bound = |kind: &str, name: &str, uid: &Value| {
        json!({"spec": {"audiences": [], "boundObjectRef":
            {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}})
    };
    let mint = async |account: &str, body: Value| {
        ask(&api, Method::POST, &format!("{ACCOUNTS}/{account}/token"), body).await
    };
    assert_eq!(mint("own", bound("Pod", "own", &own)).await.0, 201);
    let unrelated = "no relationship found between node 'own' and this object";
    for body in [bound("Pod", "other", &other), bound("Pod", "own", &own), json!({"spec": {"audiences": []}})]
    {
        let (code, message) = mint("other", body).await;
        assert_eq!(code, 403);
        assert!(message.ends_with(unrelated), "{message}");
    }
    let elsewhere = "node requested token bound to a pod scheduled on a different node";
    let unbound = "node requested token not bound to a pod";
    for (body, why) in [
        (bound("Pod", "other", &other), elsewhere),
        (bound("Node", "own", &node), unbound),
        (bound("Secret", "own", &secret), unbound),
        (json!({"spec": {"audiences": []}}), unbound),
    ] {
        assert_eq!(mint("own", body).await, (403, format!("serviceaccounts \"own\" is forbidden: {why}")));
    }
    // A pod of its own that has another account: the account is known to the node, the token is not the pod's.
    let mut second = pod("second");
    second["spec"]["nodeName"] = "own".into();
    let second = api.ok(Method::POST, PODS, second).await;
    let foreign =
        "cannot bind token for serviceaccount \"own\" to pod running with different serviceaccount name.";
    assert_eq!(
        mint("own", bound("Pod", "second", &second["metadata"]["uid"])).await,
        (400, foreign.to_owned())
    );
    for (secret, code) in [("own", 200), ("other", 403)] {
        assert_eq!(ask(&api, Method::GET, &format!("{SECRETS}/{secret}"), Value::Null).await.0, code);
    }
}

#[tokio::test]
async fn a_member_of_the_nodes_without_a_name_writes_nothing() {
    let api = cluster().await;
    let nameless = Identity::new("system:node:", &["system:nodes", "system:masters"]);
    let pod = present(&api, &format!("{PODS}/own")).await;
    for (path, body) in
        [(format!("{PODS}/own/status"), pod), (format!("{NODES}/own"), json!({"metadata": {"name": "own"}}))]
    {
        let (code, answer) = api.call_as(&nameless, Method::PUT, &path, body).await;
        assert_eq!(code, 403, "{path}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.ends_with("could not determine node from user \"system:node:\""), "{message}");
    }
}
