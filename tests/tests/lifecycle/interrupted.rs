//! Ctrl-C while `skiff up` is not done yet: it takes back what it did, and says so.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use skiff_tests::{Output, run, skiff_path, wait_until};

use super::network::Network;
use super::random::Random;
use super::stock::traces;

/// What a network has, found without the program under test.
pub(super) const EVERYTHING: &str = r#"
ip -o link show; ip -o addr show; ip -4 route show table all; ip -6 route show table all; ip rule show
nft list ruleset
cd /proc/sys/net/ipv4
grep -H . ip_forward conf/*/forwarding conf/*/accept_redirects conf/*/send_redirects
"#;

/// When the signal comes.
#[derive(Debug, Clone, Copy)]
enum When {
    After(Duration),
    /// Once a line is said that begins so.
    At(&'static str),
}

/// Which signal comes, how, and to whom.
#[derive(Debug, Clone, Copy)]
struct Interruption {
    when: When,
    signal: (&'static str, i32),
    /// As a terminal sends it: to every process that was started from there and is in the foreground.
    to_group: bool,
    /// Nobody reads any more what it says, as when a terminal was closed.
    unheard: bool,
    detach: bool,
}

const SIGNALS: [(&str, i32); 3] = [("INT", 2), ("TERM", 15), ("HUP", 1)];

impl Interruption {
    fn random(random: &mut Random, when: When) -> Self {
        Self {
            when,
            signal: random.one(&SIGNALS),
            to_group: random.one(&[true, false]),
            unheard: random.one(&[true, false, false]),
            detach: random.one(&[true, false]),
        }
    }

    /// How `up` ended, and what it said.
    fn run(&self, up: &mut Command) -> (ExitStatus, String) {
        if self.detach {
            up.arg("--detach");
        }
        up.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut up = up.spawn().expect("it starts");
        let mut said = String::new();
        let mut lines = BufReader::new(up.stderr.take().expect("it is piped"));
        match self.when {
            // Not a wait for something to happen: the moment is the test's input.
            When::After(moment) => std::thread::sleep(moment),
            When::At(beginning) => {
                while !said.lines().last().is_some_and(|line| line.starts_with(beginning)) {
                    assert_ne!(lines.read_line(&mut said).expect("UTF-8"), 0, "it ended: {said}");
                }
            }
        }
        let heard = (!self.unheard).then_some(lines);
        let target = if self.to_group { format!("-{}", up.id()) } else { up.id().to_string() };
        run(Command::new("kill").args([&format!("-{}", self.signal.0), "--", &target])).ok();
        if let Some(mut rest) = heard {
            rest.read_to_string(&mut said).expect("UTF-8");
        }
        (up.wait().expect("it ends"), said)
    }
}

/// A cluster that is always interrupted, in a network of its own.
struct Victim {
    machine: Network,
    name: &'static str,
    data_dir: PathBuf,
    before: String,
}

impl Victim {
    fn new(name: &'static str) -> Self {
        let machine = Network::start();
        let data_dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
        let before = machine.run(&["sh", "-c", EVERYTHING]).stdout;
        Self { machine, name, data_dir, before }
    }

    fn up(&self) -> Command {
        // Whoever runs the tests may ignore signals, and hand that on.
        let mut up = self.machine.command(Path::new("env"));
        up.arg("--default-signal").arg(skiff_path());
        up.args(["up", "--uplink", "--port", "0", "--nodes", "2", "--name", self.name, "--data-dir"]);
        up.arg(&self.data_dir);
        up
    }

    fn down(&self, more: &[&str]) -> Output {
        let data_dir = self.data_dir.to_str().expect("UTF-8");
        let mut args = vec!["down", "--name", self.name, "--data-dir", data_dir];
        args.extend(more);
        self.machine.skiff(&args)
    }

    #[track_caller]
    fn assert_nothing_left(&self, after: &str) {
        assert!(traces(self.name).is_empty(), "{after}: {:?}", traces(self.name));
        assert_eq!(self.machine.run(&["sh", "-c", EVERYTHING]).stdout, self.before, "{after}");
    }

    /// Interrupts an `up`, which must leave nothing, and returns its last sentence if it was not up yet.
    #[track_caller]
    fn interrupt(&self, interruption: &Interruption, up: &mut Command) -> Option<String> {
        let (status, said) = interruption.run(up);
        let after = format!("{interruption:?}: {status}: {said}");
        let number = interruption.signal.1;
        let told = match status.code() {
            // It was up before the signal came.
            Some(0) => {
                assert!(matches!(interruption.when, When::After(_)), "{after}");
                if interruption.detach {
                    self.down(&[]).ok();
                }
                None
            }
            Some(code) => {
                assert_eq!(code, 128 + number, "{after}");
                let mut sentences = said.lines().filter(|line| line.starts_with("skiff: "));
                let told = sentences.next().map(str::to_owned);
                assert!(sentences.next().is_none() && told.is_some() != interruption.unheard, "{after}");
                let begins =
                    format!("skiff: stopped by SIG{} before the cluster was up: ", interruption.signal.0);
                assert!(told.iter().all(|told| told.starts_with(&begins)), "{after}");
                told
            }
            // It had not begun.
            None => {
                assert_eq!((status.signal(), said.as_str()), (Some(number), ""), "{after}");
                None
            }
        };
        self.assert_nothing_left(&after);
        told
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let output = self.down(&[]);
        if !std::thread::panicking() {
            output.ok();
        }
    }
}

#[test]
fn an_up_that_is_interrupted_at_any_moment_leaves_nothing() {
    let mut random = Random::seeded();
    let victim = Victim::new("lc-int-any");
    let images = tempfile::tempdir().expect("a directory");
    // An archive that never ends: what the cluster waits for last.
    let endless = images.path().join("endless.tar");
    run(Command::new("mkfifo").arg(&endless)).ok();
    for signal in SIGNALS {
        for when in ["Starting node", "Loading "] {
            let interruption = Interruption { signal, ..Interruption::random(&mut random, When::At(when)) };
            let told = victim.interrupt(&interruption, victim.up().arg("--images").arg(images.path()));
            assert!(told.iter().all(|told| told.ends_with(": nothing of it is left")), "{told:?}");
            assert!(!victim.data_dir.exists(), "{interruption:?}");
        }
    }
    for _ in 0..8 {
        let when = When::After(random.moment());
        let interruption = Interruption::random(&mut random, when);
        let told = victim.interrupt(&interruption, &mut victim.up());
        let fine =
            |told: &String| told.ends_with(": nothing of it is left") || told.ends_with(": nothing was made");
        assert!(told.iter().all(fine), "{told:?}");
        assert!(!victim.data_dir.exists(), "{interruption:?}");
    }
}

#[test]
fn data_of_before_outlive_an_up_that_is_interrupted() {
    let mut random = Random::seeded();
    let victim = Victim::new("lc-int-kept");
    run(victim.up().arg("--detach")).ok();
    let kubectl = |args: &[&str]| victim.machine.kubectl(&victim.data_dir, args);
    kubectl(&["create", "configmap", "kept"]).ok();
    victim.down(&["--keep-data"]).ok();
    victim.assert_nothing_left("down --keep-data");
    let interruption =
        Interruption { unheard: false, ..Interruption::random(&mut random, When::At("Starting node")) };
    let told = victim.interrupt(&interruption, &mut victim.up()).expect("it says so");
    let expected = format!("nothing of it runs, and the data of before are in {}", victim.data_dir.display());
    assert!(told.ends_with(&expected), "{told}");
    // The user's own kubeconfig is as it was, too.
    let own = tempfile::tempdir().expect("a directory");
    let kubeconfig = own.path().join("config");
    fs::write(&kubeconfig, "apiVersion: v1\nkind: Config\nclusters: []\n").expect("it is written");
    let before = fs::read_to_string(&kubeconfig).expect("it is there");
    let mut up = victim.up();
    victim.interrupt(&interruption, up.arg("--kubeconfig").arg(&kubeconfig));
    assert_eq!(fs::read_to_string(&kubeconfig).expect("it is there"), before);

    run(victim.up().arg("--detach")).ok();
    wait_until("the object is back", || kubectl(&["get", "configmap", "kept"]).code == 0);
}
