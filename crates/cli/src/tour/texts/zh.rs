//! Chinese.

use super::{Texts, Told};

pub(super) static TEXTS: Texts = Texts {
    code: "zh",
    heading: "导览：Pod 与主机共享什么",
    intro: "每一步先提出问题，给出清单，说明输入什么、预期什么，然后让运行中的系统自己解释。`skiff tour` 在三节点集群\
            （`skiff up --nodes 3`）的专用命名空间里逐步执行，并在结束后清理。镜像 `alpine` 和 `luksa/kubia` 来自 \
            docker.io（`skiff up --uplink`），或事先加载（`skiff image load`）。`$NODE_A` 和 `$NODE_B` 是两个接收 Pod \
            的节点，`$IP_A` 和 `$IP_B` 是它们的地址，`$M` 是清单所在的目录，`$CLUSTER` 是集群的名字。",
    question: "问题：",
    manifest: "清单",
    typed: "输入：",
    expect: "预期：",
    explained: "系统的解释：",
    press_enter: "按 Enter 继续，按 q 再按 Enter 停止",
    resumes: "从上次停下的地方继续",
    as_expected: "符合预期",
    not_as_expected: "不符合预期",
    stopped: "已停止。`skiff tour` 从这里继续；`skiff tour --clean` 删除导览创建的一切。",
    done: "导览结束。它创建的一切都已删除。",
    steps: &[
        Told {
            id: "A1",
            title: "pause 容器",
            question: "容器来来去去，是什么一直保持着 Pod 的命名空间？",
            expect: "一个地址属于节点网段的 Pod，容器旁边有一个名为 `pause` 的沙箱。",
            explained: "每个命名空间及其 inode；网络、IPC 和主机名由 `pause` 保持，因此比任何容器都长久。",
        },
        Told {
            id: "A2",
            title: "两个容器，一个网络",
            question: "同一个 Pod 的两个容器如何找到对方？",
            expect: "第二个容器在 127.0.0.1 上找到第一个容器的服务器：它们在同一个网络命名空间里。",
            explained: "网络命名空间由两个容器共享，文件系统则不共享。",
        },
        Told {
            id: "B1",
            title: "网桥",
            question: "Pod 的 `eth0` 的另一端挂在哪里？",
            expect: "一个拥有节点网段第一个地址的网桥 `cbr0`，以及通往其他每个节点网段的一条路由。",
            explained: "从节点一侧看：哪些 Pod 使用它的哪些命名空间。",
        },
        Told {
            id: "B2",
            title: "从节点到节点",
            question: "数据包如何从一个 Pod 到达另一个节点上的 Pod？",
            expect: "按 Pod 自己的地址得到回答；途中没有任何地址转换。",
            explained: "每一跳：`eth0`、veth、网桥、路由、另一个节点、它的网桥、Pod；以及回答返回的路。",
        },
        Told {
            id: "C1",
            title: "节点的网络",
            question: "使用节点网络的 Pod 看到什么？",
            expect: "节点的网络接口，包括 `cbr0`，以及节点的地址。",
            explained: "网络命名空间被标为主机的，并说明这暴露了什么。",
        },
        Told {
            id: "C4",
            title: "一个端口，每个节点一次",
            question: "如果主机端口在每个节点上都被占用，Pod 会怎样？",
            expect: "Pod 停在 Pending，调度器的事件说没有节点有空闲端口。",
            explained: "逐个节点说明哪个 Pod 占着端口，以及能让 Pod 进来的最小改动。",
        },
        Told {
            id: "D1",
            title: "hostPort",
            question: "哪些节点在 Pod 的主机端口上应答？",
            expect: "Pod 所在的节点通往 Pod；另一个节点拒绝。",
            explained: "在 Pod 的节点上进行转换的规则，以及另一个节点拒绝的原因。",
        },
        Told {
            id: "E1",
            title: "NodePort",
            question: "NodePort 与 hostPort 有什么不同？",
            expect: "任何节点都在节点端口上应答，没有该 Pod 的节点也一样；服务有自己的名字。",
            explained: "同一个 Pod 的 hostPort、NodePort 和 ClusterIP 并排比较，以及 Pod 看到的发送者。",
        },
        Told {
            id: "F1",
            title: "节点的进程和内存",
            question: "带有 `hostPID` 和 `hostIPC` 的 Pod 看到什么？",
            expect: "节点的进程，包括代理，以及节点的共享内存。",
            explained: "它能看到并能发信号的进程有多少。",
        },
        Told {
            id: "G1",
            title: "什么会被拒绝",
            question: "应为字符串的地方写了数字，清单会怎样？",
            expect: "一个指出字段的错误，没有 Pod 产生；平台自己的部分也不是 Pod。",
            explained: "每个节点上平台的进程。",
        },
        Told {
            id: "H1",
            title: "受限的容器",
            question: "一个容器最少可以拥有多少？",
            expect: "自己的用户，没有任何能力（capability），根文件系统不可写。",
            explained: "用户、能力、seccomp，以及 Pod 满足的 Pod Security 级别：restricted。",
        },
        Told {
            id: "H2",
            title: "受保护的命名空间",
            question: "谁把这样的 Pod 挡在外面？",
            expect: "在强制 baseline 级别的命名空间里，能看到节点进程的 Pod 被拒绝。",
            explained: "",
        },
        Told {
            id: "H3",
            title: "被隔离的 Pod",
            question: "谁可以与 Pod 通信？",
            expect: "有了什么都不允许的策略，就是沉默。",
            explained: "数据包在哪里、被哪条策略丢弃，以及怎样才能通过。",
        },
    ],
};
