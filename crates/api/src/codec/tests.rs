//! Bodies and what becomes of them, as text.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn read(body: &str, kind: &str, validation: FieldValidation) -> String {
    let wanted = match kind {
        "Deployment" => Gvk::new("apps", "v1", kind),
        _ => Gvk::new("", "v1", kind),
    };
    match decode(body.as_bytes(), Media::Json, &wanted, validation) {
        Ok(decoded) => {
            let warnings: String = decoded.warnings.iter().map(|w| format!("warning: {w}\n")).collect();
            format!("{warnings}{}", decoded.value)
        }
        Err(e) => format!("error: {e}"),
    }
}

fn check(body: &str, kind: &str, expected: Expect) {
    expected.assert_eq(&read(body, kind, FieldValidation::Strict));
}

#[test]
fn a_bare_number_in_env_names_the_field() {
    check(
        r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"name":"a","env":[{"name":"PORT","value":9001}]}]}}"#,
        "Pod",
        expect![[
            r#"error: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"#
        ]],
    );
}

#[test]
fn wrong_types_read_as_in_go() {
    let pod = |spec: &str| format!(r#"{{"kind":"Pod","apiVersion":"v1","spec":{spec}}}"#);
    let check = |spec: &str, expected: Expect| {
        let text = read(&pod(spec), "Pod", FieldValidation::Strict);
        expected
            .assert_eq(text.trim_start_matches("error: Pod in version \"v1\" cannot be handled as a Pod: "));
    };
    check("[]", expect!["json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"]);
    check(
        r#"{"containers":{}}"#,
        expect![
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
        ],
    );
    check(
        r#"{"containers":[{"ports":[{"containerPort":"80"}]}]}"#,
        expect![
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"
        ],
    );
    check(
        r#"{"containers":[{"ports":[{"containerPort":1.5}]}]}"#,
        expect![
            "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"
        ],
    );
    check(
        r#"{"containers":[{"ports":[{"protocol":6}]}]}"#,
        expect![
            "json: cannot unmarshal number into Go struct field ContainerPort.spec.containers.ports.protocol of type v1.Protocol"
        ],
    );
    check(
        r#"{"nodeSelector":{"a":true}}"#,
        expect!["json: cannot unmarshal bool into Go struct field PodSpec.spec.nodeSelector of type string"],
    );
    check(
        r#"{"volumes":[{"hostPath":"x"}]}"#,
        expect![
            "json: cannot unmarshal string into Go struct field Volume.spec.volumes.hostPath of type v1.HostPathVolumeSource"
        ],
    );
    check(
        r#"{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}"#,
        expect![
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ],
    );
    check(
        r#"{"hostNetwork":"yes"}"#,
        expect!["json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool"],
    );
}

#[test]
fn unknown_and_repeated_fields() {
    let body = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}},
        "spec":{"foo":1,"containers":[{"name":"a","Image":"x"}]}}"#;
    check(
        body,
        "Pod",
        expect![[
            r#"error: Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "metadata.name", duplicate field "metadata.labels.x", unknown field "spec.foo", unknown field "spec.containers[0].Image""#
        ]],
    );
    expect![[r#"
        warning: duplicate field "metadata.name"
        warning: duplicate field "metadata.labels.x"
        warning: unknown field "spec.foo"
        warning: unknown field "spec.containers[0].Image"
        {"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"2"},"name":"b"},"spec":{"containers":[{"name":"a","resources":{}}]},"status":{}}"#]]
    .assert_eq(&read(body, "Pod", FieldValidation::Warn));
    expect![[r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"2"},"name":"b"},"spec":{"containers":[{"name":"a","resources":{}}]},"status":{}}"#]]
        .assert_eq(&read(body, "Pod", FieldValidation::Ignore));
}

#[test]
fn normal_form() {
    check(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","creationTimestamp":null,"labels":{}},
            "spec":{"hostNetwork":false,"terminationGracePeriodSeconds":0,"containers":[{"name":"a","image":"i","args":[],
            "env":[{"name":"E","value":""}],"resources":{"limits":{"cpu":"1000m","memory":1073741824},"requests":{"cpu":0.5}},
            "livenessProbe":{"httpGet":{"port":"web"}}}]},
            "status":{"startTime":"2024-05-06T09:08:07+02:00","hostIP":""}}"#,
        "Pod",
        expect![[
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"env":[{"name":"E"}],"image":"i","livenessProbe":{"httpGet":{"port":"web"}},"name":"a","resources":{"limits":{"cpu":"1","memory":"1073741824"},"requests":{"cpu":"500m"}}}],"terminationGracePeriodSeconds":0},"status":{"startTime":"2024-05-06T07:08:07Z"}}"#
        ]],
    );
    check(
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"data":{"a":"aGk=","b":null},"immutable":false}"#,
        "Secret",
        expect![[
            r#"{"apiVersion":"v1","data":{"a":"aGk=","b":""},"immutable":false,"kind":"Secret","metadata":{"name":"s"}}"#
        ]],
    );
    check(
        r#"{"kind":"Deployment","apiVersion":"apps/v1","spec":{"replicas":0,"selector":{},"template":{}}}"#,
        "Deployment",
        expect![[
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{},"spec":{"replicas":0,"selector":{},"strategy":{},"template":{"metadata":{},"spec":{}}},"status":{}}"#
        ]],
    );
}

