//! Where a pod goes relative to others, and what its containers have of their node.

use serde_json::{Value, json};

use super::pods::{container, spec};
use super::{check, pod, texts};

#[test]
fn affinity_between_pods_names_a_topology() {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}});
    let bad = |field: &str, value: Value| {
        let mut bad = term.clone();
        bad[field] = value;
        bad
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = |term: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
        let at = |rest: &str| {
            format!("spec.affinity.{kind}.requiredDuringSchedulingIgnoredDuringExecution[0].{rest}")
        };
        spec(&[
            (required(term.clone()), ""),
            (required(bad("namespaces", json!(["default"]))), ""),
            (required(bad("topologyKey", json!(""))), &at("topologyKey: Required value: can not be empty")),
            (
                required(bad(
                    "labelSelector",
                    json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}),
                )),
                &at(
                    "labelSelector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
                ),
            ),
            (
                required(bad(
                    "namespaceSelector",
                    json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                )),
                &at(
                    "namespaceSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                ),
            ),
        ]);
        for (field, value) in [("topologyKey", json!("a b")), ("namespaces", json!(["A"]))] {
            let faults = super::create("", "Pod", &pod_with(&required(bad(field, value))));
            assert_eq!(faults.len(), 1, "{faults:?}");
        }
        let preferred = |weight: i64, term: &Value| {
            json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "podAffinityTerm": term}]}}})
        };
        let at = |rest: &str| {
            format!("spec.affinity.{kind}.preferredDuringSchedulingIgnoredDuringExecution[0].{rest}")
        };
        let range = "must be in the range 1-100";
        spec(&[
            (preferred(1, &term), ""),
            (preferred(100, &term), ""),
            (preferred(0, &term), &at(&format!("weight: Invalid value: 0: {range}"))),
            (preferred(101, &term), &at(&format!("weight: Invalid value: 101: {range}"))),
            (
                preferred(1, &bad("topologyKey", Value::Null)),
                &at("podAffinityTerm.topologyKey: Required value: can not be empty"),
            ),
        ]);
    }
}

fn pod_with(fields: &Value) -> Value {
    let mut whole = json!({"containers": [{"name": "a", "image": "b"}]});
    for (field, value) in fields.as_object().expect("fields") {
        whole[field] = value.clone();
    }
    pod(whole)
}

