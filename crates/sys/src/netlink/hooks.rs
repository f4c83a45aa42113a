//! What is at the hooks of the packet filter of one network namespace besides nftables: the kernel's own functions,
//! older packet filters, and programs (linux/netfilter/nfnetlink_hook.h, Linux 5.14 with the module
//! `nfnetlink_hook`).

use std::io;

use super::{DUMP, Family, Socket, Writer, attribute, settled, text, was_interrupted};
use crate::nft::Point;

/// NFNL_SUBSYS_HOOK with NFNL_MSG_HOOK_GET.
const GET: u16 = 12 << 8;
const NUMBER: u16 = 1;
const FUNCTION: u16 = 4;
const MODULE: u16 = 5;
const CHAIN: u16 = 6;
const CHAIN_KIND: u16 = 2;

/// Something at a hook that may stop a packet, or send it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooked {
    pub family: HookFamily,
    pub at: Point,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookFamily {
    Ipv4,
    Bridge,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A BPF program.
    Program,
    /// A table of `ebtables-legacy`, by its module where it has one of its own.
    Ebtables(Option<String>),
    /// Virtual servers (IPVS).
    VirtualServers,
}

/// All of them, of the calling thread's namespace. `None` where the kernel can't be asked.
pub fn all() -> io::Result<Option<Vec<Hooked>>> {
    let socket = Socket::open(Family::Netfilter, 0)?;
    let mut found = Vec::new();
    for (family, number) in [(HookFamily::Ipv4, libc::AF_INET as u8), (HookFamily::Bridge, 7)] {
        for (hook, at) in POINTS.into_iter().enumerate() {
            let mut request = Writer::new();
            request.message(GET, DUMP, 1, &[number, 0, 0, 0]).be32(NUMBER, hook as u32).end();
            let once = || {
                let mut here = Vec::new();
                socket.dump(request.as_bytes(), |message| here.extend(read(message.body)))?;
                Ok(here)
            };
            match settled(once, was_interrupted) {
                Ok(here) => found.extend(here.into_iter().map(|what| Hooked { family, at, what })),
                Err(error) => match error.raw_os_error() {
                    // Nobody answers such questions.
                    Some(libc::EINVAL) => return Ok(None),
                    // Nothing of the family is in this kernel.
                    Some(libc::EOPNOTSUPP | libc::ENOENT) => {}
                    _ => return Err(error),
                },
            }
        }
    }
    found.dedup();
    Ok(Some(found))
}

const POINTS: [Point; 5] =
    [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];

/// What is not told by its chain, and is not the kernel's own connection tracking or the like.
fn read(body: &[u8]) -> Option<What> {
    const BPF: u32 = 2;
    let rest = body.get(4..)?;
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let kind = attribute(rest, CHAIN).and_then(|chain| word(attribute(chain, CHAIN_KIND)?));
    if kind == Some(BPF) {
        return Some(What::Program);
    }
    let function = attribute(rest, FUNCTION).map(text).unwrap_or_default();
    let module = attribute(rest, MODULE).map(text);
    if function.starts_with("ebt_") || module.as_ref().is_some_and(|module| module.starts_with("ebtable")) {
        return Some(What::Ebtables(module));
    }
    function.starts_with("ip_vs_").then_some(What::VirtualServers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(function: &str, module: Option<&str>, kind: Option<u32>) -> Option<What> {
        let mut message = Writer::new();
        message.message(GET, 0, 1, &[2, 0, 0, 0]).be32(NUMBER, 2).string(FUNCTION, function);
        if let Some(module) = module {
            message.string(MODULE, module);
        }
        if let Some(kind) = kind {
            let chain = message.open(CHAIN);
            message.be32(CHAIN_KIND, kind);
            message.close(chain);
        }
        message.end();
        read(&message.as_bytes()[16..])
    }

    #[test]
    fn what_is_no_rule_is_told_from_what_is_known() {
        assert_eq!(hook("nft_do_chain_inet", Some("nf_tables"), Some(1)), None);
        assert_eq!(hook("ipv4_conntrack_in", Some("nf_conntrack"), None), None);
        assert_eq!(hook("nf_hook_run_bpf", None, Some(2)), Some(What::Program));
        let table = What::Ebtables(Some("ebtable_filter".into()));
        assert_eq!(hook("ebt_do_table", Some("ebtable_filter"), None), Some(table));
        assert_eq!(hook("ebt_do_table", None, None), Some(What::Ebtables(None)));
        assert_eq!(hook("ip_vs_in_hook", Some("ip_vs"), None), Some(What::VirtualServers));
        crate::netlink::random::bodies(4, |body| drop(read(body)));
    }

    #[test]
    fn a_kernel_is_asked_or_says_that_it_can_not_be() {
        let found = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            all().unwrap()
        });
        // A new namespace has nothing of this.
        assert!(found.join().unwrap().is_none_or(|found| found.is_empty()));
    }
}
