//! Sandboxes come and go: an address, a pair of links, and what is written down of both.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use skiff_sys::netlink::route::{Connection, VethEnd};

use super::bridge::{link_index, mac, neighbour};
use super::{Inner, failure};
use crate::state::State;
use crate::{Attachment, Error};

impl Inner {
    pub(super) fn attach(&self, sandbox: &str, netns: &Path) -> Result<Attachment, Error> {
        let netns = File::open(netns)
            .map_err(|e| failure(format!("open network namespace {}", netns.display()), e))?;
        let attachment = self.allocate(sandbox)?;
        // Links are made outside the lock: the kernel waits at that, and others have more to do.
        let (outside, inside) = (Connection::open()?, Connection::open_in(netns.as_fd())?);
        let is_inside = inside.link("eth0")?.is_some();
        // From before a restart, or from an attempt that broke off.
        let is_outside = outside.link(&attachment.host_link)?.is_some();
        let bridge = link_index(&outside, &self.config.bridge)?;
        // Before anything in it runs. The node asks nobody where the address is, so nobody else can say
        // that it is theirs, and be given what is sent to it.
        outside.fix_neighbour(&neighbour(bridge, attachment.ip))?;
        if !is_inside || !is_outside {
            outside.delete_link(&attachment.host_link)?;
            let near = VethEnd { name: &attachment.host_link, bridge: Some(bridge), ..VethEnd::default() };
            let far = VethEnd {
                name: "eth0",
                netns: Some(netns.as_fd()),
                mac: Some(mac(attachment.ip)),
                bridge: None,
            };
            outside.add_veth(&near, &far, self.mtu)?;
        }
        outside.isolate_port(&attachment.host_link)?;
        // What it sends must bear its own addresses, or others would be taken for it: see the guard.
        outside.lock_port(&attachment.host_link, mac(attachment.ip))?;
        inside.configure_sandbox("eth0", attachment.ip, self.config.pod_cidr.prefix, self.gateway)?;
        Ok(attachment)
    }

    fn allocate(&self, sandbox: &str) -> Result<Attachment, Error> {
        let mut kernel = self.lock();
        if !kernel.state.sandboxes.contains_key(sandbox) {
            let mut state = kernel.state.clone();
            state.allocate(sandbox, self.config.pod_cidr)?;
            state.write(&self.state_file)?;
            kernel.state = state;
            self.publish(&kernel.state)?;
        }
        attachment(&kernel.state, sandbox).ok_or_else(|| Error::NotAttached(sandbox.into()))
    }

    pub(super) fn detach(&self, sandbox: &str) -> Result<(), Error> {
        // First nothing leads there any more; the address is given back last.
        let Some(gone) = self.lock().state.sandboxes.get(sandbox).cloned() else { return Ok(()) };
        self.replace_ports(sandbox, &[])?;
        // As in attaching: not under the lock.
        let links = Connection::open()?;
        links.delete_link(&gone.host_link)?;
        // Where the bridge is gone, it is gone with it.
        if let Some(bridge) = links.link(&self.config.bridge)? {
            links.forget_neighbour(&neighbour(bridge.index, gone.ip))?;
        }
        let mut kernel = self.lock();
        let mut state = kernel.state.clone();
        state.sandboxes.remove(sandbox);
        state.write(&self.state_file)?;
        kernel.state = state;
        self.publish(&kernel.state)
    }
}

pub(super) fn attachment(state: &State, sandbox: &str) -> Option<Attachment> {
    let this = state.sandboxes.get(sandbox)?;
    Some(Attachment { sandbox: sandbox.into(), ip: this.ip, host_link: this.host_link.clone() })
}
