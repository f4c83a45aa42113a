//! Pods, field by field: each with the faults that it alone makes.

use serde_json::{Value, json};

use super::super::names;
use super::{check, pod};

/// A pod of one good container, with these fields beside it.
fn with(spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "a", "image": "b"}]);
    pod(spec)
}

/// A pod whose only container has these fields, too.
fn with_container(fields: Value) -> Value {
    let mut container = json!({"name": "a", "image": "b"});
    for (field, value) in fields.as_object().expect("fields") {
        container[field] = value.clone();
    }
    pod(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

#[track_caller]
pub(super) fn spec(cases: &[(Value, &str)]) {
    for (fields, expected) in cases {
        let expected: Vec<&str> = Some(*expected).filter(|text| !text.is_empty()).into_iter().collect();
        check("Pod", &with(fields.clone()), &expected);
    }
}

#[track_caller]
pub(super) fn container(cases: &[(Value, &str)]) {
    for (fields, expected) in cases {
        let expected: Vec<String> = Some(*expected)
            .filter(|text| !text.is_empty())
            .map(|text| format!("spec.containers[0].{text}"))
            .into_iter()
            .collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check("Pod", &with_container(fields.clone()), &expected);
    }
}

#[test]
fn names_of_the_pod_and_of_what_it_refers_to() {
    let long = "a".repeat(64);
    spec(&[
        (
            json!({"hostname": "web-0", "subdomain": "web", "nodeName": "n1.example", "serviceAccountName": "s"}),
            "",
        ),
        (
            json!({"hostname": long}),
            &format!("spec.hostname: Invalid value: \"{long}\": must be no more than 63 bytes"),
        ),
        (
            json!({"subdomain": "a.b"}),
            &format!("spec.subdomain: Invalid value: \"a.b\": {}", names::label("a.b").expect("a fault")),
        ),
        (json!({"nodeName": "N"}), &format!("spec.nodeName: Invalid value: \"N\": {}", names::SUBDOMAIN)),
        (
            json!({"priorityClassName": "-"}),
            &format!("spec.priorityClassName: Invalid value: \"-\": {}", names::SUBDOMAIN),
        ),
    ]);
}

#[test]
fn seconds_have_their_least() {
    let (first, second) =
        ("must be between 1 and 2147483647, inclusive", "must be greater than or equal to 0");
    spec(&[
        (json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0}), ""),
        (
            json!({"activeDeadlineSeconds": 0}),
            &format!("spec.activeDeadlineSeconds: Invalid value: 0: {first}"),
        ),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            &format!("spec.terminationGracePeriodSeconds: Invalid value: -1: {second}"),
        ),
    ]);
}

#[test]
fn policies_are_of_a_set() {
    spec(&[
        (json!({"restartPolicy": "Never", "dnsPolicy": "Default"}), ""),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet"}), ""),
        (
            json!({"dnsPolicy": "Own"}),
            "spec.dnsPolicy: Unsupported value: \"Own\": supported values: \"ClusterFirstWithHostNet\", \
             \"ClusterFirst\", \"Default\", \"None\"",
        ),
        (
            json!({"restartPolicy": "Once"}),
            "spec.restartPolicy: Unsupported value: \"Once\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (json!({"restartPolicy": ""}), "spec.restartPolicy: Required value"),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (json!({"hostPID": true}), ""),
        (json!({"shareProcessNamespace": true}), ""),
    ]);
}

#[test]
fn name_servers_are_few_and_addresses() {
    let servers = |count: usize| vec!["192.0.2.1"; count];
    let must = "must provide at least one DNS nameserver when `dnsPolicy` is None";
    spec(&[
        (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers(3)}}), ""),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {}}),
            &format!("spec.dnsConfig.nameservers: Required value: {must}"),
        ),
        (json!({"dnsPolicy": "None"}), &format!("spec.dnsConfig: Required value: {must}")),
        (
            json!({"dnsConfig": {"nameservers": servers(4)}}),
            "spec.dnsConfig.nameservers: Invalid value: [\"192.0.2.1\",\"192.0.2.1\",\"192.0.2.1\",\"192.0.2.1\"]: \
             must not have more than 3 nameservers",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["here"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \"here\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ),
        (json!({"dnsConfig": {"searches": vec!["a"; 32], "options": [{"name": "ndots", "value": "2"}]}}), ""),
        (
            json!({"dnsConfig": {"options": [{"value": "2"}]}}),
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ),
    ]);
    let faults = super::create("", "Pod", &with(json!({"dnsConfig": {"searches": vec!["a"; 33]}})));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].message.ends_with("must not have more than 32 search paths"), "{faults:?}");
}

