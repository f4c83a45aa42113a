//! The proof that nothing is left: the stock of before beside the one of now.
//!
//! [`compare`] is a plain function of two stocks and of what was [`Ours`]; a difference that is not ours was
//! made by others meanwhile, is told apart, and proves nothing against us.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use skiff_kubelet::MadePath;
use skiff_network::Cidr;
use skiff_runtime::facts;

use super::held;
use super::kept;
use super::record::Record;
use super::stock::{self, Facts, Members, Stock};
use super::sysctls::{self, FORWARDING};
use super::uplink;

/// How much of what others changed is shown of each kind.
const SHOWN_MAX: usize = 5;

/// Paths of pods' choice, which no name tells from anybody's.
const NOT_LOOKED_AT: &str = "Not looked at: what pods wrote to paths of this machine that hostPath volumes name, \
                             places for other volumes among it.\n";

/// By what a fact is known to be of a cluster, or of a server or agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ours {
    /// Links of the machine.
    pub(crate) links: Vec<String>,
    pub(crate) ranges: Vec<Cidr>,
    /// nftables tables of the families `ip` and `arp`.
    pub(crate) tables: Vec<String>,
    /// Names of control groups below a hierarchy's root.
    pub(crate) cgroups: Vec<String>,
    /// Directories and files.
    pub(crate) paths: Vec<PathBuf>,
    /// Parameters that are set, relative to `/proc/sys`.
    pub(crate) sysctls: Vec<String>,
    /// Namespaces that our processes were in and nobody else before, each with all who were in it when that
    /// was learned, or had it open, by PID and start time, and where it was mounted.
    pub(crate) namespaces: Members,
    /// Processes by PID and start time.
    pub(crate) processes: Facts,
}

impl Ours {
    /// What a cluster of this machine is known by; asked while it still runs.
    pub(crate) fn of_cluster(record: &Record, before: &Stock, keep_data: bool) -> Self {
        let link = Record::machine_link(&record.name);
        let mut paths = vec![Record::dir(&record.name)];
        if !keep_data {
            paths.extend([record.data_dir.clone(), kept::link(&record.data_dir)]);
        }
        paths.extend(record.merged_kubeconfig.clone());
        let mut ours = Self {
            links: vec![link],
            ranges: vec![record.ranges.node, record.ranges.pod, record.ranges.service],
            tables: vec![format!("skiff-uplink-{}", record.name)],
            cgroups: vec![Record::cgroup(&record.name)],
            paths,
            sysctls: if uplink::is_last(record) { vec![FORWARDING.into()] } else { Vec::new() },
            ..Self::default()
        };
        ours.learn(before, &[]);
        ours
    }

    /// Learns which processes are ours, by their control groups or because they are named, and which
    /// namespaces only they are in.
    pub(crate) fn learn(&mut self, before: &Stock, named: &[u32]) {
        let processes = facts::processes().unwrap_or_default();
        let mut members = stock::members(&processes);
        held::join(&mut members, &held::held(&processes));
        for process in processes {
            let groups = facts::control_groups(process.pid);
            // `5:cpu:/skiff-NAME/node`: below the root, and not those of that name inside of a node.
            let first = |line: &str| line.splitn(3, ':').nth(2)?.split('/').nth(1).map(str::to_owned);
            let in_ours = |line| first(line).is_some_and(|group| self.cgroups.contains(&group));
            if !groups.lines().any(in_ours) && !named.contains(&process.pid) {
                continue;
            }
            for name in stock::namespaces(&process) {
                if !before.namespaces.contains(&name)
                    && let Some(members) = members.get(&name)
                {
                    self.namespaces.insert(name, members.clone());
                }
            }
            self.processes.insert(stock::started(process.pid));
        }
    }

    /// The kernel gives the number of a namespace that has ended to the next one, and whoever is in that may
    /// be older than ours: of ours is left where somebody still is who was in it, or still holds it who did.
    /// `now` is who is where, and who holds what.
    fn still_held(mut self, now: &Members) -> Self {
        self.namespaces
            .retain(|name, before| now.get(name).is_some_and(|members| !members.is_disjoint(before)));
        self
    }

