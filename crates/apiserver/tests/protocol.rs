//! What clients rely on beyond the objects: shapes, options, and refusals in the right words.

mod api;

use api::{Api, MAPS, PODS, next, pod};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_apiserver::Config;

async fn accepting(api: &Api, path: &str, accept: &str) -> (StatusCode, String, Value) {
    let mut request = api.request(Method::GET, path, &Value::Null);
    request.headers_mut().insert("accept", accept.parse().expect("a header"));
    let response = api.send(request).await;
    let code = response.status();
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    (code, kind, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The maps by their old path of watches.
const OLD_MAPS: &str = "/api/v1/watch/namespaces/default/configmaps";

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn tables_and_metadata_are_had_by_asking() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("p")).await;
    let (_, _, table) = accepting(&api, PODS, TABLE).await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(table["rows"][0]["cells"][2], "Pending");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (_, _, table) = accepting(&api, &format!("{PODS}/p?includeObject=Object"), TABLE).await;
    assert_eq!(table["rows"][0]["object"]["kind"], "Pod");
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, _, list) = accepting(&api, PODS, metadata).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["spec"], Value::Null);
    let (code, _, status) = accepting(&api, PODS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!((code.as_u16(), status["reason"].as_str()), (406, Some("NotAcceptable")));
}

#[tokio::test]
async fn discovery_comes_in_both_forms() {
    let api = Api::new().await;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, kind, groups) = accepting(&api, "/apis", v2).await;
    assert_eq!(kind, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    assert_eq!(groups["items"][0]["metadata"]["name"], "apps");
    let (_, kind, groups) = accepting(&api, "/apis", "application/json").await;
    assert_eq!((kind.as_str(), groups["kind"].as_str()), ("application/json", Some("APIGroupList")));
    let core = api.ok(Method::GET, "/api/v1", Value::Null).await;
    let names: Vec<&str> =
        core["resources"].as_array().expect("a list").iter().filter_map(|r| r["name"].as_str()).collect();
    for name in ["bindings", "pods", "pods/exec", "pods/eviction", "namespaces/finalize", "nodes/proxy"] {
        assert!(names.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn of_priority_classes_one_is_the_default() {
    let api = Api::new().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class =
        |name: &str, default: bool| json!({"metadata": {"name": name}, "value": 1, "globalDefault": default});
    api.ok(Method::POST, path, class("a", true)).await;
    api.ok(Method::POST, path, class("b", false)).await;
    assert_eq!(
        api.refused(Method::POST, path, class("c", true), 403).await,
        "priorityclasses.scheduling.k8s.io \"c\" is forbidden: PriorityClass a is already marked as default. Only \
         one default can exist"
    );
    let mut own = api.ok(Method::GET, &format!("{path}/a"), Value::Null).await;
    own["description"] = "still the default".into();
    api.ok(Method::PUT, &format!("{path}/a"), own).await;
}

#[tokio::test]
async fn what_is_wrong_is_told_before_that_its_name_is_taken() {
    let api = Api::new().await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}})).await;
    let wrong = json!({"metadata": {"name": "m"}, "data": {"bad key!": "x"}});
    let refusal = api.refused(Method::POST, MAPS, wrong, 422).await;
    assert!(refusal.starts_with("ConfigMap \"m\" is invalid: data[bad key!]: Invalid value"), "{refusal}");
    api.refused(Method::POST, MAPS, json!({"metadata": {"name": "m"}}), 409).await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let api = Api::new().await;
    api.ok(Method::POST, &format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "m"}})).await;
    api.refused(Method::GET, &format!("{MAPS}/m"), Value::Null, 404).await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}})).await;
    api.ok(Method::DELETE, &format!("{MAPS}/m?dryRun=All"), Value::Null).await;
    api.ok(Method::GET, &format!("{MAPS}/m"), Value::Null).await;
    let wrong = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["all"]});
    assert_eq!(
        api.refused(Method::DELETE, &format!("{MAPS}/m"), wrong.clone(), 422).await,
        "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"all\": supported values: \"All\""
    );
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "deleteOptions": wrong});
    api.refused(Method::POST, "/api/v1/namespaces/default/pods/none/eviction", eviction, 422).await;
    api.ok(Method::GET, &format!("{MAPS}/m"), Value::Null).await;
    api.refused(Method::POST, &format!("{MAPS}?dryRun=Some"), json!({"metadata": {"name": "n"}}), 400).await;
}

