//! The way of a packet through this node, told from the kernel's own tables.
//!
//! A [`Walk`] carries one packet from a sandbox, from the node itself or from the link where it came in,
//! through routes, the packet filter, bridge and veth, to the socket that takes it, to the rule or the
//! missing piece that stops it, or to the link where it leaves for another node. Nothing is sent. Each
//! decision is the kernel's: routes are looked up by it, and the filter's rules are carried out as listed
//! from it, so that what others put there is found as well.

mod machine;
mod report;

use std::net::Ipv4Addr;

use skiff_sys::nft::Point;
use skiff_sys::nft::passage::{self, Packet, Passage};
use skiff_sys::nft::words;

use machine::IS_DOWN;
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
                self.arrive(&Place::Node(&self.node), &link, traveller, &mut ways)?;
            }
        }
        Ok(ways)
    }

    fn sandbox(&self, ip: Ipv4Addr) -> Result<&SandboxAt, Error> {
        self.sandboxes.iter().find(|this| this.ip == ip).ok_or_else(|| Error::NotAttached(ip.to_string()))
    }

    /// A packet that is made in this namespace.
    fn emit(&self, at: &Place<'_>, mut this: Traveller, ways: &mut Vec<Way>) -> Result<(), Error> {
        let from = Some(this.packet.source).filter(|source| !source.is_unspecified());
        let Some((link, _)) = self.route(at, &mut this, from, None, ways)? else { return Ok(()) };
        if from.is_none() {
            this.packet.source = at.namespace().source_for(&link, this.packet.destination)?;
            this.packet.enter_namespace();
            // Told before the source was known.
            if let Some(hop) = this.hops.last_mut() {
                hop.source = this.packet.source.to_string();
            }
        }
        self.recall(at, &mut this);
        this.packet.input = String::new();
        this.packet.output.clone_from(&link);
        let before = this.packet.destination;
        for mut this in self.hook(at, Point::Output, this, ways) {
            self.undo_destination(at, &mut this);
            // A translated packet is routed anew.
            let way = if this.packet.destination == before {
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
        let found = at.namespace().look_up(this.packet.destination, Some(this.packet.source), input);
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
        let found = match namespace.look_up(to, from, input) {
            Ok(found) => found,
            Err(error) => {
                let forwards = input.and_then(|link| namespace.forwards(link));
                let why = machine::route_error(error.errno(), &error, to, input, forwards);
                self.tell(at, this, "route", None, &why);
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
        let (entry, prefix) = found.entry;
        let entry = if prefix == 0 { "default".to_owned() } else { format!("{entry}/{prefix}") };
        let via = found.via.map(|via| format!(" via {via}")).unwrap_or_default();
        self.tell(at, this, "route", Some(&link), &format!("{entry}{via} dev {link}"));
        Ok(Some((link, found.via)))
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
            self.not_judged(at, link, &mut this);
            self.tell(at, &mut this, "device", Some(link), &format!("comes in by {link}"));
            self.recall(at, &mut this);
        }
        for mut this in self.hook(at, Point::Prerouting, this, ways) {
            self.undo_destination(at, &mut this);
            if link == "lo" {
                self.deliver(at, this, ways)?;
                continue;
            }
            let from = Some(this.packet.source);
            let Some((out, next_hop)) = self.route(at, &mut this, from, Some(link), ways)? else { continue };
            if out == "lo" {
                self.deliver(at, this, ways)?;
            } else {
                this.packet.output.clone_from(&out);
                for this in self.hook(at, Point::Forward, this, ways) {
                    self.leave(at, out.clone(), next_hop, this, ways)?;
                }
            }
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

    fn transmit(
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
        if on_bridge && port.is_none() {
            // Nobody answers for the address, so the packet does not even get onto the bridge.
            let why = format!("no pod on {} has the address {towards}", self.name);
            self.tell(at, &mut this, "bridge", Some(link), &why);
            self.end(this, End::Unroutable { place: self.name.into(), why }, ways);
            return Ok(());
        }
        self.neighbour(at, link, towards, port, &mut this);
        self.not_judged(at, link, &mut this);
        self.tell(at, &mut this, "device", Some(link), &format!("leaves by {link}"));
        match at {
            Place::Sandbox(sandbox, _) => {
                let node = Place::Node(&self.node);
                if let Some(why) = self.node.down(&sandbox.host_link) {
                    let why = format!("{} of {} {why}", sandbox.host_link, self.name);
                    self.tell(&node, &mut this, "device", Some(&sandbox.host_link), &why);
                    let device = sandbox.host_link.clone();
                    self.end(this, End::Down { place: self.name.into(), device, why }, ways);
                    return Ok(());
                }
                let text = format!("veth {} is a port of bridge {}", sandbox.host_link, self.bridge);
                self.tell(&node, &mut this, "veth", Some(&sandbox.host_link), &text);
                this.packet.enter_namespace();
                this.packet.sender_hardware = at.namespace().hardware(link);
                self.arrive(&node, self.bridge, this, ways)
            }
            Place::Node(_) if on_bridge => {
                let sandbox = self.sandbox(towards)?;
                let veth = &sandbox.host_link;
                let text = format!("bridge {} sends it to its port {veth}", self.bridge);
                self.tell(at, &mut this, "veth", Some(veth), &text);
                this.packet.enter_namespace();
                let namespace = Namespace::of(sandbox)?;
                self.arrive(&Place::Sandbox(sandbox, &namespace), "eth0", this, ways)
            }
            Place::Node(_) => {
                let end = End::Leaves { link: link.into(), next_hop: towards };
                self.end(this, end, ways);
                Ok(())
            }
        }
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

    /// Says that filters are met here whose rules nobody carried out: what is told afterwards is in doubt.
    fn not_judged(&self, at: &Place<'_>, link: &str, this: &mut Traveller) {
        let bridged = matches!(at, Place::Node(_)) && link == self.bridge;
        for other in at.namespace().elsewhere(bridged) {
            let text =
                format!("table {} {} filters here too, which is not judged", other.family, other.table);
            let mut hop = this.hop(at, self.name, "filter", None, &text);
            hop.doubtful = true;
            let told = |known: &Hop| known.place == hop.place && known.text == hop.text;
            if !this.hops.iter().any(told) {
                this.hops.push(hop);
            }
        }
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
                Some("the connection's own socket".to_owned())
            } else {
                at.namespace().listener(protocol, packet.destination, port)
            };
            let place = at.name(self.name);
            let (text, end) = match listener {
                Some(process) => {
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

    /// Carries out the packet filter's rules at one point. What is left goes on.
    fn hook(&self, at: &Place<'_>, point: Point, this: Traveller, ways: &mut Vec<Way>) -> Vec<Traveller> {
        let namespace = at.namespace();
        let passages = passage::passages(&namespace.filter, namespace, point, &this.packet);
        let mut onward = Vec::new();
        for Passage { chance, packet, end, steps } in passages {
            let mut next = this.clone();
            next.chance *= chance;
            next.packet = packet;
            let last = steps.last().cloned();
            let mut after = steps.iter().skip(1).cloned().collect::<Vec<_>>().into_iter();
            for step in steps {
                // A rule with a name of its own that leaves it to a common chain is what decided.
                let decided = after.next().filter(|next| next.effect.is_some() && step.leads_to(&next.chain));
                let decided = decided
                    .filter(|_| step.comment.is_some())
                    .and_then(|next| Some(format!("decided: chain {} says {}", next.chain, next.effect?)));
                let doubt = || step.doubtful.then(String::new);
                let Some(effect) = step.effect.clone().or(decided).or_else(doubt) else { continue };
                let mut hop = next.hop(at, self.name, "filter", None, &effect);
                hop.table = Some(step.table);
                hop.chain = Some(step.chain);
                hop.handle = Some(step.handle);
                hop.comment = step.comment;
                hop.rule = Some(step.rule);
                hop.doubtful = step.doubtful;
                next.hops.push(hop);
            }
            let by = last.map_or_else(String::new, |step| {
                let comment = step.comment.map(|comment| format!(" ({comment})")).unwrap_or_default();
                format!("chain {} of table {}, rule `{}`{comment}", step.chain, step.table, step.rule)
            });
            let place = at.name(self.name);
            match end {
                passage::End::Accepted => onward.push(next),
                passage::End::Dropped => self.end(next, End::Dropped { place, by }, ways),
                passage::End::Reset | passage::End::Unreachable => {
                    self.end(next, End::Rejected { place, by }, ways);
                }
            }
        }
        onward
    }

    /// Notes the translation that this namespace made, and its mark of the connection.
    fn remember(&self, at: &Place<'_>, this: &mut Traveller) {
        let connection = &this.packet.connection;
        let translated = connection.source_translated || connection.destination_translated;
        if connection.reply || !translated && connection.mark == 0 {
            return;
        }
        let (source, source_port, destination, destination_port) = connection.original;
        let conversation = Conversation {
            place: at.name(self.name),
            protocol: this.packet.protocol,
            original: Tuple { source, source_port, destination, destination_port },
            translated: Tuple::of(&this.packet),
            mark: connection.mark,
        };
        if !this.conversations.contains(&conversation) {
            this.conversations.push(conversation);
        }
    }

    /// Finds the connection that an answer belongs to.
    fn recall(&self, at: &Place<'_>, this: &mut Traveller) {
        if !this.packet.connection.reply {
            return;
        }
        let place = at.name(self.name);
        let answer = Tuple::of(&this.packet).turned();
        let found = self
            .conversations
            .iter()
            .find(|known| known.place == place && known.translated == answer)
            .cloned();
        if let Some(known) = found {
            let connection = &mut this.packet.connection;
            connection.mark = known.mark;
            connection.source_translated = known.original.source != known.translated.source;
            connection.destination_translated = (known.original.destination, known.original.destination_port)
                != (known.translated.destination, known.translated.destination_port);
            let original = known.original;
            connection.original =
                (original.source, original.source_port, original.destination, original.destination_port);
            let answered = known.translated.turned();
            connection.answered =
                (answered.source, answered.source_port, answered.destination, answered.destination_port);
        }
    }

    /// The answer's destination, as the connection's first packet had its source.
    fn undo_destination(&self, at: &Place<'_>, this: &mut Traveller) {
        let connection = &this.packet.connection;
        let translated = connection.source_translated || connection.destination_translated;
        if !connection.reply || !translated || this.source_after.is_some() {
            return;
        }
        let (source, source_port, destination, destination_port) = connection.original;
        this.source_after = Some((destination, destination_port));
        if this.packet.destination != source {
            let text =
                format!("connection tracking: destination {} becomes {source}", this.packet.destination);
            (this.packet.destination, this.packet.destination_port) = (source, source_port);
            self.tell(at, this, "conntrack", None, &text);
        }
    }

    fn undo_source(&self, this: &mut Traveller) {
        if let Some((source, port)) = this.source_after.take()
            && (this.packet.source, this.packet.source_port) != (source, port)
        {
            let text = format!(
                "connection tracking: source {}:{} becomes {source}:{port}",
                this.packet.source, this.packet.source_port
            );
            (this.packet.source, this.packet.source_port) = (source, port);
            self.tell(&Place::Node(&self.node), this, "conntrack", None, &text);
        }
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
