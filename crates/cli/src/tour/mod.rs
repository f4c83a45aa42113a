//! `skiff tour`: the scenarios one after the other, each explained by the running system.

mod steps;
mod texts;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{Clusters, Connection};
use steps::{FILES, GUARDED, NAMESPACE, STEPS, Step, Typed};
use texts::Texts;

/// How long what is still on its way may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Where the tour was left: the next step's name.
const NEXT: &str = "skiff.dev/tour-next";

/// Show by experiment what a pod shares with its host, step by step
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language: en, ko or zh [default: that of $LANG]
    #[arg(long)]
    lang: Option<String>,
    /// Don't wait for Enter
    #[arg(long)]
    yes: bool,
    /// Take away what an earlier tour left, and end
    #[arg(long, conflicts_with = "page")]
    clean: bool,
    /// Print the tour as a page of documentation, and end
    #[arg(long)]
    page: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    let texts = match &args.lang {
        Some(code) => texts::named(code).with_context(|| {
            let known: Vec<&str> = texts::codes().collect();
            let near = skiff_explain::nearest::nearest(code, known.iter().copied());
            let near = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
            format!("the tour is not told in {code:?} (only in {}){near}", known.join(", "))
        })?,
        None => texts::of_environment(&std::env::var("LANG").unwrap_or_default()),
    };
    if args.page {
        return write_out(&texts::page(texts));
    }
    let kubeconfig = args.connection.kubeconfig(clusters)?;
    let kubectl = Tour::find_kubectl()?;
    let tour = Tour::new(texts, &kubeconfig, kubectl)?;
    if args.clean {
        return tour.clean();
    }
    tour.play(args.yes)
}

fn write_out(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write the output")
}

