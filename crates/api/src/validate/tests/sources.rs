//! What containers are told of their pod, what is done to them, and where names are looked for.

use serde_json::{Value, json};

use super::check_of as check;
use super::pods::{container, spec};

#[test]
fn fields_that_containers_are_told() {
    let field = |field: Value| json!({"env": [{"name": "A", "valueFrom": {"fieldRef": field}}]});
    let at = "env[0].valueFrom.fieldRef";
    let name = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    container(&[
        (field(json!({"fieldPath": "metadata.name"})), ""),
        (field(json!({"apiVersion": "v1", "fieldPath": "metadata.labels['a.b/c']"})), ""),
        (field(json!({"fieldPath": "metadata.annotations['A']"})), ""),
        (field(json!({})), &format!("{at}.fieldPath: Required value")),
        (
            field(json!({"apiVersion": "v7", "fieldPath": "metadata.name"})),
            &format!(
                "{at}.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod \
                 version: v7"
            ),
        ),
        (
            field(json!({"fieldPath": "metadata.whoops"})),
            &format!(
                "{at}.fieldPath: Invalid value: \"metadata.whoops\": error converting fieldPath: field label not \
                 supported: metadata.whoops"
            ),
        ),
        (
            field(json!({"fieldPath": "metadata.name['a']"})),
            &format!(
                "{at}.fieldPath: Invalid value: \"metadata.name['a']\": error converting fieldPath: field label does \
                 not support subscript: metadata.name['a']"
            ),
        ),
        (
            field(json!({"fieldPath": "metadata.labels['a b']"})),
            &format!("{at}: Invalid value: \"a b\": {name}"),
        ),
        (
            field(json!({"fieldPath": "status.phase"})),
            &format!(
                "{at}.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \
                 \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
                 \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
            ),
        ),
    ]);
}

#[test]
fn resources_that_containers_are_told() {
    let resource = |field: Value| json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": field}}]});
    let at = "env[0].valueFrom.resourceFieldRef";
    let known = "\"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \
                 \"requests.ephemeral-storage\", \"requests.memory\"";
    let bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    container(&[
        (resource(json!({"resource": "limits.cpu", "divisor": "1m"})), ""),
        (resource(json!({"resource": "requests.memory", "divisor": "1Mi"})), ""),
        (resource(json!({"resource": "requests.hugepages-2Mi", "divisor": "0"})), ""),
        (resource(json!({})), &format!("{at}.resource: Required value")),
        (
            resource(json!({"resource": "limits.foo"})),
            &format!("{at}.resource: Unsupported value: \"limits.foo\": supported values: {known}"),
        ),
        (
            resource(json!({"resource": "limits.cpu", "divisor": "3"})),
            &format!(
                "{at}.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the \
                 cpu resource"
            ),
        ),
        (
            resource(json!({"resource": "limits.memory", "divisor": "1m"})),
            &format!(
                "{at}.divisor: Invalid value: \"limits.memory\": only divisor's values {bytes} are supported with \
                 the memory resource"
            ),
        ),
        (
            resource(json!({"resource": "limits.ephemeral-storage", "divisor": "2"})),
            &format!(
                "{at}.divisor: Invalid value: \"limits.ephemeral-storage\": only divisor's values {bytes} are \
                 supported with the local ephemeral storage resource"
            ),
        ),
    ]);
}

