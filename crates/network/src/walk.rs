//! The way of a packet through this node, told from the kernel's own tables.
//!
//! A [`Walk`] carries one packet from a sandbox, from the node itself or from the link where it came in,
//! through routes, the packet filter, bridge and veth, to the socket that takes it, to the rule or the
//! missing piece that stops it, or to the link where it leaves for another node. Nothing is sent. Each
//! decision is the kernel's: routes are looked up by it, and the filter's rules are carried out as listed
//! from it, so that what others put there is found as well.

pub(crate) mod approach;
mod filter;
mod links;
mod machine;
mod report;
mod tracking;
mod unjudged;

use std::net::Ipv4Addr;

use skiff_sys::nft::listing::Layer;
use skiff_sys::nft::passage::Packet;
use skiff_sys::nft::words;
use skiff_sys::nft::{Point, TABLE};

pub use approach::Approaches;
pub use machine::{Namespace, SandboxAt};
pub use report::{Asked, Conversation, End, Hop, Packets, Start, Tuple, Way};

use crate::Error;

/// What one node looks like while a packet is followed.
pub struct Walk<'a> {
    pub node: Namespace,
    /// The node's name.
    pub name: &'a str,
    pub bridge: &'a str,
    /// All sandboxes on the bridge; their namespaces are opened when a packet gets there.
    pub sandboxes: &'a [SandboxAt],
    /// Translations made by an earlier packet, whose answers are followed now.
    pub conversations: Vec<Conversation>,
    /// Whether packets are followed into sandboxes and to their sockets, or to the door alone.
    pub to_the_door: bool,
}

/// A packet on its way.
#[derive(Clone)]
struct Traveller {
    packet: Packet,
    chance: f64,
    hops: Vec<Hop>,
    conversations: Vec<Conversation>,
    /// The source that an answer has after this node's connection tracking undid its translation.
    source_after: Option<(Ipv4Addr, u16)>,
}

/// More steps than any sane way has.
const HOPS_MAX: usize = 200;

