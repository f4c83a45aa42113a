//! Who may have the pods of one namespace explained sees no name of another's, from the roles to the last
//! sentence: in what a pod is told, in why one waits, and on the ways of traces.

use skiff_tests::{Cluster, Namespace, fixed_ports, wait_until};

use crate::peer;

const PORT: u16 = 18_957;
/// What nobody but its owners may read: the other namespace, and all that is in it.
const SECRET: &str = "concealed";

/// The other namespace: a pod with a host port, a service and a policy that lets nobody in.
fn concealed(cluster: &Cluster) -> Namespace {
    let namespace = cluster.namespace(&format!("{SECRET}-namespace"));
    let ports = format!("{{containerPort: 7000, hostPort: {PORT}}}");
    namespace
        .apply(
            &[
                peer(&format!("s-{SECRET}"), &cluster.worker(2), "", "tcp, '7000'", &ports),
                peer(&format!("h-{SECRET}"), &cluster.worker(2), "hostNetwork: true", "tcp, '18958'", ""),
                format!(
                    "
apiVersion: v1
kind: Service
metadata: {{name: {SECRET}-service}}
spec: {{selector: {{app: s-{SECRET}}}, ports: [{{port: 80, targetPort: 7000}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {SECRET}-policy}}
spec: {{podSelector: {{}}, policyTypes: [Ingress]}}
"
                ),
            ]
            .concat(),
        )
        .ok();
    ["s", "h"].iter().for_each(|pod| namespace.serves(&format!("{pod}-{SECRET}")));
    namespace
}

fn own(cluster: &Cluster) -> Namespace {
    let namespace = cluster.namespace("hider");
    namespace
        .apply(
            &[
                peer("c1", &cluster.worker(2), "", "tcp, '7000'", "{containerPort: 7000}"),
                // Where others listen too.
                peer("shares", &cluster.worker(2), "hostNetwork: true", "tcp, '18959'", ""),
                format!(
                    "
apiVersion: v1
kind: Pod
metadata: {{name: waits}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {}}}
  containers:
  - {{name: main, image: skiff/peer:v1, command: [peer, tcp, '7000'], ports: [{{containerPort: 7000, hostPort: {PORT}}}]}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: asker}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: asker}}
rules: [{{apiGroups: [''], resources: [pods/explain], verbs: [get, list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: asker}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: asker}}
subjects: [{{kind: ServiceAccount, name: asker}}]
",
                    cluster.worker(2)
                ),
            ]
            .concat(),
        )
        .ok();
    ["c1", "shares"].iter().for_each(|pod| namespace.serves(pod));
    namespace
}

#[test]
fn who_may_explain_one_namespace_sees_no_name_of_another() {
    let _ports = fixed_ports();
    let cluster = Cluster::shared();
    let (other, own) = (concealed(&cluster), own(&cluster));
    let service = cluster.object(&["-n", &other.name, "service", &format!("{SECRET}-service")]);
    let service = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let pod = other.pod_ip(&format!("s-{SECRET}"));
    let node = cluster.node_ip(&cluster.worker(2));
    let group = format!("/apis/explain.skiff.dev/v1/namespaces/{}", own.name);
    let trace = |from: &str, to: &str| format!("{group}/traces?from={from}&to={to}");
    let paths = [
        format!("{group}/pods/shares"),
        format!("{group}/pods"),
        format!("{group}/pods/waits/pending"),
        trace("c1", &format!("{pod}:7000")),
        trace("c1", &format!("{service}:80")),
        trace("c1", &format!("{node}:{PORT}")),
        trace(&pod, "pod/c1:7000"),
        trace("external", &format!("{node}:{PORT}")),
    ];
    let wrong = [trace(&pod, "pod/nobody"), trace(&pod, &format!("{pod}:http"))];
    let asker = format!("system:serviceaccount:{}:asker", own.name);
    let asked = |path: &str| cluster.kubectl(&["get", "--raw", path, "--as", &asker]);
    let whole = |path: &str| cluster.kubectl(&["get", "--raw", path]);
    for path in &paths {
        // It is there to be seen: once the scheduler, the proxies and the policies are that far.
        wait_until(&format!("{path} is about {SECRET} things"), || whole(path).ok().contains(SECRET));
        let told = asked(path).ok();
        assert!(!told.contains(SECRET), "{path}: {told}");
    }
    for path in &wrong {
        let (whole, told) = (whole(path).err(), asked(path).err());
        assert!(!told.contains(SECRET), "{path}: {told}");
        assert!(!whole.is_empty() && !told.is_empty(), "{path}");
    }
    // What is left of a way is its verdict, and that something is hidden.
    let told = asked(&paths[3]).ok();
    assert!(told.contains("Dropped") && told.contains("(hidden)"), "{told}");
    // What others reach among each other, or in themselves, is not its to know, whether anybody listens there or not.
    let worker = cluster.worker(2);
    for (from, to) in [
        (pod.as_str(), "127.0.0.1:7000".to_owned()),
        (pod.as_str(), "127.0.0.1:7001".into()),
        (pod.as_str(), format!("{pod}:7000")),
        (pod.as_str(), format!("{service}:80")),
        (&format!("node/{worker}"), "127.0.0.1:10250".into()),
        (&format!("node/{worker}"), format!("{pod}:7000")),
    ] {
        let path = trace(from, &to);
        whole(&path).ok();
        let refused = asked(&path).err();
        assert!(refused.contains("forbidden") && !refused.contains(SECRET), "{path}: {refused}");
    }
    // A kind that there is not is named, though it looks like the name of a pod of others.
    let wrong = asked(&trace("c1", &format!("{}/far:80", other.name))).err();
    assert!(wrong.contains("before a slash"), "{wrong}");
    // Nor may it ask about the other namespace, or have connections made.
    let refused = asked(&format!("/apis/explain.skiff.dev/v1/namespaces/{}/pods", other.name)).err();
    assert!(refused.contains("forbidden"), "{refused}");
    let refused = asked(&format!("{}&live=true", paths[4])).err();
    assert!(refused.contains("forbidden") && !refused.contains(SECRET), "{refused}");
}
