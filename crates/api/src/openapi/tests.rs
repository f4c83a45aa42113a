//! Documents hold what clients look for.

use expect_test::expect;
use serde_json::Value;

use super::*;
use crate::schema;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Every kind with a list, as if it were served.
fn everything() -> Documents {
    let mut served = Vec::new();
    for row in schema::kinds() {
        if schema::kind(row.0, row.1, &format!("{}List", row.2)).is_some() && row.0 != "meta.k8s.io" {
            let resource: &'static str = format!("{}s", row.2.to_ascii_lowercase()).leak();
            let own = Served {
                group: row.0,
                version: row.1,
                resource,
                subresource: "",
                namespaced: row.2 != "Node",
                kind: (row.0, row.1, row.2),
                verbs: ALL,
            };
            served.push(Served { subresource: "status", verbs: &["get", "patch", "update"], ..own.clone() });
            served.push(own);
        }
    }
    Documents::new(served, 0)
}

fn at<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"))
}

#[test]
fn every_reference_leads_somewhere() {
    let documents = everything();
    let none = Texts::default();
    let mut texts = vec![documents.v2(&none)];
    let index: Value = serde_json::from_str(&documents.v3_index().text).unwrap();
    for (path, entry) in index["paths"].as_object().unwrap() {
        let hash = documents.v3_hash(path).unwrap();
        assert_eq!(entry["serverRelativeURL"], format!("/openapi/v3/{path}?hash={hash}"));
        texts.push(documents.v3(path, &none).unwrap());
    }
    assert!(texts.len() > 15);
    for text in texts {
        let document: Value = serde_json::from_str(&text).unwrap();
        let mut stack = vec![&document];
        while let Some(value) = stack.pop() {
            if let Some(target) = value.get("$ref").and_then(Value::as_str) {
                let found = at(&document, target.strip_prefix('#').unwrap());
                assert!(found.is_object(), "{target}");
            }
            match value {
                Value::Object(map) => stack.extend(map.values()),
                Value::Array(items) => stack.extend(items),
                _ => {}
            }
        }
    }
}

