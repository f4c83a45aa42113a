//! What may become of an object.

use serde_json::{Value, json};

use super::{pod, texts};

const POD: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                   to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";

/// The faults of a change of a pod's specification from one set of fields to another.
#[track_caller]
fn change(old: Value, new: Value, expected: &[&str]) {
    let whole = |fields: Value| {
        let mut spec = fields;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "a", "image": "b"}]);
        }
        pod(spec)
    };
    // What differs is told below the rule.
    let texts = texts(&super::update("", "Pod", "", &whole(new), &whole(old)));
    let rules: Vec<&str> = texts.iter().filter_map(|text| text.lines().next()).collect();
    assert_eq!(rules, expected);
}

#[test]
fn a_refused_change_is_shown() {
    let old = pod(json!({"containers": [{"name": "a", "image": "b", "env": [{"name": "E", "value": "1"}]}]}));
    let mut new = old.clone();
    new["spec"]["hostNetwork"] = true.into();
    new["spec"]["containers"][0]["image"] = "c".into();
    new["spec"]["containers"][0]["env"][0]["value"] = "2".into();
    // What may change is not told.
    let shown = r#"@@ -4,7 +4,7 @@
    "env": [
     {
      "name": "E",
-     "value": "1"
+     "value": "2"
     }
    ],
    "image": "b",
@@ -12,5 +12,6 @@
   }
  ],
  "dnsPolicy": "ClusterFirst",
+ "hostNetwork": true,
  "restartPolicy": "Always"
 }
"#;
    assert_eq!(texts(&super::update("", "Pod", "", &new, &old)), [format!("{POD}\n{shown}")]);
}

#[test]
fn a_deadline_comes_nearer_and_stays() {
    let at = |seconds: i64| json!({"activeDeadlineSeconds": seconds});
    change(json!({}), at(9), &[]);
    change(at(9), at(9), &[]);
    change(at(9), at(8), &[]);
    change(
        at(9),
        at(10),
        &["spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value"],
    );
    change(
        at(9),
        json!({}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: \"null\": must not update from a positive integer to nil value",
        ],
    );
}

#[test]
fn tolerations_are_added_and_may_last_longer() {
    let with = |list: Value| json!({ "tolerations": list });
    let one = |seconds: i64| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let other = json!({"key": "l", "operator": "Exists"});
    change(with(json!([one(5)])), with(json!([one(5), other])), &[]);
    change(with(json!([one(5)])), with(json!([one(9)])), &[]);
    let fault =
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds";
    change(with(json!([one(5), other])), with(json!([one(5)])), &[fault]);
    change(with(json!([other])), with(json!([{"key": "m", "operator": "Exists"}])), &[fault]);
}

#[test]
fn images_change_and_containers_do_not() {
    let with = |images: &[&str], init: &str| {
        let containers: Vec<Value> = images
            .iter()
            .enumerate()
            .map(|(at, image)| json!({"name": format!("c{at}"), "image": image}))
            .collect();
        json!({"containers": containers, "initContainers": [{"name": "i", "image": init}]})
    };
    change(with(&["a", "b"], "i"), with(&["a", "c"], "j"), &[]);
    let count = |list: &str| format!("spec.{list}: Forbidden: pod updates may not add or remove containers");
    change(with(&["a", "b"], "i"), with(&["a"], "i"), &[&count("containers")]);
    change(with(&["a"], "i"), with(&["a", "b"], "i"), &[&count("containers")]);
    let mut without = with(&["a"], "i");
    without["initContainers"] = json!([]);
    change(with(&["a"], "i"), without, &[&count("initContainers")]);
    let mut renamed = with(&["a"], "i");
    renamed["containers"][0]["name"] = "other".into();
    change(with(&["a"], "i"), renamed, &[POD]);
}

#[test]
fn grace_is_the_pods_for_good() {
    let grace = |seconds: i64| json!({"terminationGracePeriodSeconds": seconds});
    change(grace(30), grace(1), &[POD]);
    change(grace(30), grace(20), &[POD]);
    change(grace(-1), grace(1), &[]);
}

#[test]
fn gates_are_opened_one_by_one() {
    let gates = |names: &[&str]| {
        let gates: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        json!({ "schedulingGates": gates })
    };
    change(gates(&["g", "h"]), gates(&["h"]), &[]);
    change(gates(&["g"]), json!({}), &[]);
    change(
        gates(&["g"]),
        gates(&["g", "h"]),
        &[
            "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'",
        ],
    );
}

