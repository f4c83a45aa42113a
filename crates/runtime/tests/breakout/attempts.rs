//! What is tried, and what is expected of it under which setting, and why: plain data, read by this suite,
//! which attacks the runtime, and by the one in `tests/tests/breakout`, which attacks through the kubelet.

use Expected::{Allowed, Blocked};
use Loosened::*;

/// How a pod may have been let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// It says nothing, and its namespace asks for nothing.
    Default,
    /// What the baseline level lets in, under the default filter.
    Baseline,
    /// What the restricted level asks for.
    Restricted,
    Privileged,
    /// As the default, with users of its own (`hostUsers: false`).
    Users,
    /// All that can be given to a pod with users of its own: its root has every capability, in its namespace.
    PrivilegedUsers,
}

pub(crate) const SETTINGS: usize = 6;

/// Those that the shim could have left open: it has fewer.
pub(crate) const DESCRIPTORS: std::ops::Range<u32> = 3..32;

/// How an attempt ends, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    Blocked(&'static str),
    Allowed(&'static str),
}

/// A guard that is left out. The first ones a pod may ask for; the others are the runtime's own, and nobody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loosened {
    /// It is given this capability.
    Capability(&'static str),
    /// Nothing is masked or read-only in `/proc` and `/sys`.
    Unmasked,
    /// It is privileged.
    Unbound,
    /// It is in the node's process namespace.
    NodesProcesses,
    /// It is in the node's network namespace.
    NodesNetwork,
    /// It has a terminal.
    Terminal,
    /// The runtime follows links out of a container's root.
    LinksFollowed,
    /// A descriptor of the node's root stays open.
    DescriptorsLeaked,
    /// The shim's program can be written.
    ProgramWritable,
    /// Masks are made of what a volume shows.
    VolumesTrusted,
    /// Volumes are mounted inside `/proc`.
    ProcMountedOver,
}

/// What is hostile about it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// The hostile program, with these words.
    Program(&'static [&'static str]),
    /// The same, with the name of the victim that runs beside it.
    Against(&'static str),
    /// The same, in each directory that a descriptor of the runtime's could be.
    DirectoryOfDescriptor,
    /// The same, with the address of the victim: the network gives it one, not the runtime.
    AgainstAddress(&'static str),
    /// The program, as a command in a container that runs already.
    Command(&'static [&'static str]),
    /// A link in a volume, and a mount through it.
    LinkInVolume,
    /// A link in the place of the log.
    LinkForLog,
    /// A volume at `/dev`, whose `null` is a link to what is masked.
    NullInVolume,
    /// A volume at this path, beside one at `/volume` with a link to `/`.
    VolumeAt(&'static str),
    /// A terminal, and a volume at `/dev` whose `console` is a link to a file.
    ConsoleInVolume,
    /// A part of a volume that is a link: the kubelet mounts parts, not the runtime.
    LinkForPart,
    /// A link in the place of the log, which is asked for then: the kubelet reads logs, not the runtime.
    LinkForReadLog,
}

pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// The whole of the node's processes is shown to it: the worst case of what it is about.
    pub(crate) sees_node: bool,
    /// Under each [`Setting`], in their order.
    pub(crate) expected: [Expected; SETTINGS],
    /// What is left out of the default setting's guards for the attempt to succeed.
    pub(crate) loosened: &'static [Loosened],
}

const fn row(
    name: &'static str,
    way: Way,
    expected: [Expected; SETTINGS],
    loosened: &'static [Loosened],
) -> Attempt {
    Attempt { name, way, sees_node: false, expected, loosened }
}

const fn nowhere(why: &'static str) -> [Expected; SETTINGS] {
    [Blocked(why); SETTINGS]
}

/// Only where there are no guards; and for root of a user namespace not at all, as it is about what belongs
/// to the node.
const fn privileged_only(why: &'static str) -> [Expected; SETTINGS] {
    let privileged = Allowed("privileged: the container is as strong as root on its node");
    let ends = Blocked("it is the node's, and capabilities end with the user namespace");
    [Blocked(why), Blocked(why), Blocked(why), privileged, Blocked(why), ends]
}

/// The same, but that it is about what belongs to the container, so that root of its user namespace may.
const fn strong_inside(why: &'static str) -> [Expected; SETTINGS] {
    let [default, baseline, restricted, privileged, users, _] = privileged_only(why);
    let inside = Allowed("privileged: it reaches what its own namespaces hold, and no further");
    [default, baseline, restricted, privileged, users, inside]
}

