//! `skiff reset`: makes a machine that was a server or an agent what it was before.
//!
//! What there is to remove is found by what the machine's own files say, and by what its processes run, so
//! that it works whatever died before. Each step succeeds where nothing is left, and the note that this is
//! a server or an agent goes last: a reset that was killed is repeated.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{AgentConfig, BRIDGE, CGROUP_ROOT, runtime_dir};
use crate::machine::{self, Note};
use crate::membership;
use crate::up::cgroups;
use crate::up::down;
use crate::up::prove::{self, Ours};
use crate::up::record::{Record, own_network};
use crate::up::stock::{self, Stock};
use crate::up::sysctls::{self, FORWARDING};

/// Where data are if nothing else was said.
const DATA_DIRS: [&str; 2] = ["/var/lib/skiff/server", "/var/lib/skiff/agent"];

/// How long the kernel may take to end processes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Undo all that `skiff server` or `skiff agent` did to this machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its data directory, where the machine was started anew since
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep the data: started again, it has the same objects and pods
    #[arg(long)]
    keep_data: bool,
    /// Compare the machine with what it was before, and fail if anything of Skiff's is left
    #[arg(long)]
    prove: bool,
}

/// What is known of this machine's part in a cluster.
#[derive(Debug, Default)]
struct Part {
    data_dirs: Vec<PathBuf>,
    agents: Vec<AgentConfig>,
    /// Configuration files that processes of ours were started with.
    configs: Vec<PathBuf>,
    /// By PID and start time.
    supervisors: Vec<(u32, String)>,
    /// Each has a shim of that name.
    sandboxes: BTreeSet<String>,
    /// Of the cluster's DNS, on the loopback.
    addresses: Vec<Ipv4Addr>,
    ranges: Vec<skiff_network::Cidr>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    crate::up::require_root("reset")?;
    let notes = machine::notes()?;
    let part = Part::read(&notes, args.data_dir.as_deref())?;
    let proof = match (notes.first(), args.prove) {
        (_, false) => None,
        (None, true) => {
            bail!("this machine is neither server nor agent: there is nothing to compare it with")
        }
        (Some(first), true) => {
            let before = prove::stored(&first.stock_path())?;
            let ours = part.ours(&before, args.keep_data);
            let dirs = part.agents.iter().map(|agent| &agent.data_dir);
            let made = dirs.flat_map(|dir| skiff_kubelet::made_paths(dir)).collect();
            Some((before, ours, made))
        }
    };
    let before = notes.first().and_then(|note| prove::stored(&note.stock_path()).ok());
    part.end()?;
    part.remove_network(before.as_ref())?;
    for agent in &part.agents {
        down::unmount_below(&agent.run_dir)?;
        down::remove_tree(&agent.run_dir)?;
        down::unmount_below(&agent.data_dir)?;
        skiff_runtime::apparmor::unload(&runtime_dir(&agent.data_dir))
            .context("cannot take the AppArmor profile out of the kernel")?;
    }
    if !args.keep_data {
        part.data_dirs.iter().try_for_each(|dir| down::remove_data(dir))?;
    }
    let was = notes.iter().map(|note| note.role.as_str()).collect::<Vec<_>>().join(" and ");
    down::remove_tree(Path::new(machine::NOTES))?;
    match was.as_str() {
        "" => crate::tell("This machine was neither server nor agent; nothing of it is left."),
        was => crate::tell(format_args!("This machine is no {was} any more.")),
    }
    match proof {
        Some((before, ours, made)) => Ok(prove::print(&before, &Stock::take(&part.data_dirs), &ours, made)),
        None => Ok(ExitCode::SUCCESS),
    }
}

impl Part {
    fn read(notes: &[Note], given: Option<&Path>) -> anyhow::Result<Self> {
        let given = given.map(std::path::absolute).transpose().context("--data-dir")?;
        let data_dirs: Vec<PathBuf> = match given {
            Some(dir) if !notes.is_empty() && notes.iter().all(|note| note.data_dir != dir) => bail!(
                "this machine has its data in {}, not in {}",
                notes
                    .iter()
                    .map(|note| note.data_dir.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" and "),
                dir.display()
            ),
            _ if !notes.is_empty() => notes.iter().map(|note| note.data_dir.clone()).collect(),
            Some(dir) => vec![dir],
            None => DATA_DIRS.map(PathBuf::from).into_iter().filter(|dir| dir.exists()).collect(),
        };
        // Whatever is there is about to be deleted, so first of all it is found to be ours.
        data_dirs.iter().try_for_each(|dir| machine::check(dir))?;
        let mut part =
            Self { supervisors: notes.iter().map(|note| note.process.clone()).collect(), ..Self::default() };
        for dir in &data_dirs {
            part.configs.extend(["server.json", "agent.json"].map(|file| dir.join(file)));
            // Damaged, it tells nothing, and must not keep the rest from being removed.
            let bytes = fs::read(dir.join("agent.json")).unwrap_or_default();
            let Ok(agent) = serde_json::from_slice::<AgentConfig>(&bytes) else { continue };
            part.sandboxes.extend(skiff_runtime::recorded_sandboxes(&runtime_dir(&agent.data_dir)));
            if let Some(cluster) = membership::kept_cluster(&agent.data_dir) {
                part.addresses.extend(cluster.cluster_dns.parse::<Ipv4Addr>().ok());
                part.ranges.extend(
                    [&cluster.cluster_cidr, &cluster.service_cidr]
                        .iter()
                        .filter_map(|text| text.parse::<skiff_network::Cidr>().ok()),
                );
            }
            part.agents.push(agent);
        }
        part.data_dirs = data_dirs;
        Ok(part)
    }

