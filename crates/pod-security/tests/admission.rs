//! Labels, configuration, and what admission says of pods, templates and namespaces.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_pod_security::{
    Configuration, Exemptions, Level, LevelVersion, Outcome, Pod, Policy, Subject, Version, admit,
    exempt_namespace_warning, existing_pods, is_significant_update, must_look_at_pods, pod_of,
};

type Labels = BTreeMap<&'static str, &'static str>;

/// Labels under the usual prefix.
fn labels(pairs: &[(&'static str, &'static str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn look<'l>(labels: &'l Labels) -> impl Fn(&str) -> Option<&'l str> + use<'l> {
    |key| labels.get(key.strip_prefix("pod-security.kubernetes.io/")?).copied()
}

fn shown(policy: &Policy) -> String {
    format!("{} {} {}", policy.enforce, policy.audit, policy.warn)
}

#[test]
fn labels_make_a_policy() {
    let check = |pairs: &[(&'static str, &'static str)], expected: &str, faults: &[&str]| {
        let labels = labels(pairs);
        let (policy, found) = Policy::of_labels(look(&labels), Policy::default());
        let found: Vec<String> = found.iter().map(|f| format!("{}: {}", f.field, f.message)).collect();
        assert_eq!(
            (shown(&policy).as_str(), found),
            (expected, faults.iter().map(|f| (*f).to_owned()).collect())
        );
    };
    check(&[], "privileged:latest privileged:latest privileged:latest", &[]);
    // Who enforces is warned of templates, too.
    check(&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", &[]);
    check(
        &[("enforce", "restricted"), ("enforce-version", "v1.30")],
        "restricted:v1.30 privileged:latest restricted:v1.30",
        &[],
    );
    check(
        &[("enforce", "restricted"), ("enforce-version", "v1.30"), ("warn-version", "v1.31")],
        "restricted:v1.30 privileged:latest restricted:v1.31",
        &[],
    );
    check(
        &[("enforce", "baseline"), ("warn", "privileged")],
        "baseline:latest privileged:latest privileged:latest",
        &[],
    );
    check(
        &[("audit", "restricted"), ("audit-version", "v1.0"), ("warn", "baseline")],
        "privileged:latest restricted:v1.0 baseline:latest",
        &[],
    );
    // Where warnings are as strict by default already, they stay as of their own version.
    let warned = LevelVersion { level: Level::Baseline, version: Version::V1(30) };
    let asked = labels(&[("enforce", "baseline")]);
    let (policy, _) = Policy::of_labels(look(&asked), Policy { warn: warned, ..Policy::default() });
    assert_eq!(shown(&policy), "baseline:latest privileged:latest baseline:v1.30");
    let level = "must be one of privileged, baseline, restricted";
    check(
        &[("enforce", "strict"), ("audit", ""), ("warn", "Baseline")],
        "restricted:latest privileged:latest privileged:latest",
        &[
            &format!(
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": {level}"
            ),
            &format!("metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"\": {level}"),
            &format!(
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"Baseline\": {level}"
            ),
        ],
    );
    for bad in ["", "1.30", "v1.030", "v2.0", "v1.", "v1.x", "newest", "v1.99999999999", "v1.+1"] {
        let labels = labels(&[("enforce", "baseline"), ("enforce-version", bad)]);
        let (policy, found) = Policy::of_labels(look(&labels), Policy::default());
        assert_eq!(policy.enforce.version, Version::Latest);
        let expected = format!("Invalid value: {bad:?}: must be \"latest\" or \"v1.x\"");
        assert_eq!(found.iter().map(|f| f.message.as_str()).collect::<Vec<_>>(), [expected]);
    }
}

fn host_network() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "runtimeClassName": "boxed", "containers": [{"name": "a"}]}})
}

fn outcome(
    configuration: &Configuration,
    pairs: &[(&'static str, &'static str)],
    subject: Subject,
) -> Outcome {
    let labels = labels(pairs);
    admit(configuration, "jane", "n", look(&labels), subject, &Pod::of(&host_network()))
}

