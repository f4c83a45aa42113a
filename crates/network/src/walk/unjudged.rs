//! What may stop a packet and is not read: the packet filter before nftables, filters and disciplines of traffic
//! control, and programs at devices. That it is there is told where a packet meets it, and leaves doubt.

use skiff_sys::netlink::queues::{self, Discipline};
use skiff_sys::netlink::route::{Connection, Link};
use skiff_sys::nft::Point;
use skiff_sys::xtables::{self, Table};
use skiff_sys::{attached, nft};

use super::{Place, Traveller, Walk};

/// Of one namespace.
#[derive(Debug, Default)]
pub(super) struct Unjudged {
    /// Those of `iptables-legacy` that do anything.
    tables: Vec<Table>,
    /// Those of `arptables-legacy`.
    neighbours: Vec<String>,
    disciplines: Vec<Discipline>,
    /// What is attached to each device, coming in and going out, of a namespace that is looked into once. Of the
    /// calling thread's own it is asked when a packet gets to the device.
    programs: Option<Vec<(u32, u32, u32)>>,
}

impl Unjudged {
    /// Of the calling thread's namespace. In another's, with all that is attached to its devices.
    pub(super) fn read(kernel: &Connection, links: &[Link], is_own: bool) -> Unjudged {
        let known = |link: &Link| {
            let (came, leaves) = attached::programs(link.index).unwrap_or((1, 1));
            (link.index, came, leaves)
        };
        Unjudged {
            tables: xtables::ipv4().into_iter().filter(|table| !table.idle).collect(),
            neighbours: xtables::neighbours(),
            // Without the list nothing is told of it: a kernel without traffic control has none.
            disciplines: queues::disciplines(kernel).unwrap_or_default(),
            programs: (!is_own).then(|| links.iter().map(known).collect()),
        }
    }

    /// In words, what a packet meets at a point of routing.
    pub(super) fn at(&self, point: Point) -> Vec<String> {
        let here = self.tables.iter().filter(|table| table.points.contains(&point));
        here.map(|table| format!("table {} of iptables-legacy has rules, which are not judged", table.name))
            .collect()
    }

    /// The same where somebody's neighbour is asked for.
    pub(super) fn at_neighbours(&self) -> Option<String> {
        (!self.neighbours.is_empty()).then(|| {
            format!("arptables-legacy is here (table {}), which is not judged", self.neighbours.join(", "))
        })
    }

    /// The same where it comes in by a device, before the packet filter's own look at it.
    pub(super) fn comes(&self, kernel: &Connection, link: &Link) -> Vec<String> {
        let mut found = Vec::new();
        if link.programmed {
            found.push(format!("an XDP program is attached to {}, which is not judged", link.name));
        }
        let place = self.of(link).any(Discipline::holds_filters);
        if place && queues::filtered(kernel, link.index).map_or(true, |(came, _)| came) {
            found.push(format!("tc filters look at what comes in by {}, and are not judged", link.name));
        }
        found.extend(programs(self.programs(link).0, "comes in by", link));
        found
    }

    /// The same where it goes out by a device, after the packet filter's own look at it.
    pub(super) fn leaves(&self, kernel: &Connection, link: &Link) -> Vec<String> {
        let mut found = Vec::new();
        let others = || self.of(link).filter(|own| !own.holds_filters() && !own.is_plain());
        let place = self.of(link).any(Discipline::holds_filters) || others().next().is_some();
        if place && queues::filtered(kernel, link.index).map_or(true, |(_, leaves)| leaves) {
            found.push(format!("tc filters look at what leaves by {}, and are not judged", link.name));
        }
        found.extend(programs(self.programs(link).1, "leaves by", link));
        let mut kinds: Vec<&str> = others().map(|own| own.kind.as_str()).collect();
        kinds.dedup();
        found.extend(kinds.iter().map(|kind| {
            format!(
                "tc has {kind} at {}, which may hold up or drop what leaves, and is not judged",
                link.name
            )
        }));
        found
    }

    fn of(&self, link: &Link) -> impl Iterator<Item = &Discipline> {
        self.disciplines.iter().filter(|own| own.link == link.index)
    }

