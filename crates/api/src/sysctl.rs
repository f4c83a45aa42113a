//! Kernel parameters of pods: which of a pod's namespaces each belongs to.

/// The namespaces that hold parameters which a pod may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    /// As upstream's messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Net => "net",
        }
    }

    /// The field of a pod by which it shares the node's.
    pub fn host_field(self) -> &'static str {
        match self {
            Self::Ipc => "hostIPC",
            Self::Net => "hostNetwork",
        }
    }
}

/// The namespace that a parameter, or all that begin so, belongs to; in either form, with dots or slashes.
/// `None` for the machine's own, and for what is not known.
pub fn namespace(name: &str) -> Option<Namespace> {
    const OF_IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    let name = name.replace('/', ".");
    if name.starts_with("net.") {
        Some(Namespace::Net)
    } else if name == "kernel.sem" || OF_IPC.iter().any(|prefix| name.starts_with(prefix)) {
        Some(Namespace::Ipc)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_belong_to_namespaces_by_their_beginning() {
        for name in ["net.ipv4.tcp_rmem", "net/ipv4/conf/eth0.1/mtu", "net."] {
            assert_eq!(namespace(name), Some(Namespace::Net), "{name}");
        }
        for name in
            ["kernel.shmmax", "kernel/shm_rmid_forced", "kernel.msgmax", "kernel.sem", "fs.mqueue.msg_max"]
        {
            assert_eq!(namespace(name), Some(Namespace::Ipc), "{name}");
        }
        for name in ["kernel.semaphore", "kernel.pid_max", "vm.swappiness", "net", "fs.mqueue", ""] {
            assert_eq!(namespace(name), None, "{name}");
        }
    }
}
