//! Patches as kubectl sends them, and laws that hold for every patch.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::codec::random::{Dice, object};
use crate::schema;

fn apply(kind: (&str, &str, &str), current: Value, patch: Value, expected: Expect) {
    let ty = schema::kind(kind.0, kind.1, kind.2).unwrap();
    let text = match strategic(&current, &patch, ty) {
        Ok(value) => value.to_string(),
        Err(e) => format!("{e:?}"),
    };
    expected.assert_eq(&text);
}

fn pod(spec: Value, patch: Value, expected: Expect) {
    apply(("", "v1", "Pod"), json!({ "spec": spec }), json!({ "spec": patch }), expected);
}

#[test]
fn containers_merge_by_name() {
    pod(
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "b", "image": "2"}]}),
        expect![[
            r#"{"spec":{"containers":[{"args":["x"],"image":"1","name":"a"},{"image":"2","name":"b"}]}}"#
        ]],
    );
}

#[test]
fn a_new_element_goes_first_and_one_without_key_is_refused() {
    let spec = json!({"containers": [{"name": "a"}]});
    pod(
        spec.clone(),
        json!({"containers": [{"name": "z"}]}),
        expect![[r#"{"spec":{"containers":[{"name":"z"},{"name":"a"}]}}"#]],
    );
    pod(
        spec,
        json!({"containers": [{"image": "z"}]}),
        expect![[r#"Internal("map: map[image:z] does not contain declared merge key: name")"#]],
    );
}

#[test]
fn set_element_order_as_kubectl_apply_sends_it() {
    pod(
        json!({"containers": [{"name": "a"}, {"name": "injected"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "i"}]}),
        expect![[
            r#"{"spec":{"containers":[{"name":"injected"},{"name":"b"},{"image":"i","name":"c"},{"name":"a"}]}}"#
        ]],
    );
    pod(
        json!({"containers": [{"name": "a"}]}),
        json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b"}, {"name": "a"}]}),
        expect![[
            r#"Internal("The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n")"#
        ]],
    );
}

#[test]
fn delete_and_replace() {
    let containers = json!({"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}]}]});
    pod(
        containers.clone(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        expect![[
            r#"{"spec":{"containers":[{"name":"b","ports":[{"containerPort":80},{"containerPort":81,"name":"x"}]}]}}"#
        ]],
    );
    pod(
        containers.clone(),
        json!({"containers": [{"name": "b", "ports": [{"containerPort": 80, "$patch": "delete"}]}]}),
        expect![[
            r#"{"spec":{"containers":[{"name":"a"},{"name":"b","ports":[{"containerPort":81,"name":"x"}]}]}}"#
        ]],
    );
    pod(
        containers.clone(),
        json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
        expect![[r#"{"spec":{"containers":[{"name":"z"}]}}"#]],
    );
    pod(
        containers.clone(),
        json!({"$patch": "replace", "nodeName": "n"}),
        expect![[r#"{"spec":{"nodeName":"n"}}"#]],
    );
    pod(containers.clone(), json!({"$patch": "delete"}), expect![[r#"{"spec":{}}"#]]);
    pod(
        containers,
        json!({"$patch": "explode"}),
        expect![[r#"Internal("unknown patch type 'explode' in map: map[]")"#]],
    );
}

#[test]
fn retain_keys_of_a_union() {
    let deployment = ("apps", "v1", "Deployment");
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    apply(
        deployment,
        current.clone(),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        expect![[r#"{"spec":{"strategy":{"type":"Recreate"}}}"#]],
    );
    apply(
        deployment,
        current,
        json!({"spec": {"strategy": {"$retainKeys": ["x"], "type": "Recreate"}}}),
        expect![[r#"BadRequest("invalid patch format of retainKeys directive")"#]],
    );
    pod(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        expect![[r#"{"spec":{"volumes":[{"hostPath":{"path":"/x"},"name":"v"}]}}"#]],
    );
}

#[test]
fn lists_of_scalars() {
    let config_map = ("", "v1", "ConfigMap");
    let current = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    apply(
        config_map,
        current.clone(),
        json!({"metadata": {"finalizers": ["d", "a"]}}),
        expect![[r#"{"metadata":{"finalizers":["d","a","b","c"]}}"#]],
    );
    apply(
        config_map,
        current.clone(),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
        expect![[r#"{"metadata":{"finalizers":["a","c"]}}"#]],
    );
    apply(
        config_map,
        current,
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b", "d"], "finalizers": ["d"]}}),
        expect![[r#"{"metadata":{"finalizers":["c","b","d"]}}"#]],
    );
    pod(
        json!({"containers": [{"name": "a", "args": ["1", "2"]}]}),
        json!({"containers": [{"name": "a", "args": ["3"]}]}),
        expect![[r#"{"spec":{"containers":[{"args":["3"],"name":"a"}]}}"#]],
    );
}

#[test]
fn nulls_maps_and_changed_types() {
    let config_map = ("", "v1", "ConfigMap");
    let current = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "y"}});
    apply(
        config_map,
        current,
        json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}}, "data": null, "binaryData": {"n": null}}),
        expect![[r#"{"binaryData":{},"metadata":{"labels":{"b":"2","c":"3"}}}"#]],
    );
    pod(
        json!({"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "E", "value": null, "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}]}),
        expect![[
            r#"{"spec":{"containers":[{"env":[{"name":"E","valueFrom":{"fieldRef":{"fieldPath":"x"}}}],"name":"a"}]}}"#
        ]],
    );
    let service = ("", "v1", "Service");
    apply(
        service,
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}),
        expect![[r#"{"spec":{"ports":[{"port":80,"targetPort":"web"}]}}"#]],
    );
}

#[test]
fn json_patches() {
    let current = json!({"a": {"b": [1, 2]}});
    let check = |patch: Value, expected: Expect| {
        let text = match json(&current, &patch) {
            Ok(value) => value.to_string(),
            Err(e) => format!("{e:?}"),
        };
        expected.assert_eq(&text);
    };
    check(
        json!([{"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/a/b/0"}]),
        expect![[r#"{"a":{"b":[2,3]}}"#]],
    );
    check(
        json!([{"op": "test", "path": "/a/b", "value": 3}]),
        expect![[r#"Unprocessable("testing value /a/b failed: test failed")"#]],
    );
    check(
        json!([{"op": "remove", "path": "/x"}]),
        expect![[
            r#"Unprocessable("remove operation does not apply: doc is missing path: \"/x\": missing value")"#
        ]],
    );
    check(json!([{"op": "jump", "path": "/x"}]), expect![[r#"Unprocessable("Unexpected kind: jump")"#]]);
    check(
        json!({}),
        expect![[r#"BadRequest("json: cannot unmarshal object into Go value of type jsonpatch.Patch")"#]],
    );
    let many = vec![json!({"op": "add", "path": "/x", "value": 1}); OPERATIONS_MAX + 1];
    check(many.into(), expect!["TooMany(10001)"]);
}

#[test]
fn json_patches_cannot_grow_without_bound() {
    // Each copy doubles the document.
    let mut doubling = vec![json!({"op": "add", "path": "/a", "value": "x".repeat(1000)})];
    for i in 0..60 {
        doubling.push(json!({"op": "add", "path": format!("/n{i}"), "value": {}}));
        doubling.push(json!({"op": "copy", "from": "", "path": format!("/n{i}/all")}));
    }
    let error = json(&json!({}), &doubling.into()).unwrap_err();
    assert!(error.to_string().starts_with("Unable to copy"), "{error}");

    // Each move nests everything one level deeper.
    let nest =
        [json!({"op": "move", "from": "/a", "path": "/b"}), json!({"op": "add", "path": "/a", "value": {}})];
    let nest = nest.into_iter().chain([json!({"op": "move", "from": "/b", "path": "/a/a"})]);
    let deep: Vec<_> = std::iter::repeat_n(nest, 1000).flatten().collect();
    assert_eq!(json(&json!({"a": {}}), &deep.into()), Err(Error::Unprocessable("exceeded max depth".into())));
}

/// Patches made of the directives and of anything else, against random objects: refused or applied.
#[test]
fn random_patches_never_panic() {
    let mut dice = Dice::seeded("random_patches_never_panic");
    fn junk(dice: &mut Dice, depth: usize) -> Value {
        const KEYS: [&str; 14] = [
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "metadata",
            "spec",
            "containers",
            "finalizers",
            "name",
            "ports",
            "containerPort",
            "labels",
            "op",
            "path",
        ];
        match dice.below(if depth > 4 { 4 } else { 7 }) {
            0 => Value::Null,
            1 => dice.below(3).into(),
            2 => (*dice.pick(&["replace", "delete", "merge", "a", "/metadata/name", "copy", "move"])).into(),
            3 => true.into(),
            4 => (0..dice.below(4)).map(|_| junk(dice, depth + 1)).collect(),
            _ => (0..dice.below(5))
                .map(|_| (dice.pick(&KEYS).to_string(), junk(dice, depth + 1)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
    let pod = schema::kind("", "v1", "Pod").unwrap();
    for _ in 0..20_000 {
        let current = keyed(object(&mut dice, pod, 0), pod);
        let patch = junk(&mut dice, 0);
        if let Ok(patched) = strategic(&current, &patch, pod) {
            assert!(patched.is_object());
        }
        let _ = merge(&current, &patch);
        let _ = json(&current, &Value::Array(vec![patch]));
    }
}

#[test]
fn merge_patches() {
    let patched =
        merge(&json!({"a": {"b": 1, "c": [1]}}), &json!({"a": {"b": null, "c": [{"x": null}]}})).unwrap();
    assert_eq!(patched, json!({"a": {"c": [{"x": null}]}}));
    assert!(merge(&json!({}), &json!([])).is_err());
}

/// Applying a strategic patch twice changes nothing more, an object patched with itself stays what it
/// is, and an empty object patched becomes the patch: for random objects of every kind.
#[test]
fn laws_of_strategic_merge() {
    let mut dice = Dice::seeded("laws_of_strategic_merge");
    for row in schema::kinds() {
        for _ in 0..6 {
            let (a, b) =
                (keyed(object(&mut dice, row.3, 0), row.3), keyed(object(&mut dice, row.3, 0), row.3));
            assert_eq!(strategic(&a, &a, row.3).unwrap(), a, "{} patched with itself: {a}", row.2);
            assert_eq!(strategic(&json!({}), &b, row.3).unwrap(), b);
            let once = strategic(&a, &b, row.3).unwrap();
            assert_eq!(strategic(&once, &b, row.3).unwrap(), once, "{} {a} with {b}", row.2);
        }
    }
}

/// Makes a random object one that the API could hold: elements of keyed lists have distinct keys,
/// nothing is null.
fn keyed(mut map: serde_json::Map<String, Value>, ty: &'static schema::Type) -> Value {
    for field in ty.json_fields() {
        let Some(value) = map.get_mut(field.name) else { continue };
        strip_nulls(value);
        if field.merges() && field.shape == schema::Shape::List && field.merge_key.is_empty() {
            let items = value.as_array_mut().unwrap();
            let mut seen = Vec::new();
            items.retain(|i| {
                if seen.contains(i) {
                    false
                } else {
                    seen.push(i.clone());
                    true
                }
            });
        }
        let Some(inner) = field.message() else { continue };
        match value {
            Value::Object(object) if field.shape == schema::Shape::One => {
                *value = keyed(std::mem::take(object), inner);
            }
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    let mut object = std::mem::take(item.as_object_mut().unwrap());
                    if field.merges() && !field.merge_key.is_empty() {
                        object.insert(field.merge_key.into(), format!("{i}").into());
                    }
                    *item = keyed(object, inner);
                }
            }
            _ => {}
        }
    }
    Value::Object(map)
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => {
            items.retain(|v| !v.is_null());
            items.iter_mut().for_each(strip_nulls);
        }
        _ => {}
    }
}

/// As many as a body can hold: were each looked for among all the others, none of these would end.
#[test]
fn long_lists_are_merged_in_a_time_that_grows_with_their_length() {
    const COUNT: usize = 100_000;
    let names = |from: usize| -> Vec<String> { (from..from + COUNT).map(|n| n.to_string()).collect() };
    let keyed = |from: usize| -> Vec<Value> { names(from).iter().map(|n| json!({"name": n})).collect() };
    let deleted: Vec<Value> =
        keyed(0).iter().map(|n| json!({"name": n["name"], "$patch": "delete"})).collect();
    let ty = schema::kind("", "v1", "Pod").unwrap();
    let merged = |current: Value, patch: Value| strategic(&current, &patch, ty).unwrap();

    let scalars = |of: Vec<String>| json!({"metadata": {"finalizers": of}});
    let both = merged(scalars(names(0)), scalars(names(COUNT / 2)));
    assert_eq!(both["metadata"]["finalizers"].as_array().unwrap().len(), COUNT * 3 / 2);
    let none = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": names(0)}});
    assert_eq!(merged(scalars(names(0)), none), scalars(vec![]));

    let containers = |of: Vec<Value>| json!({"spec": {"containers": of}});
    let both = merged(containers(keyed(0)), containers(keyed(COUNT / 2)));
    assert_eq!(both["spec"]["containers"].as_array().unwrap().len(), COUNT * 3 / 2);
    assert_eq!(merged(containers(keyed(0)), containers(deleted)), containers(vec![]));
    let ordered = json!({"spec": {"containers": keyed(0), "$setElementOrder/containers": keyed(0)}});
    assert_eq!(merged(containers(keyed(0)), ordered), containers(keyed(0)));
}