#[test]
fn kinds_and_versions() {
    check("{}", "ConfigMap", expect![[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#]]);
    check(
        r#"{"kind":"Pod","apiVersion":"v1"}"#,
        "ConfigMap",
        expect![[
            r#"error: Pod in version "v1" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion"#
        ]],
    );
    check(
        r#"{"kind":"Nope","apiVersion":"v1"}"#,
        "ConfigMap",
        expect![[
            r#"error: Nope in version "v1" cannot be handled as a ConfigMap: no kind "Nope" is registered for version "v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#
        ]],
    );
    check(
        r#"{"kind":"Deployment","apiVersion":"apps/v1beta1"}"#,
        "Deployment",
        expect![[
            r#"error: Deployment in version "v1beta1" cannot be handled as a Deployment: no kind "Deployment" is registered for version "apps/v1beta1" in scheme "pkg/api/legacyscheme/scheme.go:30""#
        ]],
    );
    check(
        r#"{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Orphan"}"#,
        "DeleteOptions",
        expect![[r#"{"apiVersion":"apps/v1","kind":"DeleteOptions","propagationPolicy":"Orphan"}"#]],
    );
}

#[test]
fn broken_text() {
    let check = |body: &str, expected: Expect| {
        let text = read(body, "Pod", FieldValidation::Strict);
        expected.assert_eq(
            text.trim_start_matches("error: the object provided is unrecognized (must be of type Pod): "),
        );
    };
    check("", expect!["couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"]);
    check(
        "{\"a\":1,}",
        expect![[
            r#"couldn't get version/kind; json parse error: invalid character '}' looking for beginning of object key string ({"a":1,})"#
        ]],
    );
    check(
        "hello",
        expect![
            "couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value (68656c6c6f)"
        ],
    );
    check(
        "{\"a\" 1}",
        expect![[
            r#"couldn't get version/kind; json parse error: invalid character '1' after object key ({"a" 1})"#
        ]],
    );
    check(
        "[1]",
        expect![[
            r#"couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b315d)"#
        ]],
    );
    check(
        "{} x",
        expect![
            "couldn't get version/kind; json parse error: invalid character 'x' after top-level value ({} x)"
        ],
    );
    check(
        &format!("{}1", "[".repeat(100_000)),
        expect![
            "couldn't get version/kind; json parse error: exceeded max depth (5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b ...)"
        ],
    );
}

#[test]
fn yaml_bodies() {
    let body = "kind: Pod\napiVersion: v1\nmetadata: {name: a, name: b}\nspec:\n  containers: [{name: a, ports: [{containerPort: 80}]}]\n";
    let wanted = Gvk::new("", "v1", "Pod");
    let error = decode(body.as_bytes(), Media::Yaml, &wanted, FieldValidation::Strict).unwrap_err();
    assert!(
        error.to_string().ends_with("strict decoding error: duplicate field \"metadata.name\""),
        "{error}"
    );
    let value = decode(body.as_bytes(), Media::Yaml, &wanted, FieldValidation::Ignore).unwrap().value;
    assert_eq!(value["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
    assert_eq!(value["metadata"]["name"], "b");
}

#[test]
fn yaml_aliases_cannot_grow_without_bound() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        let previous = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", [previous.as_str(); 9].join(",")));
    }
    let error =
        decode(bomb.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "Pod"), FieldValidation::Warn).unwrap_err();
    assert!(error.to_string().contains("repetition limit exceeded"), "{error}");
    // Few values, of which one is large.
    let scalar = format!("a: &a {:?}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 40].join(","));
    let error = decode(scalar.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "Pod"), FieldValidation::Warn);
    assert!(error.unwrap_err().to_string().contains("excessive aliasing"));
    let often = format!("kind: Pod\napiVersion: v1\nx: &a yes\ny: [{}]\n", vec!["*a"; 9_000].join(","));
    let read = decode(often.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "Pod"), FieldValidation::Ignore);
    assert!(read.is_ok(), "{read:?}");
    let whole = format!("kind: Pod\napiVersion: v1\nx: [{}]\n", vec!["1"; 400_000].join(","));
    let read = decode(whole.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "Pod"), FieldValidation::Ignore);
    assert!(read.is_ok(), "what has no alias is no larger than its text");
}

#[test]
fn yaml_that_is_too_deep_is_refused_before_it_is_read() {
    let deep = [
        format!("x: {}{}", "[".repeat(1_000_000), "]".repeat(1_000_000)),
        format!("x: {}", "{a: ".repeat(500_000)),
        format!("x:\n{}a", "- ".repeat(1_000_000)),
        format!("{}a", "? ".repeat(1_000_000)),
        (0..60_000).map(|n| format!("%TAG !a{n}! tag:x,2000:\n")).collect::<String>() + "---\nx: y\n",
        // Not as deep, but many tokens down there.
        format!("x: {}{}{}", "[".repeat(9_000), "1,".repeat(200_000), "]".repeat(9_000)),
        format!("x: {}{}{}", "[".repeat(300), "1,".repeat(200_000), "]".repeat(300)),
    ];
    for text in deep {
        let error = decode(text.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "Pod"), FieldValidation::Warn);
        assert!(error.unwrap_err().to_string().contains("exceeded max depth"));
    }
    // Brackets of a text are none of the document's, and a rule of dashes is no list.
    let text = format!(
        "kind: ConfigMap\napiVersion: v1\ndata:\n  a: |\n    {}\n    {}\n",
        "[".repeat(2_000),
        "- ".repeat(50)
    );
    let read =
        decode(text.as_bytes(), Media::Yaml, &Gvk::new("", "v1", "ConfigMap"), FieldValidation::Strict);
    assert!(read.is_ok(), "{read:?}");
}

/// Bytes as a Go client writes them, put together by hand: zeros of non-pointers are there too.
#[test]
fn protobuf_from_a_go_client() {
    let name = [0x0a, 1, b'a', 0x12, 0, 0x1a, 0, 0x22, 0, 0x2a, 0, 0x32, 0, 0x38, 0, 0x42, 0];
    let mut config_map = vec![0x0a, name.len() as u8];
    config_map.extend_from_slice(&name);
    config_map.extend_from_slice(&[0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v']);
    config_map.extend_from_slice(&[0x1a, 7, 0x0a, 1, b'b', 0x12, 2, 0xff, 0xfe]);
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    body.push(config_map.len() as u8);
    body.extend_from_slice(&config_map);
    body.extend_from_slice(&[0x1a, 0, 0x22, 0]);
    let decoded =
        decode(&body, Media::Protobuf, &Gvk::new("", "v1", "ConfigMap"), FieldValidation::Strict).unwrap();
    let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "//4="}});
    assert_eq!(decoded.value, expected);
}