#[test]
fn definitions_carry_the_marks() {
    let document: Value = serde_json::from_str(&everything().v2(&Texts::default())).unwrap();
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    expect![[r#"[{"group":"","kind":"Pod","version":"v1"}]"#]]
        .assert_eq(&pod["x-kubernetes-group-version-kind"].to_string());
    let spec = &document["definitions"]["io.k8s.api.core.v1.PodSpec"];
    expect![[r##"{"items":{"$ref":"#/definitions/io.k8s.api.core.v1.Container"},"type":"array","x-kubernetes-list-map-keys":["name"],"x-kubernetes-list-type":"map","x-kubernetes-patch-merge-key":"name","x-kubernetes-patch-strategy":"merge"}"##]]
        .assert_eq(&spec["properties"]["containers"].to_string());
    expect![[r#"["containers"]"#]].assert_eq(&spec["required"].to_string());
    // Inlined structs are spread out.
    assert!(document["definitions"]["io.k8s.api.core.v1.Volume"]["properties"]["hostPath"].is_object());
}

#[test]
fn fields_say_what_they_are_for() {
    let lines = "@io.k8s.api.core.v1.Pod\tA pod.\nspec\tWhat is wanted.\nkind\tThe kind.\n\
                 @io.k8s.api.core.v1.PodSpec\t\nhostNetwork\tThe node's \\\\ network.\n\
                 securityContext\tOf all containers.\n";
    let texts = Texts::read(lines);
    let documents = everything();
    let v2: Value = serde_json::from_str(&documents.v2(&texts)).unwrap();
    let pod = at(&v2, "/definitions/io.k8s.api.core.v1.Pod");
    assert_eq!(pod["description"], "A pod.");
    assert_eq!(pod["properties"]["kind"]["description"], "The kind.");
    expect![[r##"{"$ref":"#/definitions/io.k8s.api.core.v1.PodSpec","description":"What is wanted."}"##]]
        .assert_eq(&pod["properties"]["spec"].to_string());
    let v3: Value = serde_json::from_str(&documents.v3("api/v1", &texts).unwrap()).unwrap();
    expect![[r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.PodSpec"}],"default":{},"description":"What is wanted."}"##]]
        .assert_eq(&at(&v3, "/components/schemas/io.k8s.api.core.v1.Pod/properties/spec").to_string());
    let spec = at(&v3, "/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert_eq!(spec.get("description"), None);
    expect![[r##"{"description":"The node's \\ network.","type":"boolean"}"##]]
        .assert_eq(&spec["properties"]["hostNetwork"].to_string());
    expect![[r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.PodSecurityContext"}],"description":"Of all containers."}"##]]
        .assert_eq(&spec["properties"]["securityContext"].to_string());
}

#[test]
fn operations_name_their_kind_and_parameters() {
    let documents = everything();
    let document: Value = serde_json::from_str(&documents.v3("api/v1", &Texts::default()).unwrap()).unwrap();
    let patch = at(&document, "/paths/~1api~1v1~1namespaces~1{namespace}~1pods~1{name}/patch");
    expect![[r#"{"group":"","kind":"Pod","version":"v1"}"#]]
        .assert_eq(&patch["x-kubernetes-group-version-kind"].to_string());
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    let list = at(&document, "/paths/~1api~1v1~1pods/get");
    assert_eq!(list["operationId"], "listCoreV1PodForAllNamespaces");
    let status = at(&document, "/paths/~1api~1v1~1namespaces~1{namespace}~1pods~1{name}~1status/put");
    assert_eq!(status["operationId"], "replaceCoreV1NamespacedPodStatus");
}

#[test]
fn old_paths_of_watches_are_told_with_what_stands_for_them() {
    let documents = everything();
    let v2: Value = serde_json::from_str(&documents.v2(&Texts::default())).unwrap();
    for (path, id, action) in [
        ("/api/v1/watch/pods", "watchCoreV1PodListForAllNamespaces", "watchlist"),
        ("/api/v1/watch/namespaces/{namespace}/pods", "watchCoreV1NamespacedPodList", "watchlist"),
        ("/api/v1/watch/namespaces/{namespace}/pods/{name}", "watchCoreV1NamespacedPod", "watch"),
        ("/api/v1/watch/nodes", "watchCoreV1NodeList", "watchlist"),
        ("/api/v1/watch/nodes/{name}", "watchCoreV1Node", "watch"),
        (
            "/apis/apps/v1/watch/namespaces/{namespace}/deployments",
            "watchAppsV1NamespacedDeploymentList",
            "watchlist",
        ),
    ] {
        let get = &v2["paths"][path]["get"];
        assert_eq!(
            (&get["operationId"], &get["x-kubernetes-action"]),
            (&id.into(), &action.into()),
            "{path}"
        );
        let text = get["description"].as_str().unwrap();
        assert!(
            text.contains("deprecated: use the 'watch' parameter with a list operation instead"),
            "{text}"
        );
        assert_eq!(
            get["responses"]["200"]["schema"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"
        );
        assert_eq!(v2["paths"][path].get("post"), None);
    }
    let single = "/api/v1/watch/namespaces/{namespace}/pods/{name}";
    let names: Vec<_> =
        v2["paths"][single]["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["name", "namespace"]);
    assert_eq!(v2["paths"].get("/api/v1/watch/nodes/{name}/status"), None);
    // Of the list itself nothing is deprecated.
    assert_eq!(v2["paths"]["/api/v1/pods"]["get"].get("description"), None);
}

/// Reads gnostic's protobuf back by hand, as far as kubectl looks: definitions by name.
#[test]
fn protobuf_lists_all_definitions() {
    let documents = everything();
    let json: Value = serde_json::from_str(&documents.v2(&Texts::default())).unwrap();
    let protobuf = documents.v2_protobuf(&Texts::default());
    let definitions = fields(&protobuf).into_iter().find(|f| f.0 == 9).unwrap().1;
    let names: Vec<String> = fields(definitions)
        .into_iter()
        .map(|(_, pair)| String::from_utf8(fields(pair)[0].1.to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = json["definitions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, expected);
    let pod = fields(definitions)
        .into_iter()
        .find(|(_, pair)| fields(pair)[0].1 == b"io.k8s.api.core.v1.Pod")
        .unwrap();
    let pod = fields(pod.1)[1].1;
    let mark = fields(pod).into_iter().find(|f| f.0 == 31).unwrap().1;
    assert_eq!(fields(mark)[0].1, b"x-kubernetes-group-version-kind");
    let yaml = fields(fields(mark)[1].1)[0].1;
    assert_eq!(yaml, b"[{\"group\":\"\",\"kind\":\"Pod\",\"version\":\"v1\"}]\n");
}

/// The length-delimited fields of a message.
fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let varint = |bytes: &mut &[u8]| {
        let mut n = 0usize;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            n |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        n
    };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let n = varint(&mut bytes);
        if tag & 7 == 2 {
            out.push(((tag >> 3) as u32, &bytes[..n]));
            bytes = &bytes[n..];
        }
    }
    out
}