impl Walk<'_> {
    /// Follows the packet to all its ends on this node.
    pub fn follow(&self, start: &Start, packets: &Packets) -> Result<Vec<Way>, Error> {
        let Tuple { source, source_port, destination, destination_port } = packets.tuple;
        let mut packet =
            Packet::first(packets.protocol, (source, source_port), (destination, destination_port));
        packet.connection.new = !packets.reply;
        packet.connection.reply = packets.reply;
        packet.enter_namespace();
        let traveller = Traveller {
            packet,
            chance: 1.0,
            hops: Vec::new(),
            conversations: Vec::new(),
            source_after: None,
        };
        let mut ways = Vec::new();
        match start {
            Start::Node => self.emit(&Place::Node(&self.node), traveller, &mut ways)?,
            Start::Sandbox { ip } if self.to_the_door => self.at_its_port(*ip, traveller, &mut ways)?,
            Start::Sandbox { ip } => {
                let sandbox = self.sandbox(*ip)?;
                let namespace = Namespace::of(sandbox)?;
                self.emit(&Place::Sandbox(sandbox, &namespace), traveller, &mut ways)?;
            }
            Start::Outside => {
                let (link, router) = self.node.outside().ok_or_else(|| {
                    Error::Invalid(format!("{} has no default route: nothing outside reaches it", self.name))
                })?;
                let mut traveller = traveller;
                if traveller.packet.source.is_unspecified() {
                    traveller.packet.source = router;
                    traveller.packet.enter_namespace();
                }
                self.arrive(&Place::Node(&self.node), &link, traveller, &mut ways)?;
            }
            Start::Link { next_hop } => {
                let link = match self.node.link_towards(*next_hop)? {
                    Some(link) => link,
                    None => {
                        return Err(Error::Invalid(format!("no link of {} leads to {next_hop}", self.name)));
                    }
                };
                let (node, mut traveller) = (Place::Node(&self.node), traveller);
                self.is_asked(&node, &link, *next_hop, &mut traveller);
                self.arrive(&node, &link, traveller, &mut ways)?;
            }
        }
        Ok(ways)
    }

    fn sandbox(&self, ip: Ipv4Addr) -> Result<&SandboxAt, Error> {
        self.sandboxes.iter().find(|this| this.ip == ip).ok_or_else(|| Error::NotAttached(ip.to_string()))
    }

    /// A packet that is made in this namespace.
    fn emit(&self, at: &Place<'_>, mut this: Traveller, ways: &mut Vec<Way>) -> Result<(), Error> {
        self.tell_socket(at, at.first_process(), true, &mut this);
        let from = Some(this.packet.source).filter(|source| !source.is_unspecified());
        let Some((link, _)) = self.route(at, &mut this, from, None, ways)? else { return Ok(()) };
        if from.is_none() {
            this.packet.source = at.namespace().source_for(&link, this.packet.destination)?;
            this.packet.enter_namespace();
            // Told before the source was known.
            for hop in &mut this.hops {
                hop.source = this.packet.source.to_string();
            }
        }
        self.recall(at, &mut this);
        this.packet.input = String::new();
        this.packet.output.clone_from(&link);
        let before = this.packet.destination;
        for mut this in self.hook(at, Point::Output, this, ways) {
            self.undo_destination(at, &mut this);
            // A translated packet is routed anew, and one with another mark by chains of the type `route`.
            let way = if this.packet.destination == before && this.packet.mark == 0 {
                Some((link.clone(), self.next_hop(at, &this, None)?))
            } else {
                let from = Some(this.packet.source);
                self.route(at, &mut this, from, None, ways)?
            };
            if let Some((link, next_hop)) = way {
                self.leave(at, link, next_hop, this, ways)?;
            }
        }
        Ok(())
    }

    fn next_hop(
        &self,
        at: &Place<'_>,
        this: &Traveller,
        input: Option<&str>,
    ) -> Result<Option<Ipv4Addr>, Error> {
        let found = at.namespace().look_up(
            this.packet.destination,
            Some(this.packet.source),
            input,
            this.packet.mark,
        );
        Ok(found.ok().and_then(|found| found.via))
    }

    /// Where the kernel's routes lead; `None` where they end it, which is then told.
    fn route(
        &self,
        at: &Place<'_>,
        this: &mut Traveller,
        from: Option<Ipv4Addr>,
        input: Option<&str>,
        ways: &mut Vec<Way>,
    ) -> Result<Option<(String, Option<Ipv4Addr>)>, Error> {
        let to = this.packet.destination;
        let namespace = at.namespace();
        let found = match namespace.look_up(to, from, input, this.packet.mark) {
            Ok(found) => found,
            Err(error) => {
                let forwards = input.and_then(|link| namespace.forwards(link));
                let why = machine::route_error(error.errno(), &error, to, input, forwards);
                self.tell(at, this, "route", None, &why);
                let severed = self.severed(at, this, None);
                let why = severed.map(|severed| format!("{why}: {severed}")).unwrap_or(why);
                self.end(this.clone(), End::Unroutable { place: at.name(self.name), why }, ways);
                return Ok(None);
            }
        };
        if !found.passes {
            let why = format!("a route of {} forbids {to}", at.name(self.name));
            self.tell(at, this, "route", None, &why);
            self.end(this.clone(), End::Unroutable { place: at.name(self.name), why }, ways);
            return Ok(None);
        }
        let link = found.link.and_then(|index| namespace.link_name(index)).unwrap_or_default();
        if found.local {
            self.tell(at, this, "route", Some("lo"), &format!("{to} is an address of its own"));
            return Ok(Some(("lo".into(), None)));
        }
        if found.to_many {
            return self.for_many(at, this, &link, ways);
        }
        let (entry, prefix) = found.entry;
        let entry = if prefix == 0 { "default".to_owned() } else { format!("{entry}/{prefix}") };
        let via = found.via.map(|via| format!(" via {via}")).unwrap_or_default();
        self.tell(at, this, "route", Some(&link), &format!("{entry}{via} dev {link}"));
        self.severed(at, this, Some(&link));
        Ok(Some((link, found.via)))
    }

    /// Nobody is followed of many that may take it. A connection has one end, which these are not.
    fn for_many(
        &self,
        at: &Place<'_>,
        this: &mut Traveller,
        link: &str,
        ways: &mut Vec<Way>,
    ) -> Result<Option<(String, Option<Ipv4Addr>)>, Error> {
        const TCP: u8 = 6;
        let why = format!(
            "{} is an address of many on {link}, and none of them is followed",
            this.packet.destination
        );
        let mut hop = this.hop(at, self.name, "route", Some(link), &why);
        hop.doubtful = this.packet.protocol != TCP;
        this.hops.push(hop);
        self.end(this.clone(), End::Unroutable { place: at.name(self.name), why }, ways);
        Ok(None)
    }

    /// A sandbox of this node to which no route leads over the bridge, as `link` is another one or none: that is
    /// told, with what the bridge lacks.
    fn severed(&self, at: &Place<'_>, this: &mut Traveller, link: Option<&str>) -> Option<String> {
        let own = |sandbox: &&SandboxAt| sandbox.ip == this.packet.destination;
        let on_node = matches!(at, Place::Node(_)) && link != Some(self.bridge);
        let name = self.sandboxes.iter().filter(|_| on_node).find(own)?.name.clone();
        let bridge = self.bridge;
        let text = match self.node.down(bridge) {
            Some(why) => format!("{name} is on {}, but {bridge}, which leads there, {why}", self.name),
            None => format!("{name} is on {}, but no route leads there over {bridge}", self.name),
        };
        self.tell(at, this, "bridge", Some(bridge), &text);
        Some(text)
    }

    /// A packet that came in by a link.
    fn arrive(&self, at: &Place<'_>, link: &str, this: Traveller, ways: &mut Vec<Way>) -> Result<(), Error> {
        let mut this = this;
        if this.hops.len() > HOPS_MAX {
            let why = "it goes in circles".into();
            self.end(this, End::Unroutable { place: at.name(self.name), why }, ways);
            return Ok(());
        }
        this.packet.input = link.into();
        this.packet.output = String::new();
        if link != "lo" {
            self.tell_programs(at, link, &mut this);
            self.tell(at, &mut this, "device", Some(link), &format!("comes in by {link}"));
        }
        for mut this in self.pass(at, Layer::Device, Point::Prerouting, this, ways) {
            if link != "lo" {
                self.recall(at, &mut this);
            }
            for this in self.hook(at, Point::Prerouting, this, ways) {
                self.go_in(at, link, this, ways)?;
            }
        }
        Ok(())
    }

    /// Where the routes lead what came in by the link.
    fn go_in(
        &self,
        at: &Place<'_>,
        link: &str,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        self.undo_destination(at, &mut this);
        if link == "lo" {
            return self.deliver(at, this, ways);
        }
        let from = Some(this.packet.source);
        let Some((out, next_hop)) = self.route(at, &mut this, from, Some(link), ways)? else { return Ok(()) };
        if out == "lo" {
            return self.deliver(at, this, ways);
        }
        this.packet.output.clone_from(&out);
        if self.is_nobodys(at, &out, next_hop.unwrap_or(this.packet.destination)) {
            let mut refused = Vec::new();
            for this in self.hook(at, Point::Forward, this, &mut refused) {
                self.ends_at_nobody(at, this, ways);
            }
            // Our own rule says no more than that nobody has the address.
            for mut way in refused {
                if way.hops.last().is_some_and(|hop| hop.table.as_deref() == Some(TABLE)) {
                    let why = self.nobody(way.tuple.destination);
                    way.end = End::Unroutable { place: self.name.into(), why };
                }
                ways.push(way);
            }
            return Ok(());
        }
        for this in self.hook(at, Point::Forward, this, ways) {
            self.leave(at, out.clone(), next_hop, this, ways)?;
        }
        Ok(())
    }

    fn leave(
        &self,
        at: &Place<'_>,
        link: String,
        next_hop: Option<Ipv4Addr>,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Result<(), Error> {
        this.packet.output.clone_from(&link);
        for mut this in self.hook(at, Point::Postrouting, this, ways) {
            self.undo_source(&mut this);
            self.remember(at, &mut this);
            self.transmit(at, &link, next_hop, this, ways)?;
        }
        Ok(())
    }

    /// To a socket of this namespace.
    fn deliver(&self, at: &Place<'_>, this: Traveller, ways: &mut Vec<Way>) -> Result<(), Error> {
        for mut this in self.hook(at, Point::Input, this, ways) {
            self.undo_source(&mut this);
            self.remember(at, &mut this);
            let packet = &this.packet;
            let (protocol, port) = (packet.protocol, packet.destination_port);
            let target = format!("{}:{port}/{}", packet.destination, words::protocol(protocol));
            // An answer is for the connection's own socket.
            let listener = if packet.connection.reply {
                Some((at.first_process(), "the connection's own socket".to_owned()))
            } else if self.to_the_door {
                Some((None, String::new()))
            } else {
                at.namespace().listener(protocol, packet.destination, port, &packet.input)
            };
            self.tell_socket(at, listener.as_ref().and_then(|(pid, _)| *pid), false, &mut this);
            let place = at.name(self.name);
            let (text, end) = match listener {
                Some((_, process)) => {
                    (format!("{target} is taken by {process}"), End::Delivered { place, process })
                }
                None => {
                    let why = format!("nothing listens on {target} in {place}");
                    (why.clone(), End::Refused { place, why })
                }
            };
            self.tell(at, &mut this, "socket", None, &text);
            self.end(this, end, ways);
        }
        Ok(())
    }

    fn tell(&self, at: &Place<'_>, this: &mut Traveller, kind: &str, device: Option<&str>, text: &str) {
        let hop = this.hop(at, self.name, kind, device, text);
        this.hops.push(hop);
    }

    fn end(&self, this: Traveller, end: End, ways: &mut Vec<Way>) {
        ways.push(Way {
            chance: this.chance,
            hops: this.hops,
            end,
            tuple: Tuple::of(&this.packet),
            conversations: this.conversations,
        });
    }
}

