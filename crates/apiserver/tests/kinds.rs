//! Every kind that discovery lists, with every verb that it lists: what one verb wrote the others show. A kind
//! that is served and has no row here fails.

mod api;

use std::collections::BTreeSet;

use api::{Api, next};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// Kinds that are asked a question and keep nothing; tests of their own show the answers.
const QUESTIONS: &[&str] = &[
    "bindings",
    "localsubjectaccessreviews.authorization.k8s.io",
    "nodes.explain.skiff.dev",
    "pods.explain.skiff.dev",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectreviews.authentication.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "subjectaccessreviews.authorization.k8s.io",
    "tokenreviews.authentication.k8s.io",
    "traces.explain.skiff.dev",
];

/// What every kind that keeps something has.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn request_for_a_certificate() -> String {
    use base64::Engine as _;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    base64::engine::general_purpose::STANDARD.encode(pem)
}

/// The least that each kind can be made of.
fn least(row: &str) -> Option<Value> {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let workload = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    Some(match row {
        "certificatesigningrequests.certificates.k8s.io" => json!({"spec": {
            "request": request_for_a_certificate(), "signerName": "example.com/own", "usages": ["client auth"]}}),
        "clusterrolebindings.rbac.authorization.k8s.io" | "rolebindings.rbac.authorization.k8s.io" => {
            json!({"roleRef": role, "subjects": [{"kind": "User", "name": "jane"}]})
        }
        "clusterroles.rbac.authorization.k8s.io" | "roles.rbac.authorization.k8s.io" => {
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
        }
        "configmaps" | "secrets" => json!({"data": {"a": "aGk="}}),
        "controllerrevisions.apps" => json!({"revision": 1, "data": {}}),
        "daemonsets.apps" | "deployments.apps" | "replicasets.apps" => workload,
        "endpoints" => json!({"subsets": [{"addresses": [{"ip": "10.244.1.1"}], "ports": [{"port": 80}]}]}),
        "endpointslices.discovery.k8s.io" => {
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.1"]}], "ports": [{"port": 80}]})
        }
        "events" => json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}),
        "events.events.k8s.io" => json!({
            "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "action": "A",
            "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.io/c",
            "reportingInstance": "i"}),
        "leases.coordination.k8s.io" => json!({"spec": {"holderIdentity": "me"}}),
        "namespaces" | "nodes" | "serviceaccounts" => json!({}),
        "networkpolicies.networking.k8s.io" => json!({"spec": {"podSelector": {}}}),
        "pods" => json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        "priorityclasses.scheduling.k8s.io" => json!({"value": 7}),
        "services" => json!({"spec": {"ports": [{"port": 80}]}}),
        _ => return None,
    })
}

struct Kind {
    row: String,
    kind: String,
    collection: String,
    everywhere: String,
    verbs: BTreeSet<String>,
    subresources: Vec<(String, BTreeSet<String>)>,
}

async fn kinds(api: &Api) -> Vec<Kind> {
    let mut bases = vec![(String::new(), "/api/v1".to_owned())];
    let groups = api.ok(Method::GET, "/apis", Value::Null).await;
    for version in groups["groups"].as_array().expect("groups").iter().flat_map(|group| {
        let name = group["name"].as_str().expect("a name").to_owned();
        let versions = group["versions"].as_array().cloned().unwrap_or_default();
        versions.into_iter().map(move |version| (name.clone(), version))
    }) {
        let path = version.1["groupVersion"].as_str().expect("a version");
        bases.push((format!(".{}", version.0), format!("/apis/{path}")));
    }
    let mut kinds = Vec::new();
    for (group, base) in bases {
        let list = api.ok(Method::GET, &base, Value::Null).await;
        let resources = list["resources"].as_array().expect("resources");
        let verbs = |resource: &Value| -> BTreeSet<String> {
            let verbs = resource["verbs"].as_array().expect("verbs").iter();
            verbs.map(|verb| verb.as_str().expect("a verb").to_owned()).collect()
        };
        for resource in resources {
            let name = resource["name"].as_str().expect("a name");
            if name.contains('/') {
                continue;
            }
            let below = resources.iter().filter_map(|other| {
                let part = other["name"].as_str()?.strip_prefix(&format!("{name}/"))?;
                Some((part.to_owned(), verbs(other)))
            });
            let namespace = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            kinds.push(Kind {
                row: format!("{name}{group}"),
                kind: resource["kind"].as_str().expect("a kind").to_owned(),
                collection: format!("{base}{namespace}/{name}"),
                everywhere: format!("{base}/{name}"),
                verbs: verbs(resource),
                subresources: below.collect(),
            });
        }
    }
    kinds
}

