//! F: pods among their node's processes, and in its memory.

use super::{HOST_PID, KUBIA, Step, manifest, outside, type_in};

pub(super) const STEPS: &[Step] = &[
    Step {
        id: "F1",
        manifest: manifest!("host-pid.yaml"),
        needs: &[KUBIA],
        typed: &[
            type_in("kubectl apply -f $M/host-pid.yaml", &["pod/pod-with-host-pid-and-ipc"]),
            type_in(
                "kubectl wait --for=condition=Ready pod/pod-with-host-pid-and-ipc --timeout=120s",
                &["condition met"],
            ),
            type_in("kubectl exec pod-with-host-pid-and-ipc -- ps aux | grep kubelet", &["kubelet"]),
            type_in(
                "rm -f $M/pid; skiff node shell --name $CLUSTER $NODE_A -- sh -c \"echo \\$\\$ > $M/pid; exec sleep 600\" & timeout 60 sh -c 'until test -s $M/pid; do sleep 0.1; done'; kubectl exec pod-with-host-pid-and-ipc -- kill -9 $(cat $M/pid); wait $!; echo the sleep on the node ended with $?",
                &["the sleep on the node ended with 137"],
            ),
        ],
        explained: &[
            type_in(
                "skiff explain pod pod-with-host-pid-and-ipc",
                &["pid       host", "can signal all", "processes of", "the node agent among them"],
            ),
            type_in("skiff explain pod kubia", &["pid       own", "sees its own processes alone"]),
        ],
        cleanup: "",
    },
    Step {
        id: "F2",
        manifest: None,
        needs: &[KUBIA, HOST_PID],
        typed: &[
            type_in(
                "skiff node shell --name $CLUSTER $NODE_A -- sh -c 'echo from the node > /dev/shm/skiff-tour' && kubectl exec pod-with-host-pid-and-ipc -- cat /dev/shm/skiff-tour",
                &["from the node"],
            ),
            type_in(
                "kubectl exec pod-with-host-pid-and-ipc -- sh -c 'echo from the pod > /dev/shm/skiff-tour-pod' && skiff node shell --name $CLUSTER $NODE_A -- cat /dev/shm/skiff-tour-pod",
                &["from the pod"],
            ),
            type_in(
                "kubectl exec kubia -- cat /dev/shm/skiff-tour; true",
                &["No such file", "!from the node"],
            ),
            type_in(
                "skiff node shell --name $CLUSTER $NODE_A -- sh -c 'cd /dev/shm; LC_ALL=C ipcmk -S 17 | tee skiff-tour-semaphores; LC_ALL=C ipcmk -Q | tee skiff-tour-queue'",
                &["Semaphore id: ", "Message queue id: "],
            ),
            type_in(
                "kubectl exec pod-with-host-pid-and-ipc -- sh -c 'cd /dev/shm; awk \"\\$2 == $(tr -dc 0-9 < skiff-tour-semaphores) {print \\$4, \\\"semaphores of the node\\\"}\" /proc/sysvipc/sem; awk \"\\$2 == $(tr -dc 0-9 < skiff-tour-queue) {print \\\"a queue of the node\\\"}\" /proc/sysvipc/msg'",
                &["17 semaphores of the node", "a queue of the node"],
            ),
            type_in(
                "kubectl exec pod-with-host-pid-and-ipc -- sh -c ': > /dev/mqueue/skiff-tour' && skiff node shell --name $CLUSTER $NODE_A -- ls /dev/mqueue",
                &["skiff-tour"],
            ),
            type_in(
                "kubectl exec kubia -- sh -c 'ls /dev/mqueue; echo objects: $(tail -q -n +2 /proc/sysvipc/sem /proc/sysvipc/msg | wc -l)'",
                &["objects: 0", "!skiff-tour"],
            ),
        ],
        explained: &[type_in(
            "skiff explain pod pod-with-host-pid-and-ipc",
            &["ipc       host", "POSIX queues and /dev/shm"],
        )],
        cleanup: concat!(outside!(), "; kubectl delete pod pod-with-host-pid-and-ipc --grace-period=1"),
    },
    Step {
        id: "F3",
        manifest: manifest!("all-three.yaml"),
        needs: &[],
        typed: &[
            type_in("kubectl apply -f $M/all-three.yaml", &["pod/all-three"]),
            type_in("kubectl wait --for=condition=Ready pod/all-three --timeout=120s", &["condition met"]),
            type_in(
                "for n in net pid ipc uts mnt; do test $(kubectl exec all-three -- readlink /proc/self/ns/$n) = $(skiff node shell --name $CLUSTER $NODE_A -- readlink /proc/self/ns/$n) && echo $n: one with the node; done; true",
                &[
                    "net: one with the node",
                    "pid: one with the node",
                    "ipc: one with the node",
                    "uts: one with the node",
                    "!mnt",
                ],
            ),
        ],
        explained: &[type_in(
            "skiff explain pod all-three",
            &["net       host", "pid       host", "ipc       host", "uts       host", "mnt       own"],
        )],
        cleanup: "kubectl delete pod all-three --grace-period=1",
    },
];