/// The directory in which the commands find manifests, kubeconfig and `skiff`; gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is in the directory for temporary files, after all.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Tour {
    texts: &'static Texts,
    scratch: Scratch,
    /// What commands find in their environment.
    variables: Vec<(&'static str, String)>,
    /// What stands for a range in expectations, and how its addresses begin.
    ranges: Vec<(&'static str, String)>,
}

struct Printed {
    text: String,
    ok: bool,
}

impl Tour {
    fn find_kubectl() -> anyhow::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file());
        found.context("the tour types kubectl's commands, but no kubectl is on PATH: install it first")
    }

    fn new(texts: &'static Texts, kubeconfig: &Path, kubectl: PathBuf) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("skiff-tour-{}", std::process::id()));
        let scratch = Scratch(directory);
        let bin = scratch.0.join("bin");
        std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        for (name, target) in [("skiff", &own), ("kubectl", &kubectl)] {
            std::os::unix::fs::symlink(target, bin.join(name)).context("cannot make a link")?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut tour = Self {
            texts,
            variables: vec![
                ("PATH", format!("{}:{path}", bin.display())),
                ("KUBECONFIG", scratch.0.join("kubeconfig").display().to_string()),
                ("M", scratch.0.join("manifests").display().to_string()),
                ("NO_COLOR", "1".into()),
            ],
            scratch,
            ranges: Vec::new(),
        };
        std::fs::copy(kubeconfig, tour.scratch.0.join("kubeconfig"))
            .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        tour.look_around()?;
        tour.write_manifests()?;
        Ok(tour)
    }

    /// Which nodes there are, and the ranges.
    fn look_around(&mut self) -> anyhow::Result<()> {
        let ask = |command: &str| {
            let printed = self.shell(command);
            if !printed.ok {
                bail!("{}", printed.text.trim());
            }
            Ok(printed.text.trim().to_owned())
        };
        ask(&format!("kubectl config set-context --current --namespace={NAMESPACE}"))?;
        let columns = "jsonpath='{range .items[*]}{.metadata.name} {.status.addresses[?(@.type==\"InternalIP\")].address} {.spec.podCIDR} {.spec.taints[*].effect}{\"\\n\"}{end}'";
        let nodes = ask(&format!("kubectl get nodes -o {columns}"))?;
        let nodes: Vec<Vec<&str>> = nodes.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut workers = nodes.iter().filter(|node| node.len() == 3);
        let (Some(a), Some(b)) = (workers.next(), workers.next()) else {
            bail!("the tour needs two nodes that take pods: start a cluster with `skiff up --nodes 3`");
        };
        let cluster = ask("kubectl config current-context")?;
        let services = ask("kubectl get service kubernetes -n default -o jsonpath='{.spec.clusterIP}'")?;
        let begin = |address: &str, parts: usize| {
            address.split('.').take(parts).map(|part| format!("{part}.")).collect::<String>()
        };
        let ranges = vec![
            ("{pods}", begin(a[2], 2)),
            ("{nodes}", begin(a[1], 3)),
            ("{services}", begin(&services, 2)),
        ];
        let variables = [
            ("CLUSTER", cluster.as_str()),
            ("NODE_A", a[0]),
            ("NODE_B", b[0]),
            ("IP_A", a[1]),
            ("IP_B", b[1]),
        ]
        .map(|(k, v)| (k, v.to_owned()));
        self.variables.extend(variables);
        self.ranges = ranges;
        Ok(())
    }

    fn write_manifests(&self) -> anyhow::Result<()> {
        let directory = self.scratch.0.join("manifests");
        std::fs::create_dir_all(&directory).context("cannot create a directory for the manifests")?;
        let all = STEPS.iter().filter_map(|step| step.manifest).chain(FILES.iter().copied());
        for (file, text) in all {
            let text = self
                .variables
                .iter()
                .filter(|(name, _)| name.starts_with("NODE_"))
                .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value));
            std::fs::write(directory.join(file), text).context("cannot write a manifest")?;
        }
        Ok(())
    }

    fn shell(&self, command: &str) -> Printed {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]).stdin(Stdio::null());
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        match shell.output() {
            Ok(output) => Printed {
                text: String::from_utf8_lossy(&output.stdout).into_owned(),
                ok: output.status.success(),
            },
            Err(error) => Printed { text: format!("cannot run sh: {error}\n"), ok: false },
        }
    }

    fn play(&self, yes: bool) -> anyhow::Result<()> {
        let texts = self.texts;
        write_out(&format!("{}\n\n{}\n", texts.heading, texts.intro))?;
        let first = self.begin()?;
        if first > 0 {
            write_out(&format!("\n{}: {}\n", texts.resumes, STEPS[first].id))?;
        }
        let mut wrong = Vec::new();
        for (index, step) in STEPS.iter().enumerate().skip(first) {
            if !self.step(index, step, yes, &mut wrong)? {
                return write_out(&format!("{}\n", texts.stopped));
            }
            let next = STEPS.get(index + 1).map_or("", |next| next.id);
            self.note(next);
        }
        self.clean()?;
        write_out(&format!("\n{}\n", texts.done))?;
        if wrong.is_empty() { Ok(()) } else { bail!("{}: {}", texts.not_as_expected, wrong.join("; ")) }
    }

    /// Makes the tour's namespace, or finds where it was left.
    fn begin(&self) -> anyhow::Result<usize> {
        let path = NEXT.replace('.', "\\.");
        let left = self.shell(&format!(
            "kubectl get namespace {NAMESPACE} -o jsonpath='{{.metadata.annotations.{path}}}'"
        ));
        if left.ok {
            return Ok(STEPS.iter().position(|step| step.id == left.text.trim()).unwrap_or(0));
        }
        let made = self.shell(&format!("kubectl create namespace {NAMESPACE}"));
        if !made.ok {
            bail!("{}", made.text.trim());
        }
        Ok(0)
    }

    fn note(&self, next: &str) {
        // Without it the tour begins anew the next time, which does no harm.
        let _ = self.shell(&format!("kubectl annotate --overwrite namespace {NAMESPACE} {NEXT}={next}"));
    }

    /// Plays a step. False if it is to stop here.
    fn step(&self, index: usize, step: &Step, yes: bool, wrong: &mut Vec<String>) -> anyhow::Result<bool> {
        let (texts, told) = (self.texts, self.texts.step(step.id));
        let mut head = format!(
            "\n[{}/{}] {} ({})\n{} {}\n",
            index + 1,
            STEPS.len(),
            told.title,
            step.id,
            texts.question,
            told.question
        );
        if let Some((file, text)) = step.manifest {
            head += &format!("{} {file}:\n{}\n", texts.manifest, indented(text));
        }
        head += &format!("{} {}\n", texts.expect, told.expect);
        write_out(&head)?;
        if !yes && !self.wait()? {
            return Ok(false);
        }
        for typed in step.typed {
            self.typed(step, typed, wrong)?;
        }
        if !step.explained.is_empty() {
            write_out(&format!("\n{} {}\n", texts.explained, told.explained))?;
        }
        for typed in step.explained {
            self.typed(step, typed, wrong)?;
        }
        if !step.cleanup.is_empty() {
            let cleaned = self.shell(step.cleanup);
            if !cleaned.ok {
                write_out(&cleaned.text)?;
            }
        }
        Ok(true)
    }

    fn typed(&self, step: &Step, typed: &Typed, wrong: &mut Vec<String>) -> anyhow::Result<()> {
        write_out(&format!("$ {}\n", typed.command))?;
        let mut printed = self.shell(typed.command);
        let end = Instant::now() + PATIENCE;
        // What is still on its way is looked at again; only commands that change nothing are repeated.
        while !self.holds(typed, &printed.text) && is_look(typed.command) && Instant::now() < end {
            std::thread::sleep(LOOK_AGAIN);
            printed = self.shell(typed.command);
        }
        let holds = self.holds(typed, &printed.text);
        let said = if holds { self.texts.as_expected } else { self.texts.not_as_expected };
        write_out(&format!("{}--> {said}\n", indented(&printed.text)))?;
        if !holds {
            wrong.push(format!("{}: {}", step.id, typed.command));
        }
        Ok(())
    }

    fn holds(&self, typed: &Typed, text: &str) -> bool {
        typed.expect.iter().all(|expected| {
            let expected = self
                .ranges
                .iter()
                .fold((*expected).to_owned(), |expected, (name, begin)| expected.replace(name, begin));
            match expected.strip_prefix('!') {
                Some(absent) => !text.contains(absent),
                None => text.contains(&expected),
            }
        })
    }

    /// Waits for Enter. False for `q`, and where nobody can answer.
    fn wait(&self) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() {
            bail!("nobody can press Enter here: --yes goes on without");
        }
        write_out(&format!("[{}] ", self.texts.press_enter))?;
        io::stdout().flush().context("cannot write the output")?;
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line).context("cannot read from the terminal")?;
        Ok(read > 0 && line.trim() != "q")
    }

    fn clean(&self) -> anyhow::Result<()> {
        let cleanup: Vec<&str> =
            STEPS.iter().map(|step| step.cleanup).filter(|cleanup| cleanup.contains("/dev/shm")).collect();
        // What outlives the namespace.
        for command in cleanup {
            let _ = self.shell(command.split(" && ").next().unwrap_or_default());
        }
        let gone = self.shell(&format!(
            "kubectl delete namespace {NAMESPACE} {GUARDED} --ignore-not-found --timeout=120s"
        ));
        if !gone.ok {
            bail!("the tour's namespaces could not be deleted: {}", gone.text.trim());
        }
        Ok(())
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn is_look(command: &str) -> bool {
    !["apply", "delete", "create", "label"].iter().any(|verb| command.contains(verb))
}
