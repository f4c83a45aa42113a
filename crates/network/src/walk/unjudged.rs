//! What may stop a packet and is not read: the packet filter before nftables, filters and disciplines of traffic
//! control, and programs at devices. That it is there is told where a packet meets it, and leaves doubt.

use skiff_sys::attached::filters;
use skiff_sys::netlink::hooks::{self, HookFamily, What};
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
    /// What else is at the hooks of the packet filter, in words; `None` is for all points alike.
    hooked: Vec<(HookFamily, Option<Point>, String)>,
    /// What is attached to each device, coming in and going out, of a namespace that is looked into once. Of the
    /// calling thread's own it is asked when a packet gets to the device.
    programs: Option<Vec<(u32, Count)>>,
}

/// Programs that look at what comes in by a device and at what leaves by it, or why the kernel can't be asked.
type Count = Result<(u32, u32), String>;

impl Unjudged {
    /// Of the calling thread's namespace. In another's, with all that is attached to its devices.
    pub(super) fn read(kernel: &Connection, links: &[Link], is_own: bool) -> Unjudged {
        let known = |link: &Link| (link.index, count(link));
        Unjudged {
            tables: xtables::ipv4().into_iter().filter(|table| !table.idle).collect(),
            neighbours: xtables::neighbours(),
            // Without the list nothing is told of it: a kernel without traffic control has none.
            disciplines: queues::disciplines(kernel).unwrap_or_default(),
            hooked: hooked(is_own),
            programs: (!is_own).then(|| links.iter().map(known).collect()),
        }
    }

    /// In words, what a packet meets at a point of routing.
    pub(super) fn at(&self, point: Point) -> Vec<String> {
        let here = self.tables.iter().filter(|table| table.points.contains(&point));
        here.map(|table| format!("table {} of iptables-legacy has rules, which are not judged", table.name))
            .chain(self.hooked(HookFamily::Ipv4, point))
            .collect()
    }

    /// The same where frames pass a bridge.
    pub(super) fn on_bridge(&self, point: Point) -> Vec<String> {
        self.hooked(HookFamily::Bridge, point).collect()
    }

    fn hooked(&self, family: HookFamily, point: Point) -> impl Iterator<Item = String> {
        let here =
            move |of: &HookFamily, at: &Option<Point>| *of == family && at.is_none_or(|at| at == point);
        self.hooked.iter().filter(move |(of, at, _)| here(of, at)).map(|(.., text)| text.clone())
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
        let place = self.of(link).any(Discipline::holds_filters);
        if place && queues::filtered(kernel, link.index).map_or(true, |(came, _)| came) {
            found.push(format!("tc filters look at what comes in by {}, and are not judged", link.name));
        }
        found.extend(programs(self.programs(link).map(|count| count.0), "comes in by", link));
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
        found.extend(programs(self.programs(link).map(|count| count.1), "leaves by", link));
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

    fn programs(&self, link: &Link) -> Count {
        match &self.programs {
            Some(all) => {
                let own = all.iter().find(|(index, _)| *index == link.index);
                own.map_or(Ok((0, 0)), |(_, count)| count.clone())
            }
            None => count(link),
        }
    }
}

/// In words, what may take a packet that comes in by the device before whoever listens there sees it.
pub(super) fn before(link: &Link) -> Option<String> {
    link.programmed.then(|| format!("an XDP program is attached to {}, which is not judged", link.name))
}

fn count(link: &Link) -> Count {
    let said = |error: std::io::Error| error.to_string();
    let (came, leaves) = attached::programs(link.index).map_err(said)?;
    // A pair of these has its programs instead of a place of traffic control.
    let pair = if link.kind == "netkit" { attached::pair_programs(link.index).map_err(said)? } else { 0 };
    Ok((came + pair, leaves + pair))
}

fn programs(count: Result<u32, String>, how: &str, link: &Link) -> Option<String> {
    let name = &link.name;
    match count {
        Ok(0) => None,
        Ok(_) if link.kind == "netkit" => {
            Some(format!("a program (netkit) looks at what {how} {name}, and is not judged"))
        }
        Ok(_) => Some(format!("a program (tcx) looks at what {how} {name}, and is not judged")),
        // What can't be asked may be there.
        Err(why) => Some(format!("whether a program looks at what {how} {name} can't be asked: {why}")),
    }
}

/// What is at the hooks of the calling thread's namespace besides rules. Bridges are in our own alone.
fn hooked(is_own: bool) -> Vec<(HookFamily, Option<Point>, String)> {
    let program = |link: String| {
        format!("a program (BPF{link}) looks at packets in the packet filter, and is not judged")
    };
    let told = match hooks::all() {
        Ok(told) => told,
        Err(error) => return vec![(HookFamily::Ipv4, None, unasked(&error))],
    };
    if let Some(told) = told {
        let each = told.into_iter().map(|hooked| {
            let text = match hooked.what {
                What::Program => program(String::new()),
                What::Ebtables(module) => {
                    ebtables(module.iter().filter_map(|name| name.strip_prefix("ebtable_")))
                }
                What::VirtualServers => "virtual servers (IPVS) are here, and are not judged".into(),
            };
            (hooked.family, Some(hooked.at), text)
        });
        return each.collect();
    }
    // This kernel tells programs of all namespaces alone, and tables of bridges by their modules.
    let mut found = match filters::all() {
        Ok(all) => {
            let text = |link| {
                let program = program(format!(", link {link}"));
                format!("{program}; whether in this network's is not known")
            };
            all.into_iter().map(|own| (HookFamily::Ipv4, Some(own.at), text(own.link))).collect()
        }
        Err(error) => vec![(HookFamily::Ipv4, None, unasked(&error))],
    };
    let tables = if is_own { xtables::bridges() } else { Vec::new() };
    if !tables.is_empty() {
        found.push((HookFamily::Bridge, None, ebtables(tables.iter().map(String::as_str))));
    }
    found
}

fn unasked(error: &std::io::Error) -> String {
    format!("whether programs look at packets in the packet filter can't be asked: {error}")
}

fn ebtables<'a>(tables: impl Iterator<Item = &'a str>) -> String {
    match tables.collect::<Vec<_>>().join(", ") {
        tables if tables.is_empty() => "ebtables-legacy is here, which is not judged".into(),
        tables => format!("ebtables-legacy is here (table {tables}), which is not judged"),
    }
}

