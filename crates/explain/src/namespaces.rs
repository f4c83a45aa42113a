//! The kinds of Linux namespaces, and the one word for each of a pod's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Net,
    Pid,
    Ipc,
    Uts,
    Mnt,
    User,
    Cgroup,
    Time,
}

impl Kind {
    /// In the order in which they are told.
    pub const ALL: [Kind; 8] =
        [Kind::Net, Kind::Pid, Kind::Ipc, Kind::Uts, Kind::Mnt, Kind::User, Kind::Cgroup, Kind::Time];

    /// The name of its file in `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Mnt => "mnt",
            Kind::User => "user",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The namespaces that a process is in, by inode, in the order of [`Kind::ALL`]; 0 where the kernel has
/// no such kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inodes(pub [u64; 8]);

impl Inodes {
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }
}

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// No process outside of the pod is in it.
    Own,
    /// The node's.
    Host,
    /// Others, who are then named, are in it too.
    Shared,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Word::Own => "own",
            Word::Host => "host",
            Word::Shared => "shared",
        })
    }
}

/// The verdict on one namespace.
///
/// ```
/// use skiff_explain::namespaces::{Word, word};
/// assert_eq!(word(10, 10, 5), Word::Host);
/// assert_eq!(word(11, 10, 0), Word::Own);
/// assert_eq!(word(11, 10, 2), Word::Shared);
/// ```
pub fn word(inode: u64, of_node: u64, outsiders: usize) -> Word {
    match (inode == of_node, outsiders) {
        (true, _) => Word::Host,
        (false, 0) => Word::Own,
        (false, _) => Word::Shared,
    }
}
