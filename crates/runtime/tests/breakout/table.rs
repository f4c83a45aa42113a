//! What is tried, and what is expected of it under which setting, and why.

use skiff_runtime::*;

use Expected::{Allowed, Blocked};

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

impl Setting {
    pub(crate) fn security(self) -> Security {
        let default = Security::default();
        match self {
            Setting::Default | Setting::Users => default,
            Setting::Baseline => Security { seccomp: Seccomp::RuntimeDefault, ..default },
            Setting::Restricted => Security {
                user: Some("1000".into()),
                capabilities_drop: vec!["ALL".into()],
                no_new_privileges: true,
                seccomp: Seccomp::RuntimeDefault,
                ..default
            },
            Setting::Privileged | Setting::PrivilegedUsers => Security { privileged: true, ..default },
        }
    }

    /// The node's IDs that its users are. Nobody else's, as the suite's pods are not of the node's own.
    pub(crate) fn users(self) -> Option<UserRange> {
        let own = matches!(self, Setting::Users | Setting::PrivilegedUsers);
        own.then_some(UserRange { first: 1_100_000_000, length: 65536 })
    }
}

/// How an attempt ends, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    Blocked(&'static str),
    Allowed(&'static str),
}

/// All that an attempt runs under.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) weakness: Weakness,
    pub(crate) security: Security,
    pub(crate) users: Option<UserRange>,
    pub(crate) pid: NamespaceMode,
    pub(crate) network: NamespaceMode,
    pub(crate) tty: bool,
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
}

pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// The whole of the node's processes is shown to it: the worst case of what it is about.
    pub(crate) sees_node: bool,
    /// Under each [`Setting`], in their order.
    pub(crate) expected: [Expected; SETTINGS],
    /// The guard that is left out, over the default setting, for the attempt to succeed.
    pub(crate) weaken: fn(&mut Plan),
}