#[test]
fn aliases_of_hosts_are_addresses_and_names() {
    spec(&[
        (json!({"hostAliases": [{"ip": "127.0.0.1", "hostnames": ["a", "b.example"]}]}), ""),
        (
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"hostAliases": [{"ip": "::1", "hostnames": ["a", "B"]}]}),
            &format!("spec.hostAliases[0].hostnames: Invalid value: \"B\": {}", names::SUBDOMAIN),
        ),
    ]);
}

#[test]
fn tolerations_say_what_they_tolerate() {
    let with = |toleration: Value| json!({"tolerations": [toleration]});
    spec(&[
        (with(json!({"operator": "Exists"})), ""),
        (with(json!({"key": "k", "value": "v", "effect": "NoSchedule"})), ""),
        (with(json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5})), ""),
        (
            with(json!({"value": "v"})),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which \
             means \"match all values and all keys\"",
        ),
        (
            with(json!({"key": "k", "operator": "Exists", "value": "v"})),
            "spec.tolerations[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
        ),
        (
            with(json!({"key": "k", "effect": "NoSchedule", "tolerationSeconds": 5})),
            "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
        ),
        (
            with(json!({"key": "k", "operator": "Like"})),
            "spec.tolerations[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            with(json!({"key": "k", "effect": "Never"})),
            "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\"",
        ),
    ]);
    for toleration in [json!({"key": "a b"}), json!({"key": "k", "operator": "Equal", "value": "a b"})] {
        let faults = super::create(
            "",
            "Pod",
            &super::pod(json!({
            "containers": [{"name": "a", "image": "b"}], "tolerations": [toleration]})),
        );
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}

#[test]
fn terms_of_node_affinity_have_values_by_their_operator() {
    let required = |requirement: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
    };
    let place = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let of = |operator: &str, values: &[&str]| {
        required(json!({"key": "k", "operator": operator, "values": values}))
    };
    let at = format!("{place}[0].matchExpressions[0]");
    let some = format!("{at}.values: Required value: must be specified when `operator` is 'In' or 'NotIn'");
    let none =
        format!("{at}.values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
    let one = format!(
        "{at}.values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"
    );
    spec(&[
        (of("In", &["a", "b"]), ""),
        (of("NotIn", &["a"]), ""),
        (of("Exists", &[]), ""),
        (of("DoesNotExist", &[]), ""),
        (of("Gt", &["1"]), ""),
        (of("Lt", &["1"]), ""),
        (of("In", &[]), &some),
        (of("NotIn", &[]), &some),
        (of("Exists", &["a"]), &none),
        (of("DoesNotExist", &["a"]), &none),
        (of("Gt", &[]), &one),
        (of("Lt", &["1", "2"]), &one),
        (
            of("Like", &["a"]),
            &format!("{at}.operator: Invalid value: \"Like\": not a valid selector operator"),
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": []}}}}),
            &format!("{place}: Required value: must have at least one node selector term"),
        ),
    ]);
    let preferred = |weight: i64| {
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "preference": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}]}}})
    };
    let weight = |number: i64| {
        format!(
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: \
             {number}: must be in the range 1-100"
        )
    };
    spec(&[
        (preferred(1), ""),
        (preferred(100), ""),
        (preferred(0), &weight(0)),
        (preferred(101), &weight(101)),
    ]);
}

#[test]
fn containers_have_names_of_their_own_among_all() {
    let named = |name: &str| json!({"name": name, "image": "b"});
    check("Pod", &pod(json!({"containers": []})), &["spec.containers: Required value"]);
    check(
        "Pod",
        &pod(json!({"containers": [named("a")], "initContainers": [named("b"), named("a")]})),
        &["spec.initContainers[1].name: Duplicate value: \"a\""],
    );
    check(
        "Pod",
        &pod(json!({"containers": [named("a")], "ephemeralContainers": [named("b")]})),
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
    );
    // Each init container may take the port that another has given back.
    let serving = |name: &str| json!({"name": name, "image": "b", "ports": [{"containerPort": 1, "hostPort": 9000, "protocol": "TCP"}]});
    check(
        "Pod",
        &pod(json!({"containers": [serving("a")], "initContainers": [serving("b"), serving("c")]})),
        &[],
    );
    check(
        "Pod",
        &with(json!({"schedulingGates": [{"name": "g"}, {"name": "h"}, {"name": "g"}]})),
        &["spec.schedulingGates[2]: Duplicate value: \"g\""],
    );
}