enum Place<'a> {
    Node(&'a Namespace),
    Sandbox(&'a SandboxAt, &'a Namespace),
}

impl Place<'_> {
    fn namespace(&self) -> &Namespace {
        match self {
            Place::Node(namespace) | Place::Sandbox(_, namespace) => namespace,
        }
    }

    /// The process that stands for all that send there: of a sandbox the one whose namespace was opened, and of
    /// the node, where it may be anybody, this one.
    fn first_process(&self) -> Option<u32> {
        match self {
            Place::Node(_) => Some(std::process::id()),
            Place::Sandbox(sandbox, _) => {
                let path = sandbox.netns.to_str()?.strip_prefix("/proc/")?;
                path.split('/').next()?.parse().ok()
            }
        }
    }

    fn name(&self, node: &str) -> String {
        match self {
            Place::Node(_) => node.into(),
            Place::Sandbox(sandbox, _) => sandbox.name.clone(),
        }
    }
}

impl Traveller {
    fn hop(&self, at: &Place<'_>, node: &str, kind: &str, device: Option<&str>, text: &str) -> Hop {
        Hop {
            place: at.name(node),
            kind: kind.into(),
            device: device.map(Into::into),
            text: text.into(),
            source: self.packet.source.to_string(),
            destination: format!("{}:{}", self.packet.destination, self.packet.destination_port),
            ..Hop::default()
        }
    }
}