    fn is_ours(&self, kind: &str, fact: &str) -> bool {
        let first = fact.split(' ').next().unwrap_or_default();
        let below = |path: &str| self.paths.iter().any(|own| Path::new(path).starts_with(own));
        match kind {
            "links" => self.links.iter().any(|own| own == fact),
            "addresses" => {
                let ip = fact.split(' ').nth(1).and_then(|text| text.split('/').next());
                let ip = ip.and_then(|text| text.parse::<Ipv4Addr>().ok());
                self.links.iter().any(|own| own == first) || ip.is_some_and(|ip| self.covers(ip))
            }
            "routes" => {
                let destination = fact.split(' ').nth(1).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                // The kernel prints the word as it lies in memory.
                let destination = destination.map(|word| Ipv4Addr::from(word.to_ne_bytes()));
                self.links.iter().any(|own| own == first) || destination.is_some_and(|ip| self.covers(ip))
            }
            "nftables" => {
                let named =
                    |table| ["ip ", "arp "].iter().find_map(|family| str::strip_prefix(table, family));
                let table = subject(kind, fact).and_then(named);
                self.tables.iter().any(|own| Some(own.as_str()) == table)
            }
            "mounts" | "files" => below(first.trim_end_matches('/')),
            // A hierarchy is mounted at /sys/fs/cgroup, or each at a directory of it.
            "cgroups" => Path::new(fact.trim_start_matches("/sys/fs/cgroup/"))
                .components()
                .take(2)
                .any(|part| self.cgroups.iter().any(|own| part.as_os_str() == own.as_str())),
            "namespaces" => self.namespaces.contains_key(fact),
            "processes" => {
                let started: Vec<&str> = fact.splitn(3, ' ').take(2).collect();
                self.processes.contains(&started.join(" "))
            }
            "sysctls" => {
                let named = |link: &String| first.split('/').any(|part| part == link);
                let set = |own: &String| own == first || (own == FORWARDING && sysctls::follows(first));
                self.sysctls.iter().any(set) || self.links.iter().any(named)
            }
            _ => false,
        }
    }

    fn covers(&self, ip: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }
}

/// A fact that is there now and was not before, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) kind: &'static str,
    pub(crate) fact: String,
    /// It is there now.
    pub(crate) added: bool,
    pub(crate) ours: bool,
}

/// What a fact is of, where it also says how that is: the name of a parameter or of a table.
fn subject<'a>(kind: &str, fact: &'a str) -> Option<&'a str> {
    let between = match kind {
        "sysctls" => " = ",
        "nftables" => ": ",
        _ => return None,
    };
    fact.split_once(between).map(|(subject, _)| subject)
}

/// Every difference, in the order of the kinds.
pub(crate) fn compare(before: &Stock, after: &Stock, ours: &Ours) -> Vec<Difference> {
    let mut all = Vec::new();
    for ((kind, old), (_, new)) in before.kinds().into_iter().zip(after.kinds()) {
        let gone = old.difference(new).map(|fact| (fact, false));
        let come = new.difference(old).map(|fact| (fact, true));
        for (fact, added) in gone.chain(come) {
            let ours = ours.is_ours(kind, fact);
            // Data that were kept from an earlier time, and now are not: what was asked for.
            if kind == "files" && ours && !added {
                continue;
            }
            all.push(Difference { kind, fact: fact.clone(), added, ours });
        }
    }
    all
}

/// The comparison as text. `made` is what volumes made for pods on the machine itself: the user's data, that nobody
/// else takes away either, and not there before all the same.
pub(crate) fn text(before: &Stock, after: &Stock, differences: &[Difference], made: &[MadePath]) -> String {
    let mut out = format!("{:<12} {:>7} {:>7} {:>6} {:>7}\n", "", "BEFORE", "NOW", "OURS", "OTHERS'");
    for ((kind, old), (_, new)) in before.kinds().into_iter().zip(after.kinds()) {
        let count =
            |ours: bool| differences.iter().filter(|one| one.kind == kind && one.ours == ours).count();
        let _ = writeln!(
            out,
            "{kind:<12} {:>7} {:>7} {:>6} {:>7}",
            old.len(),
            new.len(),
            count(true),
            count(false)
        );
    }
    for one in differences.iter().filter(|one| one.ours) {
        let what = if one.added { "left over" } else { "missing" };
        let by = after.held.get(&one.fact).filter(|_| one.kind == "namespaces" && one.added);
        let by: Vec<&str> = by.into_iter().flatten().map(|holder| holder.words.as_str()).collect();
        let by = if by.is_empty() { String::new() } else { format!(", {}", by.join(", ")) };
        let _ = writeln!(out, "{what} of ours: {}: {}{by}", one.kind, one.fact);
    }
    let kinds: BTreeSet<&str> = differences.iter().map(|one| one.kind).collect();
    for kind in kinds {
        let others: Vec<&Difference> =
            differences.iter().filter(|one| one.kind == kind && !one.ours).collect();
        let told = by_others(&others);
        told.iter().take(SHOWN_MAX).for_each(|line| out.push_str(line));
        if told.len() > SHOWN_MAX {
            let _ = writeln!(out, "and {} more {kind}, changed by others meanwhile", told.len() - SHOWN_MAX);
        }
    }
    for MadePath { path, whose, .. } in made {
        let _ = writeln!(out, "made for pods by hostPath, still there: {} (for {whose})", path.display());
    }
    let left = differences.iter().filter(|one| one.ours).count();
    out.push_str(NOT_LOOKED_AT);
    let paths = match made.len() {
        1 => "1 path that was made for a pod is there, yours to keep or to remove".to_owned(),
        some => format!("{some} paths that were made for pods are there, yours to keep or to remove"),
    };
    out.push_str(&match (left, made.is_empty()) {
        (0, true) => "Nothing of ours is left.\n".to_owned(),
        (0, false) => format!("Nothing else of ours is left; {paths}.\n"),
        (some, true) => format!("{some} of ours differ.\n"),
        (some, false) => format!("{some} of ours differ; {paths}.\n"),
    });
    out
}