#[test]
fn a_pod_that_waits_at_a_gate_may_be_told_more_of_where_it_goes() {
    let gated = |selector: Value| json!({"schedulingGates": [{"name": "g"}], "nodeSelector": selector});
    change(gated(json!({"a": "b"})), gated(json!({"a": "b", "c": "d"})), &[]);
    for (to, shown) in [(json!({"a": "z"}), "{\"a\":\"z\"}"), (json!({}), "{}")] {
        let fault = format!(
            "spec.nodeSelector: Invalid value: {shown}: only additions to spec.nodeSelector are allowed (no mutations \
             or deletions)"
        );
        change(gated(json!({"a": "b"})), gated(to), &[&fault]);
    }
    change(json!({"nodeSelector": {"a": "b"}}), json!({"nodeSelector": {"a": "b", "c": "d"}}), &[POD]);
}

#[test]
fn a_pods_addresses_are_addresses() {
    let with = |status: Value| {
        let mut object = pod(json!({"containers": [{"name": "a", "image": "b"}]}));
        object["status"] = status;
        object
    };
    let said = |new: Value, old: Value| texts(&super::update("", "Pod", "status", &with(new), &with(old)));
    let pair = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIPs": [{"ip": "10.0.0.9"}]});
    assert_eq!(said(pair, json!({})), [""; 0]);
    let no_address = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    assert_eq!(
        said(json!({"podIP": "x", "podIPs": [{"ip": "x"}], "hostIPs": [{"ip": "010.0.0.1"}]}), json!({})),
        [
            format!("status.podIP: Invalid value: \"x\": {no_address}"),
            format!("status.podIPs[0]: Invalid value: \"x\": {no_address}"),
            "status.hostIPs[0]: Invalid value: \"010.0.0.1\": must not have leading 0s".to_owned(),
        ]
    );
    let twice = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]});
    assert_eq!(said(twice, json!({})), ["status.podIPs[1]: Duplicate value: {\"ip\":\"10.0.0.1\"}"]);
    let two = said(json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}), json!({}));
    assert!(two[0].ends_with("may specify no more than one IP for each IP family"), "{two:?}");
    // What was said so before may be said again.
    let mapped = || json!({"podIP": "::ffff:10.0.0.1", "podIPs": [{"ip": "::ffff:10.0.0.1"}]});
    assert_eq!(said(mapped(), mapped()), [""; 0]);
    assert_eq!(said(mapped(), json!({})).len(), 2);
}

const TERMS: &str =
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

#[test]
fn a_pod_that_waits_at_a_gate_may_choose_among_fewer_nodes() {
    let needs = |key: &str| json!({"key": key, "operator": "Exists"});
    let gated = || json!({"schedulingGates": [{"name": "g"}]});
    let with = |affinity: Value| json!({"schedulingGates": [{"name": "g"}], "affinity": affinity});
    let terms = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let of = |lists: &[&[&str]]| {
        let all = lists.iter().map(|keys| {
            let needed: Vec<Value> = keys.iter().map(|key| needs(key)).collect();
            json!({"matchExpressions": needed})
        });
        with(terms(all.collect()))
    };
    change(gated(), of(&[&["a"]]), &[]);
    change(with(json!({})), of(&[&["a"]]), &[]);
    change(of(&[&["a"]]), of(&[&["a", "b"]]), &[]);
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [needs("a")]}}]}});
    change(with(preferred.clone()), of(&[&["a"]]), &[]);

    let refused = |old: Value, new: Value, place: &str, why: &str| {
        let texts = texts(&super::update("", "Pod", "", &pod(new), &pod(old)));
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(
            texts[0].starts_with(&format!("{place}: Invalid value: ")) && texts[0].ends_with(why),
            "{texts:?}"
        );
    };
    let whole = |mut fields: Value| {
        fields["containers"] = json!([{"name": "a", "image": "b"}]);
        fields
    };
    let count = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
    refused(whole(of(&[&["a"]])), whole(of(&[&["a"], &["b"]])), TERMS, count);
    refused(whole(of(&[&["a"], &["b"]])), whole(of(&[&["a"]])), TERMS, count);
    refused(whole(of(&[&["a"]])), whole(with(preferred)), TERMS, count);
    let first = format!("{TERMS}[0]");
    let only = "only additions are allowed (no mutations or deletions)";
    refused(whole(of(&[&["a", "b"]])), whole(of(&[&["a"]])), &first, only);
    refused(whole(of(&[&["a"]])), whole(of(&[&["b", "a"]])), &first, only);
    // A term that requires nothing selects no node, and one that does would select some.
    refused(whole(with(terms(json!([{}])))), whole(of(&[&["a"]])), &first, only);

    // To other pods nothing changes, and without a gate nothing at all.
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}]}});
    change(gated(), with(near), &[POD]);
    change(json!({}), json!({"affinity": terms(json!([{"matchExpressions": [needs("a")]}]))}), &[POD]);
}