#[test]
fn pods_are_refused_and_templates_warned_of() {
    let none = Configuration::default();
    let violates = "PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    let free = vec![("enforce-policy", "privileged:latest".to_owned())];
    assert_eq!(outcome(&none, &[], Subject::Pod), Outcome { annotations: free, ..Outcome::default() });
    assert_eq!(outcome(&none, &[], Subject::Template), Outcome::default());
    let refused = outcome(&none, &[("enforce", "baseline"), ("audit", "baseline")], Subject::Pod);
    assert_eq!(
        refused,
        Outcome {
            refused: Some(format!("violates {violates}")),
            warnings: vec![],
            annotations: vec![
                ("enforce-policy", "baseline:latest".into()),
                ("audit-violations", format!("would violate {violates}")),
            ],
        }
    );
    let template = outcome(&none, &[("enforce", "baseline")], Subject::Template);
    assert_eq!(template.refused, None);
    assert_eq!(template.warnings, [format!("would violate {violates}")]);
    let warned = outcome(&none, &[("warn", "baseline")], Subject::Pod);
    assert_eq!((warned.refused, warned.warnings), (None, vec![format!("would violate {violates}")]));
    // Enforcement needs no warning beside it; of a template there is nothing to say then.
    let quiet = [("enforce", "baseline"), ("warn", "privileged")];
    let refused = outcome(&none, &quiet, Subject::Pod);
    assert_eq!((refused.refused, refused.warnings), (Some(format!("violates {violates}")), vec![]));
    assert_eq!(outcome(&none, &quiet, Subject::Template), Outcome::default());
    let exemptions = Exemptions { runtime_classes: vec!["boxed".into()], ..Exemptions::default() };
    let boxed = Configuration { exemptions, ..Configuration::default() };
    assert_eq!(outcome(&boxed, &quiet, Subject::Template), Outcome::default(), "nor that it is exempt");
    // A label that can't be read enforces the strictest.
    let broken = outcome(&none, &[("enforce", "nonsense")], Subject::Pod);
    assert!(broken.refused.is_some_and(|why| why.starts_with("violates PodSecurity \"restricted:latest\"")));
    assert_eq!(broken.annotations[0].0, "error");
}

#[test]
fn exemptions_hold_for_users_namespaces_and_runtime_classes() {
    let check = |exemptions: Exemptions, by: &str| {
        let configuration = Configuration { exemptions, ..Configuration::default() };
        let outcome = outcome(&configuration, &[("enforce", "restricted")], Subject::Pod);
        assert_eq!(outcome.annotations, [("exempt", by.to_owned())]);
        assert_eq!((outcome.refused, outcome.warnings), (None, vec![]));
    };
    check(Exemptions { usernames: vec!["jane".into()], ..Exemptions::default() }, "user");
    check(Exemptions { namespaces: vec!["n".into()], ..Exemptions::default() }, "namespace");
    check(Exemptions { runtime_classes: vec!["boxed".into()], ..Exemptions::default() }, "runtimeClass");
}

#[test]
fn exemptions_hold_for_nobody_else() {
    let exemptions = Exemptions {
        usernames: vec!["joe".into()],
        namespaces: vec!["m".into()],
        runtime_classes: vec!["sealed".into()],
    };
    let configuration = Configuration { exemptions, ..Configuration::default() };
    let outcome = outcome(&configuration, &[("enforce", "baseline")], Subject::Pod);
    assert!(outcome.refused.is_some(), "{outcome:?}");
    // Nor for who has no name, or for a pod without a class, whatever is listed.
    let exemptions = Exemptions {
        usernames: vec![String::new()],
        runtime_classes: vec![String::new()],
        ..Exemptions::default()
    };
    let configuration = Configuration { exemptions, ..Configuration::default() };
    let labels = labels(&[("enforce", "baseline")]);
    let pod = json!({"spec": {"hostNetwork": true, "containers": [{"name": "a"}]}});
    let outcome = admit(&configuration, "", "n", look(&labels), Subject::Pod, &Pod::of(&pod));
    assert!(outcome.refused.is_some(), "{outcome:?}");
}

#[test]
fn the_pods_of_templates_are_found() {
    assert_eq!(pod_of("", "pods"), Some((Subject::Pod, "")));
    for (group, resource, place) in [
        ("", "podtemplates", "/template"),
        ("", "replicationcontrollers", "/spec/template"),
        ("apps", "deployments", "/spec/template"),
        ("apps", "replicasets", "/spec/template"),
        ("apps", "statefulsets", "/spec/template"),
        ("apps", "daemonsets", "/spec/template"),
        ("batch", "jobs", "/spec/template"),
        ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ] {
        assert_eq!(pod_of(group, resource), Some((Subject::Template, place)), "{group}/{resource}");
    }
    for (group, resource) in
        [("", "services"), ("", "deployments"), ("apps", "pods"), ("batch", "deployments")]
    {
        assert_eq!(pod_of(group, resource), None, "{group}/{resource}");
    }
}