/// The same for what is masked, which is not where nothing is.
const fn unmasked(why: &'static str) -> [Expected; SETTINGS] {
    let [default, baseline, restricted, privileged, users, _] = privileged_only(why);
    let shown = Allowed("privileged: nothing is masked, and what anybody may read is not kept from it");
    [default, baseline, restricted, privileged, users, shown]
}

/// Where a capability of the default set suffices.
const fn by_default(why: &'static str) -> [Expected; SETTINGS] {
    let without = Blocked("restricted drops all capabilities");
    [Allowed(why), Allowed(why), without, Allowed(why), Allowed(why), Allowed(why)]
}

/// The same for what makes a device, which nobody does in a user namespace.
const fn device_node(why: &'static str) -> [Expected; SETTINGS] {
    let [default, baseline, restricted, privileged, ..] = by_default(why);
    let users = Blocked("devices are not made in a user namespace, by whomever");
    [default, baseline, restricted, privileged, users, users]
}

/// Where only the default filter is in the way.
const fn filtered(why: &'static str) -> [Expected; SETTINGS] {
    let filter = Blocked("the default filter refuses the call");
    [Allowed(why), filter, filter, Allowed(why), Allowed(why), Allowed(why)]
}

const ADMIN: &str = "it takes CAP_SYS_ADMIN, which no container has by default";
const READ_ONLY: &str = "what belongs to the whole machine is on a read-only mount";
const KERNELS: &str = "what is in /proc is the kernel's, however a path leads there";
const OTHER_PROCESSES: &str = "its process namespace shows no process of another pod";

