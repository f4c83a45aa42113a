//! Where the tour's commands run: a directory with kubeconfig, manifests and programs, and what stands for
//! nodes and addresses. Everything of it is gone when the tour ends, however it ends.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::events::Events;
use super::steps::{FILES, GUARDED, NAMESPACE, Needed, OUTSIDE, steps};

/// Where the tour was left: the next step's name. A namespace without it is not the tour's.
const NEXT: &str = "skiff.dev/tour-next";
/// How often a name for the directory is tried that somebody else has.
const NAMES_MAX: u32 = 100;

/// How often is looked whether a command is to end.
const LOOK: Duration = Duration::from_millis(50);
/// How long it has to end by itself then.
const GRACE: Duration = Duration::from_secs(2);

/// The directory; gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    /// Its name can be guessed, and a kubeconfig is a secret: so it is made anew, for its owner alone.
    fn make() -> anyhow::Result<Self> {
        let base = std::env::temp_dir();
        for number in 0..NAMES_MAX {
            let path = base.join(format!("skiff-tour-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
        bail!("cannot create a directory for the tour in {}: its names are taken", base.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is in the directory for temporary files, after all.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) struct Printed {
    pub(super) text: String,
    pub(super) ok: bool,
}

pub(super) struct Scene<'a> {
    scratch: Scratch,
    events: &'a Events,
    /// What commands find in their environment.
    variables: Vec<(&'static str, String)>,
    /// What stands for a range in expectations, and how its addresses begin.
    ranges: Vec<(&'static str, String)>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(kubeconfig: &Path, kubectl: &Path, events: &'a Events) -> anyhow::Result<Self> {
        let scratch = Scratch::make()?;
        let bin = scratch.0.join("bin");
        std::fs::create_dir(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        for (name, target) in [("skiff", own.as_path()), ("kubectl", kubectl)] {
            symlink(target, bin.join(name)).context("cannot make a link")?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let config = scratch.0.join("kubeconfig");
        let mut scene = Self {
            events,
            variables: vec![
                ("PATH", format!("{}:{path}", bin.display())),
                ("KUBECONFIG", config.display().to_string()),
                ("M", scratch.0.join("manifests").display().to_string()),
                ("NO_COLOR", "1".into()),
            ],
            scratch,
            ranges: Vec::new(),
        };
        copy(kubeconfig, &config)?;
        scene.look_around()?;
        scene.write_manifests()?;
        Ok(scene)
    }

    fn ask(&self, command: &str) -> anyhow::Result<String> {
        let printed = self.quietly(command);
        if !printed.ok {
            bail!("{}", printed.text.trim());
        }
        Ok(printed.text.trim().to_owned())
    }

    /// Which nodes there are, and the ranges.
    fn look_around(&mut self) -> anyhow::Result<()> {
        self.ask(&format!("kubectl config set-context --current --namespace={NAMESPACE}"))?;
        let columns = "jsonpath='{range .items[*]}{.metadata.name} {.status.addresses[?(@.type==\"InternalIP\")].address} {.spec.podCIDR} {.spec.taints[*].effect}{\"\\n\"}{end}'";
        let nodes = self.ask(&format!("kubectl get nodes -o {columns}"))?;
        let [a, b] = workers(&nodes)?;
        let cluster = self.ask("kubectl config current-context")?;
        let services =
            self.ask("kubectl get service kubernetes -n default -o jsonpath='{.spec.clusterIP}'")?;
        self.ranges = vec![
            ("{pods}", beginning(&a.range, 2)),
            ("{nodes}", beginning(&a.address, 3)),
            ("{services}", beginning(&services, 2)),
        ];
        self.variables.extend([
            ("CLUSTER", cluster),
            ("NODE_A", a.name),
            ("NODE_B", b.name),
            ("IP_A", a.address),
            ("IP_B", b.address),
        ]);
        Ok(())
    }

    fn write_manifests(&self) -> anyhow::Result<()> {
        let directory = self.scratch.0.join("manifests");
        std::fs::create_dir(&directory).context("cannot create a directory for the manifests")?;
        let all = steps();
        for (file, text) in all.iter().filter_map(|step| step.manifest).chain(FILES.iter().copied()) {
            std::fs::write(directory.join(file), self.with_nodes(text)).context("cannot write a manifest")?;
        }
        Ok(())
    }

    /// A manifest with the nodes' names in it.
    pub(super) fn with_nodes(&self, text: &str) -> String {
        let nodes = self.variables.iter().filter(|(name, _)| name.starts_with("NODE_"));
        nodes.fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    /// Something expected, as it is on this cluster.
    pub(super) fn here(&self, expected: &str) -> String {
        self.ranges.iter().fold(expected.to_owned(), |expected, (name, begin)| expected.replace(name, begin))
    }

    /// Runs a command of a step. Whatever signal ends the tour ends it too, as Ctrl-C does any command of a
    /// terminal.
    pub(super) fn shell(&self, command: &str) -> Printed {
        run(self.command(command), || self.interrupted())
    }

    /// Runs a command of the tour itself, which no signal ends.
    fn quietly(&self, command: &str) -> Printed {
        run(self.command(command), || false)
    }

    fn command(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]).stdin(Stdio::null());
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        // What the terminal sends to all of its foreground reaches the tour alone, which passes it on.
        shell.process_group(0);
        shell
    }

    pub(super) fn interrupted(&self) -> bool {
        self.events.interrupted()
    }

    /// Makes the tour's namespace, or finds where the tour was left, which is told by the step's name.
    pub(super) fn begin(&self) -> anyhow::Result<String> {
        if let Some(left) = self.left()? {
            // Also after an end that nobody could clean up after.
            self.sweep()?;
            return Ok(left);
        }
        let first = steps().first().map_or("", |step| step.id);
        let manifest = format!(
            r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}", "annotations": {{"{NEXT}": "{first}"}}}}}}"#
        );
        self.ask(&format!("echo '{manifest}' | kubectl create -f -"))?;
        Ok(first.to_owned())
    }

    /// The step at which an earlier tour was left.
    fn left(&self) -> anyhow::Result<Option<String>> {
        let path = NEXT.replace('.', "\\.");
        let look = |template: &str| {
            self.ask(&format!(
                "kubectl get namespace {NAMESPACE} --ignore-not-found -o jsonpath='{template}'"
            ))
        };
        if look("{.status.phase}")? == "Terminating" {
            self.ask(&format!("kubectl wait --for=delete namespace/{NAMESPACE} --timeout=120s"))?;
        }
        if look("{.metadata.name}")?.is_empty() {
            return Ok(None);
        }
        match look(&format!("{{.metadata.annotations.{path}}}"))? {
            left if left.is_empty() => bail!(
                "namespace {NAMESPACE} is not the tour's (it lacks the annotation {NEXT}): the tour leaves it alone"
            ),
            left => Ok(Some(left)),
        }
    }

    /// Writes down where to go on.
    pub(super) fn note(&self, next: &str) -> anyhow::Result<()> {
        self.ask(&format!("kubectl annotate --overwrite namespace {NAMESPACE} {NEXT}={next}")).map(drop)
    }

    /// Makes the pods that a step speaks to.
    pub(super) fn fetch(&self, needs: &[Needed]) -> anyhow::Result<()> {
        for needed in needs {
            self.ask(&format!("kubectl apply -f $M/{}", needed.file))?;
        }
        for needed in needs {
            self.ask(&format!("kubectl wait --for=condition=Ready pod/{} --timeout=120s", needed.pod))?;
        }
        Ok(())
    }

    /// Takes away what steps made. The namespace stays, and in it the note of where to go on.
    pub(super) fn sweep(&self) -> anyhow::Result<()> {
        // Only nodes of this machine have a shell, and only those have anything to be removed.
        self.quietly(OUTSIDE);
        let all = format!("-n {NAMESPACE} --all --timeout=120s");
        // Who makes pods goes first, and with its pods.
        self.ask(&format!("kubectl delete deployments,daemonsets {all} --cascade=foreground"))?;
        self.ask(&format!("kubectl delete services,networkpolicies,pods {all} --grace-period=1"))?;
        self.ask(&format!("kubectl delete namespace {GUARDED} --ignore-not-found --timeout=120s"))?;
        Ok(())
    }

    /// Takes away everything, the namespace too.
    pub(super) fn clean(&self) -> anyhow::Result<()> {
        if self.left()?.is_none() {
            return Ok(());
        }
        self.quietly(OUTSIDE);
        let names = format!("{NAMESPACE} {GUARDED}");
        self.ask(&format!("kubectl delete namespace {names} --ignore-not-found --timeout=120s"))
            .context("the tour's namespaces could not be deleted")?;
        Ok(())
    }
}

/// For its owner alone, whatever the original is.
fn copy(kubeconfig: &Path, to: &Path) -> anyhow::Result<()> {
    let mut from =
        std::fs::File::open(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    written
        .and_then(|mut to| io::copy(&mut from, &mut to))
        .with_context(|| format!("cannot copy {}", kubeconfig.display()))?;
    Ok(())
}

/// Runs a command, of a process group of its own, to its end or until it is to end.
fn run(mut command: Command, is_to_end: impl Fn() -> bool) -> Printed {
    let fault = |error: io::Error| Printed { text: format!("cannot run sh: {error}\n"), ok: false };
    let child = match command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => return fault(error),
    };
    let group = Pid::from_raw(child.id().cast_signed());
    let (sender, ended) = channel();
    // It ends with the command, which nobody waits for longer than that.
    std::thread::spawn(move || drop(sender.send(child.wait_with_output())));
    let mut asked: Option<Instant> = None;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(Ok(output)) => {
                return Printed {
                    text: String::from_utf8_lossy(&output.stdout).into_owned(),
                    ok: output.status.success(),
                };
            }
            Ok(Err(error)) => return fault(error),
            Err(RecvTimeoutError::Disconnected) => return fault(io::ErrorKind::Interrupted.into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // It may have ended this very moment.
        let _ = match asked {
            None if is_to_end() => {
                asked = Some(Instant::now());
                killpg(group, Signal::SIGTERM)
            }
            Some(since) if since.elapsed() > GRACE => killpg(group, Signal::SIGKILL),
            _ => Ok(()),
        };
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Worker {
    name: String,
    address: String,
    range: String,
}

/// The two nodes that take pods, of lines with name, address, range and effects of taints.
fn workers(nodes: &str) -> anyhow::Result<[Worker; 2]> {
    let lines: Vec<Vec<&str>> = nodes.lines().map(|line| line.split_whitespace().collect()).collect();
    let untainted = lines.iter().filter_map(|line| match line.as_slice() {
        [name, address, range] => {
            Some(Worker { name: (*name).into(), address: (*address).into(), range: (*range).into() })
        }
        _ => None,
    });
    // What schedulers say counts all nodes.
    match (untainted.collect::<Vec<_>>().as_slice(), lines.len()) {
        ([a, b], 3) => Ok([a.clone(), b.clone()]),
        (some, all) => bail!(
            "the tour is for a cluster of three nodes of which two take pods, and this one has {all}, of which {} do: `skiff up --nodes 3 --name tour` starts one",
            some.len()
        ),
    }
}

/// The first parts of an address or a range, `10.244.`.
fn beginning(address: &str, parts: usize) -> String {
    address.split('.').take(parts).map(|part| format!("{part}.")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tour_is_for_three_nodes_of_which_two_take_pods() {
        let three =
            "cp 10.1.0.1 10.244.0.0/24 NoSchedule\nw1 10.1.0.2 10.244.1.0/24\nw2 10.1.0.3 10.244.2.0/24\n";
        let [a, b] = workers(three).unwrap();
        assert_eq!((a.name.as_str(), b.name.as_str()), ("w1", "w2"));
        assert_eq!((beginning(&a.range, 2), beginning(&b.address, 3)), ("10.244.".into(), "10.1.0.".into()));
        for (nodes, has) in [
            ("w1 10.1.0.2 10.244.1.0/24", "this one has 1, of which 1 do"),
            (
                "w1 10.1.0.2 10.244.1.0/24\nw2 10.1.0.3 10.244.2.0/24\nw3 10.1.0.4 10.244.3.0/24",
                "of which 3 do",
            ),
            ("", "this one has 0"),
        ] {
            let error = workers(nodes).unwrap_err().to_string();
            assert!(error.contains(has) && error.contains("skiff up --nodes 3"), "{error}");
        }
    }

    /// Also what it started itself, and what does not listen.
    #[test]
    fn a_command_ends_when_it_is_to_end() {
        let scratch = Scratch::make().unwrap();
        let begun = scratch.0.join("begun");
        let ended = |script: &str| {
            let _ = std::fs::remove_file(&begun);
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(&begun).process_group(0);
            run(command, || begun.exists())
        };
        let whole = ended("echo here; exit 3");
        assert_eq!((whole.text.as_str(), whole.ok), ("here\n", false));
        assert!(ended("true").ok);
        let cut = ended("echo begun; sleep 600 & : > $1; wait; echo over");
        assert_eq!((cut.text.as_str(), cut.ok), ("begun\n", false));
        let deaf = ended("trap '' TERM; sleep 600 & : > $1; while true; do wait; done");
        assert_eq!((deaf.text.as_str(), deaf.ok), ("", false));
    }

    #[test]
    fn the_directory_is_its_owners_alone_and_goes_with_the_tour() {
        use std::os::unix::fs::PermissionsExt;
        let (one, two) = (Scratch::make().unwrap(), Scratch::make().unwrap());
        assert_ne!(one.0, two.0);
        let path = two.0.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("file"), "").unwrap();
        drop(two);
        assert!(!path.exists());
    }
}