#[test]
fn only_images_and_new_containers_are_significant() {
    let pod = |image: &str| json!({"spec": {"containers": [{"name": "a", "image": image}]}});
    assert!(!is_significant_update(&pod("x"), &pod("x")));
    assert!(is_significant_update(&pod("y"), &pod("x")));
    let mut labelled = pod("x");
    labelled["metadata"] = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}});
    assert!(!is_significant_update(&labelled, &pod("x")));
    let mut debugged = pod("x");
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "y"}]);
    assert!(is_significant_update(&debugged, &pod("x")));
    assert!(!is_significant_update(&debugged, &debugged));
    let mut annotated = pod("x");
    annotated["metadata"] =
        json!({"annotations": {"container.seccomp.security.alpha.kubernetes.io/a": "unconfined"}});
    assert!(is_significant_update(&annotated, &pod("x")));
    annotated["metadata"] =
        json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
    assert!(is_significant_update(&annotated, &pod("x")));
    // A container that is gone is a change, too.
    for list in ["containers", "initContainers"] {
        let mut longer = pod("x");
        longer["spec"][list] = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]);
        assert!(is_significant_update(&pod("x"), &longer), "{list}");
        assert!(!is_significant_update(&longer, &longer), "{list}");
    }
}

const BASELINE: LevelVersion = LevelVersion { level: Level::Baseline, version: Version::Latest };

fn existing(name: &str, spec: Value, controller: Option<&str>) -> Value {
    let owners: Vec<Value> = controller.iter().map(|uid| json!({"uid": uid, "controller": true})).collect();
    let mut spec = spec;
    spec["containers"] = json!([{"name": "a"}]);
    json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec})
}

