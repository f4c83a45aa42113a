//! G and H: kubectl, and who may have what.

use super::{CLIENT, KUBIA, Step, manifest, type_in};

pub(super) const STEPS: &[Step] = &[
    Step {
        id: "G1",
        manifest: manifest!("env-number.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl create -f $M/host-network.yaml", &["pod/pod-with-host-network created"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-network --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec pod-with-host-network -- echo hello", &["hello"]),
            type_in(
                "kubectl delete -f $M/host-network.yaml --grace-period=1",
                &["pod \"pod-with-host-network\" deleted"],
            ),
            type_in(
                "kubectl apply -f $M/env-number.yaml; true",
                &[
                    "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
                ],
            ),
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
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/limited.yaml", &["pod/limited"]),
            type_in("kubectl wait --for=condition=Ready pod/limited --timeout=120s", &["condition met"]),
            type_in("kubectl exec limited -- id", &["uid=1000", "gid=3000"]),
            type_in("kubectl exec limited -- touch /file; true", &["Read-only file system"]),
        ],
        explained: &[type_in(
            "skiff explain pod limited",
            &[
                "UID 1000, GID 3000",
                "capabilities         none",
                "filter; no-new-privileges set",
                "restricted is the strictest level that it meets",
            ],
        )],
        cleanup: "kubectl delete pod limited --grace-period=1",
    },
    Step {
        id: "H2",
        manifest: None,
        needs: &[],
        typed: &[
            type_in(
                "kubectl create namespace skiff-tour-guarded && kubectl label namespace skiff-tour-guarded pod-security.kubernetes.io/enforce=baseline",
                &["namespace/skiff-tour-guarded created", "labeled"],
            ),
            type_in(
                "kubectl apply -n skiff-tour-guarded -f $M/host-pid.yaml; true",
                &["violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true, hostIPC=true)"],
            ),
            type_in("kubectl apply -f $M/host-pid.yaml", &["pod/pod-with-host-pid-and-ipc"]),
            type_in(
                "kubectl auth can-i create pods --as=nobody-in-particular -n skiff-tour-guarded; true",
                &["no"],
            ),
        ],
        explained: &[type_in(
            "skiff explain pod pod-with-host-pid-and-ipc",
            &[
                "privileged is the strictest level that it meets",
                "not baseline: host namespaces (hostPID=true, hostIPC=true)",
            ],
        )],
        cleanup: "kubectl delete pod pod-with-host-pid-and-ipc --grace-period=1; kubectl delete namespace skiff-tour-guarded",
    },
    Step {
        id: "H3",
        manifest: manifest!("policy.yaml"),
        needs: &[KUBIA, CLIENT],
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