    /// By what facts of this machine are known to be ours; asked while it still runs.
    fn ours(&self, before: &Stock, keep_data: bool) -> Ours {
        let mut paths = vec![PathBuf::from(machine::NOTES)];
        paths.extend(self.agents.iter().map(|agent| agent.run_dir.clone()));
        if !keep_data {
            paths.extend(self.data_dirs.iter().cloned());
        }
        let mut ours = Ours { paths, ..Ours::default() };
        if !self.agents.is_empty() {
            ours.links = self.links();
            ours.ranges = self.ranges.clone();
            ours.tables = vec![skiff_sys::nft::TABLE.to_owned()];
            ours.cgroups = vec![CGROUP_ROOT.to_owned()];
            ours.sysctls = settings().map(str::to_owned).collect();
        }
        let named: Vec<u32> =
            self.processes().into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect();
        ours.learn(before, &named);
        ours
    }

    fn links(&self) -> Vec<String> {
        let state = self.agents.iter().flat_map(|agent| skiff_network::host_links(&network_state(agent)));
        std::iter::once(BRIDGE.to_owned()).chain(state).collect()
    }

    /// The platform's own processes, but not what is in a pod.
    fn processes(&self) -> BTreeSet<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
            .filter(|pid| {
                // A zombie has none.
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words: Vec<String> = line
                    .split(|byte| *byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect();
                !line.is_empty() && (self.is_ours(&words) || self.is_supervisor(*pid))
            })
            .collect()
    }

    /// By a command line: a component with a configuration of ours, or a sandbox's shim.
    fn is_ours(&self, words: &[String]) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [_, "component", _, "--config", path, ..] => {
                self.configs.iter().any(|own| own == Path::new(path))
            }
            [name, sandbox, ..] => *name == skiff_runtime::SHIM && self.sandboxes.contains(*sandbox),
            _ => false,
        }
    }

    fn is_supervisor(&self, pid: i32) -> bool {
        let of = |(own, started): &(u32, String)| {
            i32::try_from(*own) == Ok(pid) && stock::start_time(*own) == *started
        };
        self.supervisors.iter().any(of)
    }

    /// Ends all processes: first those that would start others again, last what is in pods.
    fn end(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let alive = self.processes();
            if alive.is_empty() {
                break;
            }
            let supervisors: Vec<i32> =
                alive.iter().copied().filter(|pid| self.is_supervisor(*pid)).collect();
            for pid in if supervisors.is_empty() { alive.into_iter().collect() } else { supervisors } {
                // It may be gone already.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            if Instant::now() > deadline {
                bail!("cannot end the processes {:?}: they may hang in the kernel", self.processes());
            }
            // Nobody tells of the end of a process that is not one's own child.
            std::thread::sleep(Duration::from_millis(5));
        }
        match self.agents.is_empty() {
            true => Ok(()),
            false => cgroups::destroy(Path::new(CGROUP_ROOT)),
        }
    }

    fn remove_network(&self, before: Option<&Stock>) -> anyhow::Result<()> {
        for agent in &self.agents {
            skiff_network::remove(&network_state(agent), BRIDGE, &self.addresses)
                .context("cannot remove the pod network")?;
        }
        match before {
            Some(before) if !self.agents.is_empty() => {
                sysctls::restore(before, &settings().collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }
}

fn network_state(agent: &AgentConfig) -> PathBuf {
    agent.data_dir.join("network")
}

/// The parameters that are this machine's to put back: not what a cluster of `skiff up` still needs.
fn settings() -> impl Iterator<Item = &'static str> {
    let network = own_network();
    let needs_it = |cluster: &Record| cluster.uplink && cluster.shares_network(network);
    let needed = Record::all().unwrap_or_default().iter().any(needs_it);
    skiff_network::SETTINGS.into_iter().filter(move |name| *name != FORWARDING || !needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_their_command_lines() {
        let part = Part {
            configs: vec!["/d/agent.json".into()],
            sandboxes: ["abc".to_owned()].into(),
            ..Part::default()
        };
        let is_ours = |line: &str| part.is_ours(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(is_ours("kubelet component agent --config /d/agent.json "));
        assert!(is_ours("skiff-shim abc "));
        // Those of a cluster of `skiff up` on the same machine.
        assert!(!is_ours("kubelet component agent --config /e/agent.json "));
        assert!(!is_ours("skiff-shim def "));
        assert!(!is_ours("vi /d/agent.json "));
        assert!(!is_ours("skiff"));
    }

    #[test]
    fn a_directory_of_others_is_not_reset() {
        let dir = std::env::temp_dir().join(format!("skiff-reset-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("letters"), "").expect("a file");
        let error = Part::read(&[], Some(&dir)).expect_err("it is somebody's").to_string();
        assert!(error.contains("holds something else"), "{error}");
        fs::remove_dir_all(&dir).expect("it is there");
    }
}
