//! English.

use super::{Texts, Told};

pub(super) static TEXTS: Texts = Texts {
    code: "en",
    heading: "A tour: what a pod shares with its host",
    intro: "Each step asks a question, shows the manifest, says what to type and what to expect, and then lets the \
            running system explain itself. `skiff tour` plays it in the terminal, step by step, on a cluster of \
            three nodes (`skiff up --nodes 3`), in a namespace of its own, and cleans up after itself. The images \
            `alpine` and `luksa/kubia` come from docker.io (`skiff up --uplink`) or are loaded before \
            (`skiff image load`). `$NODE_A` and `$NODE_B` are two nodes that take pods, `$IP_A` and `$IP_B` their \
            addresses, `$M` is the directory of the manifests, `$CLUSTER` the name of the cluster.",
    question: "Question:",
    manifest: "The manifest",
    typed: "Type:",
    expect: "Expect:",
    explained: "The system explains:",
    press_enter: "Enter goes on, q and Enter stops here",
    resumes: "The tour goes on where it was left",
    as_expected: "as expected",
    not_as_expected: "NOT as expected",
    stopped: "Stopped. `skiff tour` goes on from here; `skiff tour --clean` takes away what the tour made.",
    done: "That was the tour. All that it made is taken away.",
    steps: &[
        Told {
            id: "A1",
            title: "The pause container",
            question: "What holds a pod's namespaces while its containers come and go?",
            expect: "a pod with an address of its node's range, and beside its container a sandbox called `pause`.",
            explained: "every namespace with its inode; the network, IPC and host name are held by `pause`, so they \
                        outlive each container.",
        },
        Told {
            id: "A2",
            title: "Two containers, one network",
            question: "How do two containers of a pod reach each other?",
            expect: "the second container finds the first one's server on 127.0.0.1: they are in one network namespace.",
            explained: "the network namespace is shared by both containers, the file systems are not.",
        },
        Told {
            id: "B1",
            title: "The bridge",
            question: "Where does the other end of a pod's `eth0` hang?",
            expect: "a bridge `cbr0` that has the first address of the node's range, and one route for each other node's range.",
            explained: "the node's side: which pods use which of its namespaces.",
        },
        Told {
            id: "B2",
            title: "From node to node",
            question: "How does a packet get from a pod to a pod of another node?",
            expect: "an answer by the pod's own address; nothing is translated on the way.",
            explained: "every hop: `eth0`, veth, bridge, route, the other node, its bridge, the pod; and the answer's way.",
        },
        Told {
            id: "C1",
            title: "The node's network",
            question: "What does a pod see that uses its node's network?",
            expect: "the node's interfaces, `cbr0` among them, and the node's address.",
            explained: "the network namespace is marked as the host's, with what that exposes.",
        },
        Told {
            id: "C4",
            title: "One port, once a node",
            question: "What happens to a pod whose host port is taken on every node?",
            expect: "the pod stays Pending, and the scheduler's event says that no node has free ports.",
            explained: "node by node which pod holds the port, and the smallest change that would let the pod in.",
        },
        Told {
            id: "D1",
            title: "hostPort",
            question: "Which nodes answer at a pod's host port?",
            expect: "the pod's node leads to the pod; the other node refuses.",
            explained: "the rule that translates on the pod's node, and why the other node refuses.",
        },
        Told {
            id: "E1",
            title: "NodePort",
            question: "How does a NodePort differ from a hostPort?",
            expect: "any node answers at the node port, also one without the pod; the service has a name.",
            explained: "hostPort, NodePort and ClusterIP of one pod side by side, with the sender that the pod sees.",
        },
        Told {
            id: "F1",
            title: "The node's processes and memory",
            question: "What does a pod see with `hostPID` and `hostIPC`?",
            expect: "the node's processes, the agent among them, and the node's shared memory.",
            explained: "how many processes it sees and could signal.",
        },
        Told {
            id: "G1",
            title: "What is refused",
            question: "What becomes of a manifest with a number where a string belongs?",
            expect: "an error that names the field, and no pod; the platform's own parts are no pods either.",
            explained: "the platform's processes on each node.",
        },
        Told {
            id: "H1",
            title: "A limited container",
            question: "How little may a container have?",
            expect: "a user of its own, no capabilities, and a root file system that can't be written.",
            explained: "user, capabilities, seccomp, and the Pod Security level that the pod meets: restricted.",
        },
        Told {
            id: "H2",
            title: "A guarded namespace",
            question: "Who keeps such pods out?",
            expect: "the pod with the node's processes is refused where the namespace enforces the level baseline.",
            explained: "",
        },
        Told {
            id: "H3",
            title: "An isolated pod",
            question: "Who may talk to a pod?",
            expect: "with a policy that allows nothing, silence.",
            explained: "where the packet is dropped, by which policy, and what would let it pass.",
        },
    ],
};