#[test]
fn a_stricter_label_names_the_pods_it_would_refuse() {
    let pods = [
        existing("z", json!({"hostPID": true}), None),
        existing("b", json!({"hostNetwork": true}), None),
        existing("c", json!({"hostNetwork": true}), None),
        existing("fine", json!({}), None),
        existing("v", json!({"hostPID": true, "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}), None),
    ];
    let configuration = Configuration::default();
    assert_eq!(
        existing_pods(&configuration, "n", BASELINE, &pods, || true),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "b (and 2 other pods): host namespaces",
            "v: host namespaces, hostPath volumes",
        ]
    );
    assert_eq!(
        existing_pods(&configuration, "n", BASELINE, &pods[..2], || true)[1],
        "b (and 1 other pod): host namespaces"
    );
    assert_eq!(existing_pods(&configuration, "n", BASELINE, &pods[3..4], || true), [""; 0]);
    let exemptions = Exemptions { runtime_classes: vec!["boxed".into()], ..Exemptions::default() };
    let configuration = Configuration { exemptions, ..Configuration::default() };
    let boxed = [existing("b", json!({"hostNetwork": true, "runtimeClassName": "boxed"}), None)];
    assert_eq!(existing_pods(&configuration, "n", BASELINE, &boxed, || true), [""; 0]);
}

#[test]
fn with_little_time_one_pod_of_each_controller_is_looked_at_first() {
    let pods = [
        existing("r-1", json!({}), Some("r")),
        existing("r-2", json!({}), Some("r")),
        existing("s-1", json!({"hostIPC": true}), Some("s")),
    ];
    let mut looked = 0;
    let warnings = existing_pods(&Configuration::default(), "n", BASELINE, &pods, || {
        looked += 1;
        looked < 2
    });
    assert_eq!(
        warnings,
        [
            "new PodSecurity enforce level only checked against the first 2 of 3 existing pods",
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "s-1: host namespaces",
        ]
    );
    let many: Vec<Value> = (0..3001).map(|n| existing(&format!("p-{n}"), json!({}), None)).collect();
    assert_eq!(
        existing_pods(&Configuration::default(), "n", BASELINE, &many, || true),
        ["new PodSecurity enforce level only checked against the first 3000 of 3001 existing pods"]
    );
}

#[test]
fn only_a_stricter_enforcement_looks_at_pods() {
    let at = |level, version| Policy { enforce: LevelVersion { level, version }, ..Policy::default() };
    let (b, r, p) = (Level::Baseline, Level::Restricted, Level::Privileged);
    let latest = Version::Latest;
    assert!(must_look_at_pods(&at(b, latest), &at(p, latest)));
    assert!(must_look_at_pods(&at(r, latest), &at(b, latest)));
    assert!(!must_look_at_pods(&at(b, latest), &at(r, latest)));
    assert!(must_look_at_pods(&at(b, Version::V1(30)), &at(r, latest)));
    assert!(!must_look_at_pods(&at(b, latest), &at(b, latest)));
    assert!(!must_look_at_pods(&at(p, latest), &at(b, latest)));
}

#[test]
fn labels_of_an_exempt_namespace_do_nothing_and_say_so() {
    let exemptions = Exemptions { namespaces: vec!["n".into()], ..Exemptions::default() };
    let configuration = Configuration { exemptions, ..Configuration::default() };
    let said = |namespace: &str, pairs: &[(&'static str, &'static str)]| {
        let labels = labels(pairs);
        let (policy, _) = Policy::of_labels(look(&labels), configuration.defaults);
        exempt_namespace_warning(&configuration, namespace, look(&labels), &policy)
    };
    assert_eq!(
        said("n", &[("enforce", "baseline"), ("audit", "restricted"), ("audit-version", "v1.30")]).as_deref(),
        Some(
            "namespace \"n\" is exempt from Pod Security, and the policy (enforce=baseline:latest, \
             audit=restricted:v1.30) will be ignored"
        )
    );
    assert_eq!(said("n", &[("enforce", "privileged")]), None);
    assert_eq!(said("other", &[("enforce", "baseline")]), None);
}

#[test]
fn labels_of_an_exempt_namespace_that_ask_for_what_holds_anyway_are_not_spoken_of() {
    let exemptions = Exemptions { namespaces: vec!["n".into()], ..Exemptions::default() };
    let defaults = Policy { enforce: BASELINE, warn: BASELINE, ..Policy::default() };
    let configuration = Configuration { defaults, exemptions };
    let is_spoken_of = |pairs: &[(&'static str, &'static str)]| {
        let labels = labels(pairs);
        let (policy, _) = Policy::of_labels(look(&labels), defaults);
        exempt_namespace_warning(&configuration, "n", look(&labels), &policy).is_some()
    };
    assert!(!is_spoken_of(&[("enforce", "baseline"), ("enforce-version", "latest")]));
    // A version of what allows everything says nothing.
    assert!(!is_spoken_of(&[("enforce", "baseline"), ("audit-version", "v1.30")]));
    assert!(is_spoken_of(&[("enforce", "baseline"), ("audit", "restricted")]));
    assert!(is_spoken_of(&[("enforce", "baseline"), ("enforce-version", "v1.30")]));
    assert!(is_spoken_of(&[("enforce", "privileged")]), "less than the default, but warnings");
    // Where everything is allowed there is no policy to be ignored.
    assert!(!is_spoken_of(&[("enforce", "privileged"), ("warn", "privileged")]));
}

fn read(text: &str) -> Result<Configuration, String> {
    let document: Value = serde_yaml_ng::from_str(text).expect("YAML");
    Configuration::read(&document).map_err(|error| error.to_string())
}

#[test]
fn a_configuration_is_read_and_its_faults_are_named() {
    let head = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n";
    let good = read(&format!(
        "{head}defaults: {{enforce: baseline, enforce-version: v1.30, warn: restricted}}\n\
         exemptions: {{usernames: [jane], runtimeClasses: [boxed], namespaces: [kube-system]}}\n"
    ))
    .expect("it is good");
    assert_eq!(shown(&good.defaults), "baseline:v1.30 privileged:latest restricted:latest");
    assert_eq!(good.exemptions.runtime_classes, ["boxed"]);
    assert_eq!(read(head).expect("defaults may be left out"), Configuration::default());
    let faults = read(&format!(
        "{head}defaults: {{enforce: strict, audit-version: new}}\n\
         exemptions: {{usernames: ['', a, a], namespaces: [UPPER]}}\n"
    ))
    .expect_err("faults");
    for fault in [
        "defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
        "defaults.audit-version: Invalid value: \"new\": must be \"latest\" or \"v1.x\"",
        "exemptions.usernames[0]: Required value",
        "exemptions.usernames[2]: Duplicate value: \"a\"",
        "exemptions.namespaces[0]: Invalid value: \"UPPER\"",
    ] {
        assert!(faults.contains(fault), "{faults}");
    }
    assert!(read(&format!("{head}default: {{}}\n")).expect_err("a typo").contains("unknown field `default`"));
    assert!(read("apiVersion: v1\nkind: Pod\n").expect_err("a pod").contains("no kind \"Pod\""));
    let group = "pod-security.admission.config.k8s.io";
    for (version, kind) in [
        ("v1", "PodSecurityConfiguration"),
        (&*format!("{group}/v1"), "Pod"),
        (&*format!("{group}/v2"), "PodSecurityConfiguration"),
    ] {
        let why =
            read(&format!("apiVersion: {version}\nkind: {kind}\n")).expect_err("another kind or version");
        assert!(why.contains(&format!("no kind {kind:?} is registered for version {version:?}")), "{why}");
    }
    for version in ["v1beta1", "v1alpha1"] {
        assert!(
            read(&format!("apiVersion: {group}/{version}\nkind: PodSecurityConfiguration\n")).is_ok(),
            "{version}"
        );
    }
}