#[test]
fn files_that_containers_are_told_by() {
    let file = |source: Value| {
        let mut item = json!({"path": "a"});
        item.as_object_mut().expect("fields").extend(source.as_object().expect("fields").clone());
        json!({"volumes": [{"name": "v", "downwardAPI": {"items": [item]}}]})
    };
    let at = "spec.volumes[0].downwardAPI.items[0]";
    spec(&[
        (file(json!({"fieldRef": {"fieldPath": "metadata.labels"}})), ""),
        (file(json!({"resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}})), ""),
        (
            file(json!({"resourceFieldRef": {"resource": "limits.cpu"}})),
            &format!("{at}.resourceFieldRef.containerName: Required value"),
        ),
        (
            file(json!({"fieldRef": {"fieldPath": "spec.nodeName"}})),
            &format!(
                "{at}.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \
                 \"metadata.uid\""
            ),
        ),
        (
            file(json!({"fieldRef": {"fieldPath": "metadata.labels[a b]"}})),
            &format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"metadata.labels[a b]\": error converting fieldPath: field \
                 label not supported: metadata.labels[a b]"
            ),
        ),
    ]);
}

#[test]
fn hooks_and_devices() {
    container(&[
        (json!({"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}), ""),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), ""),
        (
            json!({"lifecycle": {"preStop": {}}}),
            "lifecycle.preStop: Required value: must specify a handler type",
        ),
        (
            json!({"lifecycle": {"postStart": {"exec": {"command": []}}}}),
            "lifecycle.postStart.exec.command: Required value",
        ),
        (
            json!({"lifecycle": {"postStart": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 80}}}}),
            "lifecycle.postStart.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"volumeDevices": [{"name": "none", "devicePath": "/dev/x"}]}),
            "volumeDevices[0].name: Not found: \"none\"",
        ),
    ]);
    let init = json!({"name": "i", "image": "a", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}});
    spec(&[(
        json!({"initContainers": [init]}),
        "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without \
         restartPolicy=Always",
    )]);
}

#[test]
fn where_names_are_looked_for_and_what_volumes_name() {
    let search = |domain: &str| json!({"dnsConfig": {"searches": [domain]}});
    let volume = |kind: &str, source: Value| json!({"volumes": [{"name": "v", kind: source}]});
    for fine in [".", "a.b.", "_tcp.a_b.c", "cluster.local"] {
        spec(&[(search(fine), "")]);
    }
    for wrong in ["a b", "__a", "-a", "a_", ".."] {
        let fault = format!(
            "spec.dnsConfig.searches[0]: Invalid value: \"{wrong}\": {}",
            super::super::names::search_path("a b").expect("a fault")
        );
        spec(&[(search(wrong), &fault)]);
    }
    spec(&[
        (
            volume("persistentVolumeClaim", json!({"claimName": ""})),
            "spec.volumes[0].persistentVolumeClaim.claimName: Required value",
        ),
        (volume("nfs", json!({"path": "/a"})), "spec.volumes[0].nfs.server: Required value"),
        (
            volume("nfs", json!({"server": "s", "path": "a"})),
            "spec.volumes[0].nfs.path: Invalid value: \"a\": must be an absolute path",
        ),
    ]);
}

#[test]
fn endpoints_have_names_of_nodes_hosts_and_protocols() {
    let label = super::super::names::label("A_").expect("a fault");
    let subdomain = super::super::names::subdomain("x y").expect("a fault");
    let key = crate::selector::label_key_faults("x y").join("");
    let slice = json!({
        "metadata": {"name": "s"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.1.1"], "hostname": "A_", "nodeName": "x y"}],
        "ports": [{"port": 2, "name": "a", "protocol": "TCP"}, {"port": 3, "name": "a", "protocol": "TCP"},
            {"port": 4, "name": "A_", "protocol": "TCP", "appProtocol": "x y"}],
    });
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        &slice,
        &[
            &format!("endpoints[0].hostname: Invalid value: \"A_\": {label}"),
            &format!("endpoints[0].nodeName: Invalid value: \"x y\": {subdomain}"),
            "ports[1].name: Duplicate value: \"a\"",
            &format!("ports[2].name: Invalid value: \"A_\": {label}"),
            &format!("ports[2].appProtocol: Invalid value: \"x y\": {key}"),
        ],
    );
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{
        "addresses": [{"ip": "10.1.1.1", "hostname": "A_", "nodeName": "x y"}],
        "ports": [{"port": 1, "name": "A_", "protocol": "TCP"}, {"port": 2, "protocol": "TCP"}],
    }]});
    check(
        "",
        "Endpoints",
        &endpoints,
        &[
            &format!("subsets[0].addresses[0].hostname: Invalid value: \"A_\": {label}"),
            &format!("subsets[0].addresses[0].nodeName: Invalid value: \"x y\": {subdomain}"),
            &format!("subsets[0].ports[0].name: Invalid value: \"A_\": {label}"),
            "subsets[0].ports[1].name: Required value",
        ],
    );
    let service = |fields: Value| {
        let mut spec = json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]});
        spec.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        json!({"metadata": {"name": "s"}, "spec": spec})
    };
    check("", "Service", &service(json!({"trafficDistribution": "PreferSameNode"})), &[]);
    check(
        "",
        "Service",
        &service(json!({"trafficDistribution": "Foo"})),
        &["spec.trafficDistribution: Unsupported value: \"Foo\": supported values: \"PreferClose\", \
           \"PreferSameNode\", \"PreferSameZone\""],
    );
    let odd = json!({"ports": [{"port": 80, "protocol": "TCP", "appProtocol": "x y"}]});
    check(
        "",
        "Service",
        &service(odd),
        &[&format!("spec.ports[0].appProtocol: Invalid value: \"x y\": {key}")],
    );
}
