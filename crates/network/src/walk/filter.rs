//! What the packet filter does to a packet at one point, as hops.

use std::net::Ipv4Addr;

use skiff_sys::nft::Point;
use skiff_sys::nft::listing::Layer;
use skiff_sys::nft::passage::{self, Packet, Passage};

use super::{End, Place, Traveller, Walk, Way};

impl Walk<'_> {
    /// Carries out the packet filter's rules at one point of routing. What is left goes on.
    pub(super) fn hook(
        &self,
        at: &Place<'_>,
        point: Point,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Vec<Traveller> {
        self.tell_tables(at, point, &mut this);
        self.pass(at, Layer::Network, point, this, ways)
    }

    /// The same on any layer.
    pub(super) fn pass(
        &self,
        at: &Place<'_>,
        layer: Layer,
        point: Point,
        mut this: Traveller,
        ways: &mut Vec<Way>,
    ) -> Vec<Traveller> {
        let namespace = at.namespace();
        let device = layer == Layer::Device;
        if device && point == Point::Prerouting {
            self.tell_attached(at, point, &mut this);
        }
        if layer == Layer::Bridge {
            self.tell_bridge(at, point, &mut this);
        }
        let passages = passage::passages_of(&namespace.filter, namespace, layer, point, &this.packet);
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
                passage::End::Accepted => {
                    if device && point == Point::Postrouting {
                        self.tell_attached(at, point, &mut next);
                    }
                    onward.push(next);
                }
                passage::End::Dropped => self.end(next, End::Dropped { place, by }, ways),
                passage::End::Reset | passage::End::Unreachable => {
                    self.end(next, End::Rejected { place, by }, ways);
                }
            }
        }
        onward
    }

    /// Says what may keep the kernel here from finding who has the next address on a link.
    pub(super) fn asks(&self, at: &Place<'_>, link: &str, other: Ipv4Addr, this: &mut Traveller) {
        let Some(own) = at.namespace().address_on(link) else { return };
        // What is written down is never asked for.
        if at.namespace().fixed_neighbour(link, other).is_some() {
            return;
        }
        let points = [(Point::Output, false), (Point::Input, true)];
        self.neighbours(at, link, (own, other), points, this);
    }

    /// The same where it is asked by whoever sends a packet over the link to here.
    pub(super) fn is_asked(&self, at: &Place<'_>, link: &str, other: Ipv4Addr, this: &mut Traveller) {
        let Some(own) = at.namespace().address_on(link) else { return };
        let points = [(Point::Input, false), (Point::Output, true)];
        self.neighbours(at, link, (other, own), points, this);
    }

    /// `points` are where the question is met, and the answer. Who is next may be known already, and then nobody
    /// asks: so a rule in the way leaves doubt.
    fn neighbours(
        &self,
        at: &Place<'_>,
        link: &str,
        (asking, wanted): (Ipv4Addr, Ipv4Addr),
        points: [(Point, bool); 2],
        this: &mut Traveller,
    ) {
        let namespace = at.namespace();
        self.tell_neighbours(at, link, this);
        for (point, answer) in points {
            let (from, to) = if answer { (wanted, asking) } else { (asking, wanted) };
            let mut packet = Packet::first(0, (from, 0), (to, 0));
            packet.connection.reply = answer;
            let device = if point == Point::Output { &mut packet.output } else { &mut packet.input };
            *device = link.into();
            let all = passage::passages_of(&namespace.filter, namespace, Layer::Neighbour, point, &packet);
            let stops = |passage: &&Passage| passage.end != passage::End::Accepted;
            let Some(step) = all.iter().find(stops).and_then(|passage| passage.steps.last()) else {
                continue;
            };
            let what = if answer { "answer" } else { "question" };
            let text = format!("may drop the {what} who has {wanted}");
            let mut hop = this.hop(at, self.name, "filter", None, &text);
            hop.table = Some(step.table.clone());
            hop.chain = Some(step.chain.clone());
            hop.rule = Some(step.rule.clone());
            hop.doubtful = true;
            if !this.hops.contains(&hop) {
                this.hops.push(hop);
            }
        }
    }
}
