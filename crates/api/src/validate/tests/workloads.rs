//! Workloads and their templates, field by field.

use serde_json::{Value, json};

use super::check_of as check;
use super::create;

fn template(labels: &Value, spec: Value) -> Value {
    let mut spec = spec;
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("containers", json!([{"name": "a", "image": "b"}])),
    ] {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
    json!({"metadata": {"labels": labels}, "spec": spec})
}

/// A workload of that kind with these fields beside its selector and template.
fn workload(fields: Value) -> Value {
    let mut spec =
        json!({"selector": {"matchLabels": {"a": "b"}}, "template": template(&json!({"a": "b"}), json!({}))});
    for (field, value) in fields.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "w"}, "spec": spec})
}

#[test]
fn workloads_count_from_zero() {
    let negative =
        |field: &str| format!("spec.{field}: Invalid value: -1: must be greater than or equal to 0");
    for (kind, fields) in [
        ("Deployment", &["replicas", "minReadySeconds", "revisionHistoryLimit"][..]),
        ("ReplicaSet", &["replicas", "minReadySeconds"]),
        ("DaemonSet", &["minReadySeconds", "revisionHistoryLimit"]),
    ] {
        for field in fields {
            check("apps", kind, &workload(json!({ *field: 0 })), &[]);
            check("apps", kind, &workload(json!({ *field: -1 })), &[&negative(field)]);
        }
    }
}

#[test]
fn templates_are_of_pods_that_stay() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let said = |spec: Value, expected: &[&str]| {
            check("apps", kind, &workload(json!({"template": template(&json!({"a": "b"}), spec)})), expected);
        };
        for policy in ["OnFailure", "Never"] {
            let fault = format!(
                "spec.template.spec.restartPolicy: Unsupported value: \"{policy}\": supported values: \"Always\""
            );
            said(json!({"restartPolicy": policy}), &[&fault]);
        }
        let of = if kind == "DaemonSet" { "DaemonSet" } else { "ReplicaSet" };
        let fault = format!(
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in {of} is not Supported"
        );
        said(json!({"activeDeadlineSeconds": 5}), &[&fault]);
        said(json!({"containers": []}), &["spec.template.spec.containers: Required value"]);
        check("apps", kind, &workload(json!({"selector": null})), &["spec.selector: Required value"]);
        let faults = create(
            "apps",
            kind,
            &workload(json!({"template": template(&json!({"a": "b", "c d": "e"}), json!({}))})),
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}

#[test]
fn a_rollout_goes_on() {
    let said = |kind: &str, field: &str, strategy: Value, expected: &[&str]| {
        check("apps", kind, &workload(json!({ field: strategy })), expected);
    };
    let rolling = |unavailable: Value, surge: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
    for (kind, field) in [("Deployment", "strategy"), ("DaemonSet", "updateStrategy")] {
        let at = |rest: &str| format!("spec.{field}.rollingUpdate.{rest}");
        let stuck = match kind {
            "DaemonSet" => at("maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
            _ => at("maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"),
        };
        said(kind, field, rolling(json!(1), json!(0)), &[]);
        said(kind, field, rolling(json!("100%"), json!(0)), &[]);
        said(kind, field, rolling(json!(0), json!("200%")), &[]);
        said(kind, field, rolling(json!("0%"), json!(1)), &[]);
        said(kind, field, rolling(json!(0), json!(0)), &[&stuck]);
        said(kind, field, rolling(json!(0), json!("0%")), &[&stuck]);
        let both = at("maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero");
        let both: &[&str] = if kind == "DaemonSet" { &[&both] } else { &[] };
        said(kind, field, rolling(json!(1), json!(1)), both);
        said(
            kind,
            field,
            rolling(json!(-1), json!(0)),
            &[&at("maxUnavailable: Invalid value: -1: must be greater than or equal to 0")],
        );
        said(
            kind,
            field,
            rolling(json!("101%"), json!(0)),
            &[&at("maxUnavailable: Invalid value: \"101%\": must not be greater than 100%")],
        );
        let percent = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                       '93%', regex used for validation is '[0-9]+%')";
        said(
            kind,
            field,
            rolling(json!(1), json!("5")),
            &[&at(&format!("maxSurge: Invalid value: \"5\": {percent}"))],
        );
    }
    said("Deployment", "strategy", json!({"type": "Recreate"}), &[]);
    said(
        "Deployment",
        "strategy",
        json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    said(
        "Deployment",
        "strategy",
        json!({"type": "Slowly"}),
        &[
            "spec.strategy.type: Unsupported value: \"Slowly\": supported values: \"Recreate\", \"RollingUpdate\"",
        ],
    );
    said("DaemonSet", "updateStrategy", json!({"type": "OnDelete"}), &[]);
}

#[test]
fn a_deployments_deadline_is_after_its_pods_are_ready() {
    let said = |deadline: i64, ready: i64, expected: &[&str]| {
        let fields = json!({"progressDeadlineSeconds": deadline, "minReadySeconds": ready});
        check("apps", "Deployment", &workload(fields), expected);
    };
    said(6, 5, &[]);
    said(5, 5, &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]);
    said(
        -1,
        0,
        &[
            "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: -1: must be greater than minReadySeconds",
        ],
    );
}