#[test]
fn pods_are_spread_by_more_than_nothing() {
    let with = |fields: Value| {
        let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"a": "b"}}});
        for (field, value) in fields.as_object().expect("fields") {
            one[field] = value.clone();
        }
        one
    };
    let one = |fields: Value| json!({"topologySpreadConstraints": [with(fields)]});
    let at = |rest: &str| format!("spec.topologySpreadConstraints[0].{rest}");
    let positive = "must be greater than zero";
    spec(&[
        (one(json!({"minDomains": 1, "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Ignore"})), ""),
        (one(json!({"maxSkew": 0})), &at(&format!("maxSkew: Invalid value: 0: {positive}"))),
        (one(json!({"maxSkew": -1})), &at(&format!("maxSkew: Invalid value: -1: {positive}"))),
        (one(json!({"topologyKey": ""})), &at("topologyKey: Required value: can not be empty")),
        (
            one(json!({"whenUnsatisfiable": "Wait"})),
            &at(
                "whenUnsatisfiable: Unsupported value: \"Wait\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ),
        ),
        (one(json!({"minDomains": 0})), &at(&format!("minDomains: Invalid value: 0: {positive}"))),
        (
            one(json!({"minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"})),
            &at(
                "minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
            ),
        ),
        (
            one(json!({"nodeTaintsPolicy": "Maybe"})),
            &at("nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\""),
        ),
        (
            one(json!({"labelSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}})),
            &at(
                "labelSelector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
            ),
        ),
        (
            json!({"topologySpreadConstraints": [with(json!({})), with(json!({"maxSkew": 2}))]}),
            &at("{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\""),
        ),
        (
            json!({"topologySpreadConstraints": [with(json!({})), with(json!({"whenUnsatisfiable": "ScheduleAnyway"}))]}),
            "",
        ),
    ]);
}

const TWICE: &str = "exists in both matchLabelKeys and labelSelector";

#[test]
fn keys_of_labels_are_matched_beside_a_selector() {
    let own = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["v"]}]});
    let check = |fields: Value, expected: &[&str]| {
        let mut one = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"});
        for (field, value) in fields.as_object().expect("fields") {
            one[field] = value.clone();
        }
        let in_term = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [one]}}});
        for (spec, place) in [
            (in_term, "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"),
            (json!({"topologySpreadConstraints": [one]}), "spec.topologySpreadConstraints[0]"),
        ] {
            let spread = spec["affinity"].is_null();
            let of_both = |text: &&&str| !spread || !text.contains("mismatchLabelKeys");
            // In a term, upstream leaves the list's name out of what is selected twice.
            let said = |text: &&str| match text.strip_prefix('@') {
                Some(rest) if spread => format!("{place}.matchLabelKeys{rest}"),
                Some(rest) => format!("{place}{rest}"),
                None => format!("{place}.{text}"),
            };
            let expected: Vec<String> = expected.iter().filter(of_both).map(said).collect();
            assert_eq!(texts(&super::create("", "Pod", &pod_with(&spec))), expected);
        }
    };
    check(json!({"labelSelector": own("a"), "matchLabelKeys": ["a"], "mismatchLabelKeys": ["b"]}), &[]);
    check(json!({"labelSelector": {"matchLabels": {"a": "v"}}, "matchLabelKeys": ["a"]}), &[]);
    check(
        json!({"matchLabelKeys": ["a"], "mismatchLabelKeys": ["b"]}),
        &[
            "matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            "mismatchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ],
    );
    let part = crate::selector::label_key_faults("a b").join("");
    check(
        json!({"labelSelector": {}, "matchLabelKeys": ["a", "a b"], "mismatchLabelKeys": ["a b"]}),
        &[
            &format!("matchLabelKeys[1]: Invalid value: \"a b\": {part}"),
            &format!("mismatchLabelKeys[0]: Invalid value: \"a b\": {part}"),
            "matchLabelKeys[1]: Invalid value: \"a b\": exists in both matchLabelKeys and mismatchLabelKeys",
        ],
    );
    // What the pod's own labels add to the selector is one expression; another one says it twice.
    let mut both = own("a");
    both["matchLabels"] = json!({"a": "v"});
    check(
        json!({"labelSelector": both, "matchLabelKeys": ["b", "a"]}),
        &[&format!("@[1]: Invalid value: \"a\": {TWICE}")],
    );
    check(
        json!({"labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}),
        &["matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys"],
    );
}

#[test]
fn gates_have_names_like_labels() {
    let faults = |names: &[&str]| {
        let gates: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        texts(&super::create("", "Pod", &pod_with(&json!({ "schedulingGates": gates }))))
    };
    assert_eq!(faults(&["example.com/g", "g"]), [""; 0]);
    assert_eq!(faults(&["g", "g"]), ["spec.schedulingGates[1]: Duplicate value: \"g\""]);
    let wrong = crate::selector::label_key_faults("a/b/c").join("");
    assert_eq!(faults(&["a/b/c"]), [format!("spec.schedulingGates[0]: Invalid value: \"a/b/c\": {wrong}")]);
    assert_eq!(faults(&[""]).len(), crate::selector::label_key_faults("").len());
}

#[test]
fn claims_of_a_pod_have_names_and_one_source() {
    let faults =
        |claims: Value| texts(&super::create("", "Pod", &pod_with(&json!({ "resourceClaims": claims }))));
    assert_eq!(
        faults(
            json!([{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "x.y"}])
        ),
        [""; 0]
    );
    let label = crate::validate::names::label("A").expect("a fault");
    assert_eq!(
        faults(json!([
            {"name": "a", "resourceClaimName": "x"},
            {"name": "a", "resourceClaimName": "x"},
            {"name": "", "resourceClaimName": "x"},
            {"name": "A", "resourceClaimName": "x"},
        ])),
        [
            "spec.resourceClaims[1].name: Duplicate value: \"a\"".to_owned(),
            "spec.resourceClaims[2].name: Required value".to_owned(),
            format!("spec.resourceClaims[3].name: Invalid value: \"A\": {label}"),
        ]
    );
    assert_eq!(
        faults(json!([{"name": "a"}])),
        [
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, \
          `resourceClaimTemplateName`"
        ]
    );
    let both = faults(json!([{"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "Y"}]));
    assert!(
        both[0]
            .ends_with("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
    );
    assert!(
        both[1].starts_with(
            "spec.resourceClaims[0].resourceClaimTemplateName: Invalid value: \"Y\": a lowercase"
        )
    );
    assert_eq!(both.len(), 2);
}

#[test]
fn a_pod_behind_a_gate_has_no_node_yet() {
    spec(&[
        (json!({"schedulingGates": [{"name": "example.com/g"}]}), ""),
        (
            json!({"schedulingGates": [{"name": "example.com/g"}], "nodeName": "n"}),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
    ]);
}

#[test]
fn mounts_reach_the_node_from_privileged_containers_only() {
    let mounted = |mount: Value, privileged: bool| {
        let mut whole = json!({"name": "v", "mountPath": "/v"});
        for (field, value) in mount.as_object().expect("fields") {
            whole[field] = value.clone();
        }
        json!({"volumeMounts": [whole], "securityContext": {"privileged": privileged}})
    };
    let both = || json!({"mountPropagation": "Bidirectional"});
    let read_only =
        "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true";
    container(&[
        (mounted(both(), true), ""),
        (
            mounted(both(), false),
            "volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to \
             privileged containers",
        ),
        (mounted(json!({"mountPropagation": "HostToContainer"}), false), ""),
        (mounted(json!({"recursiveReadOnly": "Enabled", "readOnly": true}), false), ""),
        (mounted(json!({"recursiveReadOnly": "Disabled"}), false), ""),
        (mounted(json!({"recursiveReadOnly": "Enabled"}), false), read_only),
        (mounted(json!({"recursiveReadOnly": "IfPossible", "readOnly": false}), false), read_only),
        (
            mounted(
                json!({"recursiveReadOnly": "IfPossible", "readOnly": true, "mountPropagation": "HostToContainer"}),
                false,
            ),
            "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not \
             specified",
        ),
        (
            mounted(json!({"recursiveReadOnly": "Often", "readOnly": true}), false),
            "volumeMounts[0].recursiveReadOnly: Unsupported value: \"Often\": supported values: \"Disabled\", \
             \"Enabled\", \"IfPossible\"",
        ),
    ]);
}

#[test]
fn containers_restart_and_are_resized_in_known_ways() {
    let resize = |policy: Value| json!({"resizePolicy": [policy]});
    let of = |resource: &str, restart: &str| json!({"resourceName": resource, "restartPolicy": restart});
    container(&[
        (json!({"restartPolicy": "Always"}), ""),
        (
            json!({"restartPolicy": "Sometimes"}),
            "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (resize(of("cpu", "NotRequired")), ""),
        (resize(of("memory", "RestartContainer")), ""),
        (
            resize(of("disk", "NotRequired")),
            "resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
        (resize(of("", "NotRequired")), "resizePolicy: Required value"),
        (
            resize(of("cpu", "Perhaps")),
            "resizePolicy: Unsupported value: \"Perhaps\": supported values: \"NotRequired\", \"RestartContainer\"",
        ),
        (
            json!({"resizePolicy": [of("cpu", "NotRequired"), of("cpu", "RestartContainer")]}),
            "resizePolicy[1]: Duplicate value: \"cpu\"",
        ),
    ]);
    let never = |policy: Value| {
        pod(
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "b", "resizePolicy": [policy]}]}),
        )
    };
    check("Pod", &never(of("cpu", "NotRequired")), &[]);
    check(
        "Pod",
        &never(of("cpu", "RestartContainer")),
        &[
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when \
           `restartPolicy` is 'Never'",
        ],
    );
}

#[test]
fn a_container_uses_what_its_pod_claims() {
    let claims = |of_pod: Value, used: Value| {
        let container = json!({"name": "a", "image": "b", "resources": {"claims": used}});
        pod(json!({"resourceClaims": of_pod, "containers": [container]}))
    };
    let one = |name: &str| json!({"name": name, "resourceClaimName": "x"});
    let said = |of_pod: Value, used: Value| texts(&super::create("", "Pod", &claims(of_pod, used)));
    let at = |index: usize| format!("spec.containers[0].resources.claims[{index}]");
    assert_eq!(said(json!([one("g")]), json!([{"name": "g"}])), [""; 0]);
    let among = "must be one of the names in pod.spec.resourceClaims";
    assert_eq!(
        said(json!([]), json!([{"name": "g"}])),
        [format!("{}: Not found: \"g\": {among} which is empty", at(0))]
    );
    assert_eq!(
        said(json!([one("h"), one("i")]), json!([{"name": "g"}])),
        [format!("{}: Not found: \"g\": {among}: h, i", at(0))]
    );
    assert_eq!(
        said(json!([one("g")]), json!([{"name": "g"}, {"name": "g"}, {"name": ""}])),
        [format!("{}: Duplicate value: \"g\"", at(1)), format!("{}: Required value", at(2))]
    );
}
