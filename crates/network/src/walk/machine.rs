//! One network namespace as a packet meets it: links, addresses, routes, filter and sockets.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use skiff_sys::netlink::in_netns;
use skiff_sys::netlink::route::{self, Connection, Link, PortState};
use skiff_sys::nft::TABLE;
use skiff_sys::nft::listing::{ListedChain, Listing};
use skiff_sys::nft::passage::{Machine, Routed};

use super::unjudged::{self, Unjudged};
use crate::{Error, HostPort, Protocol, listeners};

/// Said of a link that somebody set down, as against one whose other end is.
pub(super) const IS_DOWN: &str = "is down";

/// A sandbox on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxAt {
    /// How it is to be called.
    pub name: String,
    pub ip: Ipv4Addr,
    pub host_link: String,
    /// Its network namespace.
    pub netns: PathBuf,
}

pub struct Namespace {
    routes: Connection,
    links: Vec<Link>,
    addresses: Vec<route::Address>,
    pub(super) filter: Listing,
    pub(super) unjudged: Unjudged,
    /// None is the calling thread's.
    netns: Option<File>,
}

impl Namespace {
    /// The calling thread's.
    pub fn open() -> Result<Namespace, Error> {
        Namespace::here(true)
    }

    pub(super) fn of(sandbox: &SandboxAt) -> Result<Namespace, Error> {
        let netns = File::open(&sandbox.netns)
            .map_err(|source| failed(format!("open the network namespace of {}", sandbox.name), source))?;
        // Sockets stay with the namespace in which they were opened.
        let found = in_netns(netns.as_fd(), || Namespace::here(false))
            .map_err(|source| failed(format!("enter the network namespace of {}", sandbox.name), source))?;
        Ok(Namespace { netns: Some(netns), ..found? })
    }

    fn here(is_own: bool) -> Result<Namespace, Error> {
        let filter = Listing::open().map_err(|source| failed("read the packet filter", source))?;
        let routes = Connection::open().map_err(|source| failed("read routes", source))?;
        let links = routes.links().map_err(|source| failed("list links", source))?;
        let addresses = routes.addresses().map_err(|source| failed("list addresses", source))?;
        let unjudged = Unjudged::read(&routes, &links, is_own);
        Ok(Namespace { routes, links, addresses, filter, unjudged, netns: None })
    }

    /// What sees a packet that comes in by a device before anybody can listen there, in words.
    pub(super) fn programmed(&self, device: &str) -> Option<String> {
        unjudged::before(self.link(device)?)
    }

    /// What is attached to a device where a packet comes in by it, or leaves by it, in words.
    pub(super) fn attached(&self, device: &str, came: bool) -> Vec<String> {
        let Some(link) = self.link(device) else { return Vec::new() };
        if came { self.unjudged.comes(&self.routes, link) } else { self.unjudged.leaves(&self.routes, link) }
    }

    /// Without the rules of ours that let packets pass or not: whoever made them knows what they say. What
    /// translates stays.
    pub(super) fn without_our_verdicts(mut self) -> Namespace {
        let judges = |chain: &ListedChain| chain.hook.as_ref().is_some_and(|hook| !hook.nat);
        self.filter.chains.retain(|chain| chain.table != TABLE || !judges(chain));
        self
    }

    pub(super) fn look_up(
        &self,
        to: Ipv4Addr,
        from: Option<Ipv4Addr>,
        input: Option<&str>,
        mark: u32,
    ) -> Result<route::Found, route::Error> {
        let input = input.and_then(|name| self.link(name)).map(|link| link.index);
        self.routes.look_up_marked(to, from, input, mark)
    }

