//! A: a pod, what holds it together, and what its containers share.

use super::{KUBIA, Step, manifest, type_in};

pub(super) const STEPS: &[Step] = &[
    Step {
        id: "A1",
        manifest: manifest!("kubia.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/kubia.yaml", &["pod/kubia"]),
            type_in("kubectl wait --for=condition=Ready pod/kubia --timeout=120s", &["condition met"]),
            type_in("skiff ps | grep -w kubia", &["pause", "Running"]),
            type_in(
                "kubectl get pod kubia -o jsonpath='{.status.podIP}' | tee $M/address-before",
                &["{pods}"],
            ),
            type_in(
                "skiff node shell --name $CLUSTER $NODE_A -- kill -9 $(skiff ps | awk '$2 == \"skiff-tour\" && $4 == \"kubia\" { print $8 }') && echo killed",
                &["killed"],
            ),
            type_in("kubectl get pod kubia", &["1/1", "Running", "1 ("]),
            type_in(
                "kubectl get pod kubia -o jsonpath='{.status.podIP}' | cmp - $M/address-before && echo the same address",
                &["the same address"],
            ),
        ],
        explained: &[type_in("skiff explain pod kubia", &["net       own", "held by pause"])],
        cleanup: "",
    },
    Step {
        id: "A2",
        manifest: manifest!("two-containers.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/two-containers.yaml", &["pod/two"]),
            type_in("kubectl wait --for=condition=Ready pod/two --timeout=120s", &["condition met"]),
            type_in("kubectl exec two -c other -- wget -q -O - http://127.0.0.1:8080", &["You've hit two"]),
            type_in(
                "kubectl exec two -c web -- sh -c 'echo from web > /dev/shm/letter' && kubectl exec two -c other -- cat /dev/shm/letter",
                &["from web"],
            ),
            type_in("kubectl exec two -c other -- nc -l -p 8080; true", &["in use"]),
        ],
        explained: &[type_in(
            "skiff explain pod two",
            &["net       own", "shared by containers web and other"],
        )],
        cleanup: "kubectl delete pod two --grace-period=1",
    },
    Step {
        id: "A3",
        manifest: manifest!("client.yaml"),
        needs: &[KUBIA],
        typed: &[
            type_in("kubectl apply -f $M/client.yaml", &["pod/client"]),
            type_in("kubectl wait --for=condition=Ready pod/client --timeout=120s", &["condition met"]),
            type_in(
                "kubectl get nodes $NODE_A $NODE_B -o custom-columns=NODE:.metadata.name,RANGE:.spec.podCIDR",
                &["{pods}", "/24"],
            ),
            type_in("kubectl get pods kubia client -o wide", &["1/1", "Running", "{pods}", "NODE"]),
            type_in("kubectl exec client -- ifconfig", &["eth0", "inet addr:{pods}", "!cbr0", "!{nodes}"]),
        ],
        explained: &[type_in("skiff explain pod client", &["dev eth0", "{pods}", "route to default"])],
        cleanup: "",
    },
];