impl Walk<'_> {
    /// At a point of routing.
    pub(super) fn tell_tables(&self, at: &Place<'_>, point: Point, this: &mut Traveller) {
        let found = at.namespace().unjudged.at(point);
        self.tell_unjudged(at, None, found, this);
    }

    /// At a point of a bridge.
    pub(super) fn tell_bridge(&self, at: &Place<'_>, point: Point, this: &mut Traveller) {
        let found = at.namespace().unjudged.on_bridge(point);
        self.tell_unjudged(at, None, found, this);
    }

    /// At the socket of a process, which `sends` or receives.
    pub(super) fn tell_socket(&self, at: &Place<'_>, pid: Option<u32>, sends: bool, this: &mut Traveller) {
        let Some(pid) = pid else { return };
        let count = attached::socket_programs(pid).map(|(came, left)| if sends { left } else { came });
        let what = if sends { "sends" } else { "receives" };
        let found = match count {
            Ok(0) => None,
            Ok(_) => {
                Some(format!("a program of the cgroup looks at what process {pid} {what}, and is not judged"))
            }
            Err(error) => {
                Some(format!("whether a program looks at what process {pid} {what} can't be asked: {error}"))
            }
        };
        self.tell_unjudged(at, None, found.into_iter().collect(), this);
    }

    /// Where it comes in by a device, before it is seen there.
    pub(super) fn tell_programs(&self, at: &Place<'_>, device: &str, this: &mut Traveller) {
        let found = at.namespace().programmed(device).into_iter().collect();
        self.tell_unjudged(at, Some(device), found, this);
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
            filters_vlans: false,
            port: None,
        }
    }

    fn known(programs: Vec<(u32, Count)>, kinds: &[&str]) -> Unjudged {
        let disciplines = kinds.iter().map(|kind| Discipline { link: 7, kind: (*kind).into() }).collect();
        Unjudged { programs: Some(programs), disciplines, ..Unjudged::default() }
    }

    #[test]
    fn what_is_attached_is_told_at_its_device_and_on_its_side() {
        let kernel = Connection::open().unwrap();
        let nothing = known(Vec::new(), &["noqueue", "fq_codel"]);
        assert!(nothing.comes(&kernel, &link(7, false)).is_empty());
        assert!(nothing.leaves(&kernel, &link(7, false)).is_empty());
        let xdp = before(&link(7, true));
        assert_eq!(xdp.as_deref(), Some("an XDP program is attached to d7, which is not judged"));
        assert_eq!(before(&link(7, false)), None);
        assert!(nothing.comes(&kernel, &link(7, true)).is_empty(), "it has been told before");
        assert!(nothing.leaves(&kernel, &link(7, true)).is_empty(), "it sees what comes in alone");
        let one = known(vec![(7, Ok((1, 0))), (8, Ok((0, 2)))], &["tbf"]);
        let came = one.comes(&kernel, &link(7, false));
        assert_eq!(came, ["a program (tcx) looks at what comes in by d7, and is not judged"]);
        let leaves = one.leaves(&kernel, &link(8, false));
        assert_eq!(leaves, ["a program (tcx) looks at what leaves by d8, and is not judged"]);
        let leaves = one.leaves(&kernel, &link(7, false));
        assert!(leaves.iter().any(|text| text.starts_with("tc has tbf at d7")), "{leaves:?}");
        let unasked = known(vec![(7, Err("not permitted".into()))], &[]);
        let came = unasked.comes(&kernel, &link(7, false));
        assert_eq!(came, ["whether a program looks at what comes in by d7 can't be asked: not permitted"]);
        let pair = Link { kind: "netkit".into(), ..link(8, false) };
        let leaves = one.leaves(&kernel, &pair);
        assert_eq!(leaves, ["a program (netkit) looks at what leaves by d8, and is not judged"]);
    }

    #[test]
    fn tables_are_met_at_their_points() {
        let filter = Table { name: "filter".into(), points: vec![Point::Input, Point::Forward], idle: false };
        let one = Unjudged { tables: vec![filter], ..Unjudged::default() };
        assert_eq!(one.at(Point::Forward).len(), 1);
        assert!(one.at(Point::Prerouting).is_empty() && one.at_neighbours().is_none());
        let frames = ebtables(["nat"].into_iter());
        let program = (HookFamily::Ipv4, Some(Point::Output), "a program".to_owned());
        let hooked = vec![(HookFamily::Bridge, None, frames.clone()), program];
        let other = Unjudged { hooked, ..Unjudged::default() };
        assert_eq!(other.on_bridge(Point::Forward), [frames]);
        assert_eq!((other.at(Point::Forward), other.at(Point::Output)), (vec![], vec!["a program".into()]));
        let arp = Unjudged { neighbours: vec!["filter".into()], ..Unjudged::default() };
        assert!(arp.at_neighbours().is_some_and(|text| text.contains("arptables-legacy")));
    }
}