    pub(super) fn link_name(&self, index: u32) -> Option<String> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.clone())
    }

    /// The link over which the neighbour is reached.
    pub(super) fn link_towards(&self, neighbour: Ipv4Addr) -> Result<Option<String>, Error> {
        match self.look_up(neighbour, None, None, 0) {
            Ok(found) => Ok(found.link.and_then(|index| self.link_name(index))),
            Err(error) if error.errno().is_some() => Ok(None),
            Err(error) => Err(failed(format!("look up {neighbour}"), error)),
        }
    }

    /// The link of the default route and the router there.
    pub(super) fn outside(&self) -> Option<(String, Ipv4Addr)> {
        let routes = self.routes.routes(None).ok()?;
        let default = routes.into_iter().find(|route| route.prefix == 0)?;
        Some((self.link_name(default.link?)?, default.via?))
    }

    /// Why nothing leaves by the link, if so.
    pub(super) fn down(&self, name: &str) -> Option<&'static str> {
        match self.link(name) {
            None => Some("is gone"),
            Some(link) if !link.up => Some(IS_DOWN),
            Some(link) if !link.carrier => Some("has no carrier: its other end is down"),
            Some(_) => None,
        }
    }

    /// Why a port of a bridge carries no frames, if so.
    pub(super) fn blocked(&self, port: &str) -> Option<&'static str> {
        let state = self.link(port)?.port?;
        (state != PortState::Forwarding).then(|| state.name())
    }

    /// Whether a bridge looks at the VLANs of frames.
    pub(super) fn filters_vlans(&self, bridge: &str) -> bool {
        self.link(bridge).is_some_and(|link| link.filters_vlans)
    }

    /// The source that the kernel would choose.
    pub(super) fn source_for(&self, link: &str, to: Ipv4Addr) -> Result<Ipv4Addr, Error> {
        if let Ok(found) = self.look_up(to, None, None, 0)
            && let Some(source) = found.source
        {
            return Ok(source);
        }
        self.address_of(link, to).ok_or_else(|| Error::Invalid(format!("link {link} has no address")))
    }

    /// Whether what comes in by the link may go on to others. `None` where it is not known: sandboxes forward
    /// nothing, and nobody asks there.
    pub(super) fn forwards(&self, link: &str) -> Option<bool> {
        if self.netns.is_some() {
            return None;
        }
        let path = format!("/proc/sys/net/ipv4/conf/{link}/forwarding");
        match std::fs::read_to_string(path).ok()?.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }

    /// Who gets what comes in there by the link: the process, where it is known, and what to call it.
    pub(super) fn listener(
        &self,
        protocol: u8,
        address: Ipv4Addr,
        port: u16,
        link: &str,
    ) -> Option<(Option<u32>, String)> {
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let wanted = HostPort { host_ip: address, host_port: port, protocol, container_port: port };
        let link = self.link(link).map(|link| link.index);
        let found = match &self.netns {
            None => listeners::taker(&wanted, link),
            Some(netns) => in_netns(netns.as_fd(), || listeners::taker(&wanted, link)).ok().flatten(),
        }?;
        Some(match found.pid {
            0 => (None, "a process that can't be looked into".into()),
            pid => (Some(pid), format!("process {pid} ({})", found.command)),
        })
    }

    pub(super) fn hardware(&self, name: &str) -> [u8; 6] {
        self.link(name).and_then(|link| link.address.as_slice().try_into().ok()).unwrap_or_default()
    }

    /// The hardware address that somebody wrote down for a neighbour on the link.
    pub(super) fn fixed_neighbour(&self, link: &str, ip: Ipv4Addr) -> Option<[u8; 6]> {
        let index = self.link(link)?.index;
        let all = self.routes.fixed_neighbours().ok()?;
        all.into_iter().find(|one| one.link == index && one.ip == ip).map(|one| one.hardware)
    }

    /// An address that questions for neighbours on the link come from.
    pub(super) fn address_on(&self, link: &str) -> Option<Ipv4Addr> {
        let index = self.link(link)?.index;
        self.addresses.iter().find(|address| address.link == index).map(|address| address.ip)
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

impl Machine for Namespace {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        self.routes.look_up(address, None, None).is_ok_and(|found| found.local)
    }

    fn name_of(&self, index: u32) -> Option<String> {
        self.link_name(index)
    }

    fn kind_of(&self, link: &str) -> Option<String> {
        Some(self.link(link)?.kind.clone())
    }

    fn routed(&self, to: Ipv4Addr, mark: u32) -> Option<Routed> {
        let found = match self.routes.look_up_marked(to, None, None, mark) {
            Ok(found) => found,
            // The kernel says that there is none; anything else is no answer.
            Err(error) => return error.errno().map(|_| Routed::Nowhere),
        };
        let link = found.link.and_then(|index| self.link_name(index))?;
        if found.local {
            // Found by the loopback, whichever link has the address.
            let own = self.addresses.iter().find(|address| address.ip == to);
            return Some(Routed::Local(own.and_then(|own| self.link_name(own.link)).unwrap_or(link)));
        }
        Some(match (found.to_many, found.passes) {
            (true, _) => Routed::Broadcast(link),
            (_, true) => Routed::Over(link),
            (_, false) => Routed::Nowhere,
        })
    }

    fn index_of(&self, link: &str) -> Option<u32> {
        Some(self.link(link)?.index)
    }

    fn address_of(&self, link: &str, towards: Ipv4Addr) -> Option<Ipv4Addr> {
        let index = self.link(link)?.index;
        let own = || self.addresses.iter().filter(|address| address.link == index);
        let near = |address: &&route::Address| {
            let mask = u32::MAX.checked_shl(32 - u32::from(address.prefix)).unwrap_or(0);
            address.ip.to_bits() & mask == towards.to_bits() & mask
        };
        own().find(near).or_else(|| own().next()).map(|address| address.ip)
    }
}

/// The kernel's refusal of a way, in words. `forwards` is whether what comes in may go on, where that is known.
pub(super) fn route_error(
    errno: Option<i32>,
    error: &dyn std::fmt::Display,
    to: Ipv4Addr,
    input: Option<&str>,
    forwards: Option<bool>,
) -> String {
    match errno {
        // The kernel has one number for this and for a route that says so.
        Some(libc::EHOSTUNREACH) if input.is_some() && forwards == Some(false) => format!(
            "forwarding is off: what comes in by {} and is for others goes nowhere (net.ipv4.ip_forward, \
             net.ipv4.conf.*.forwarding)",
            input.unwrap_or("a link")
        ),
        Some(libc::EINVAL) => {
            format!("a blackhole route or rule swallows what is for {to}, or no such packet can be")
        }
        Some(libc::EACCES) => format!("a prohibiting route or rule forbids {to}"),
        Some(libc::ENETUNREACH) => format!("no route to {to}"),
        Some(libc::EHOSTUNREACH) => format!("the host {to} is unreachable by the routes"),
        Some(libc::EXDEV) => format!(
            "the reverse path filter: answers to this sender would not leave by {}",
            input.unwrap_or("this link")
        ),
        Some(errno) => format!("no way to {to}: {}", io::Error::from_raw_os_error(errno)),
        None => format!("no way to {to}: {error}"),
    }
}

fn failed(action: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Kernel { action: action.into(), source: Box::new(source) }
}
