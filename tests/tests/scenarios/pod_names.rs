//! What a pod is called inside, whom it knows by name, and whom it asks: read in its containers.

use skiff_tests::{Cluster, Namespace};

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: sub}
spec: {clusterIP: None, selector: {app: named}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: named, labels: {app: named}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: own
  subdomain: sub
  hostAliases: [{ip: 192.0.2.3, hostnames: [far, far.example]}]
  dnsConfig: {searches: [corp.example], options: [{name: ndots, value: '2'}]}
  containers:
  - {name: one, image: alpine, command: [sleep, '999999']}
  - {name: other, image: alpine, command: [sleep, '999999']}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  terminationGracePeriodSeconds: 1
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [only.example]}
  containers: [{name: one, image: alpine, command: [sleep, '999999']}]
---
apiVersion: v1
kind: Pod
metadata: {name: node}
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: one, image: alpine, command: [sleep, '999999']}]
";

fn file(namespace: &Namespace, pod: &str, container: &str, path: &str) -> String {
    namespace.kubectl(&["exec", pod, "-c", container, "--", "cat", path]).ok()
}

#[test]
fn names_aliases_and_resolvers_are_in_every_container() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("pod-names");
    namespace.apply(MANIFEST).ok();
    ["named", "alone", "node"].iter().for_each(|pod| namespace.ready(pod));
    let ip = namespace.pod_ip("named");
    for container in ["one", "other"] {
        let hosts = file(&namespace, "named", container, "/etc/hosts");
        let full = format!("{ip}\town.sub.pod-names.svc.cluster.local\town\n");
        assert!(hosts.contains(&full), "{container}: {hosts}");
        let aliases = "# Entries added by HostAliases.\n192.0.2.3\tfar\tfar.example\n";
        assert!(hosts.ends_with(aliases), "{container}: {hosts}");
        let name = namespace.kubectl(&["exec", "named", "-c", container, "--", "hostname"]).ok();
        assert_eq!(name, "own\n", "{container}");
        let resolver = file(&namespace, "named", container, "/etc/resolv.conf");
        let search = "search pod-names.svc.cluster.local svc.cluster.local cluster.local";
        assert!(resolver.starts_with(search) && resolver.contains(" corp.example\n"), "{resolver}");
        assert!(resolver.contains("options ndots:2\n") && !resolver.contains("ndots:5"), "{resolver}");
    }
    assert_eq!(
        file(&namespace, "alone", "one", "/etc/resolv.conf"),
        "search only.example\nnameserver 192.0.2.53\n"
    );
    // In the node's network, and asking the cluster's DNS all the same.
    let resolver = file(&namespace, "node", "one", "/etc/resolv.conf");
    let servers = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect()
    };
    assert_eq!(servers(&resolver), servers(&file(&namespace, "named", "one", "/etc/resolv.conf")));
    assert!(resolver.starts_with("search pod-names.svc.cluster.local "), "{resolver}");
    // And by the name that its service gives it, others find it.
    skiff_tests::wait_until("it is found by its name", || {
        let answer =
            namespace.exec("alone", &["nslookup", "own.sub.pod-names.svc.cluster.local", &dns(&cluster)]);
        answer.stdout.contains(&ip)
    });
}

/// The tenth address of the services' range, of which the API's is the first.
fn dns(cluster: &Cluster) -> String {
    let service = cluster.object(&["-n", "default", "service", "kubernetes"]);
    let first: std::net::Ipv4Addr =
        service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
    std::net::Ipv4Addr::from(u32::from(first) + 9).to_string()
}
