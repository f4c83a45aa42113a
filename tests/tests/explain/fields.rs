//! I1: no statement of `explain pod` without somebody who compares it: every field of the JSON is in the table here,
//! with who does. What nobody else compares is compared here, with the API's own objects and the node's.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace};

use super::truth::text;

/// A field, or all below it, and who compares it.
const COMPARED: [(&str, &str); 38] = [
    ("kind", "here"),
    ("apiVersion", "here"),
    ("metadata", "here: the API's pod"),
    ("node", "here: the API's pod"),
    ("nodeIP", "here: the API's node"),
    ("podIP", "truth: the API's pod"),
    ("namespaces[].namespace", "members: /proc/PID/ns"),
    ("namespaces[].word", "members: all processes of the node"),
    ("namespaces[].inode", "members: /proc/PID/ns"),
    ("namespaces[].sentence", "members: who is in it; what the node's expose"),
    ("namespaces[].holder", "members: /proc/PID/ns of pause and containers"),
    ("namespaces[].containers", "members: /proc/PID/ns"),
    ("namespaces[].others", "members: all processes of the node"),
    ("sandbox", "truth: /proc/PID/comm and /proc/PID/ns"),
    ("containers[].name", "here: the API's pod"),
    ("containers[].state", "here: the API's pod"),
    ("containers[].process", "container: /proc/PID/ns"),
    ("containers[].security", "container: /proc/PID/status and the maps of its users"),
    (
        "containers[].writableHostPaths",
        "members and here: the kernel's word on each, by the container's mounts",
    ),
    ("containers[].writableDevices", "members: find and opening one"),
    ("interfaces", "network: ip"),
    ("routes", "network: ip"),
    ("listeners[].protocol", "network: ss"),
    ("listeners[].address", "network: ss"),
    ("listeners[].port", "network: ss"),
    ("listeners[].device", "network: ss"),
    ("listeners[].ipv6Only", "network: ss"),
    ("listeners[].process", "network: ss; here: the control group"),
    ("listeners[].alsoHeldBy", "network: ss"),
    ("listeners[].reachable", "reasons: connections, routes, the API's objects"),
    ("otherListeners", "network: ss"),
    ("otherNetworks", "elsewhere: /proc/PID/ns and ss"),
    ("hostPorts", "here: the API's pod; reasons: connections"),
    ("services", "here: the API's services and slices; reasons: connections"),
    ("policies", "here: the API's policies; reasons: connections"),
    ("obstacles", "ways: connections"),
    ("nested", "here: the number of the node's PID namespace"),
    ("podSecurity", "truth: admission"),
];

/// The PID namespace that a machine begins with (PROC_PID_INIT_INO of linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]\n";

/// The fields that a value has, `a.b` and `a[].b`.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(own) => {
            for (name, value) in own {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.insert(at.clone());
                fields(value, &at, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|own| fields(own, &format!("{at}[]"), found)),
        _ => {}
    }
}