/// The faults of a change of an object of another kind.
fn faults(group: &str, kind: &str, new: &Value, old: &Value) -> Vec<String> {
    texts(&super::update(group, kind, "", new, old))
}

#[test]
fn a_service_keeps_its_address() {
    let service = |kind: &str, ip: Value| {
        json!({"metadata": {"name": "s"}, "spec": {
            "type": kind, "clusterIP": ip, "externalName": "x.example", "ports": [{"port": 80, "protocol": "TCP"}]}})
    };
    let own = || service("ClusterIP", json!("10.0.0.1"));
    let said = |new: &Value, old: &Value| faults("", "Service", new, old);
    assert_eq!(said(&own(), &own()), [""; 0]);
    assert_eq!(said(&service("NodePort", json!("10.0.0.1")), &own()), [""; 0]);
    assert_eq!(said(&own(), &service("ClusterIP", Value::Null)), [""; 0]);
    let fault = "spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": may not change once set";
    assert_eq!(said(&service("ClusterIP", json!("10.0.0.2")), &own()), [fault]);
    // From and to a name outside of the cluster it comes and goes.
    assert_eq!(said(&service("ExternalName", Value::Null), &own()), [""; 0]);
    assert_eq!(said(&own(), &service("ExternalName", Value::Null)), [""; 0]);
}

#[test]
fn a_node_keeps_its_ranges_and_provider() {
    let node = |spec: Value| json!({"metadata": {"name": "n"}, "spec": spec});
    let said = |new: Value, old: Value| faults("", "Node", &node(new), &node(old));
    let full = || json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "a"});
    assert_eq!(said(full(), json!({})), [""; 0]);
    assert_eq!(said(full(), full()), [""; 0]);
    assert_eq!(
        said(json!({"podCIDRs": ["10.0.1.0/24"], "providerID": "b"}), full()),
        [
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
        ]
    );
}

#[test]
fn what_was_sealed_stays_sealed() {
    let map = |immutable: bool, data: &str| json!({"metadata": {"name": "c"}, "immutable": immutable, "data": {"a": data}});
    let said = |new: &Value, old: &Value| faults("", "ConfigMap", new, old);
    let why = "Forbidden: field is immutable when `immutable` is set";
    assert_eq!(said(&map(true, "b"), &map(false, "a")), [""; 0]);
    assert_eq!(said(&map(true, "a"), &map(true, "a")), [""; 0]);
    assert_eq!(said(&map(false, "a"), &map(true, "a")), [format!("immutable: {why}")]);
    assert_eq!(said(&map(true, "b"), &map(true, "a")), [format!("data: {why}")]);
    let binary =
        |byte: &str| json!({"metadata": {"name": "c"}, "immutable": true, "binaryData": {"a": byte}});
    assert_eq!(said(&binary("eA=="), &binary("eQ==")), [format!("binaryData: {why}")]);
    let secret = |kind: &str, data: &str| json!({"metadata": {"name": "s"}, "type": kind, "immutable": true, "data": {"a": data}});
    assert_eq!(
        faults("", "Secret", &secret("b", "eA=="), &secret("a", "eQ==")),
        ["type: Invalid value: \"b\": field is immutable".to_owned(), format!("data: {why}")]
    );
}

#[test]
fn a_priority_stays() {
    let class = |value: i64, policy: &str| json!({"metadata": {"name": "p"}, "value": value, "preemptionPolicy": policy});
    let said = |new: Value, old: Value| faults("scheduling.k8s.io", "PriorityClass", &new, &old);
    assert_eq!(said(class(5, "Never"), class(5, "Never")), [""; 0]);
    assert_eq!(
        said(class(6, "PreemptLowerPriority"), class(5, "Never")),
        [
            "value: Forbidden: may not be changed in an update.",
            "preemptionPolicy: Forbidden: may not be changed in an update.",
        ]
    );
}

