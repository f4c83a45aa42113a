//! `cargo xtask vm`: Skiff on a stock Debian kernel, in a virtual machine.
//!
//! The machine that develops and tests may have control groups of both versions, no AppArmor, fewer
//! capabilities or everything compiled in. This boots what users have: Debian's own kernel with its modules,
//! pure cgroup v2, AppArmor and systemd (or none: `--plain`), and looks at named things in it. Nothing of it
//! reaches a network. It is emulated, which takes minutes, unless `--kvm` says that it need not be.

mod checks;
mod image;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::checks::{CHECKS, Check, Init};
use self::image::Disks;
use crate::build::{self, Profile};
use crate::{images, setup};

/// Of the whole run, emulated.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Begins the lines that the machine tells its progress by, on its second serial line.
const MARK: &str = "@@ ";

#[derive(Debug, Default)]
struct Options {
    /// Leave the machine up after the checks, with a shell on this terminal.
    keep: bool,
    /// A package of another kernel.
    kernel: Option<PathBuf>,
    /// A binary that is built already.
    skiff: Option<PathBuf>,
    /// Without systemd.
    plain: bool,
    /// By the processor's virtualization, which a machine may show without its working.
    kvm: bool,
    /// Only checks with this in their names, besides those that the others need.
    filter: Option<String>,
}

impl Options {
    fn parse(args: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut file = || -> anyhow::Result<PathBuf> {
                let name = args.next().with_context(|| format!("{arg} names no file"))?;
                fs::canonicalize(name).with_context(|| format!("{arg} {name}"))
            };
            match *arg {
                "--keep" => options.keep = true,
                "--plain" => options.plain = true,
                "--kvm" => options.kvm = true,
                "--kernel" => options.kernel = Some(file()?),
                "--skiff" => options.skiff = Some(file()?),
                flag if flag.starts_with('-') => {
                    bail!("vm takes --keep, --plain, --kvm, --kernel DEB and --skiff FILE, not {flag}")
                }
                filter => options.filter = Some(filter.to_owned()),
            }
        }
        Ok(options)
    }

    fn init(&self) -> Init {
        if self.plain { Init::Plain } else { Init::Systemd }
    }

    fn checks(&self) -> Vec<&'static Check> {
        let wanted = |check: &&Check| {
            let named = self.filter.as_ref().is_none_or(|filter| check.name.contains(filter.as_str()));
            check.runs_with(self.init()) && (named || check.needed)
        };
        CHECKS.iter().filter(wanted).collect()
    }
}

/// `cargo xtask vm [--keep] [--plain] [--kvm] [--kernel DEB] [--skiff FILE] [FILTER]`.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let options = Options::parse(args)?;
    if std::env::consts::ARCH != "x86_64" {
        bail!("vm boots Debian for amd64 alone yet");
    }
    setup::run_quietly()?;
    setup::virtual_machine()?;
    let skiff = match &options.skiff {
        Some(built) => built.clone(),
        None => build::skiff(Profile::Release)?,
    };
    let archives = images::build(&build::target_dir().join("images"))?;
    let checks = options.checks();
    let dir = build::target_dir().join("vm");
    let disks = image::make(&dir, options.kernel.as_deref(), &skiff, &archives, &checks, options.keep)?;
    let machine = Machine::boot(&dir, &disks, &options)?;
    let outcome = machine.follow(checks.len(), options.keep)?;
    println!("\nKernel {}, {}", disks.version, options.init().text());
    outcome.print(&checks);
    if !outcome.holds(checks.len()) {
        bail!("not all checks hold; the console is in {}", console(&dir).display());
    }
    Ok(())
}

fn console(dir: &Path) -> PathBuf {
    dir.join("console.log")
}

/// A virtual machine that runs; it ends with the value.
struct Machine {
    qemu: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What became of the checks so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: Vec<String>,
    failed: Vec<String>,
    /// The machine said that it was through with all.
    ended: bool,
}

impl Outcome {
    /// Takes a line of the machine's; answers what of it a person wants to see.
    fn take(&mut self, line: &str) -> Option<String> {
        let said = line.trim_end().strip_prefix(MARK)?;
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "ok" => self.passed.push(rest.to_owned()),
            "FAILED" => self.failed.push(rest.to_owned()),
            "end" => self.ended = true,
            "|" => return Some(format!("    {rest}")),
            _ => {}
        }
        Some(said.to_owned())
    }

    fn holds(&self, checks: usize) -> bool {
        self.ended && self.failed.is_empty() && self.passed.len() == checks
    }

    fn print(&self, checks: &[&Check]) {
        for name in &self.failed {
            println!("FAILED: {name}");
        }
        if !self.ended {
            println!("The machine ended, or was too slow, before it was through.");
        }
        println!("{} of {} checks hold.", self.passed.len(), checks.len());
    }
}