    fn programs(&self, link: &Link) -> (u32, u32) {
        match &self.programs {
            Some(all) => {
                let own = all.iter().find(|(index, ..)| *index == link.index);
                own.map_or((0, 0), |(_, came, leaves)| (*came, *leaves))
            }
            // What can't be asked may be there.
            None => attached::programs(link.index).unwrap_or((1, 1)),
        }
    }
}

fn programs(count: u32, how: &str, link: &Link) -> Option<String> {
    (count > 0).then(|| format!("a program (tcx) looks at what {how} {}, and is not judged", link.name))
}

impl Walk<'_> {
    /// At a point of routing.
    pub(super) fn tell_tables(&self, at: &Place<'_>, point: Point, this: &mut Traveller) {
        let found = at.namespace().unjudged.at(point);
        self.tell_unjudged(at, None, found, this);
    }

    /// At the device that it comes in by, or leaves by.
    pub(super) fn tell_attached(&self, at: &Place<'_>, point: nft::Point, this: &mut Traveller) {
        let came = point == Point::Prerouting;
        let device = if came { this.packet.input.clone() } else { this.packet.output.clone() };
        let found = at.namespace().attached(&device, came);
        self.tell_unjudged(at, Some(&device), found, this);
    }

    pub(super) fn tell_neighbours(&self, at: &Place<'_>, device: &str, this: &mut Traveller) {
        let found = at.namespace().unjudged.at_neighbours().into_iter().collect();
        self.tell_unjudged(at, Some(device), found, this);
    }

    fn tell_unjudged(&self, at: &Place<'_>, device: Option<&str>, found: Vec<String>, this: &mut Traveller) {
        for text in found {
            let mut hop = this.hop(at, self.name, "filter", device, &text);
            hop.doubtful = true;
            // The same table is met at several points.
            let again = |known: &super::Hop| known.place == hop.place && known.text == hop.text;
            if !this.hops.iter().any(again) {
                this.hops.push(hop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, programmed: bool) -> Link {
        Link {
            index,
            name: format!("d{index}"),
            up: true,
            carrier: true,
            mtu: 1500,
            address: Vec::new(),
            master: None,
            kind: String::new(),
            programmed,
        }
    }

    fn known(programs: Vec<(u32, u32, u32)>, kinds: &[&str]) -> Unjudged {
        let disciplines = kinds.iter().map(|kind| Discipline { link: 7, kind: (*kind).into() }).collect();
        Unjudged { programs: Some(programs), disciplines, ..Unjudged::default() }
    }

    #[test]
    fn what_is_attached_is_told_at_its_device_and_on_its_side() {
        let kernel = Connection::open().unwrap();
        let nothing = known(Vec::new(), &["noqueue", "fq_codel"]);
        assert!(nothing.comes(&kernel, &link(7, false)).is_empty());
        assert!(nothing.leaves(&kernel, &link(7, false)).is_empty());
        let xdp = nothing.comes(&kernel, &link(7, true));
        assert_eq!(xdp, ["an XDP program is attached to d7, which is not judged"]);
        assert!(nothing.leaves(&kernel, &link(7, true)).is_empty(), "it sees what comes in alone");
        let one = known(vec![(7, 1, 0), (8, 0, 2)], &["tbf"]);
        let came = one.comes(&kernel, &link(7, false));
        assert_eq!(came, ["a program (tcx) looks at what comes in by d7, and is not judged"]);
        let leaves = one.leaves(&kernel, &link(8, false));
        assert_eq!(leaves, ["a program (tcx) looks at what leaves by d8, and is not judged"]);
        let leaves = one.leaves(&kernel, &link(7, false));
        assert!(leaves.iter().any(|text| text.starts_with("tc has tbf at d7")), "{leaves:?}");
    }

    #[test]
    fn tables_are_met_at_their_points() {
        let filter = Table { name: "filter".into(), points: vec![Point::Input, Point::Forward], idle: false };
        let one = Unjudged { tables: vec![filter], ..Unjudged::default() };
        assert_eq!(one.at(Point::Forward).len(), 1);
        assert!(one.at(Point::Prerouting).is_empty() && one.at_neighbours().is_none());
        let arp = Unjudged { neighbours: vec!["filter".into()], ..Unjudged::default() };
        assert!(arp.at_neighbours().is_some_and(|text| text.contains("arptables-legacy")));
    }
}