#[tokio::test]
async fn an_evicted_pod_says_why_it_goes() {
    let api = Api::new().await;
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}});
    let made = api.ok(Method::POST, PODS, pod).await;
    let eviction = |options: Value| json!({"metadata": {"name": "p"}, "deleteOptions": options});
    let evict = format!("{PODS}/p/eviction");
    let condition = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let own = all.into_iter().find(|one| one["type"] == "DisruptionTarget");
        own.map(|own| format!("{} {} {}", own["status"], own["reason"], own["message"]))
    };
    api.ok(Method::POST, &evict, eviction(json!({"dryRun": ["All"]}))).await;
    let other = json!({"preconditions": {"resourceVersion": "1"}});
    api.refused(Method::POST, &evict, eviction(other), 409).await;
    assert_eq!(condition(&api.ok(Method::GET, &format!("{PODS}/p"), Value::Null).await), None);
    let this = json!({"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}});
    api.ok(Method::POST, &evict, eviction(this)).await;
    let going = api.ok(Method::GET, &format!("{PODS}/p"), Value::Null).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let told = "\"True\" \"EvictionByEvictionAPI\" \"Eviction API: evicting\"";
    assert_eq!(condition(&going).as_deref(), Some(told));
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let api = Api::new().await;
    let map = |name: &str| json!({"metadata": {"name": name}, "dota": {}});
    let refusal = api.refused(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), map("a"), 400).await;
    assert_eq!(
        refusal,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \
         \"dota\""
    );
    let warned = api.send(api.request(Method::POST, MAPS, &map("b"))).await;
    assert_eq!(warned.status(), StatusCode::CREATED);
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"dota\\\"\"");
    let silent =
        api.send(api.request(Method::POST, &format!("{MAPS}?fieldValidation=Ignore"), &map("c"))).await;
    assert_eq!(silent.status(), StatusCode::CREATED);
    assert!(silent.headers().get("warning").is_none());
}

#[tokio::test]
async fn refusals_have_upstreams_words() {
    let api = Api::new().await;
    let made = api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}})).await;
    let check = async |method: Method, path: &str, body: Value, code: u16, message: &str| {
        let text = api.refused(method.clone(), path, body, code).await;
        assert_eq!(text, message, "{method} {path}");
    };
    let m = format!("{MAPS}/m");
    check(Method::POST, MAPS, json!({"metadata": {"name": "m"}}), 409, "configmaps \"m\" already exists")
        .await;
    check(
        Method::POST,
        MAPS,
        json!({"metadata": {}}),
        422,
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    )
    .await;
    check(
        Method::POST,
        MAPS,
        json!({"metadata": {"name": "m2", "namespace": "other"}}),
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    .await;
    check(
        Method::PUT,
        &m,
        json!({"metadata": {"name": "other"}}),
        400,
        "the name of the object (other) does not match the name on the URL (m)",
    )
    .await;
    check(
        Method::DELETE,
        &m,
        json!({"preconditions": {"uid": "x"}}),
        409,
        &format!(
            "Operation cannot be fulfilled on configmaps \"m\": Precondition failed: UID in precondition: x, \
             UID in object meta: {}",
            made["metadata"]["uid"].as_str().expect("a uid")
        ),
    )
    .await;
    check(
        Method::GET,
        &format!("{MAPS}?fieldSelector=data%3Dx"),
        Value::Null,
        400,
        "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    )
    .await;
    check(
        Method::GET,
        &format!("{PODS}?fieldSelector=spec.image%3Dx"),
        Value::Null,
        400,
        "field label not supported: spec.image",
    )
    .await;
    check(
        Method::DELETE,
        "/api/v1/namespaces",
        Value::Null,
        405,
        "the server does not allow this method on the requested resource",
    )
    .await;
    let large = "x".repeat(3 * 1024 * 1024);
    let text =
        api.refused(Method::POST, MAPS, json!({"metadata": {"name": "l"}, "data": {"a": large}}), 413).await;
    assert!(text.starts_with("Request entity too large"), "{text}");
    let (code, page) = api.call(Method::GET, &format!("{MAPS}?continue=nonsense"), Value::Null).await;
    assert_eq!((code.as_u16(), page["reason"].as_str()), (400, Some("BadRequest")));
}

#[tokio::test(start_paused = true)]
async fn a_version_from_the_future_is_waited_for_then_refused() {
    let api = Api::new().await;
    let (code, status) = api.call(Method::GET, &format!("{MAPS}?resourceVersion=1000000"), Value::Null).await;
    assert_eq!(code.as_u16(), 504);
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_ends_with_410() {
    let api = Api::new().await;
    // The server's first revision came before its caches were filled.
    let response = api
        .send(api.request(
            Method::GET,
            &format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1"),
            &Value::Null,
        ))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let later = Api::restarted(&api).await;
    let response = later
        .send(later.request(Method::GET, &format!("{MAPS}?watch=1&resourceVersion=1"), &Value::Null))
        .await;
    let (mut body, mut rest) = (response.into_body(), Vec::new());
    let event = next(&mut body, &mut rest).await;
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_i64()), (Some("ERROR"), Some(410)));
}