const fn row(name: &'static str, way: Way, expected: [Expected; SETTINGS], weaken: fn(&mut Plan)) -> Attempt {
    Attempt { name, way, sees_node: false, expected, weaken }
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

fn add(plan: &mut Plan, capability: &str) {
    plan.security.capabilities_add.push(capability.into());
}

fn as_it_is(_: &mut Plan) {}

fn unmask(plan: &mut Plan) {
    plan.security.unmasked_proc = true;
}

fn show_node(plan: &mut Plan) {
    plan.pid = NamespaceMode::Node;
}

fn unbind(plan: &mut Plan) {
    plan.security.privileged = true;
}

fn follow_links(plan: &mut Plan) {
    plan.weakness.follows_links = true;
}

fn leak(plan: &mut Plan) {
    plan.weakness.leaks_descriptors = true;
}

fn trust_volumes(plan: &mut Plan) {
    plan.weakness.trusts_volumes = true;
}

fn mount_into_proc(plan: &mut Plan) {
    plan.weakness.mounts_into_proc = true;
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    row("mount", Way::Program(&["mount"]), strong_inside(ADMIN), |plan| add(plan, "SYS_ADMIN")),
    row(
        "remount",
        Way::Program(&["remount", "/proc/sys", "/proc/sys/kernel/panic"]),
        privileged_only(ADMIN),
        |plan| add(plan, "SYS_ADMIN"),
    ),
    row("unmask", Way::Program(&["unmask", "/proc/interrupts"]), unmasked(ADMIN), |plan| {
        add(plan, "SYS_ADMIN");
    }),
    row("unshare", Way::Program(&["unshare"]), strong_inside(ADMIN), |plan| add(plan, "SYS_ADMIN")),
    row(
        "unshare-user",
        Way::Program(&["unshare-user"]),
        filtered(
            "without a filter the kernel gives anybody a user namespace, with power over what it makes in it alone",
        ),
        as_it_is,
    ),
    row("ptrace", Way::Against("ptrace"), nowhere(OTHER_PROCESSES), show_node),
    row(
        "raw-socket",
        Way::Program(&["raw-socket"]),
        by_default("CAP_NET_RAW is of the default set, for ping, and ends with the pod's network namespace"),
        as_it_is,
    ),
    row(
        "packet-socket",
        Way::Program(&["packet-socket"]),
        by_default("CAP_NET_RAW again: what is forged is judged by the node's own filter of addresses"),
        as_it_is,
    ),
    row(
        "change-link",
        Way::Program(&["change-link"]),
        strong_inside("it takes CAP_NET_ADMIN, also in the pod's own network"),
        |plan| add(plan, "NET_ADMIN"),
    ),
    row("sysctl", Way::Program(&["open", "/proc/sys/kernel/panic"]), privileged_only(READ_ONLY), unmask),
    row(
        "core-pattern",
        Way::Program(&["open", "/proc/sys/kernel/core_pattern"]),
        privileged_only(READ_ONLY),
        unmask,
    ),
    row("irq", Way::Program(&["open", "/proc/irq/default_smp_affinity"]), privileged_only(READ_ONLY), unmask),
    row(
        "masked-file",
        Way::Program(&["read", "/proc/interrupts"]),
        unmasked("what tells of the machine's other work is masked"),
        unmask,
    ),
    row(
        "release-agent",
        Way::Program(&["release-agent"]),
        nowhere("a control group namespace has no hierarchy's root, where the agent is named"),
        |plan| {
            show_node(plan);
            unbind(plan);
        },
    ),
    row(
        "make-group",
        Way::Program(&["make-group"]),
        privileged_only("a container's control groups are on read-only mounts"),
        unbind,
    ),
    row(
        "mknod",
        Way::Program(&["mknod"]),
        device_node("CAP_MKNOD is of the default set: a node is made, and can't be opened"),
        as_it_is,
    ),
    row(
        "device",
        Way::Program(&["device"]),
        privileged_only("the control group lets it open none but the harmless devices"),
        unbind,
    ),
    row(
        "module",
        Way::Program(&["module"]),
        privileged_only("it takes CAP_SYS_MODULE, which no container has by default"),
        |plan| add(plan, "SYS_MODULE"),
    ),
    row(
        "keyctl",
        Way::Program(&["keyctl"]),
        filtered("keys have no namespace, and nothing but the filter is before them"),
        as_it_is,
    ),
    row(
        "file-handle",
        Way::Program(&["handle"]),
        privileged_only("it takes CAP_DAC_READ_SEARCH, which no container has by default"),
        |plan| add(plan, "DAC_READ_SEARCH"),
    ),
    Attempt {
        sees_node: true,
        ..row(
            "runtime-program",
            Way::Program(&["runtime-program"]),
            nowhere("the shim runs from a mount that can't be written"),
            |plan| {
                unbind(plan);
                plan.weakness.writable_program = true;
            },
        )
    },
    Attempt {
        sees_node: true,
        ..row(
            "runtime-memory",
            Way::Program(&["runtime-memory"]),
            privileged_only("the shim has capabilities that the container lacks, so it is no prey to it"),
            unbind,
        )
    },
    Attempt {
        sees_node: true,
        ..row(
            "node-namespace",
            Way::Program(&["node-namespace"]),
            privileged_only("the shim has capabilities that the container lacks, so its namespaces are shut"),
            unbind,
        )
    },
    row(
        "descriptors-of-command",
        Way::Command(&["descriptors"]),
        nowhere("all of the runtime's are closed when a command starts, too"),
        leak,
    ),
    row(
        "descriptors",
        Way::Program(&["descriptors"]),
        nowhere("all of the runtime's are closed when the program starts"),
        leak,
    ),
    row(
        "directory-of-descriptor",
        Way::DirectoryOfDescriptor,
        nowhere("no directory of the node's is open when the working directory is entered"),
        leak,
    ),
    row(
        "link-in-volume",
        Way::LinkInVolume,
        nowhere("mounts are made below the container's root, whatever a link says"),
        follow_links,
    ),
    row(
        "null-in-volume",
        Way::NullInVolume,
        unmasked("masks are made of the null device, which is taken before a volume is mounted over it"),
        trust_volumes,
    ),
    row("volume-in-proc", Way::VolumeAt("/proc/tty"), nowhere(KERNELS), mount_into_proc),
    row("volume-in-proc-by-link", Way::VolumeAt("/volume/link/proc/tty"), nowhere(KERNELS), mount_into_proc),
    row("link-for-log", Way::LinkForLog, nowhere("a log is never opened through a link"), follow_links),
    row(
        "tiocsti",
        Way::Program(&["tiocsti"]),
        nowhere("it leads a session of its own, and has no terminal but one of its own"),
        |plan| {
            unbind(plan);
            plan.tty = true;
        },
    ),
    row(
        "node-socket",
        Way::Against("node-socket"),
        nowhere("abstract sockets belong to a network namespace, and the pod's is its own"),
        |plan| plan.network = NamespaceMode::Node,
    ),
    row("pod-socket", Way::Against("pod-socket"), nowhere(OTHER_PROCESSES), show_node),
    row("pod-token", Way::Against("pod-token"), nowhere(OTHER_PROCESSES), show_node),
];
