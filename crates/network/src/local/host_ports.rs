//! Ports of the node that lead to sandboxes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use skiff_sys::netlink::conntrack::{self, Flow};

use super::{Inner, Kernel, failure};
use crate::state::{PortKey, State, Targets, key};
use crate::{Error, HostPort, HostPortConflict, Protocol, listeners};

impl Inner {
    pub(super) fn set_host_ports(
        &self,
        sandbox: &str,
        ports: &[HostPort],
    ) -> Result<Vec<HostPortConflict>, Error> {
        self.replace_ports(sandbox, ports)?;
        Ok(ports.iter().filter_map(listeners::find).collect())
    }

    pub(super) fn replace_ports(&self, sandbox: &str, ports: &[HostPort]) -> Result<(), Error> {
        let mut kernel = self.lock();
        let mut state = kernel.state.clone();
        let before =
            state.sandboxes.get(sandbox).ok_or_else(|| Error::NotAttached(sandbox.into()))?.ports.clone();
        if before == ports {
            return Ok(());
        }
        state.set_ports(sandbox, ports)?;
        state.write(&self.state_file)?;
        kernel.state = state;
        self.publish(&kernel.state)?;
        self.forget_flows(&kernel, &kernel.state, before.iter().chain(ports).map(key).collect())
    }

    /// Flows without an end of their own keep the translation with which they began: those that would now
    /// go elsewhere are forgotten, and so begin anew.
    fn forget_flows(&self, kernel: &Kernel, state: &State, changed: BTreeSet<PortKey>) -> Result<(), Error> {
        let changed: Vec<_> =
            changed.into_iter().filter(|(_, protocol, _)| *protocol != Protocol::Tcp).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let own: BTreeSet<Ipv4Addr> = kernel.links.addresses()?.into_iter().map(|this| this.ip).collect();
        let targets = self.config.targets(state);
        let stale = |flow: &Flow| {
            let concerned = changed.iter().any(|(address, protocol, port)| {
                protocol.number() == flow.protocol
                    && *port == flow.destination.1
                    && (*address == flow.destination.0
                        || address.is_unspecified() && own.contains(&flow.destination.0))
            });
            concerned && wanted_target(&targets, flow).is_none_or(|target| target != flow.answers)
        };
        let count = conntrack::forget(&kernel.flows, stale).map_err(|e| failure("forget flows", e))?;
        tracing::debug!(count, "flows to changed host ports forgotten");
        Ok(())
    }
}

fn wanted_target(targets: &Targets, flow: &Flow) -> Option<(Ipv4Addr, u16)> {
    let protocol = [Protocol::Udp, Protocol::Sctp].into_iter().find(|this| this.number() == flow.protocol)?;
    let (address, port) = flow.destination;
    let target = |address| targets.get(&(address, protocol, port));
    target(address).or_else(|| target(Ipv4Addr::UNSPECIFIED)).copied()
}