#[test]
fn images_and_policies_of_containers() {
    container(&[
        (json!({"imagePullPolicy": "Never", "terminationMessagePolicy": "File"}), ""),
        (json!({"image": ""}), "image: Required value"),
        (
            json!({"image": " b"}),
            "image: Invalid value: \" b\": must not have leading or trailing whitespace",
        ),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            "imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"terminationMessagePolicy": "Log"}),
            "terminationMessagePolicy: Unsupported value: \"Log\": supported values: \"FallbackToLogsOnError\", \"File\"",
        ),
    ]);
}

#[test]
fn ports_have_names_that_services_can_find() {
    let ports = |list: Value| json!({"ports": list});
    let port = |name: &str, number: i64| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    container(&[
        (ports(json!([port("http", 80), port("a-1", 81)])), ""),
        (ports(json!([port("http", 80), port("http", 81)])), "ports[1].name: Duplicate value: \"http\""),
        (
            ports(json!([port("abcdefghijklmnop", 80)])),
            "ports[0].name: Invalid value: \"abcdefghijklmnop\": must be no more than 15 characters",
        ),
        (ports(json!([port("abcdefghijklmno", 80)])), ""),
        (
            ports(json!([port("80", 80)])),
            "ports[0].name: Invalid value: \"80\": must contain at least one letter (a-z)",
        ),
        (
            ports(json!([port("a--b", 80)])),
            "ports[0].name: Invalid value: \"a--b\": must not contain consecutive hyphens",
        ),
        (
            ports(json!([port("-a", 80)])),
            "ports[0].name: Invalid value: \"-a\": must not begin or end with a hyphen",
        ),
        (
            ports(json!([port("a-", 80)])),
            "ports[0].name: Invalid value: \"a-\": must not begin or end with a hyphen",
        ),
        (
            ports(json!([port("aB", 80)])),
            "ports[0].name: Invalid value: \"aB\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        // Other addresses of the node have the port once more.
        (
            ports(json!([
                {"containerPort": 1, "hostPort": 1, "protocol": "TCP", "hostIP": "10.0.0.1"},
                {"containerPort": 1, "hostPort": 1, "protocol": "TCP", "hostIP": "10.0.0.2"}])),
            "",
        ),
        (
            ports(json!([
                {"containerPort": 1, "hostPort": 1, "protocol": "TCP", "hostIP": "10.0.0.1"},
                {"containerPort": 1, "hostPort": 1, "protocol": "TCP", "hostIP": "10.0.0.1"}])),
            "ports[1].hostPort: Duplicate value: \"10.0.0.1/1/TCP\"",
        ),
        (
            ports(json!([{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 1, "protocol": "TCP"}])),
            "",
        ),
    ]);
}

#[test]
fn variables_have_one_source() {
    let env = |variable: Value| json!({"env": [variable]});
    let key = json!({"name": "s", "key": "k"});
    let one_of = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                  `fileKeyRef`";
    container(&[
        (
            env(json!({"name": "A=", "value": ""})),
            "env[0].name: Invalid value: \"A=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (env(json!({"name": "a b", "value": ""})), ""),
        (env(json!({"value": "x"})), "env[0].name: Required value"),
        (env(json!({"name": "A", "valueFrom": {"secretKeyRef": key}})), ""),
        (
            env(json!({"name": "A", "valueFrom": {}})),
            &format!("env[0].valueFrom: Invalid value: \"\": {one_of}"),
        ),
        (
            env(json!({"name": "A", "valueFrom": {"secretKeyRef": key, "configMapKeyRef": key}})),
            "env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
        ),
        (
            env(json!({"name": "A", "value": "x", "valueFrom": {"secretKeyRef": key}})),
            "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})), ""),
        (
            env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}})),
            "",
        ),
        (
            env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": ""}}})),
            "env[0].valueFrom.fieldRef.fieldPath: Required value",
        ),
    ]);
    let from = |source: Value| json!({"envFrom": [source]});
    container(&[
        (from(json!({"configMapRef": {"name": "c"}})), ""),
        (from(json!({"secretRef": {"name": "c"}, "prefix": "X"})), ""),
        (
            from(json!({})),
            "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            from(json!({"configMapRef": {"name": "c"}, "secretRef": {"name": "c"}})),
            "envFrom[0]: Invalid value: \"\": may not have more than one field specified at a time",
        ),
        (from(json!({"secretRef": {}})), "envFrom[0].secretRef.name: Required value"),
    ]);
}