impl Machine {
    fn boot(dir: &Path, disks: &Disks, options: &Options) -> anyhow::Result<Self> {
        let init = options.init();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", if options.kvm { "kvm" } else { "tcg,thread=multi" }, "-cpu", "max"]);
        command.args(["-m", "3072", "-smp", "2", "-display", "none", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(&disks.kernel).arg("-initrd").arg(&disks.initrd);
        // Nothing that the machine writes lasts.
        for disk in [&disks.root, &disks.work] {
            let drive = format!("file={},format=raw,if=virtio,snapshot=on", disk.display());
            command.args(["-drive", &drive]);
        }
        command.args(["-append", &format!("console=ttyS0 panic=-1 systemd.show_status=0 {}", init.kernel())]);
        command.arg("-serial").arg(format!("file:{}", console(dir).display())).args(["-serial", "stdio"]);
        // Where the written parts of the disks go.
        command.env("TMPDIR", dir);
        command.stdin(if options.keep { Stdio::inherit() } else { Stdio::null() }).stdout(Stdio::piped());
        eprintln!(
            "Booting {} with {}{}; the console goes to {}",
            disks.version,
            init.text(),
            if options.kvm { "" } else { ", emulated" },
            console(dir).display()
        );
        Ok(Self { qemu: command.spawn().context("cannot start qemu-system-x86_64")? })
    }

    /// Shows what the machine says until it is through, or gone, or too slow.
    fn follow(mut self, checks: usize, keep: bool) -> anyhow::Result<Outcome> {
        let output = self.qemu.stdout.take().context("the machine's line is not piped")?;
        let (tell, told) = mpsc::channel();
        // Ends with the machine, whose line it reads.
        thread::spawn(move || lines(output, &tell, keep));
        let (mut outcome, until) = (Outcome::default(), Instant::now() + PATIENCE);
        while !outcome.ended {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = told.recv_timeout(left) else { break };
            if let Some(text) = outcome.take(&line) {
                let done = outcome.passed.len() + outcome.failed.len();
                println!("[{done:>2}/{checks}] {text}");
            }
        }
        if keep && outcome.ended {
            println!("The machine stays up; leave it by `poweroff -f`.");
            self.qemu.wait().context("cannot wait for the machine")?;
        }
        Ok(outcome)
    }
}

/// Sends lines until the machine says that it is through; what comes then is a shell's, and for the terminal.
fn lines(output: impl Read, tell: &mpsc::Sender<String>, keep: bool) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        let is_end = text.trim_end() == format!("{MARK}end");
        if tell.send(text).is_err() || (is_end && keep) {
            break;
        }
        line.clear();
    }
    let mut bytes = [0; 1024];
    while let Ok(count) = output.read(&mut bytes) {
        let mut terminal = std::io::stdout();
        if count == 0 || terminal.write_all(&bytes[..count]).and_then(|()| terminal.flush()).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_holds_when_each_check_does_and_the_end_is_reached() {
        let mut outcome = Outcome::default();
        for line in ["@@ run one\r\n", "@@ ok one\r\n", "noise\r\n", "@@ FAILED two\r\n", "@@ | why\r\n"] {
            outcome.take(line);
        }
        assert_eq!((outcome.passed.len(), outcome.failed.as_slice()), (1, &["two".to_owned()][..]));
        assert!(!outcome.holds(1));
        let mut good = Outcome::default();
        good.take("@@ ok one\n");
        assert!(!good.holds(1), "it may have broken off");
        good.take("@@ end\n");
        assert!(good.holds(1) && !good.holds(2));
        assert_eq!(good.take("@@ | why not"), Some("    why not".to_owned()));
        assert_eq!(good.take("something else"), None);
    }

    #[test]
    fn options_are_refused_where_they_are_unknown_or_name_no_file() {
        assert!(Options::parse(&["--keep", "--plain"]).is_ok_and(|options| options.keep && options.plain));
        assert!(Options::parse(&["--kernel"]).is_err());
        assert!(Options::parse(&["--kernel", "/no/such.deb"]).is_err());
        assert!(Options::parse(&["--fast"]).is_err());
    }

    #[test]
    fn a_filter_leaves_what_the_others_need() {
        let options = Options { filter: Some("no check is called so".into()), ..Options::default() };
        let left = options.checks();
        assert!(!left.is_empty() && left.iter().all(|check| check.needed));
        assert!(options.checks().len() < Options::default().checks().len());
    }
}
