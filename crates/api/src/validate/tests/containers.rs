//! Containers, field by field: each with the faults that it alone makes.

use serde_json::{Value, json};

use super::pods::{container, with};
use super::{check, pod, texts};

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
            "ports[1].hostPort: Duplicate value: \"TCP/10.0.0.1/1\"",
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
        (live(json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": i64::MAX})), ""),
        (
            live(json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 0})),
            "livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            ready(json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1})),
            "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ),
        (
            live(json!({"httpGet": {"path": "/", "port": 1, "httpHeaders": [{"name": "X-A", "value": ""}]}})),
            "",
        ),
        (
            live(json!({"httpGet": {"path": "/", "port": 1, "httpHeaders": [null]}})),
            "livenessProbe.httpGet.httpHeaders: Invalid value: \"\": a valid HTTP header must consist of alphanumeric \
             characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
        ),
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
fn a_resources_name_is_asked_two_questions() {
    let said = |name: &str| {
        let container = json!({"name": "a", "image": "b", "resources": {"limits": {name: "1"}}});
        let texts = texts(&super::create("", "Pod", &pod(json!({"containers": [container]}))));
        let at = format!("spec.containers[0].resources.limits[{name}]: Invalid value: \"{name}\": ");
        texts.into_iter().map(|text| text.strip_prefix(&at).unwrap_or(&text).to_owned()).collect::<Vec<_>>()
    };
    let (known, ours) =
        ("must be a standard resource type or fully qualified", "must be a standard resource for containers");
    for name in ["cpu", "memory", "ephemeral-storage", "x.io/a", "kubernetes.io/a"] {
        assert_eq!(said(name), [""; 0], "{name}");
    }
    assert_eq!(said("tea"), [known, ours]);
    // Of these quotas tell.
    for name in ["storage", "pods", "requests.cpu", "requests.hugepages-2Mi", "services.nodeports"] {
        assert_eq!(said(name), [ours], "{name}");
    }
    assert_eq!(said("requests.x.io/a"), ["doesn't follow extended resource name standard"]);
    assert_eq!(said("a b").last().map(String::as_str), Some(ours));
    assert_eq!(said("a b").len(), 2);
}