#[test]
fn finalizers_of_old_stay_and_new_ones_are_looked_at() {
    let map = |finalizers: Value| json!({"metadata": {"name": "c", "finalizers": finalizers}});
    let said = |new: Value, old: Value| faults("", "ConfigMap", &map(new), &map(old));
    assert_eq!(said(json!(["mine"]), json!(["mine"])), [""; 0]);
    assert_eq!(said(json!([]), json!(["mine"])), [""; 0]);
    assert_eq!(said(json!(["mine"]), json!([])).len(), 1);
}

#[test]
fn slices_and_revisions_stay_what_they_are() {
    let slice = |kind: &str| json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": []});
    assert_eq!(
        faults("discovery.k8s.io", "EndpointSlice", &slice("IPv6"), &slice("IPv4")),
        ["addressType: Invalid value: \"IPv6\": field is immutable"]
    );
    let revision = |data: i64| json!({"metadata": {"name": "r"}, "data": {"a": data}});
    assert_eq!(
        faults("apps", "ControllerRevision", &revision(2), &revision(1)),
        ["data: Invalid value: {\"a\":2}: field is immutable"]
    );
}

#[test]
fn a_pod_with_an_old_fault_may_be_labelled_still() {
    let mut old = pod(json!({"containers": [{"name": "A", "image": "b"}]}));
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(faults("", "Pod", &new, &old), [""; 0]);
    new["metadata"]["labels"] = json!({"a b": "b"});
    assert_eq!(faults("", "Pod", &new, &old).len(), 1, "what is changed is looked at");
    old["spec"]["containers"][0]["image"] = "c".into();
    new["metadata"] = old["metadata"].clone();
    assert_eq!(faults("", "Pod", &new, &old).len(), 1, "so is all of a specification");
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/a";

/// A pod of node `n` with these annotations.
fn annotated(annotations: Value) -> Value {
    let mut object = pod(json!({"nodeName": "n", "containers": [{"name": "a", "image": "b"}]}));
    object["metadata"]["annotations"] = annotations;
    object
}

#[test]
fn whose_a_pod_is_and_its_profiles_hold_to_its_end() {
    for (key, many) in [(MIRROR, "mirror pod annotation"), (APPARMOR, "AppArmor annotations")] {
        let refused =
            |what: &str| vec![format!("metadata.annotations[{key}]: Forbidden: may not {what} {many}")];
        let (none, one, other) = (json!({"k": "v"}), json!({key: "x", "k": "v"}), json!({key: "y"}));
        // The status's own path takes annotations, too.
        for subresource in ["", "status"] {
            let said = |new: &Value, old: &Value| {
                let (new, old) = (annotated(new.clone()), annotated(old.clone()));
                texts(&super::update("", "Pod", subresource, &new, &old))
            };
            assert_eq!(said(&one, &none), refused("add"));
            assert_eq!(said(&one, &Value::Null), refused("add"));
            assert_eq!(said(&other, &one), refused("remove or update"));
            assert_eq!(said(&none, &one), refused("remove or update"));
            assert_eq!(said(&Value::Null, &one), refused("remove or update"));
            assert_eq!(said(&json!({key: "x", "k": "w"}), &one), Vec::<String>::new());
        }
    }
    let map = |annotations: Value| json!({"metadata": {"name": "m", "annotations": annotations}});
    assert_eq!(faults("", "ConfigMap", &map(json!({MIRROR: "x"})), &map(json!({}))), [""; 0], "of no pod");
}

#[test]
fn a_mirror_pod_is_some_nodes() {
    let mut mirror = annotated(json!({MIRROR: "x"}));
    super::check("Pod", &mirror, &[]);
    mirror["spec"]["nodeName"] = Value::Null;
    super::check(
        "Pod",
        &mirror,
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
        ],
    );
    let template =
        json!({"metadata": {"labels": {"a": "b"}, "annotations": {MIRROR: "x"}}, "spec": mirror["spec"]});
    super::check(
        "Deployment",
        &json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        &[
            "spec.template.metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
        ],
    );
}