/// What others did to one kind, a line each: what was and is there in another way is one change.
fn by_others(differences: &[&Difference]) -> Vec<String> {
    let counterpart = |one: &Difference| {
        let of = subject(one.kind, &one.fact)?;
        let is_it =
            |other: &&&Difference| other.added != one.added && subject(other.kind, &other.fact) == Some(of);
        differences.iter().find(is_it).copied()
    };
    let line = |one: &&Difference| {
        let Difference { kind, fact, added, .. } = one;
        Some(match (counterpart(one), added) {
            // Told with what it is now.
            (Some(_), false) => return None,
            (Some(before), true) => {
                format!("changed by others meanwhile: {kind}: {fact} (before: {})\n", before.fact)
            }
            (None, true) => format!("made by others meanwhile: {kind}: {fact}\n"),
            (None, false) => format!("removed by others meanwhile: {kind}: {fact}\n"),
        })
    };
    differences.iter().filter_map(line).collect()
}

/// Prints the comparison; the exit status says whether anything of ours differs.
pub(crate) fn print(before: &Stock, after: &Stock, ours: &Ours, made: Vec<MadePath>) -> ExitCode {
    let processes = facts::processes().unwrap_or_default();
    let mut now = stock::members(&processes);
    held::join(&mut now, &held::held(&processes));
    let ours = ours.clone().still_held(&now);
    let made = still_there(made);
    let mut differences = compare(before, after, &ours);
    differences.retain(|one| !told_as_made(one, &made));
    print!("{}", text(before, after, &differences, &made));
    let differs = differences.iter().any(|one| one.ours) || !made.is_empty();
    if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What is told as made for a pod is none that others made.
fn told_as_made(one: &Difference, made: &[MadePath]) -> bool {
    let path = match one.fact.strip_suffix('/') {
        Some(directory) => directory,
        None => one.fact.rsplit_once(' ').map_or("", |(file, _)| file),
    };
    one.kind == "files" && one.added && !one.ours && made.iter().any(|own| own.path == Path::new(path))
}

/// Each once, though agents of one machine may have made it one after the other.
fn still_there(made: Vec<MadePath>) -> Vec<MadePath> {
    let there = made.into_iter().filter(MadePath::is_there);
    let by_path: BTreeMap<PathBuf, MadePath> = there.map(|own| (own.path.clone(), own)).collect();
    by_path.into_values().collect()
}

/// The stock that was stored before anything was changed.
pub(crate) fn stored(path: &Path) -> anyhow::Result<Stock> {
    let bytes = fs::read(path).with_context(|| {
        format!("there is no stock of before in {}: nothing can be proved", path.display())
    })?;
    serde_json::from_slice(&bytes).with_context(|| format!("cannot parse {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_the_name_inside_of_a_node_are_the_nodes() {
        let ours = Ours { cgroups: vec!["kubepods".into()], ..Ours::default() };
        for (path, expected) in [
            ("/sys/fs/cgroup/kubepods/podu", true),
            ("/sys/fs/cgroup/cpu/kubepods", true),
            ("/sys/fs/cgroup/skiff-x/node/kubepods", false),
            ("/sys/fs/cgroup/cpu/skiff-x/node/kubepods", false),
        ] {
            assert_eq!(ours.is_ours("cgroups", path), expected, "{path}");
        }
    }

    #[test]
    fn data_of_an_earlier_time_are_gone_by_wish() {
        let ours = Ours { paths: vec!["/d".into()], ..Ours::default() };
        let files = |all: &[&str]| Stock {
            files: all.iter().map(|fact| (*fact).to_owned()).collect(),
            ..Stock::default()
        };
        assert_eq!(compare(&files(&["/d/", "/d/store.db 7"]), &files(&[]), &ours), []);
        assert_eq!(compare(&files(&[]), &files(&["/d/"]), &ours).len(), 1);
    }

    fn stock(links: &[&str], routes: &[&str], processes: &[&str]) -> Stock {
        let facts = |all: &[&str]| all.iter().map(|fact| (*fact).to_owned()).collect();
        Stock { links: facts(links), routes: facts(routes), processes: facts(processes), ..Stock::default() }
    }

    fn ours() -> Ours {
        Ours {
            links: vec!["skf-a".into()],
            ranges: vec!["10.244.0.0/16".parse().expect("a range")],
            processes: ["7 100".to_owned()].into(),
            ..Ours::default()
        }
    }

    #[test]
    fn what_others_changed_is_told_apart() {
        let before = stock(&["lo", "eth1"], &[], &["1 1 init"]);
        let after =
            stock(&["lo", "skf-a"], &["eth0 0000F40A 0 0000FFFF"], &["1 1 init", "7 100 x y", "8 7 vi"]);
        let told: Vec<(String, bool, bool)> = compare(&before, &after, &ours())
            .into_iter()
            .map(|one| (one.fact, one.added, one.ours))
            .collect();
        let expected = [
            ("eth1", false, false),
            ("skf-a", true, true),
            ("eth0 0000F40A 0 0000FFFF", true, cfg!(target_endian = "little")),
            ("7 100 x y", true, true),
            ("8 7 vi", true, false),
        ];
        assert_eq!(told, expected.map(|(fact, added, ours)| (fact.to_owned(), added, ours)));
        let text = text(&before, &after, &compare(&before, &after, &ours()), &[]);
        assert!(text.contains("left over of ours: links: skf-a\n"), "{text}");
        assert!(text.contains("removed by others meanwhile: links: eth1\n"), "{text}");
        assert!(text.ends_with("3 of ours differ.\n"), "{text}");
    }

    #[test]
    fn what_others_changed_is_one_change() {
        let tables = |all: &[&str]| Stock {
            nftables: all.iter().map(|fact| (*fact).to_owned()).collect(),
            ..Stock::default()
        };
        let before = tables(&["inet a: 3 rules", "ip b: 1 rules", "ip c: 1 rules"]);
        let after = tables(&["inet a: 4 rules", "ip6 b: 1 rules", "ip c: 1 rules"]);
        let text = text(&before, &after, &compare(&before, &after, &ours()), &[]);
        let others: Vec<&str> = text.lines().filter(|line| line.contains("by others")).collect();
        assert_eq!(
            others,
            [
                "removed by others meanwhile: nftables: ip b: 1 rules",
                "changed by others meanwhile: nftables: inet a: 4 rules (before: inet a: 3 rules)",
                "made by others meanwhile: nftables: ip6 b: 1 rules",
            ]
        );
        assert!(text.ends_with("Nothing of ours is left.\n"), "{text}");
    }

    #[test]
    fn of_every_kind_ours_is_told_from_others() {
        let ours = Ours {
            tables: vec!["skiff".into()],
            cgroups: vec!["skiff-a".into()],
            paths: vec!["/data".into()],
            sysctls: vec![FORWARDING.into()],
            namespaces: [("net:[7]".to_owned(), Facts::new())].into(),
            ..ours()
        };
        for (kind, own, other) in [
            ("links", "skf-a", "eth7"),
            ("addresses", "eth0 10.244.0.1/24", "eth0 192.0.2.1/24"),
            ("routes", "skf-a 00000000 0 00000000", "eth0 00000000 0 00000000"),
            ("nftables", "ip skiff: 1 chains, 2 rules, 0 sets, digest 00", "inet skiff: 1 chains"),
            ("nftables", "arp skiff: 1 chains, 1 rules, 1 sets, digest 00", "bridge skiff: 1 chains"),
            ("mounts", "/data/v tmpfs tmpfs", "/database tmpfs tmpfs"),
            ("cgroups", "/sys/fs/cgroup/skiff-a/node", "/sys/fs/cgroup/user"),
            ("namespaces", "net:[7]", "net:[8]"),
            ("processes", "7 100 x", "7 101 x"),
            ("sysctls", "net/ipv4/conf/eth0/forwarding = 1", "net/ipv4/conf/eth0/mtu = 1"),
            ("files", "/data/", "/database 7"),
        ] {
            assert!(ours.is_ours(kind, own) && !ours.is_ours(kind, other), "{kind}: {own}, {other}");
        }
    }

    #[test]
    fn a_namespace_that_took_the_number_of_one_of_ours_is_somebody_elses() {
        let members = |all: &[(&str, &[&str])]| -> Members {
            let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            all.iter().map(|(name, of_it)| ((*name).to_owned(), of(of_it))).collect()
        };
        let learned = members(&[
            ("net:[1]", &["7 100", "8 100"]),
            ("net:[2]", &["9 100"]),
            ("net:[3]", &["7 100"]),
            ("net:[4]", &["7 100"]),
        ]);
        let ours = Ours { namespaces: learned, ..ours() };
        // One of two is left; an older one is in a new namespace of that number; a PID was used again; gone.
        let now =
            members(&[("net:[1]", &["8 100"]), ("net:[2]", &["3 50", "12 120"]), ("net:[3]", &["7 300"])]);
        assert_eq!(ours.still_held(&now).namespaces.into_keys().collect::<Vec<_>>(), ["net:[1]"]);
    }

    #[test]
    fn who_holds_a_namespace_of_ours_is_named() {
        let words = "held open by process 9 (sleep 5)".to_owned();
        let holder = held::Holder { id: "9 100".into(), words };
        let after = Stock {
            namespaces: ["net:[1]".to_owned()].into(),
            held: [("net:[1]".to_owned(), [holder].into())].into(),
            ..Stock::default()
        };
        // He held it when it was learned too: a mount or an open file keeps it beyond its last member.
        let mut now = Members::new();
        held::join(&mut now, &after.held);
        let namespaces = [("net:[1]".to_owned(), ["7 100".to_owned(), "9 100".to_owned()].into())].into();
        let ours = Ours { namespaces, ..ours() }.still_held(&now);
        let told = text(&Stock::default(), &after, &compare(&Stock::default(), &after, &ours), &[]);
        let line = "left over of ours: namespaces: net:[1], held open by process 9 (sleep 5)\n";
        assert!(told.contains(line) && told.ends_with("1 of ours differ.\n"), "{told}");
    }

    #[test]
    fn no_difference_is_the_proof() {
        let same = stock(&["lo"], &[], &[]);
        assert_eq!(compare(&same, &same, &ours()), []);
        let told = text(&same, &same, &[], &[]);
        assert!(told.ends_with("Nothing of ours is left.\n"));
        assert!(
            told.contains("\nNot looked at: what pods wrote to paths of this machine that hostPath volumes "),
            "{told}"
        );
    }

    #[test]
    fn what_was_made_for_pods_is_told_apart_from_ours_and_from_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = |name: &str, whose: &str| -> MadePath {
            let path = dir.path().join(name);
            serde_json::from_value(serde_json::json!({"path": path, "for": whose, "state": "begun"}))
                .expect("as it is written down")
        };
        fs::create_dir(dir.path().join("d")).expect("makes");
        fs::write(dir.path().join("f"), "x").expect("writes");
        // Two nodes of one machine had the same path made, and one is gone again.
        let made =
            still_there(vec![made("f", "n/a"), made("d", "n/a"), made("d", "n/b"), made("gone", "n/a")]);
        let of = |name: &str| dir.path().join(name).display().to_string();
        let same = stock(&["lo"], &[], &[]);
        let files = [format!("{}/", of("d")), format!("{} 1", of("f")), format!("{}/", of("others"))];
        let after = Stock { files: files.into(), ..same.clone() };
        let mut differences = compare(&same, &after, &ours());
        assert_eq!(differences.len(), 3);
        differences.retain(|one| !told_as_made(one, &made));
        let told = text(&same, &after, &differences, &made);
        let line = |name: &str, whose: &str| {
            format!("made for pods by hostPath, still there: {} (for {whose})\n", of(name))
        };
        assert!(told.contains(&(line("d", "n/b") + &line("f", "n/a"))), "{told}");
        assert!(told.contains(&format!("made by others meanwhile: files: {}/\n", of("others"))), "{told}");
        assert_eq!(told.matches("by others meanwhile").count(), 1, "{told}");
        let end = "\nNothing else of ours is left; 2 paths that were made for pods are there, yours to keep or to \
                   remove.\n";
        assert!(told.ends_with(end), "{told}");
        // Beside what is ours, both are counted.
        let left = stock(&["lo", "skf-a"], &[], &[]);
        let told = text(&same, &left, &compare(&same, &left, &ours()), &made[..1]);
        let end =
            "\n1 of ours differ; 1 path that was made for a pod is there, yours to keep or to remove.\n";
        assert!(told.ends_with(end), "{told}");
    }
}
