//! H: what listens on a node's loopback is the node's alone.

use skiff_tests::{Cluster, fixed_ports, wait_until};

/// Exit codes of the client: nobody there, and no answer.
const REFUSED: i32 = 1;
const SILENCE: i32 = 2;

#[test]
fn h_no_service_leads_a_pod_to_the_loopback_of_its_node() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("h-loopback");
    let node = cluster.worker(1);
    namespace
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: server}}
spec:
  hostNetwork: true
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: alpine, command: [busybox, httpd, -f, -p, '127.0.0.1:18291', -h, /etc]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: skiff/peer:v1, command: [sleep, '999999']}}]
---
apiVersion: v1
kind: Service
metadata: {{name: astray}}
spec: {{ports: [{{port: 80}}]}}
"
        ))
        .ok();
    namespace.ready("client");
    let on_node = |command: &[&str]| cluster.on_node(&node, command);
    let of_the_node = ["/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:18291/hostname"];
    wait_until("the node's server answers the node", || on_node(&of_the_node).code == 0);

    // The API takes no such endpoint, in either form, nor such an address.
    let range = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
    for (object, fault) in [
        (
            "{apiVersion: v1, kind: Endpoints, metadata: {name: astray}, subsets: [{addresses: [{ip: 127.0.0.1}], \
             ports: [{port: 18291}]}]}",
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\"",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: astray, labels: \
             {kubernetes.io/service-name: astray}}, addressType: IPv4, endpoints: [{addresses: [127.0.0.1]}], ports: \
             [{port: 18291}]}",
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\"",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {externalIPs: [127.0.0.1], ports: \
             [{port: 80}]}}",
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\"",
        ),
    ] {
        let refused = namespace.apply(object).err();
        assert!(refused.contains(&format!("{fault}: {range}")), "{refused}");
    }
    let service = cluster.object(&["-n", "h-loopback", "service", "astray"]);
    let address = format!("{}:80", service["spec"]["clusterIP"].as_str().expect("its address"));
    let get = |target: &str| namespace.exec("client", &["peer", "get", target, "1500"]);
    // The rule comes some time after the service; until then it is silence.
    wait_until("the service has nobody behind it", || get(&address).code == REFUSED);

    // Nor does another program's translation on the node lead there.
    for command in [
        "add table ip h-astray",
        "add chain ip h-astray to { type nat hook prerouting priority -90 ; }",
        "add rule ip h-astray to ip daddr 192.0.2.7 tcp dport 80 counter dnat to 127.0.0.1:18291",
    ] {
        on_node(&["nft", command]).ok();
    }
    let astray = get("192.0.2.7:80");
    let counted = on_node(&["nft", "list", "table", "ip", "h-astray"]).ok();
    on_node(&["nft", "delete", "table", "ip", "h-astray"]).ok();
    assert_eq!(astray.code, SILENCE, "{}{}", astray.stdout, astray.stderr);
    assert!(!counted.contains("counter packets 0 "), "it was translated: {counted}");
    on_node(&of_the_node).ok();
}
