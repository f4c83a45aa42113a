//! A node leaves for good: what was made of its network goes.

use std::net::Ipv4Addr;
use std::path::Path;

use skiff_sys::netlink::route::{Connection, ORIGIN};
use skiff_sys::nft::Ruleset;

use super::Inner;
use super::bridge::link_index;
use crate::Error;
use crate::state::State;

impl Inner {
    pub(super) fn remove(&self) -> Result<(), Error> {
        let mut kernel = self.lock();
        delete(&kernel.links, &kernel.state, &self.config.bridge)?;
        self.ruleset.remove()?;
        kernel.state = State::default();
        kernel.state.write(&self.state_file)
    }
}

/// Removes what an earlier process made, by what it wrote down: links, routes, rules and these further
/// addresses of the loopback. Kernel settings stay: see [`super::SETTINGS`]. Succeeds where nothing is left.
pub fn remove(state_dir: &Path, bridge: &str, local_addresses: &[Ipv4Addr]) -> Result<(), Error> {
    // Without it no link is known; those of sandboxes that have ended are gone with them.
    let state = State::read(&state_dir.join("network.json")).unwrap_or_default();
    let links = Connection::open()?;
    delete(&links, &state, bridge)?;
    let loopback = link_index(&links, "lo")?;
    for own in links.addresses()?.into_iter().filter(|this| this.link == loopback) {
        if local_addresses.contains(&own.ip) {
            links.delete_address(loopback, own.ip, own.prefix)?;
        }
    }
    Ok(Ruleset::open()?.remove()?)
}

/// The links that an earlier process made for its sandboxes.
pub fn host_links(state_dir: &Path) -> Vec<String> {
    let state = State::read(&state_dir.join("network.json")).unwrap_or_default();
    state.sandboxes.into_values().map(|sandbox| sandbox.host_link).collect()
}

fn delete(links: &Connection, state: &State, bridge: &str) -> Result<(), Error> {
    for sandbox in state.sandboxes.values() {
        links.delete_link(&sandbox.host_link)?;
    }
    for route in links.routes(Some(ORIGIN))? {
        links.delete_route(&route)?;
    }
    for (link, ip) in links.probed_neighbours(ORIGIN)? {
        links.forget_probed(link, ip)?;
    }
    Ok(links.delete_link(bridge)?)
}
