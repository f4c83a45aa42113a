//! C and D: pods in their node's network, and ports of the node that lead to a pod.

use super::{CLIENT, HOST_PORT, SIMPLEWEB, Step, manifest, type_in};

pub(super) const STEPS: &[Step] = &[
    Step {
        id: "C1",
        manifest: manifest!("host-network.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/host-network.yaml", &["pod/pod-with-host-network"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-network --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl get pod pod-with-host-network -o wide", &["{nodes}"]),
            type_in("kubectl exec pod-with-host-network -- ifconfig", &["cbr0", "eth0", "{nodes}"]),
        ],
        explained: &[type_in("skiff explain pod pod-with-host-network", &["net       host"])],
        cleanup: "kubectl delete pod pod-with-host-network --grace-period=1",
    },
    Step {
        id: "C2",
        manifest: manifest!("simpleweb.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/simpleweb.yaml", &["pod/simpleweb"]),
            type_in(
                "kubectl get pod simpleweb -o jsonpath='{.spec.containers[0].ports[0]}'",
                &["\"containerPort\":18992", "\"hostPort\":18992"],
            ),
            type_in("kubectl wait --for=condition=Ready pod/simpleweb --timeout=120s", &["condition met"]),
            type_in(
                "kubectl apply -f $M/differing-ports.yaml; true",
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 18992: must match `hostPort` when `hostNetwork` is true",
                ],
            ),
        ],
        explained: &[type_in(
            "skiff explain pod simpleweb",
            &["0.0.0.0:18992/TCP", "from outside", "not baseline: hostPort"],
        )],
        cleanup: "",
    },
    Step {
        id: "C3",
        manifest: None,
        needs: &[CLIENT, SIMPLEWEB],
        typed: &[type_in(
            "kubectl exec client -- wget -q -O - http://$IP_A:18992",
            &["Host:", "IP:", "{nodes}", "{pods}", "Version:1"],
        )],
        explained: &[type_in(
            "skiff trace pod/client node/$NODE_A:18992",
            &["reaches node", "{nodes}", "is taken by process"],
        )],
        cleanup: "kubectl delete pod simpleweb --grace-period=1",
    },
    Step {
        id: "C4",
        manifest: manifest!("port-holders.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/port-holders.yaml", &["daemonset.apps/holder"]),
            type_in("kubectl rollout status daemonset/holder --timeout=120s", &["successfully rolled out"]),
            type_in("kubectl apply -f $M/port-waiter.yaml", &["pod/waiter"]),
            type_in("kubectl get pod waiter", &["0/1", "Pending"]),
            type_in(
                "kubectl describe pods waiter | tail -1",
                &[
                    "Warning",
                    "FailedScheduling",
                    "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.",
                ],
            ),
        ],
        explained: &[type_in(
            "skiff explain pending waiter",
            &["0.0.0.0:18990/TCP is held by pod skiff-tour/holder-", "Smallest single change"],
        )],
        cleanup: "kubectl delete daemonset/holder pod/waiter --grace-period=1",
    },
    Step {
        id: "D1",
        manifest: manifest!("host-port.yaml"),
        needs: &[CLIENT],
        typed: &[
            type_in("kubectl apply -f $M/host-port.yaml", &["pod/kubia-hostport"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/kubia-hostport --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec client -- wget -q -O - http://$IP_A:18991", &["You've hit kubia-hostport"]),
            type_in(
                "kubectl exec client -- wget -q -O - http://$(kubectl get pod kubia-hostport -o jsonpath='{.status.podIP}'):8080",
                &["You've hit kubia-hostport"],
            ),
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
        id: "D2",
        manifest: manifest!("loopback-port.yaml"),
        needs: &[CLIENT, HOST_PORT],
        typed: &[
            type_in("kubectl apply -f $M/host-network.yaml", &["pod/pod-with-host-network"]),
            type_in("kubectl apply -f $M/loopback-port.yaml", &["pod/loopback"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-network pod/loopback --timeout=120s",
                &["pod/pod-with-host-network condition met", "pod/loopback condition met"],
            ),
            type_in(
                "kubectl exec pod-with-host-network -- wget -q -O - http://127.0.0.1:18991",
                &["You've hit kubia-hostport"],
            ),
            type_in(
                "kubectl exec pod-with-host-network -- wget -q -O - http://127.0.0.1:18993",
                &["You've hit loopback"],
            ),
            type_in("kubectl exec client -- wget -q -O - http://$IP_A:18993; true", &["refused"]),
        ],
        explained: &[
            type_in(
                "skiff explain pod loopback",
                &[
                    "host port 127.0.0.1:18993/TCP leads to port 8080",
                    "host port 0.0.0.0:18993/UDP leads to port 8080",
                ],
            ),
            type_in("skiff trace pod/client node/$NODE_A:18993", &["refused"]),
        ],
        cleanup: "kubectl delete pod pod-with-host-network loopback --grace-period=1",
    },
    Step {
        id: "D3",
        manifest: manifest!("four-replicas.yaml"),
        needs: &[CLIENT],
        typed: &[
            type_in("kubectl apply -f $M/four-replicas.yaml", &["deployment.apps/four"]),
            type_in(
                "kubectl get pods -l app=four --no-headers -o custom-columns=PHASE:.status.phase | sort | uniq -c",
                &["3 Running", "1 Pending"],
            ),
            type_in(
                "kubectl describe pods -l app=four | grep FailedScheduling",
                &[
                    "0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.",
                ],
            ),
            type_in(
                "skiff explain pending $(kubectl get pods -l app=four --field-selector=status.phase=Pending -o jsonpath='{.items[0].metadata.name}')",
                &["all 3 nodes refuse it", "0.0.0.0:18994/TCP is held by pod skiff-tour/four-"],
            ),
            type_in(
                "skiff trace pod/client node/$NODE_A:18994",
                &["host-ports", "reaches pod skiff-tour/four-"],
            ),
            type_in(
                "kubectl delete deployment/four --cascade=foreground --timeout=120s",
                &["deployment.apps \"four\" deleted"],
            ),
            type_in(
                "for ip in $IP_A $IP_B; do kubectl exec client -- wget -q -O - http://$ip:18994; done; true",
                &["refused", "!You've hit"],
            ),
        ],
        explained: &[
            type_in(
                "skiff trace pod/client node/$NODE_A:18994",
                &["refused: nothing listens on", "!host-ports"],
            ),
            type_in(
                "skiff trace pod/client node/$NODE_B:18994",
                &["refused: nothing listens on", "!host-ports"],
            ),
        ],
        cleanup: "kubectl delete deployment/four --ignore-not-found --cascade=foreground --timeout=120s",
    },
];