#[test]
fn protobuf_zero_of_a_pointer_is_a_value() {
    let wanted = Gvk::new("", "v1", "DeleteOptions");
    let body = b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions\x12\x02\x08\x00";
    let decoded = decode(body, Media::Protobuf, &wanted, FieldValidation::Strict).unwrap();
    assert_eq!(decoded.value, json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}));
}

#[test]
fn durations_as_go_writes_them() {
    for (text, canonical) in
        [("90m", "1h30m0s"), ("1.5h", "1h30m0s"), ("1500ms", "1.5s"), ("0", "0s"), ("-2us", "-2µs")]
    {
        assert_eq!(scalar::duration(scalar::parse_duration(text).unwrap()), canonical);
    }
    for bad in ["", "1", "1x", "h", "1h-2m"] {
        assert_eq!(scalar::parse_duration(bad), None, "{bad}");
    }
}

/// Bodies that kubectl 1.35 sent for `create deployment`, `create service` and `auth can-i`.
#[test]
fn protobuf_as_kubectl_sends_it() {
    let check = |kind: (&str, &str, &str), hex: &str, expected: Expect| {
        let body: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let wanted = Gvk::new(kind.0, kind.1, kind.2);
        let decoded = decode(&body, Media::Protobuf, &wanted, FieldValidation::Strict).unwrap();
        expected.assert_eq(&decoded.value.to_string());
        let same = normalise(decoded.value.clone(), &wanted, FieldValidation::Strict).unwrap();
        assert_eq!(same.value, decoded.value);
    };
    check(
        ("apps", "v1", "Deployment"),
        concat!(
            "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412ba010a1f0a0377656212001a0022002a00320038",
            "0042005a0a0a0361707012037765621288010802120c0a0a0a0361707012037765621a6e0a1c0a0012001a0022002a00",
            "3200380042005a0a0a036170701203776562124e12300a056e67696e7812076e67696e783a312a00320a0a0010001850",
            "22002a0042006a007200800100880100900100a201001a00320042004a0052005800600068008201008a01009a0100c2",
            "010022020a00280038001a0c0800100018002000280038001a002200",
        ),
        expect![[
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"app":"web"},"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},"strategy":{},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"nginx:1","name":"nginx","ports":[{"containerPort":80}],"resources":{}}]}}},"status":{}}"#
        ]],
    );
    check(
        ("", "v1", "Service"),
        concat!(
            "6b3873000a0d0a02763112075365727669636512630a1b0a017312001a0022002a003200380042005a080a0361707012",
            "017312400a1b0a0738302d38303830120354435018502207080010903f1a00280012080a036170701201731a00220943",
            "6c757374657249503a00420052005a00600068001a020a001a002200",
        ),
        expect![[
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"labels":{"app":"s"},"name":"s"},"spec":{"ports":[{"name":"80-8080","port":80,"protocol":"TCP","targetPort":8080}],"selector":{"app":"s"},"type":"ClusterIP"},"status":{"loadBalancer":{}}}"#
        ]],
    );
    check(
        ("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
        concat!(
            "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a65637441636365",
            "7373526576696577123c0a100a0012001a0022002a00320038004200121e0a1c0a0764656661756c7412036765741a00",
            "22002a04706f647332003a001a08080012001a0020001a002200",
        ),
        expect![[
            r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","metadata":{},"spec":{"resourceAttributes":{"namespace":"default","resource":"pods","verb":"get"}},"status":{"allowed":false}}"#
        ]],
    );
}
