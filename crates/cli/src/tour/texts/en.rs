//! English.

use super::{Texts, Told};

pub(super) static TEXTS: Texts = Texts {
    code: "en",
    heading: "A tour: what a pod shares with its host",
    intro: "Each step asks a question, shows the manifest, says what to type and what to expect, and then lets the \
            running system explain itself. `skiff tour` plays it in the terminal, step by step, on a cluster of \
            three nodes (`skiff up --nodes 3`), in a namespace of its own; it goes on where it was left, and cleans \
            up after itself. The images `alpine`, `luksa/kubia` and `codelieche/simpleweb:v1` come from docker.io \
            (`skiff up --uplink`) or are loaded before (`skiff image load`). `$NODE_A` and `$NODE_B` are two nodes \
            that take pods, `$IP_A` and `$IP_B` their addresses, `$M` is the directory of the manifests, \
            `$CLUSTER` the name of the cluster.",
    notation: "Below each command stands what its output holds, between `…`. `{pods}`, `{nodes}` and `{services}` \
               are how addresses of pods, nodes and services begin: those ranges differ from cluster to cluster.",
    question: "Question:",
    manifest: "The manifest",
    typed: "Type:",
    expect: "Expect:",
    explained: "The system explains:",
    without: "without",
    press_enter: "Enter goes on, q and Enter stops here",
    resumes: "The tour goes on where it was left",
    as_expected: "as expected",
    not_as_expected: "NOT as expected",
    leaving: "Taking away what the steps made…",
    stopped: "Stopped. `skiff tour` goes on from here; `skiff tour --clean` takes away the tour's empty namespace too.",
    done: "That was the tour. All that it made is taken away.",
    steps: &[
        Told {
            id: "A1",
            title: "The pause container",
            question: "What holds a pod's namespaces while its containers come and go?",
            expect: "beside the container a sandbox called `pause`; when the container is killed it starts again, and \
                     the pod keeps its address.",
            explained: "every namespace with its inode; the network, IPC and host name are held by `pause`, so they \
                        outlive each container.",
        },
        Told {
            id: "A2",
            title: "Two containers, one network",
            question: "What do two containers of a pod share?",
            expect: "the second container finds the first one's server on 127.0.0.1 and its file in `/dev/shm`, and \
                     can't take the port that the first has.",
            explained: "the network and IPC namespaces are shared by both containers, the file systems are not.",
        },
        Told {
            id: "A3",
            title: "A pod's address",
            question: "Where does a pod's address come from, and what does the pod see of its node?",
            expect: "an address of its node's range; inside, `eth0` with that address and nothing of the node.",
            explained: "the pod's interfaces, addresses and routes.",
        },
        Told {
            id: "B1",
            title: "The bridge",
            question: "Where does the other end of a pod's `eth0` hang?",
            expect: "a bridge `cbr0` that has the first address of the node's range, a veth pair for each pod on it, \
                     and one route for each other node's range.",
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
            id: "B3",
            title: "To the node, and outside",
            question: "Does a pod reach its node, other nodes, and the world?",
            expect: "both nodes answer.",
            explained: "the way to a process of the node, and the way out: with an uplink it leaves the node by its \
                        `eth0`, without one it ends there.",
        },
        Told {
            id: "C1",
            title: "The node's network",
            question: "What does a pod see that uses its node's network?",
            expect: "the node's interfaces, `cbr0` among them, and the node's address, which is the pod's too.",
            explained: "the network namespace is marked as the host's, with what that exposes.",
        },
        Told {
            id: "C2",
            title: "A port there is a port of the node",
            question: "What is a container port of a pod in the node's network?",
            expect: "a host port by itself, as the pod shows; one that differs is refused.",
            explained: "the socket that listens on the node's addresses, from where it is reached, and what the pod \
                        fails by it: the level baseline.",
        },
        Told {
            id: "C3",
            title: "A server on the node's address",
            question: "Who answers on that port of the node?",
            expect: "the pod's server, with the node's name and all of the node's addresses.",
            explained: "the way ends at a process of the node, which is the pod's; nothing is translated.",
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
            expect: "the pod's node leads to the pod, and the pod's own address does; the other node refuses.",
            explained: "the rule that translates on the pod's node, and why the other node refuses.",
        },
        Told {
            id: "D2",
            title: "Whose address, which protocol",
            question: "Does a host port answer on the node's loopback, and can it be there alone?",
            expect: "on the node's 127.0.0.1 both ports answer; from elsewhere the one with `hostIP: 127.0.0.1` refuses.",
            explained: "each host port with its address and protocol, and where the connection from elsewhere ends.",
        },
        Told {
            id: "D3",
            title: "Four replicas on three nodes",
            question: "What becomes of a Deployment of four replicas with one host port on three nodes, and what is \
                       left of it?",
            expect: "three pods run, one waits: no node has the port free a second time. Which of the three holds it \
                     on each node is told, and while they run a rule leads from the port to the pod. When they are \
                     gone the port refuses.",
            explained: "the kernel's own rules are gone through once more: none of them leads anywhere from that port \
                        any more.",
        },
        Told {
            id: "E1",
            title: "NodePort",
            question: "How does a NodePort differ from a hostPort?",
            expect: "any node answers at the node port, also one without the pod; the service has an address and a name.",
            explained: "hostPort, NodePort and ClusterIP of one pod side by side, with the sender that the pod sees.",
        },
        Told {
            id: "F1",
            title: "The node's processes",
            question: "What does a pod see and reach with `hostPID`?",
            expect: "the node's processes, the agent among them; it can end one that somebody started on the node.",
            explained: "how many processes it sees and could signal, and how few a plain pod does.",
        },
        Told {
            id: "F2",
            title: "The node's memory",
            question: "What does a pod share with `hostIPC`?",
            expect: "the node's shared memory, semaphores and queues, both ways; a plain pod sees nothing of them.",
            explained: "the IPC namespace is marked as the host's, with what that exposes.",
        },
        Told {
            id: "F3",
            title: "All three",
            question: "Do hostNetwork, hostPID and hostIPC go together?",
            expect: "network, processes, IPC and host name are the node's; the file system is not.",
            explained: "the four namespaces that are the host's, beside those that are the pod's own.",
        },
        Told {
            id: "G1",
            title: "kubectl, and what it is refused",
            question: "What does kubectl say, and what becomes of a manifest with a number where a string belongs?",
            expect: "what kubectl says on every cluster; then an error that names the field, and no pod. The \
                     platform's own parts are no pods either.",
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
            question: "Who keeps pods with the node's processes out?",
            expect: "the pod is refused where the namespace enforces the level baseline, and taken where none does; \
                     who has no right to create pods may not create this one.",
            explained: "the strictest level that the pod meets, and the fields that keep it from the next.",
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
