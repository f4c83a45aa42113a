//! Many packets through one look at a node, each to the door: to the sandbox or the node that it would be handed
//! to, without its socket. So it costs little to say of each port whether something is in its way.
//!
//! Our own rules that judge packets are left out, since who asks knows better whom they let pass; what
//! translates is carried out, and so is everything that others put there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::{Namespace, Packets, Place, SandboxAt, Start, Traveller, Walk, Way};
use crate::Error;

/// What [`Network::approaches`](crate::Network::approaches) is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approaches {
    /// What the node is called.
    pub node: String,
    /// Name and network namespace of each sandbox.
    pub sandboxes: BTreeMap<String, (String, PathBuf)>,
    /// Where each begins: what a sandbox sends, where it comes out of the sandbox.
    pub packets: Vec<(Start, Packets)>,
}

/// Follows all of them through the calling thread's namespace, in their order.
pub(crate) fn follow(
    asked: &Approaches,
    bridge: &str,
    sandboxes: &[SandboxAt],
) -> Result<Vec<Result<Vec<Way>, Error>>, Error> {
    let walk = Walk {
        node: Namespace::open()?.without_our_verdicts(),
        name: &asked.node,
        bridge,
        sandboxes,
        conversations: Vec::new(),
        to_the_door: true,
    };
    Ok(asked.packets.iter().map(|(start, packets)| walk.follow(start, packets)).collect())
}

impl Walk<'_> {
    /// What a sandbox sent comes in by its port of the bridge.
    pub(super) fn at_its_port(
        &self,
        ip: Ipv4Addr,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        let (node, sandbox) = (Place::Node(&self.node), self.sandbox(ip)?);
        this.packet.input.clone_from(&sandbox.host_link);
        self.tell_programs(&node, &sandbox.host_link, &mut this);
        self.enter_by_bridge(&node, this, ways)
    }
}
