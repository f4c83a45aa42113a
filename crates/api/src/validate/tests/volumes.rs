//! Volumes, source by source.

use serde_json::{Value, json};

use super::pods::spec;

#[test]
fn projected_volumes_are_judged_source_by_source() {
    let volume = |sources: Value| json!({"volumes": [{"name": "v", "projected": {"sources": sources}}]});
    let token = |token: Value| volume(json!([{"serviceAccountToken": token}]));
    let at = "spec.volumes[0].projected.sources[0]";
    spec(&[
        (token(json!({"path": "t", "expirationSeconds": 600})), ""),
        (
            token(json!({"path": "t", "expirationSeconds": 599})),
            &format!(
                "{at}.serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less \
                 than 10 minutes"
            ),
        ),
        (
            token(json!({"path": "t", "expirationSeconds": 4_294_967_297_i64})),
            &format!(
                "{at}.serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may not specify a duration \
                 larger than 2^32 seconds"
            ),
        ),
        (
            token(json!({"path": "../t"})),
            &format!("{at}.serviceAccountToken.path: Invalid value: \"../t\": must not contain '..'"),
        ),
        (token(json!({})), &format!("{at}.serviceAccountToken.path: Required value")),
        (volume(json!([{"secret": {}}])), &format!("{at}.secret.name: Required value")),
        (
            volume(json!([{"secret": {"name": "s"}, "configMap": {"name": "c"}}])),
            &format!("{at}: Forbidden: may not specify more than 1 volume type"),
        ),
        (
            volume(json!([{"serviceAccountToken": {"path": "a"}},
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "a"}]}}])),
            "spec.volumes[0].projected.sources[1].configMap: Invalid value: \"a\": conflicting duplicate paths",
        ),
    ]);
}

#[test]
fn volumes_have_one_source() {
    let volume = |volume: Value| json!({"volumes": [volume]});
    let item = |path: &str| json!({"key": "k", "path": path});
    let config = |items: Value| volume(json!({"name": "v", "configMap": {"name": "c", "items": items}}));
    let octal = "must be a number between 0 and 0777 (octal), both inclusive";
    spec(&[
        (volume(json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o777}})), ""),
        (volume(json!({"emptyDir": {}})), "spec.volumes[0].name: Required value"),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (volume(json!({"name": "v"})), "spec.volumes[0]: Required value: must specify a volume type"),
        (
            volume(json!({"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}})),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            volume(json!({"name": "v", "emptyDir": {"sizeLimit": "-1"}})),
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
        ),
        (volume(json!({"name": "v", "emptyDir": {"sizeLimit": "0"}})), ""),
        (volume(json!({"name": "v", "hostPath": {"path": "/a", "type": "File"}})), ""),
        (volume(json!({"name": "v", "hostPath": {}})), "spec.volumes[0].hostPath.path: Required value"),
        (
            volume(json!({"name": "v", "hostPath": {"path": "/a/../b"}})),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (volume(json!({"name": "v", "hostPath": {"path": "/a/..b"}})), ""),
        (volume(json!({"name": "v", "configMap": {}})), "spec.volumes[0].configMap.name: Required value"),
        (volume(json!({"name": "v", "secret": {}})), "spec.volumes[0].secret.secretName: Required value"),
        (
            volume(json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o1000}})),
            &format!("spec.volumes[0].secret.defaultMode: Invalid value: 512: {octal}"),
        ),
        (
            volume(
                json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": -1}]}}),
            ),
            &format!("spec.volumes[0].secret.items[0].mode: Invalid value: -1: {octal}"),
        ),
        (config(json!([item("a/b")])), ""),
        (config(json!([{"path": "a"}])), "spec.volumes[0].configMap.items[0].key: Required value"),
        (config(json!([{"key": "a"}])), "spec.volumes[0].configMap.items[0].path: Required value"),
        (
            config(json!([item("/a")])),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/a\": must be a relative path",
        ),
        (
            config(json!([item("a/../b")])),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"a/../b\": must not contain '..'",
        ),
        (
            config(json!([item("..a")])),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"..a\": must not start with '..'",
        ),
    ]);
    let downward = |item: Value| volume(json!({"name": "v", "downwardAPI": {"items": [item]}}));
    let field = json!({"fieldPath": "metadata.name"});
    let resource = json!({"containerName": "main", "resource": "limits.cpu"});
    spec(&[
        (downward(json!({"path": "a", "fieldRef": field})), ""),
        (downward(json!({"path": "a", "resourceFieldRef": resource})), ""),
        (
            downward(json!({"path": "a"})),
            "spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            downward(json!({"path": "a", "fieldRef": field, "resourceFieldRef": resource})),
            "spec.volumes[0].downwardAPI.items[0]: Invalid value: \"resource\": fieldRef and resourceFieldRef can \
             not be specified simultaneously",
        ),
        (
            downward(json!({"path": "/a", "fieldRef": field})),
            "spec.volumes[0].downwardAPI.items[0].path: Invalid value: \"/a\": must be a relative path",
        ),
        (
            downward(json!({"path": "a", "mode": 0o1000, "fieldRef": field})),
            &format!("spec.volumes[0].downwardAPI.items[0].mode: Invalid value: 512: {octal}"),
        ),
    ]);
}