pub(crate) const ATTEMPTS: &[Attempt] = &[
    row("mount", Way::Program(&["mount"]), strong_inside(ADMIN), &[Capability("SYS_ADMIN")]),
    row(
        "remount",
        Way::Program(&["remount", "/proc/sys", "/proc/sys/kernel/panic"]),
        privileged_only(ADMIN),
        &[Capability("SYS_ADMIN")],
    ),
    row("unmask", Way::Program(&["unmask", "/proc/interrupts"]), unmasked(ADMIN), &[Capability("SYS_ADMIN")]),
    row("unshare", Way::Program(&["unshare"]), strong_inside(ADMIN), &[Capability("SYS_ADMIN")]),
    row(
        "unshare-user",
        Way::Program(&["unshare-user"]),
        filtered(
            "without a filter the kernel gives anybody a user namespace, with power over what it makes in it alone",
        ),
        &[],
    ),
    row("ptrace", Way::Against("ptrace"), nowhere(OTHER_PROCESSES), &[NodesProcesses]),
    row(
        "raw-socket",
        Way::Program(&["raw-socket"]),
        by_default("CAP_NET_RAW is of the default set, for ping, and ends with the pod's network namespace"),
        &[],
    ),
    row(
        "packet-socket",
        Way::Program(&["packet-socket"]),
        by_default("CAP_NET_RAW again: what is forged is judged by the node's own filter of addresses"),
        &[],
    ),
    row(
        "claim-address",
        Way::AgainstAddress("claim-address"),
        nowhere("the node has written down where each pod is, and believes nobody who says otherwise"),
        &[],
    ),
    row(
        "change-link",
        Way::Program(&["change-link"]),
        strong_inside("it takes CAP_NET_ADMIN, also in the pod's own network"),
        &[Capability("NET_ADMIN")],
    ),
    row("sysctl", Way::Program(&["open", "/proc/sys/kernel/panic"]), privileged_only(READ_ONLY), &[Unmasked]),
    row(
        "core-pattern",
        Way::Program(&["open", "/proc/sys/kernel/core_pattern"]),
        privileged_only(READ_ONLY),
        &[Unmasked],
    ),
    row(
        "irq",
        Way::Program(&["open", "/proc/irq/default_smp_affinity"]),
        privileged_only(READ_ONLY),
        &[Unmasked],
    ),
    row(
        "masked-file",
        Way::Program(&["read", "/proc/interrupts"]),
        unmasked("what tells of the machine's other work is masked"),
        &[Unmasked],
    ),
    row(
        "release-agent",
        Way::Program(&["release-agent"]),
        nowhere("a control group namespace has no hierarchy's root, where the agent is named"),
        &[NodesProcesses, Unbound],
    ),
    row(
        "make-group",
        Way::Program(&["make-group"]),
        privileged_only("a container's control groups are on read-only mounts"),
        &[Unbound],
    ),
    row(
        "mknod",
        Way::Program(&["mknod"]),
        device_node("CAP_MKNOD is of the default set: a node is made, and can't be opened"),
        &[],
    ),
    row(
        "device",
        Way::Program(&["device"]),
        privileged_only("the control group lets it open none but the harmless devices"),
        &[Unbound],
    ),
    row(
        "module",
        Way::Program(&["module"]),
        privileged_only("it takes CAP_SYS_MODULE, which no container has by default"),
        &[Capability("SYS_MODULE")],
    ),
    row(
        "keyctl",
        Way::Program(&["keyctl"]),
        filtered("keys have no namespace, and nothing but the filter is before them"),
        &[],
    ),
    row(
        "file-handle",
        Way::Program(&["handle"]),
        privileged_only("it takes CAP_DAC_READ_SEARCH, which no container has by default"),
        &[Capability("DAC_READ_SEARCH")],
    ),
    Attempt {
        sees_node: true,
        ..row(
            "runtime-program",
            Way::Program(&["runtime-program"]),
            nowhere("the shim runs from a mount that can't be written"),
            &[Unbound, ProgramWritable],
        )
    },
    Attempt {
        sees_node: true,
        ..row(
            "runtime-memory",
            Way::Program(&["runtime-memory"]),
            privileged_only("the shim has capabilities that the container lacks, so it is no prey to it"),
            &[Unbound],
        )
    },
    Attempt {
        sees_node: true,
        ..row(
            "node-namespace",
            Way::Program(&["node-namespace"]),
            privileged_only("the shim has capabilities that the container lacks, so its namespaces are shut"),
            &[Unbound],
        )
    },
    row(
        "descriptors-of-command",
        Way::Command(&["descriptors"]),
        nowhere("all of the runtime's are closed when a command starts, too"),
        &[DescriptorsLeaked],
    ),
    row(
        "descriptors",
        Way::Program(&["descriptors"]),
        nowhere("all of the runtime's are closed when the program starts"),
        &[DescriptorsLeaked],
    ),
    row(
        "directory-of-descriptor",
        Way::DirectoryOfDescriptor,
        nowhere("no directory of the node's is open when the working directory is entered"),
        &[DescriptorsLeaked],
    ),
    row(
        "link-in-volume",
        Way::LinkInVolume,
        nowhere("mounts are made below the container's root, whatever a link says"),
        &[LinksFollowed],
    ),
    row(
        "null-in-volume",
        Way::NullInVolume,
        unmasked("masks are made of the null device, which is taken before a volume is mounted over it"),
        &[VolumesTrusted],
    ),
    row("volume-in-proc", Way::VolumeAt("/proc/tty"), nowhere(KERNELS), &[ProcMountedOver]),
    row(
        "volume-in-proc-by-link",
        Way::VolumeAt("/volume/link/proc/tty"),
        nowhere(KERNELS),
        &[ProcMountedOver],
    ),
    row(
        "console-in-volume",
        Way::ConsoleInVolume,
        nowhere("the terminal is mounted where no link leads, and nothing is emptied for it"),
        &[LinksFollowed],
    ),
    row(
        "link-for-part",
        Way::LinkForPart,
        nowhere("a part of a volume is found below the volume, whatever a link says"),
        &[],
    ),
    row("link-for-read-log", Way::LinkForReadLog, nowhere("a log is never read through a link"), &[]),
    row("link-for-log", Way::LinkForLog, nowhere("a log is never opened through a link"), &[LinksFollowed]),
    row(
        "tiocsti",
        Way::Program(&["tiocsti"]),
        nowhere("it leads a session of its own, and has no terminal but one of its own"),
        &[Unbound, Terminal],
    ),
    row(
        "node-socket",
        Way::Against("node-socket"),
        nowhere("abstract sockets belong to a network namespace, and the pod's is its own"),
        &[NodesNetwork],
    ),
    row("pod-socket", Way::Against("pod-socket"), nowhere(OTHER_PROCESSES), &[NodesProcesses]),
    row("pod-token", Way::Against("pod-token"), nowhere(OTHER_PROCESSES), &[NodesProcesses]),
];