#[test]
fn requests_are_within_limits() {
    let resources =
        |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
    container(&[
        (resources(json!({"cpu": "1", "x.io/a": "2"}), json!({"cpu": "1", "x.io/a": "2"})), ""),
        (
            resources(json!({"memory": "2Gi"}), json!({"memory": "1Gi"})),
            "resources.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi",
        ),
        (
            resources(json!({"x.io/a": "1"}), json!({"x.io/a": "2"})),
            "resources.requests: Invalid value: \"1\": must be equal to x.io/a limit of 2",
        ),
        (
            resources(json!({}), json!({"x.io/a": "1500m"})),
            "resources.limits[x.io/a]: Invalid value: \"1500m\": must be an integer",
        ),
        (
            resources(json!({}), json!({"tea": "1"})),
            "resources.limits[tea]: Invalid value: \"tea\": must be a standard resource for containers",
        ),
        (resources(json!({"hugepages-2Mi": "2Mi"}), json!({"hugepages-2Mi": "2Mi", "memory": "1Gi"})), ""),
        (
            resources(json!({"hugepages-2Mi": "2Mi"}), json!({"hugepages-2Mi": "2Mi"})),
            "resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            resources(json!({"hugepages-2Mi": "2Mi", "cpu": "1"}), json!({"cpu": "1"})),
            "resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            resources(json!({"x.io/a": "1"}), json!({})),
            "resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            resources(json!({"hugepages-2Mi": "2Mi", "cpu": "1"}), json!({"hugepages-2Mi": "4Mi"})),
            "resources.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi limit of 4Mi",
        ),
        (
            resources(json!({"cpu": "-1"}), json!({})),
            "resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
    ]);
}

#[test]
fn probes_have_one_handler() {
    let ready = |probe: Value| json!({"readinessProbe": probe});
    let live = |probe: Value| json!({"livenessProbe": probe});
    container(&[
        (
            ready(
                json!({"httpGet": {"path": "/", "port": "http", "scheme": "HTTPS"}, "successThreshold": 3}),
            ),
            "",
        ),
        (live(json!({"exec": {"command": ["true"]}, "successThreshold": 1})), ""),
        (live(json!({})), "livenessProbe: Required value: must specify a handler type"),
        (
            live(json!({"exec": {"command": ["true"]}, "tcpSocket": {"port": 1}})),
            "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (live(json!({"exec": {}})), "livenessProbe.exec.command: Required value"),
        (live(json!({"httpGet": {"port": 1}})), "livenessProbe.httpGet.path: Required value"),
        (
            live(json!({"httpGet": {"path": "/", "port": 1, "scheme": "FTP"}})),
            "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
        ),
        (
            live(json!({"tcpSocket": {"port": 0}})),
            "livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            live(json!({"grpc": {"port": 65536}})),
            "livenessProbe.grpc.port: Invalid value: 65536: must be between 1 and 65535, inclusive",
        ),
        (
            live(json!({"tcpSocket": {"port": "8"}})),
            "livenessProbe.tcpSocket.port: Invalid value: \"8\": must contain at least one letter (a-z)",
        ),
        (
            live(json!({"tcpSocket": {"port": 1}, "periodSeconds": -1})),
            "livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            live(json!({"tcpSocket": {"port": 1}, "successThreshold": 2})),
            "livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (ready(json!({"tcpSocket": {"port": 1}, "timeoutSeconds": 0, "failureThreshold": 0})), ""),
    ]);
}

#[test]
fn init_containers_are_probed_only_if_they_stay() {
    let init = |policy: Option<&str>| {
        pod(json!({"containers": [{"name": "a", "image": "b"}], "initContainers": [
            {"name": "i", "image": "b", "restartPolicy": policy, "startupProbe": {"tcpSocket": {"port": 1}}}]}))
    };
    check("Pod", &init(Some("Always")), &[]);
    check(
        "Pod",
        &init(None),
        &["spec.initContainers[0].startupProbe: Forbidden: may not be set for init containers without \
           restartPolicy=Always"],
    );
}

#[test]
fn mounts_are_of_volumes_that_are_there() {
    let mounts = |list: Value| json!({"volumeMounts": list});
    let mount = |path: &str| json!({"name": "v", "mountPath": path});
    container(&[
        (mounts(json!([mount("/a"), mount("/b")])), ""),
        (mounts(json!([{"mountPath": "/a"}])), "volumeMounts[0].name: Required value"),
        (mounts(json!([{"name": "w", "mountPath": "/a"}])), "volumeMounts[0].name: Not found: \"w\""),
        (mounts(json!([{"name": "v"}])), "volumeMounts[0].mountPath: Required value"),
        (
            mounts(json!([mount("/a"), mount("/a")])),
            "volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        (mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "x/y", "mountPropagation": "None"}])), ""),
        (
            mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "/x"}])),
            "volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
        ),
        (
            mounts(json!([{"name": "v", "mountPath": "/a", "subPathExpr": "x/../y"}])),
            "volumeMounts[0].subPathExpr: Invalid value: \"x/../y\": must not contain '..'",
        ),
        (
            mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "x", "subPathExpr": "y"}])),
            "volumeMounts[0].subPathExpr: Invalid value: \"y\": subPathExpr and subPath are mutually exclusive",
        ),
        (
            mounts(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Both"}])),
            "volumeMounts[0].mountPropagation: Unsupported value: \"Both\": supported values: \"Bidirectional\", \
             \"HostToContainer\", \"None\"",
        ),
    ]);
}

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
fn sysctls_of_what_is_the_nodes_are_refused() {
    let sysctl = |name: &str, shared: &str| json!({shared: true, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let refused = |name: &str, field: &str| {
        format!(
            "spec.securityContext.sysctls[0].name: Invalid value: \"{name}\": may not be specified when '{field}' \
             is true"
        )
    };
    spec(&[
        (
            sysctl("net.ipv4.tcp_syncookies", "hostNetwork"),
            &refused("net.ipv4.tcp_syncookies", "hostNetwork"),
        ),
        (
            sysctl("net/ipv4/tcp_syncookies", "hostNetwork"),
            &refused("net/ipv4/tcp_syncookies", "hostNetwork"),
        ),
        (sysctl("kernel.shm_rmid_forced", "hostIPC"), &refused("kernel.shm_rmid_forced", "hostIPC")),
        (sysctl("kernel.sem", "hostIPC"), &refused("kernel.sem", "hostIPC")),
        (sysctl("kernel.shm_rmid_forced", "hostNetwork"), ""),
        (sysctl("net.ipv4.tcp_syncookies", "hostIPC"), ""),
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
    let resource = json!({"resource": "limits.cpu"});
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

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A pod of the containers `i` (init) and `a`, with an annotation for the one of this name.
fn confined(name: &str, annotation: &str, of_pod: Value, of_container: Value) -> Value {
    let mut object = pod(json!({"securityContext": of_pod, "initContainers": [{"name": "i", "image": "b"}],
        "containers": [{"name": "a", "image": "b", "securityContext": of_container}]}));
    object["metadata"]["annotations"] = json!({format!("{APPARMOR}{name}"): annotation});
    object
}

#[test]
fn profiles_of_apparmor_are_annotated_for_containers_that_are_there() {
    for annotation in ["", "unconfined", "runtime/default", "localhost/mine"] {
        for name in ["a", "i"] {
            check("Pod", &confined(name, annotation, json!({}), json!({})), &[]);
        }
    }
    let place = |name: &str| format!("metadata.annotations[{APPARMOR}{name}]: Invalid value:");
    check(
        "Pod",
        &confined("x", "unconfined", json!({}), json!({})),
        &[&format!("{} \"x\": container not found", place("x"))],
    );
    let unknown = format!("{} \"mine\": invalid AppArmor profile name: \"mine\"", place("a"));
    check("Pod", &confined("a", "mine", json!({}), json!({})), &[&unknown]);
    // Of templates, too.
    let mut template = confined("a", "mine", json!({}), json!({}));
    template["metadata"]["labels"] = json!({"a": "b"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    check("Deployment", &deployment, &[&format!("spec.template.{unknown}")]);
}

#[test]
fn annotation_and_field_ask_for_one_profile() {
    let place = "spec.containers[0].securityContext.appArmorProfile";
    let kind = format!("{place}.type: Forbidden: apparmor type in annotation and field must match");
    let name =
        format!("{place}.localhostProfile: Forbidden: apparmor profile in annotation and field must match");
    let profile = |kind: &str| json!({"appArmorProfile": {"type": kind}});
    let local = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
    for (annotation, field, expected) in [
        ("unconfined", profile("Unconfined"), ""),
        ("runtime/default", profile("Unconfined"), &*kind),
        ("runtime/default", profile("RuntimeDefault"), ""),
        ("unconfined", profile("RuntimeDefault"), &kind),
        ("localhost/mine", local.clone(), ""),
        ("localhost/other", local.clone(), &name),
        ("unconfined", local.clone(), &kind),
    ] {
        let expected: Vec<&str> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
        check("Pod", &confined("a", annotation, json!({}), field.clone()), &expected);
        check("Pod", &confined("a", annotation, field, json!({})), &expected);
    }
    // The container's own field counts before the pod's.
    check("Pod", &confined("a", "localhost/mine", profile("Unconfined"), local), &[]);
    let mut windows = confined("a", "runtime/default", json!({}), profile("Unconfined"));
    windows["spec"]["os"] = json!({"name": "windows"});
    check("Pod", &windows, &[]);
}