#[tokio::test]
async fn patches_of_each_kind_apply_and_server_side_apply_is_refused() {
    let api = Api::new().await;
    api.ok(Method::POST, PODS, pod("p")).await;
    let patch = async |kind: &str, body: Value| {
        let mut request = api.request(Method::PATCH, &format!("{PODS}/p"), &body);
        request.headers_mut().insert("content-type", kind.parse().expect("a header"));
        let response = api.send(request).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice::<Value>(&bytes).expect("JSON"))
    };
    let strategic = "application/strategic-merge-patch+json";
    let containers = json!({"spec": {"containers": [{"name": "c", "image": "new"}]}});
    let (code, made) = patch(strategic, containers).await;
    assert_eq!((code, made["spec"]["containers"][0]["image"].as_str()), (200, Some("new")));
    let (_, made) = patch("application/merge-patch+json", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(made["metadata"]["labels"]["a"], "b");
    let remove = json!([{"op": "remove", "path": "/metadata/labels/a"}]);
    let (_, made) = patch("application/json-patch+json", remove.clone()).await;
    assert_eq!(made["metadata"]["labels"], Value::Null);
    assert_eq!(patch("application/json-patch+json", remove).await.0, 422);
    let (code, status) = patch("application/apply-patch+yaml", json!({})).await;
    assert_eq!((code, status["reason"].as_str()), (415, Some("UnsupportedMediaType")));
}

#[tokio::test]
async fn both_groups_show_one_event() {
    let api = Api::new().await;
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "note": "text", "type": "Normal", "action": "Starting",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "kubelet",
        "reportingInstance": "n",
    });
    api.ok(Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let core = api.ok(Method::GET, "/api/v1/namespaces/default/events/e", Value::Null).await;
    assert_eq!(core["message"], "text");
    assert_eq!(core["involvedObject"]["name"], "p");
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp%2Csource%3Dkubelet";
    assert_eq!(api.ok(Method::GET, path, Value::Null).await["items"].as_array().map(Vec::len), Some(1));
    let newer = api.ok(Method::GET, "/apis/events.k8s.io/v1/events", Value::Null).await;
    assert_eq!(newer["items"][0]["note"], "text");
}

#[tokio::test]
async fn finalizers_and_collections() {
    let api = Api::new().await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/x"]}});
    api.ok(Method::POST, MAPS, held).await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "free"}})).await;
    let deleted = api.ok(Method::DELETE, MAPS, Value::Null).await;
    assert_eq!(deleted["kind"], "ConfigMapList");
    api.refused(Method::GET, &format!("{MAPS}/free"), Value::Null, 404).await;
    let mut held = api.ok(Method::GET, &format!("{MAPS}/held"), Value::Null).await;
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    held["metadata"]["finalizers"] = json!([]);
    api.ok(Method::PUT, &format!("{MAPS}/held"), held).await;
    api.refused(Method::GET, &format!("{MAPS}/held"), Value::Null, 404).await;
}

