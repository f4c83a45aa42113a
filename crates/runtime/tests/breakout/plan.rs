//! What an attempt runs under, as the runtime takes it.

use skiff_runtime::*;

use crate::attempts::{Loosened, Setting};

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

impl Plan {
    pub(crate) fn under(setting: Setting, sees_node: bool) -> Plan {
        let default = Security::default();
        let security = match setting {
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
        };
        let own_users = matches!(setting, Setting::Users | Setting::PrivilegedUsers);
        Plan {
            security,
            // Nobody else's on the machine, as the suite's pods are not of the node's own.
            users: own_users.then_some(UserRange { first: 1_100_000_000, length: 65536 }),
            // A pod with users of its own can't ask for the node's processes: the API refuses both together.
            pid: match sees_node && !own_users {
                true => NamespaceMode::Node,
                false => NamespaceMode::Container,
            },
            ..Plan::default()
        }
    }

    pub(crate) fn without(mut self, guards: &[Loosened]) -> Plan {
        // A default profile, where the kernel has any, is one more guard.
        self.security.apparmor = AppArmor::Unconfined;
        for guard in guards {
            match guard {
                Loosened::Capability(name) => self.security.capabilities_add.push((*name).into()),
                Loosened::Unmasked => self.security.unmasked_proc = true,
                Loosened::Unbound => self.security.privileged = true,
                Loosened::NodesProcesses => self.pid = NamespaceMode::Node,
                Loosened::NodesNetwork => self.network = NamespaceMode::Node,
                Loosened::Terminal => self.tty = true,
                Loosened::LinksFollowed => self.weakness.follows_links = true,
                Loosened::DescriptorsLeaked => self.weakness.leaks_descriptors = true,
                Loosened::ProgramWritable => self.weakness.writable_program = true,
                Loosened::VolumesTrusted => self.weakness.trusts_volumes = true,
                Loosened::ProcMountedOver => self.weakness.mounts_into_proc = true,
            }
        }
        self
    }
}
