//! A packet over a link: the bridge and its ports, what is down, and neighbours that somebody wrote down.

use std::net::Ipv4Addr;

use skiff_sys::nft::Point;
use skiff_sys::nft::listing::Layer;

use super::machine::IS_DOWN;
use super::{End, Namespace, Place, SandboxAt, Traveller, Walk, Way};
use crate::Error;
use crate::local::mac;

impl Walk<'_> {
    /// Over a link to whoever is next.
    pub(super) fn transmit(
        &self,
        at: &Place<'_>,
        link: &str,
        next_hop: Option<Ipv4Addr>,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        if link == "lo" {
            return self.arrive(at, "lo", this, ways);
        }
        let towards = next_hop.unwrap_or(this.packet.destination);
        let on_bridge = matches!(at, Place::Node(_)) && link == self.bridge;
        let port = self.sandboxes.iter().find(|sandbox| on_bridge && sandbox.ip == towards);
        // A bridge whose ports are all down has no carrier either: the port is what to look at.
        if let Some((veth, why)) =
            port.and_then(|port| Some((&port.host_link, self.node.down(&port.host_link)?)))
        {
            let veth = veth.clone();
            let far =
                port.filter(|_| why != IS_DOWN).and_then(|port| Some((port, Namespace::of(port).ok()?)));
            let down = match far.as_ref().and_then(|(port, far)| Some((port, far.down("eth0")?))) {
                // Its other end is what somebody set down.
                Some((port, IS_DOWN)) => {
                    let why =
                        format!("{veth} of {} has no carrier: eth0 of {} is down", self.name, port.name);
                    End::Down { place: port.name.clone(), device: "eth0".into(), why }
                }
                _ => {
                    let why = format!("{veth} of {} {why}", self.name);
                    End::Down { place: self.name.into(), device: veth.clone(), why }
                }
            };
            return self.ends_down(at, &veth, this, down, ways);
        }
        // Nor has one whose ports are all closed.
        if let Some((veth, why)) =
            port.and_then(|port| Some((port.host_link.clone(), self.blocked(&port.host_link)?)))
        {
            self.ends_blocked(at, &veth, this, why, ways);
            return Ok(());
        }
        if let Some(why) = at.namespace().down(link) {
            let down = match at {
                Place::Sandbox(sandbox, _)
                    if why != IS_DOWN && self.node.down(&sandbox.host_link) == Some(IS_DOWN) =>
                {
                    let veth = sandbox.host_link.clone();
                    let why =
                        format!("{link} of {} has no carrier: {veth} of {} is down", sandbox.name, self.name);
                    End::Down { place: self.name.into(), device: veth, why }
                }
                _ => {
                    let why = format!("{link} of {} {why}", at.name(self.name));
                    End::Down { place: at.name(self.name), device: link.into(), why }
                }
            };
            return self.ends_down(at, link, this, down, ways);
        }
        if self.is_nobodys(at, link, towards) {
            self.ends_at_nobody(at, this, ways);
            return Ok(());
        }
        self.neighbour(at, link, towards, port, &mut this);
        self.asks(at, link, towards, &mut this);
        // What filters there comes before whoever listens at the device.
        for mut this in self.pass(at, Layer::Device, Point::Postrouting, this, ways) {
            self.tell(at, &mut this, "device", Some(link), &format!("leaves by {link}"));
            match (at, port) {
                (Place::Sandbox(sandbox, _), _) => self.onto_bridge(at, sandbox, link, this, ways)?,
                (Place::Node(_), Some(sandbox)) => self.off_bridge(at, sandbox, this, ways)?,
                (Place::Node(_), None) => {
                    self.end(this, End::Leaves { link: link.into(), next_hop: towards }, ways);
                }
            }
        }
        Ok(())
    }

    /// Nobody on the bridge answers for the address, so a packet does not even get onto it.
    pub(super) fn is_nobodys(&self, at: &Place<'_>, link: &str, towards: Ipv4Addr) -> bool {
        let on_bridge = matches!(at, Place::Node(_)) && link == self.bridge;
        on_bridge && !self.sandboxes.iter().any(|sandbox| sandbox.ip == towards)
    }

    pub(super) fn ends_at_nobody(&self, at: &Place<'_>, mut this: Traveller, ways: &mut Vec<Way>) {
        let why = self.nobody(this.packet.destination);
        self.tell(at, &mut this, "bridge", Some(self.bridge), &why);
        self.end(this, End::Unroutable { place: self.name.into(), why }, ways);
    }

    pub(super) fn nobody(&self, address: Ipv4Addr) -> String {
        format!("no pod on {} has the address {address}", self.name)
    }

    /// From a sandbox to the node's end of its link, a port of the bridge, and so to the node.
    fn onto_bridge(
        &self,
        at: &Place<'_>,
        sandbox: &SandboxAt,
        link: &str,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        let (node, veth) = (Place::Node(&self.node), &sandbox.host_link);
        if let Some(why) = self.node.down(veth) {
            let why = format!("{veth} of {} {why}", self.name);
            self.tell(&node, &mut this, "device", Some(veth), &why);
            self.end(this, End::Down { place: self.name.into(), device: veth.clone(), why }, ways);
            return Ok(());
        }
        self.tell_programs(&node, veth, &mut this);
        let text = format!("veth {veth} is a port of bridge {}", self.bridge);
        self.tell(&node, &mut this, "veth", Some(veth), &text);
        this.packet.enter_namespace();
        this.packet.sender_hardware = at.namespace().hardware(link);
        this.packet.input.clone_from(veth);
        this.packet.output = String::new();
        self.is_asked(&node, self.bridge, this.packet.source, &mut this);
        self.enter_by_bridge(&node, this, ways)
    }

    /// From a sandbox's link into the node.
    pub(super) fn enter_by_bridge(
        &self,
        node: &Place<'_>,
        this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        let on_bridge = [(Layer::Bridge, Point::Prerouting), (Layer::Bridge, Point::Input)];
        for mut this in self.pass(node, Layer::Device, Point::Prerouting, this, ways) {
            let port = this.packet.input.clone();
            if let Some(why) = self.blocked(&port) {
                self.ends_blocked(node, &port, this, why, ways);
                continue;
            }
            self.tell_vlans(node, &mut this);
            for this in self.pass_all(node, &on_bridge, this, ways) {
                self.arrive(node, self.bridge, this, ways)?;
            }
        }
        Ok(())
    }

    /// Why frames pass by a port of the bridge neither way, if so.
    fn blocked(&self, port: &str) -> Option<String> {
        let state = self.node.blocked(port)?;
        Some(format!("{port}, a port of bridge {} on {}, is {state}", self.bridge, self.name))
    }

    /// A port is so for up to a second after its link came up, until the kernel has looked at it (linkwatch), or for
    /// as long as somebody or a protocol keeps it so: that leaves doubt.
    fn ends_blocked(
        &self,
        at: &Place<'_>,
        port: &str,
        mut this: Traveller,
        why: String,
        ways: &mut Vec<Way>,
    ) {
        let mut hop = this.hop(at, self.name, "bridge", Some(port), &why);
        hop.doubtful = true;
        this.hops.push(hop);
        self.end(this, End::Down { place: self.name.into(), device: port.into(), why }, ways);
    }

    /// Which VLANs a bridge hands to whom is not read.
    fn tell_vlans(&self, at: &Place<'_>, this: &mut Traveller) {
        if self.node.filters_vlans(self.bridge) {
            let text = format!("{} filters by VLAN, which is not judged", self.bridge);
            let mut hop = this.hop(at, self.name, "bridge", None, &text);
            hop.doubtful = true;
            this.hops.push(hop);
        }
    }

    /// From the node over the bridge to a sandbox.
    fn off_bridge(
        &self,
        at: &Place<'_>,
        sandbox: &SandboxAt,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        let veth = &sandbox.host_link;
        self.tell_vlans(at, &mut this);
        let text = format!("bridge {} sends it to its port {veth}", self.bridge);
        this.packet.sender_hardware = at.namespace().hardware(self.bridge);
        this.packet.input = String::new();
        this.packet.output.clone_from(veth);
        let on_bridge = [(Layer::Bridge, Point::Output), (Layer::Bridge, Point::Postrouting)];
        for this in self.pass_all(at, &on_bridge, this, ways) {
            for mut this in self.pass(at, Layer::Device, Point::Postrouting, this, ways) {
                self.tell(at, &mut this, "veth", Some(veth), &text);
                this.packet.enter_namespace();
                if self.to_the_door {
                    let process = String::new();
                    self.end(this, End::Delivered { place: sandbox.name.clone(), process }, ways);
                    continue;
                }
                let namespace = Namespace::of(sandbox)?;
                let there = Place::Sandbox(sandbox, &namespace);
                if let Some(own) = self.node.address_on(self.bridge) {
                    self.is_asked(&there, "eth0", own, &mut this);
                }
                self.arrive(&there, "eth0", this, ways)?;
            }
        }
        Ok(())
    }

    /// One point after the other.
    pub(super) fn pass_all(
        &self,
        at: &Place<'_>,
        points: &[(Layer, Point)],
        this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Vec<Traveller> {
        points.iter().fold(vec![this], |all, (layer, point)| {
            all.into_iter().flat_map(|this| self.pass(at, *layer, *point, this, ways)).collect()
        })
    }

    /// The way ends at `device`, and `down` says what to bring up.
    fn ends_down(
        &self,
        at: &Place<'_>,
        device: &str,
        mut this: Traveller,
        down: End,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        if let End::Down { why, .. } = &down {
            self.tell(at, &mut this, "device", Some(device), why);
        }
        self.end(this, down, ways);
        Ok(())
    }

    /// Says that somebody wrote the neighbour's hardware address down, unless it is known to be right.
    fn neighbour(
        &self,
        at: &Place<'_>,
        link: &str,
        towards: Ipv4Addr,
        port: Option<&SandboxAt>,
        this: &mut Traveller,
    ) {
        let Some(fixed) = at.namespace().fixed_neighbour(link, towards) else { return };
        let real = match (at, port) {
            // One of ours, of a sandbox that has ended since.
            (Place::Node(_), None) if link == self.bridge && fixed == mac(towards) => return,
            (Place::Node(_), Some(port)) => Namespace::of(port).ok().map(|far| far.hardware("eth0")),
            (Place::Sandbox(..), _) => Some(self.node.hardware(self.bridge)),
            (Place::Node(_), None) => None,
        };
        let name = |hardware: [u8; 6]| hardware.map(|byte| format!("{byte:02x}")).join(":");
        let text = match real {
            Some(real) if real == fixed => return,
            Some(real) => format!(
                "a permanent neighbour entry has {towards} at {}, but it is at {}",
                name(fixed),
                name(real)
            ),
            None => format!(
                "a permanent neighbour entry has {towards} at {}; whether it is there is not known",
                name(fixed)
            ),
        };
        let mut hop = this.hop(at, self.name, "neighbour", None, &text);
        hop.doubtful = true;
        this.hops.push(hop);
    }
}