fn named(least: &Value, name: &str) -> Value {
    let mut object = least.clone();
    object["metadata"] = json!({"name": name, "labels": {"made": "here"}});
    object
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

/// Patches in each of the three ways, each of which sets a label.
async fn patch(api: &Api, path: &str, what: &str) -> Value {
    let mut last = Value::Null;
    for (kind, body) in [
        ("application/merge-patch+json", json!({"metadata": {"labels": {"merge": "y"}}})),
        ("application/strategic-merge-patch+json", json!({"metadata": {"labels": {"strategic": "y"}}})),
        (
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/labels/json", "value": "y"}]),
        ),
    ] {
        let mut request = api.request(Method::PATCH, path, &body);
        request.headers_mut().insert("content-type", kind.parse().expect("a header"));
        let response = api.send(request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        last = serde_json::from_slice(&bytes).unwrap_or_default();
        assert!(code.is_success(), "{what}: {kind}: {code} {last}");
    }
    last
}

async fn shown_as(api: &Api, path: &str, shape: &str) -> Value {
    let mut request = api.request(Method::GET, path, &Value::Null);
    let accept = format!("application/json;as={shape};v=v1;g=meta.k8s.io");
    request.headers_mut().insert("accept", accept.parse().expect("a header"));
    let bytes = api.send(request).await.into_body().collect().await.expect("a body").to_bytes();
    serde_json::from_slice(&bytes).expect("JSON")
}

async fn is_gone(api: &Api, path: &str, row: &str) {
    let (code, object) = api.call(Method::GET, path, Value::Null).await;
    // A namespace is there until a controller has emptied it.
    let ends = row == "namespaces" && object["status"]["phase"] == "Terminating";
    assert!(code.as_u16() == 404 || ends, "{path}: {code} {object}");
}

async fn goes_through_all(api: &Api, kind: &Kind, least: &Value) {
    let (row, one) = (kind.row.as_str(), format!("{}/one", kind.collection));
    let made = api.ok(Method::POST, &kind.collection, named(least, "one")).await;
    assert_eq!((&made["kind"], &made["metadata"]["name"]), (&json!(kind.kind), &json!("one")), "{row}");
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(made["metadata"][field].is_string(), "{row}: {field} of {made}");
    }
    assert_eq!(api.ok(Method::GET, &one, Value::Null).await, made, "{row}: what was made is what is read");
    // A name that the server draws.
    let mut unnamed = named(least, "");
    unnamed["metadata"] = json!({"generateName": "drawn-", "labels": {"made": "here"}});
    let drawn = api.ok(Method::POST, &kind.collection, unnamed.clone()).await;
    let other = api.ok(Method::POST, &kind.collection, unnamed).await;
    let name = drawn["metadata"]["name"].as_str().expect("a name").to_owned();
    let suffix = name.strip_prefix("drawn-").unwrap_or_default();
    assert!(suffix.len() == 5 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{row}: {name}");
    assert_ne!(other["metadata"]["name"], name.as_str(), "{row}");

    for path in [&kind.collection, &kind.everywhere] {
        let list = api.ok(Method::GET, &format!("{path}?labelSelector=made%3Dhere"), Value::Null).await;
        assert_eq!(list["kind"], format!("{}List", kind.kind), "{row}");
        let found = names(&list);
        assert!(
            found.len() == 3 && found.contains(&"one") && found.contains(&name.as_str()),
            "{row}: {found:?}"
        );
    }
    let version = other["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let watch = format!("{}?watch=1&resourceVersion={version}&labelSelector=made%3Dhere", kind.collection);
    let response = api.send(api.request(Method::GET, &watch, &Value::Null)).await;
    assert_eq!(response.status().as_u16(), 200, "{row}");
    let (mut events, mut rest) = (response.into_body(), Vec::new());

    let mut changed = api.ok(Method::GET, &one, Value::Null).await;
    changed["metadata"]["labels"]["put"] = "y".into();
    let put = api.ok(Method::PUT, &one, changed).await;
    assert_eq!(put["metadata"]["labels"]["put"], "y", "{row}");
    let event = next(&mut events, &mut rest).await;
    assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &put), "{row}");
    let patched = patch(api, &one, row).await;
    let all = json!({"made": "here", "put": "y", "merge": "y", "strategic": "y", "json": "y"});
    let mut labels = patched["metadata"]["labels"].clone();
    // A namespace bears its name as a label.
    labels.as_object_mut().expect("labels").remove("kubernetes.io/metadata.name");
    assert_eq!(labels, all, "{row}");

    for path in [one.clone(), kind.collection.clone()] {
        let table = shown_as(api, &path, "Table").await;
        let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
        let rows = table["rows"].as_array().cloned().unwrap_or_default();
        let own = rows.iter().find(|row| row["object"]["metadata"]["name"] == "one");
        let cells = own.and_then(|row| row["cells"].as_array()).map_or(0, Vec::len);
        assert!(columns > 0 && cells == columns, "{row}: {table}");
    }
    let metadata = shown_as(api, &one, "PartialObjectMetadata").await;
    assert_eq!(metadata["kind"], "PartialObjectMetadata", "{row}");
    assert!(metadata["metadata"]["uid"].is_string() && metadata["spec"].is_null(), "{row}: {metadata}");

    for (part, verbs) in &kind.subresources {
        if part != "status" && part != "scale" {
            continue;
        }
        let path = format!("{one}/{part}");
        assert_eq!(*verbs, ["get", "patch", "update"].map(String::from).into(), "{row}/{part}");
        let read = api.ok(Method::GET, &path, Value::Null).await;
        assert_eq!(read["metadata"]["name"], "one", "{row}/{part}");
        api.ok(Method::PUT, &path, read).await;
        let mut request = api.request(Method::PATCH, &path, &json!({"metadata": {}}));
        let merge = "application/merge-patch+json".parse().expect("a header");
        request.headers_mut().insert("content-type", merge);
        assert_eq!(api.told(request).await.0, 200, "{row}/{part}");
    }

    api.ok(Method::DELETE, &one, Value::Null).await;
    is_gone(api, &one, row).await;
    if kind.verbs.contains("deletecollection") {
        api.ok(Method::DELETE, &format!("{}?labelSelector=made%3Dhere", kind.collection), Value::Null).await;
        is_gone(api, &format!("{}/{name}", kind.collection), row).await;
    }
}

#[tokio::test]
async fn every_kind_goes_through_every_verb() {
    let api = Api::new().await;
    let mut seen = BTreeSet::new();
    for kind in kinds(&api).await {
        seen.insert(kind.row.clone());
        if QUESTIONS.contains(&kind.row.as_str()) {
            continue;
        }
        let least = least(&kind.row).unwrap_or_else(|| panic!("{} is served and has no row", kind.row));
        let lacking: Vec<&str> = VERBS.into_iter().filter(|verb| !kind.verbs.contains(*verb)).collect();
        // As upstream: not all namespaces at once.
        let expected: &[&str] = if kind.row == "namespaces" { &["deletecollection"] } else { &[] };
        assert_eq!(lacking, expected, "{}", kind.row);
        goes_through_all(&api, &kind, &least).await;
    }
    let gone: Vec<&&str> = QUESTIONS.iter().filter(|row| !seen.contains(**row)).collect();
    assert!(gone.is_empty() && seen.len() > 25, "{gone:?} of {seen:?}");
}
