//! The steps of the tour: what is typed, and what must stand in what it prints. What is said about them is
//! in the languages' tables.

/// One command of a step.
pub(super) struct Typed {
    pub(super) command: &'static str,
    /// All of these stand in what it prints; `!` in front: does not. `{pods}`, `{nodes}` and `{services}` are
    /// how addresses of these ranges begin.
    pub(super) expect: &'static [&'static str],
}

pub(super) struct Step {
    /// The scenario's name: a letter and a number.
    pub(super) id: &'static str,
    /// File name and text.
    pub(super) manifest: Option<(&'static str, &'static str)>,
    pub(super) typed: &'static [Typed],
    /// From the running system.
    pub(super) explained: &'static [Typed],
    /// What the step leaves behind goes by this.
    pub(super) cleanup: &'static str,
}

const fn type_in(command: &'static str, expect: &'static [&'static str]) -> Typed {
    Typed { command, expect }
}

macro_rules! manifest {
    ($file:literal) => {
        Some(($file, include_str!(concat!("manifests/", $file))))
    };
}

/// Where the tour works.
pub(super) const NAMESPACE: &str = "skiff-tour";
pub(super) const GUARDED: &str = "skiff-tour-guarded";

/// `$NODE_A` and `$NODE_B` are two nodes that take pods, `$IP_A` and `$IP_B` their addresses; `$M` is the
/// directory of the manifests.
pub(super) const STEPS: &[Step] = &[
    Step {
        id: "A1",
        manifest: manifest!("kubia.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/kubia.yaml", &["pod/kubia"]),
            type_in("kubectl wait --for=condition=Ready pod/kubia --timeout=120s", &["condition met"]),
            type_in("kubectl get pod kubia -o wide", &["1/1", "Running", "{pods}"]),
            type_in("skiff ps | grep -w kubia", &["pause", "Running"]),
        ],
        explained: &[type_in("skiff explain pod kubia", &["net", "own", "held by pause"])],
        cleanup: "",
    },
    Step {
        id: "A2",
        manifest: manifest!("two-containers.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/two-containers.yaml", &["pod/two"]),
            type_in("kubectl wait --for=condition=Ready pod/two --timeout=120s", &["condition met"]),
            type_in("kubectl exec two -c other -- wget -q -O - http://127.0.0.1:8080", &["You've hit two"]),
        ],
        explained: &[type_in("skiff explain pod two", &["shared by containers web and other"])],
        cleanup: "kubectl delete pod two --grace-period=1",
    },
    Step {
        id: "B1",
        manifest: None,
        typed: &[
            type_in("skiff node shell --name $CLUSTER $NODE_A -- ip -4 addr show cbr0", &["cbr0", "{pods}"]),
            type_in("skiff node shell --name $CLUSTER $NODE_A -- ip route", &["via {nodes}", "dev cbr0"]),
        ],
        explained: &[type_in("skiff explain node $NODE_A", &["net", "PODS IN IT"])],
        cleanup: "",
    },
    Step {
        id: "B2",
        manifest: manifest!("client.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/client.yaml", &["pod/client"]),
            type_in("kubectl wait --for=condition=Ready pod/client --timeout=120s", &["condition met"]),
            type_in(
                "kubectl exec client -- wget -q -O - http://$(kubectl get pod kubia -o jsonpath='{.status.podIP}'):8080",
                &["You've hit kubia"],
            ),
        ],
        explained: &[type_in("skiff trace pod/client pod/kubia", &["reaches pod skiff-tour/kubia", "cbr0"])],
        cleanup: "",
    },
    Step {
        id: "C1",
        manifest: manifest!("host-network.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/host-network.yaml", &["pod/pod-with-host-network"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-network --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec pod-with-host-network -- ifconfig", &["cbr0", "eth0", "{nodes}"]),
        ],
        explained: &[type_in("skiff explain pod pod-with-host-network", &["net", "host"])],
        cleanup: "kubectl delete pod pod-with-host-network --grace-period=1",
    },
    Step {
        id: "C4",
        manifest: manifest!("port-holders.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/port-holders.yaml", &["daemonset.apps/holder"]),
            type_in("kubectl rollout status daemonset/holder --timeout=120s", &["successfully rolled out"]),
            type_in("kubectl apply -f $M/port-waiter.yaml", &["pod/waiter"]),
            type_in("kubectl get pod waiter", &["0/1", "Pending"]),
            type_in(
                "kubectl describe pod waiter | tail -3",
                &["didn't have free ports for the requested pod ports"],
            ),
        ],
        explained: &[type_in("skiff explain pending waiter", &["18990", "skiff-tour/holder-"])],
        cleanup: "kubectl delete daemonset/holder pod/waiter --grace-period=1",
    },
    Step {
        id: "D1",
        manifest: manifest!("host-port.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/host-port.yaml", &["pod/kubia-hostport"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/kubia-hostport --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec client -- wget -q -O - http://$IP_A:18991", &["You've hit kubia-hostport"]),
            type_in("kubectl exec client -- wget -q -O - http://$IP_B:18991; true", &["refused"]),
        ],
        explained: &[
            type_in(
                "skiff trace pod/client node/$NODE_A:18991",
                &["host-ports", "reaches pod skiff-tour/kubia-hostport"],
            ),
            type_in("skiff trace pod/client node/$NODE_B:18991", &["refused", "open on node"]),
        ],
        cleanup: "",
    },
    Step {
        id: "E1",
        manifest: manifest!("node-port.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/node-port.yaml", &["service/kubia"]),
            type_in("kubectl get service kubia", &["NodePort", "{services}"]),
            type_in(
                "kubectl exec client -- wget -q -O - http://$IP_B:$(kubectl get service kubia -o jsonpath='{.spec.ports[0].nodePort}')",
                &["You've hit kubia-hostport"],
            ),
            type_in("kubectl exec client -- nslookup kubia.skiff-tour.svc.cluster.local", &["{services}"]),
        ],
        explained: &[type_in(
            "skiff trace pod/client pod/kubia-hostport --compare",
            &["hostPort", "NodePort", "ClusterIP", "SENDER SEEN"],
        )],
        cleanup: "kubectl delete service/kubia pod/kubia-hostport --grace-period=1",
    },
    Step {
        id: "F1",
        manifest: manifest!("host-pid.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/host-pid.yaml", &["pod/pod-with-host-pid-and-ipc"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-pid-and-ipc --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec pod-with-host-pid-and-ipc -- ps aux | grep kubelet", &["kubelet"]),
            type_in(
                "skiff node shell --name $CLUSTER $NODE_A -- sh -c 'echo from the node > /dev/shm/skiff-tour' && kubectl exec pod-with-host-pid-and-ipc -- cat /dev/shm/skiff-tour",
                &["from the node"],
            ),
        ],
        explained: &[type_in(
            "skiff explain pod pod-with-host-pid-and-ipc",
            &["can signal all", "processes of"],
        )],
        cleanup: "skiff node shell --name $CLUSTER $NODE_A -- rm -f /dev/shm/skiff-tour && kubectl delete pod pod-with-host-pid-and-ipc --grace-period=1",
    },
    Step {
        id: "G1",
        manifest: manifest!("env-number.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/env-number.yaml; true", &["cannot unmarshal number", "value"]),
            type_in(
                "kubectl get pod number --ignore-not-found; kubectl get pods -n kube-system",
                &["!number", "No resources found"],
            ),
        ],
        explained: &[type_in("skiff status --name $CLUSTER", &["server", "agent"])],
        cleanup: "",
    },
    Step {
        id: "H1",
        manifest: manifest!("limited.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/limited.yaml", &["pod/limited"]),
            type_in("kubectl wait --for=condition=Ready pod/limited --timeout=120s", &["condition met"]),
            type_in("kubectl exec limited -- id", &["uid=1000", "gid=3000"]),
            type_in("kubectl exec limited -- touch /file; true", &["Read-only file system"]),
        ],
        explained: &[type_in("skiff explain pod limited", &["restricted", "1000"])],
        cleanup: "kubectl delete pod limited --grace-period=1",
    },
    Step {
        id: "H2",
        manifest: None,
        typed: &[
            type_in(
                "kubectl create namespace skiff-tour-guarded && kubectl label namespace skiff-tour-guarded pod-security.kubernetes.io/enforce=baseline",
                &["namespace/skiff-tour-guarded created", "labeled"],
            ),
            type_in(
                "kubectl apply -n skiff-tour-guarded -f $M/host-pid.yaml; true",
                &["violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true, hostIPC=true)"],
            ),
        ],
        explained: &[],
        cleanup: "kubectl delete namespace skiff-tour-guarded",
    },
    Step {
        id: "H3",
        manifest: manifest!("policy.yaml"),
        typed: &[
            type_in("kubectl apply -f $M/policy.yaml", &["networkpolicy.networking.k8s.io/nobody-to-kubia"]),
            type_in(
                "kubectl exec client -- timeout 2 wget -q -O - http://$(kubectl get pod kubia -o jsonpath='{.status.podIP}'):8080 || echo no answer",
                &["no answer"],
            ),
        ],
        explained: &[type_in(
            "skiff trace pod/client pod/kubia",
            &["dropped", "NetworkPolicy skiff-tour/nobody-to-kubia"],
        )],
        cleanup: "kubectl delete networkpolicy nobody-to-kubia",
    },
];

/// Further files that steps name.
pub(super) const FILES: &[(&str, &str)] = &[("port-waiter.yaml", include_str!("manifests/port-waiter.yaml"))];