#[tokio::test]
async fn two_nodes_with_one_pod_range_are_refused_by_name() {
    let api = Api::new().await;
    let node = |name: &str, range: &str| json!({"metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
    api.ok(Method::POST, "/api/v1/nodes", node("a", "10.244.1.0/24")).await;
    let refusal = api.refused(Method::POST, "/api/v1/nodes", node("b", "10.244.1.0/24"), 422).await;
    assert!(
        refusal.contains("10.244.1.0/24") && refusal.contains("\"a\"") && refusal.contains("\"b\""),
        "{refusal}"
    );
    api.ok(Method::POST, "/api/v1/nodes", node("b", "10.244.2.0/24")).await;
}

#[tokio::test]
async fn scales_are_views_of_their_workload() {
    let api = Api::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    api.ok(Method::POST, deployments, deployment).await;
    let scale = api.ok(Method::GET, &format!("{deployments}/d/scale"), Value::Null).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("a=b")));
    let mut asked = api.request(Method::GET, &format!("{deployments}/d/scale"), &Value::Null);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    asked.headers_mut().insert("accept", accept.parse().expect("a type"));
    let body = api.send(asked).await.into_body().collect().await.expect("a body").to_bytes();
    let table: Value = serde_json::from_slice(&body).expect("JSON");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!((&table["kind"], columns), (&json!("Table"), vec!["Name", "Desired", "Available", "Age"]));
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("d"), &json!(2), &json!(0)));
    let wanted = json!({"metadata": {"name": "d"}, "spec": {"replicas": 5}});
    api.ok(Method::PUT, &format!("{deployments}/d/scale"), wanted).await;
    let deployment = api.ok(Method::GET, &format!("{deployments}/d"), Value::Null).await;
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
}

#[tokio::test]
async fn a_forged_token_leads_to_nothing_beside_the_list() {
    let api = Api::new().await;
    api.ok(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    for namespace in ["default", "other"] {
        for kind in ["configmaps", "secrets"] {
            let path = format!("/api/v1/namespaces/{namespace}/{kind}");
            api.ok(Method::POST, &path, json!({"metadata": {"name": format!("{namespace}-{kind}")}})).await;
        }
    }
    let listed = async |path: &str, start: &str| {
        let token = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": start}).to_string();
        let path = format!("{path}?continue={}", URL_SAFE_NO_PAD.encode(token));
        let (code, list) = api.call(Method::GET, &path, Value::Null).await;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let names = items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned());
        (code.as_u16(), names.collect::<Vec<_>>(), list["message"].as_str().unwrap_or_default().to_owned())
    };
    for start in
        ["../../secrets/default/", "../other/", "a/../../other/x", "..", "/../secrets", "default//x", "x/"]
    {
        for path in [MAPS, "/api/v1/configmaps"] {
            let refused = format!("invalid continue token: continue key is not valid: {start}");
            assert_eq!(listed(path, start).await, (400, vec![], refused), "{path}");
        }
    }
    // What is no way out is a place in the list itself, wherever it would lie in another.
    for (start, expected) in [
        ("/", &["default-configmaps"][..]),
        ("\0", &["default-configmaps"]),
        ("default-configmaps", &["default-configmaps"]),
        ("default-configmaps\0", &[]),
        ("default/default-configmaps", &[]),
        ("other/other-configmaps", &[]),
        ("secrets/default/default-secrets", &[]),
        ("zzz", &[]),
    ] {
        assert_eq!(
            listed(MAPS, start).await,
            (200, expected.iter().map(ToString::to_string).collect(), String::new())
        );
    }
    let all = ["default-configmaps", "other-configmaps"].map(String::from);
    assert_eq!(listed("/api/v1/configmaps", "a").await.1, all);
    assert_eq!(listed("/api/v1/configmaps", "default/default-configmaps\0").await.1, all[1..]);
}

#[tokio::test]
async fn one_object_is_got_whatever_the_query_says_of_watching() {
    let api = Api::new().await;
    api.ok(Method::POST, MAPS, json!({"metadata": {"name": "m"}})).await;
    for query in ["watch=true", "watch=maybe", "watch"] {
        let object = api.ok(Method::GET, &format!("{MAPS}/m?{query}"), Value::Null).await;
        assert_eq!((&object["kind"], &object["metadata"]["name"]), (&"ConfigMap".into(), &"m".into()));
    }
    let list = api.ok(Method::GET, &format!("{MAPS}?watch=0"), Value::Null).await;
    assert_eq!(list["kind"], "ConfigMapList");
    // Whose time was over before it began has an end.
    for path in [format!("{MAPS}?watch=maybe&timeoutSeconds=-5"), format!("{OLD_MAPS}/m?timeoutSeconds=-5")] {
        let response = api.send(api.request(Method::GET, &path, &Value::Null)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let events = response.into_body().collect().await.expect("an end").to_bytes();
        let first = events.split(|byte| *byte == b'\n').next().expect("a line");
        let event: Value = serde_json::from_slice(first).expect("an event");
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&"ADDED".into(), &"m".into()));
    }
    assert_eq!(
        api.refused(Method::GET, &format!("{MAPS}?watch=1&timeoutSeconds=5s"), Value::Null, 400).await,
        "strconv.ParseInt: parsing \"5s\": invalid syntax"
    );
}

