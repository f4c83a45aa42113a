//! What Skiff needs of a kernel that may lie in modules of it: each is tried, and so loaded.
//!
//! The kernel loads a module by itself when something first asks for it, if it may and has it. So nothing is
//! loaded here by name: what is needed is asked for, in a network namespace that nobody else sees and that
//! ends with the question. What is built in is found the same way.

use std::io;

use nix::sched::{CloneFlags, unshare};

use crate::mount::new_filesystem;
use crate::netlink::conntrack;
use crate::netlink::route::{Connection, VethEnd};
use crate::nft::{self, Chain, Field, Hook, Point, Register, Reject, Rule, Verdict};

/// Something that the kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The module that brings it, where it is not built in.
    pub module: &'static str,
    /// What it is for, such as `bridges`.
    pub purpose: &'static str,
}

const LINKS: &str = "the links of pods";
const FILTER: &str = "the packet filter";

/// What the kernel lacks of it, in the order in which modules need each other. An error if this process may
/// not try.
pub fn missing() -> io::Result<Vec<Need>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("needs".into()).spawn_scoped(scope, || {
            // It ends with the thread.
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut missing = Vec::new();
            for (need, tried) in attempts() {
                match tried {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                    Err(_) => missing.push(need),
                }
            }
            Ok(missing)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn attempts() -> Vec<(Need, io::Result<()>)> {
    let need = |module, purpose| Need { module, purpose };
    let mut all = vec![(need("overlay", "the file systems of containers"), overlay())];
    all.extend(links().map(|(module, tried)| (need(module, LINKS), tried)));
    let filter = chains().into_iter().map(|(module, chain)| (need(module, FILTER), nft::try_chain(&chain)));
    all.extend(filter);
    let flows = conntrack::open().and_then(|socket| conntrack::forget(&socket, |_| false)).map(drop);
    all.push((need("nf_conntrack_netlink", "forgetting translated connections"), flows));
    all
}

/// Asked for without layers, it is refused if the kernel has it, and unknown if it has not.
fn overlay() -> io::Result<()> {
    match new_filesystem("overlay", &[], 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        made => made.map(drop),
    }
}

fn links() -> [(&'static str, io::Result<()>); 2] {
    let connection = Connection::open().map_err(|error| error.source);
    let ask = |act: &dyn Fn(&Connection) -> Result<(), crate::netlink::route::Error>| match &connection {
        Ok(connection) => act(connection).map_err(|error| error.source),
        Err(error) => Err(io::Error::from(error.kind())),
    };
    let bridge = ask(&|connection| connection.add_bridge("try-bridge", [2, 0, 0, 0, 0, 1], 0));
    let (near, far) = ("try-near", "try-far");
    let end = |name| VethEnd { name, ..VethEnd::default() };
    let veth = ask(&|connection| connection.add_veth(&end(near), &end(far), 0));
    [("bridge", bridge), ("veth", veth)]
}

/// A chain for each module, of which only the last can be unknown where the earlier ones are known.
fn chains() -> Vec<(&'static str, Chain)> {
    let (register, port) = (Register(0), Register(1));
    let hook = |at, nat| Hook { at, priority: 0, nat };
    let filter = |module, rule: Rule| (module, Chain::base(module, hook(Point::Forward, false), vec![rule]));
    let nat = |module, at, rules| (module, Chain::base(module, hook(at, true), rules));
    let elsewhere = Rule::new().constant(&[127, 0, 0, 1], register).constant(&[0, 80], port);
    vec![
        filter("nf_tables", Rule::new().verdict(&Verdict::Accept)),
        filter("nft_ct", Rule::new().load(Field::ConnectionState, register)),
        filter("nft_fib_ipv4", Rule::new().local(nft::Address::Source, nft::Comparison::Equal)),
        filter("nft_numgen", Rule::new().random(2, register)),
        filter("nft_reject_ipv4", Rule::new().reject(Reject::PortUnreachable)),
        nat("nft_chain_nat", Point::Prerouting, Vec::new()),
        nat("nft_nat", Point::Prerouting, vec![elsewhere.translate_destination(register, port)]),
        nat("nft_masq", Point::Postrouting, vec![Rule::new().masquerade()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as all that it tries does.
    #[test]
    fn a_kernel_that_runs_the_other_tests_lacks_nothing() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        assert_eq!(missing().expect("root may try"), []);
    }

    /// What no kernel has is found missing by the same means.
    #[test]
    fn what_is_not_there_is_refused_otherwise_than_what_is_asked_wrongly() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let error = new_filesystem("skiff-no-such", &[], 0).expect_err("nobody has it");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        overlay().expect("it is there");
    }
}
