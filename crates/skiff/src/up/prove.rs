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
mod tests;