#[tokio::test]
async fn what_can_not_be_is_not_taken_as_a_status() {
    let api = Api::new().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    for (kind, plural) in [("Deployment", "deployments"), ("ReplicaSet", "replicasets")] {
        let path = format!("/apis/apps/v1/namespaces/default/{plural}");
        api.ok(Method::POST, &path, json!({"metadata": {"name": "w"}, "spec": spec})).await;
        let status = format!("{path}/w/status");
        let mut object = api.ok(Method::GET, &format!("{path}/w"), Value::Null).await;
        object["status"] = json!({"replicas": 1, "readyReplicas": 2});
        assert_eq!(
            api.refused(Method::PUT, &status, object.clone(), 422).await,
            format!(
                "{kind}.apps \"w\" is invalid: status.readyReplicas: Invalid value: 2: cannot be greater than \
                 status.replicas"
            )
        );
        object["status"] = json!({"replicas": -2});
        let refusal = api.refused(Method::PUT, &status, object.clone(), 422).await;
        let negative = "status.replicas: Invalid value: -2: must be greater than or equal to 0";
        assert!(refusal.contains(negative), "{refusal}");
        object["status"] = json!({"replicas": 2, "readyReplicas": 1});
        assert_eq!(api.ok(Method::PUT, &status, object).await["status"]["readyReplicas"], 1);
    }

    let mut made = api.ok(Method::POST, PODS, pod("p")).await;
    let status = format!("{PODS}/p/status");
    // Who writes a status may leave the class out, and not change it.
    made["status"] = json!({"phase": "Running"});
    let running = api.ok(Method::PUT, &status, made.clone()).await;
    assert_eq!(running["status"], json!({"phase": "Running", "qosClass": "BestEffort"}));
    made["metadata"]["resourceVersion"] = running["metadata"]["resourceVersion"].clone();
    made["status"] = json!({"phase": "Running", "qosClass": "Guaranteed"});
    assert_eq!(
        api.refused(Method::PUT, &status, made, 422).await,
        "Pod \"p\" is invalid: status.qosClass: Invalid value: \"Guaranteed\": field is immutable"
    );

    let services = "/api/v1/namespaces/default/services";
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let mut made = api.ok(Method::POST, services, service).await;
    made["status"] = json!({"loadBalancer": {"ingress": [{"ip": "nowhere"}]}});
    let status = format!("{services}/s/status");
    assert_eq!(
        api.refused(Method::PUT, &status, made.clone(), 422).await,
        "Service \"s\" is invalid: status.loadBalancer.ingress[0].ip: Invalid value: \"nowhere\": must be a valid IP \
         address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    );
    made["status"]["loadBalancer"]["ingress"][0]["ip"] = "192.0.2.1".into();
    let made = api.ok(Method::PUT, &status, made).await;
    assert_eq!(made["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
}

#[tokio::test]
async fn a_nodes_pods_get_no_addresses_of_services() {
    let api = Api::new().await;
    let services = Config::default().service_cidr;
    let node = |range: &str| json!({"metadata": {"name": "n"}, "spec": {"podCIDR": range}});
    let first = services.nth(0);
    let within = format!("{first}/28");
    assert_eq!(
        api.refused(Method::POST, "/api/v1/nodes", node(&within), 422).await,
        format!(
            "Node \"n\" is invalid: spec.podCIDRs[0]: Invalid value: \"{within}\": overlaps the service range \
             {services}"
        )
    );
    api.ok(Method::POST, "/api/v1/nodes", node("192.0.2.0/24")).await;
}

#[tokio::test]
async fn a_header_without_a_name_is_named() {
    let api = Api::new().await;
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let mut made = pod("p");
        made["spec"]["containers"][0][probe] = json!({"httpGet": {"port": 80, "httpHeaders": [null]}});
        let refusal = api.refused(Method::POST, PODS, made, 422).await;
        let fault = format!(
            "spec.containers[0].{probe}.httpGet.httpHeaders: Invalid value: \"\": a valid HTTP header"
        );
        assert!(refusal.contains(&fault), "{refusal}");
    }
}