/// The fields of an explanation that nobody compares.
fn unknown(told: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    fields(told, "", &mut found);
    let known = |field: &String| {
        COMPARED.iter().any(|(own, _)| {
            // What is above a field is no statement of its own.
            let below =
                field.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            below || own.strip_prefix(field.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']))
        })
    };
    found.into_iter().filter(|field| !known(field)).collect()
}

#[test]
fn i1_a_statement_that_nobody_compares_is_seen() {
    let told = json!({"kind": "x", "namespaces": [{"word": "own", "colour": "blue"}],
        "listeners": [{"process": {"pid": 7}}], "weight": 7});
    assert_eq!(unknown(&told), ["namespaces[].colour", "weight"]);
}

/// What nobody else compares.
pub(crate) fn check_fields(cluster: &Cluster, namespace: &Namespace, node: &str, told: &Value) {
    let name = text(&told["metadata"]["name"]);
    assert_eq!(unknown(told), Vec::<String>::new(), "{name}: {told}");
    assert_eq!(
        (&told["kind"], &told["apiVersion"]),
        (&json!("PodExplanation"), &json!("explain.skiff.dev/v1"))
    );
    let pod = namespace.pod(&name);
    for field in ["name", "namespace", "uid"] {
        assert_eq!(told["metadata"][field], pod["metadata"][field], "{name}: {field}");
    }
    assert_eq!(told["node"], pod["spec"]["nodeName"], "{name}");
    assert_eq!(text(&told["nodeIP"]), cluster.node_ip(node), "{name}");
    let containers = told["containers"].as_array().expect("a list");
    let specified = pod["spec"]["containers"].as_array().expect("a list");
    assert_eq!(containers.len(), specified.len(), "{name}: {told}");
    for (own, spec) in containers.iter().zip(specified) {
        assert_eq!(own["name"], spec["name"], "{name}");
        let mut statuses = pod["status"]["containerStatuses"].as_array().expect("a list").iter();
        let status = statuses.find(|status| status["name"] == own["name"]).expect("it has one");
        assert!(
            own["state"] == "running" && status["state"]["running"].is_object(),
            "{name}: {own}, {status}"
        );
        check_writable(cluster, node, own);
    }
    for listener in told["listeners"].as_array().expect("a list") {
        let pid = listener["process"]["pid"].to_string();
        let group = cluster.on_node(node, &["cat", &format!("/proc/{pid}/cgroup")]).ok();
        let uid = text(&pod["metadata"]["uid"]);
        assert!(group.contains(&format!("/pod{uid}")), "{name}: {listener}: {group}");
        assert_eq!(text(&listener["process"]["pod"]), format!("{}/{name}", namespace.name), "{listener}");
    }
    check_doors(namespace, &pod, told);
    let number = cluster.on_node(node, &["sh", "-c", "readlink /proc/self/ns/pid"]).ok();
    assert_eq!(told["nested"] == true, number != FIRST_PID_NAMESPACE, "{name}: {number}");
}

/// Every path that is said to be writable is one of a mount of the container's that may be written, and is what the
/// node has there.
fn check_writable(cluster: &Cluster, node: &str, container: &Value) {
    let pid = container["process"]["pid"].to_string();
    let mounts = cluster.on_node(node, &["cat", &format!("/proc/{pid}/mountinfo")]).ok();
    for own in container["writableHostPaths"].as_array().expect("a list") {
        let (inside, there) = (text(&own["mount"]), text(&own["path"]));
        let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        // The longest mount point that it lies below is the one that it is on; of several at one place the last.
        let on = lines.filter(|fields| {
            let point = fields.get(4).copied().unwrap_or_default().trim_end_matches('/');
            inside.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        let on = on.max_by_key(|fields| fields[4].len()).expect("a mount");
        assert!(on[5].split(',').any(|option| option == "rw"), "{own}: {on:?}");
        // A view of the kernel is another one in each container.
        if !["/proc", "/sys"].iter().any(|view| there.starts_with(view)) {
            let number = |path: &str| cluster.on_node(node, &["stat", "-c", "%d:%i", path]).ok();
            assert_eq!(number(&format!("/proc/{pid}/root{inside}")), number(&there), "{own}");
        }
    }
}

/// Host ports, services and policies, as the API has them.
fn check_doors(namespace: &Namespace, pod: &Value, told: &Value) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = text(&pod["metadata"]["name"]);
    let on_node = pod["spec"]["hostNetwork"] == true;
    let ports =
        list(&pod["spec"]["containers"]).iter().flat_map(|own| list(&own["ports"])).collect::<Vec<_>>();
    let ports = ports.iter().filter(|own| own["hostPort"].is_u64() && !on_node);
    let expected: Vec<Value> = ports
        .map(|own| {
            let ip = own["hostIP"].as_str().unwrap_or("0.0.0.0");
            json!({"hostIP": ip, "hostPort": own["hostPort"], "protocol": own["protocol"],
                "containerPort": own["containerPort"]})
        })
        .collect();
    assert_eq!(list(&told["hostPorts"]), expected, "{name}");
    let labels = &pod["metadata"]["labels"];
    let selects = |selector: &Value| {
        let selector = selector.as_object().cloned().unwrap_or_default();
        !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
    };
    let all = namespace.cluster.object(&["-n", &namespace.name, "services"]);
    let mut expected = Vec::new();
    for service in list(&all["items"]).iter().filter(|own| selects(&own["spec"]["selector"])) {
        let full = format!("{}/{}", namespace.name, text(&service["metadata"]["name"]));
        for port in list(&service["spec"]["ports"]) {
            let mut own = json!({"service": full, "clusterIP": service["spec"]["clusterIP"], "port": port["port"],
                "protocol": port["protocol"], "targetPort": port["targetPort"], "endpoint": "ready"});
            for (field, value) in [
                ("nodePort", &port["nodePort"]),
                ("externalTrafficPolicy", &service["spec"]["externalTrafficPolicy"]),
                ("internalTrafficPolicy", &service["spec"]["internalTrafficPolicy"]),
            ] {
                // Only those that keep to the node are told.
                if value.is_u64() || value == "Local" {
                    own[field] = value.clone();
                }
            }
            expected.push(own);
        }
    }
    assert_eq!(list(&told["services"]), expected, "{name}");
    let all = namespace.cluster.object(&["-n", &namespace.name, "networkpolicies"]);
    let policies = list(&all["items"]);
    let policies =
        policies.iter().filter(|own| selects(&own["spec"]["podSelector"]["matchLabels"]) && !on_node);
    let expected: Vec<String> =
        policies.map(|own| format!("{}/{}", namespace.name, text(&own["metadata"]["name"]))).collect();
    let said: Vec<String> = list(&told["policies"]).iter().map(text).collect();
    assert_eq!(said, expected, "{name}");
}
