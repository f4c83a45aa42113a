//! B and E: how packets get from pod to pod, and to a service.

use super::{CLIENT, HOST_PORT, KUBIA, Step, manifest, type_in};

pub(super) const STEPS: &[Step] = &[
    Step {
        id: "B1",
        manifest: None,
        needs: &[KUBIA],
        typed: &[
            type_in("skiff node shell --name $CLUSTER $NODE_A -- ip -4 addr show cbr0", &["cbr0", "{pods}"]),
            type_in(
                "skiff node shell --name $CLUSTER $NODE_A -- ip -o link show master cbr0",
                &["veth", "master cbr0"],
            ),
            type_in("skiff node shell --name $CLUSTER $NODE_A -- ip route", &["via {nodes}", "dev cbr0"]),
            type_in("kubectl exec kubia -- cat /proc/net/route", &["eth0"]),
        ],
        explained: &[type_in("skiff explain node $NODE_A", &["net", "PODS IN IT"])],
        cleanup: "",
    },
    Step {
        id: "B2",
        manifest: None,
        needs: &[KUBIA, CLIENT],
        typed: &[type_in(
            "kubectl exec client -- wget -q -O - http://$(kubectl get pod kubia -o jsonpath='{.status.podIP}'):8080",
            &["You've hit kubia"],
        )],
        explained: &[type_in("skiff trace pod/client pod/kubia", &["reaches pod skiff-tour/kubia", "cbr0"])],
        cleanup: "",
    },
    Step {
        id: "B3",
        manifest: None,
        needs: &[CLIENT],
        typed: &[
            type_in("kubectl exec client -- ping -c 1 -W 3 $IP_A", &[" 0% packet loss"]),
            type_in("kubectl exec client -- ping -c 1 -W 3 $IP_B", &[" 0% packet loss"]),
        ],
        explained: &[
            type_in("skiff trace pod/client node/$NODE_A:10250", &["reaches node", "{nodes}"]),
            type_in("skiff trace pod/client 192.0.2.1:80", &["192.0.2.1", "eth0"]),
        ],
        cleanup: "",
    },
];

pub(super) const SERVICES: &[Step] = &[Step {
    id: "E1",
    manifest: manifest!("node-port.yaml"),
    needs: &[CLIENT, HOST_PORT],
    typed: &[
        type_in("kubectl apply -f $M/node-port.yaml", &["service/kubia"]),
        type_in("kubectl get service kubia", &["NodePort", "{services}"]),
        type_in(
            "kubectl exec client -- wget -q -O - http://$IP_B:$(kubectl get service kubia -o jsonpath='{.spec.ports[0].nodePort}')",
            &["You've hit kubia-hostport"],
        ),
        type_in("kubectl exec client -- nslookup kubia.skiff-tour.svc.cluster.local", &["{services}"]),
        type_in("kubectl exec client -- wget -q -O - http://kubia", &["You've hit kubia-hostport"]),
    ],
    explained: &[type_in(
        "skiff trace pod/client pod/kubia-hostport --compare",
        &["hostPort", "NodePort", "ClusterIP", "SENDER SEEN"],
    )],
    cleanup: "kubectl delete service/kubia pod/kubia-hostport --grace-period=1",
}];
