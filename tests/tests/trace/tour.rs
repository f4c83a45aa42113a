//! The tour, in every language and on a terminal: each of its commands is typed, and prints what the tour
//! says; it goes on where it was left, and leaves nothing behind.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use skiff_tests::{Cluster, fixed_ports, run, skiff, skiff_path, wait_for, wait_until};

/// The words of one language that the tests look for.
struct Language {
    code: &'static str,
    enter: &'static str,
    expected: &'static str,
    resumes: &'static str,
    stopped: &'static str,
    done: &'static str,
}

const ENGLISH: Language = Language {
    code: "en",
    enter: "[Enter goes on, q and Enter stops here] ",
    expected: "--> as expected",
    resumes: "The tour goes on where it was left: ",
    stopped: "Stopped. `skiff tour` goes on from here",
    done: "That was the tour.",
};
const KOREAN: Language = Language {
    code: "ko",
    enter: "[Enter를 누르면 계속, q와 Enter를 누르면 멈춥니다] ",
    expected: "--> 기대한 대로입니다",
    resumes: "지난번에 멈춘 곳에서 이어 갑니다: ",
    stopped: "멈췄습니다.",
    done: "둘러보기가 끝났습니다.",
};
const CHINESE: Language = Language {
    code: "zh",
    enter: "[按 Enter 继续，按 q 再按 Enter 停止] ",
    expected: "--> 符合预期",
    resumes: "从上次停下的地方继续: ",
    stopped: "已停止。",
    done: "导览结束。",
};

/// Where one tour after the other is played: on one cluster, with a directory for temporary files that has
/// to be empty after each.
struct Stage {
    cluster: Cluster,
    temporary: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let stage = Self { cluster: Cluster::shared(), temporary };
        // What a run before this one left, if it was killed.
        stage.tour(&["--clean"]).ok();
        stage
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        let kubectl =
            std::env::var("KUBECTL").expect("KUBECTL is set: run these tests with `cargo xtask test`");
        let directory = Path::new(&kubectl).parent().expect("it is in a directory").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        [("PATH", format!("{directory}:{path}")), ("TMPDIR", self.temporary.path().display().to_string())]
    }

    /// The tour where there is no terminal.
    fn tour(&self, args: &[&str]) -> skiff_tests::Output {
        let mut command = Command::new(skiff_path());
        command.arg("tour").args(args).args(["--name", &self.cluster.name]);
        command.envs(self.environment()).env_remove("KUBECONFIG");
        run(&mut command)
    }

    /// The tour on a terminal, where each `kubectl apply` says that it began and never ends.
    fn on_terminal_with_a_hanging_kubectl(&self) -> Terminal {
        let programs = tempfile::tempdir().expect("a directory");
        let kubectl = programs.path().join("kubectl");
        let real = std::env::var("KUBECTL").expect("KUBECTL");
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = apply ]; then : > '{}'; exec sleep 100000; fi\nexec '{real}' \"$@\"\n",
            programs.path().join("hangs").display()
        );
        std::fs::write(&kubectl, text).expect("it is written");
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut terminal = self.on_terminal_with(&ENGLISH, Some(programs.path()));
        terminal.programs = Some(programs);
        terminal
    }

    /// The tour on a terminal.
    fn on_terminal(&self, language: &Language) -> Terminal {
        self.on_terminal_with(language, None)
    }

    /// As [`Stage::on_terminal`], with a directory of programs before all others.
    fn on_terminal_with(&self, language: &Language, programs: Option<&Path>) -> Terminal {
        let quoted = |path: PathBuf| format!("'{}'", path.display());
        let tour = format!(
            "exec {} tour --lang {} --name '{}'",
            quoted(skiff_path()),
            language.code,
            self.cluster.name
        );
        let mut script = Command::new("script");
        script.args(["-qec", &tour, "/dev/null"]).envs(self.environment()).env_remove("KUBECONFIG");
        if let Some(programs) = programs {
            let [(_, path), _] = self.environment();
            script.env("PATH", format!("{}:{path}", programs.display()));
        }
        Terminal::start(script)
    }

    /// After a tour was left: nothing of it is there but its note of where to go on.
    fn is_swept(&self, at: &[&str]) {
        let pods =
            self.cluster.kubectl(&["get", "pods,services,deployments", "-n", "skiff-tour", "-o", "name"]);
        assert_eq!(pods.stdout, "", "{pods:?}");
        let note = "jsonpath={.metadata.annotations.skiff\\.dev/tour-next}";
        let note = self.cluster.kubectl(&["get", "namespace", "skiff-tour", "-o", note]).ok();
        assert!(at.contains(&note.as_str()), "{note}");
        self.leaves_no_file();
    }

    /// After a tour came to its end: nothing of it is there.
    fn is_clean(&self) {
        let left = self.cluster.kubectl(&["get", "namespace", "skiff-tour", "skiff-tour-guarded"]);
        assert!(left.stderr.contains("not found") && left.stdout.is_empty(), "{left:?}");
        for node in [self.cluster.worker(1), self.cluster.worker(2)] {
            let files = self.cluster.on_node(&node, &["ls", "/dev/shm"]).ok();
            assert!(!files.contains("skiff-tour"), "{files}");
        }
        self.leaves_no_file();
    }

    fn leaves_no_file(&self) {
        let files = std::fs::read_dir(self.temporary.path()).expect("it is a directory");
        let files: Vec<_> = files.flatten().map(|file| file.path()).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}

/// A program on a terminal of its own, and somebody who reads and types.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How far it was read.
    read: usize,
    /// Programs of its own.
    programs: Option<tempfile::TempDir>,
}

impl Terminal {
    /// `script` gives the program its terminal.
    fn start(mut script: Command) -> Self {
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("script starts");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut out, shown) = (child.stdout.take().expect("it is piped"), screen.clone());
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(bytes @ 1..) = out.read(&mut part) {
                shown.lock().expect("nobody panics").extend_from_slice(&part[..bytes]);
            }
        });
        let keys = child.stdin.take().expect("it is piped");
        Self { child, keys, screen, read: 0, programs: None }
    }

    fn text(&self) -> String {
        let bytes = self.screen.lock().expect("nobody panics").clone();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Reads on until one of these is there, and returns what stood before.
    #[track_caller]
    fn until(&mut self, wanted: &[&str]) -> String {
        let passage = wait_for(&format!("the terminal shows one of {wanted:?}"), || {
            let text = self.text();
            let rest = &text[self.read..];
            let end = wanted.iter().filter_map(|own| rest.find(own).map(|at| at + own.len())).min()?;
            Some(rest[..end].to_owned())
        });
        self.read += passage.len();
        passage
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// The tour's PID: it takes the place of the shell that `script` starts.
    fn tour(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        wait_for("the tour is there", || std::fs::read_to_string(&children).ok()?.trim().parse().ok())
    }

    /// Plays the first step until one of its commands hangs.
    fn until_it_hangs(&mut self) {
        self.until(&[ENGLISH.enter]);
        self.press("\n");
        let hangs = self.programs.as_ref().expect("it has its own").path().join("hangs");
        wait_until("a command hangs", || hangs.exists());
    }

    /// Whether the program succeeded, and what it said last.
    fn end(mut self) -> (bool, String) {
        let mut status = None;
        wait_for("the program ends", || {
            status = self.child.try_wait().expect("it can be waited for");
            status
        });
        let rest = self.text()[self.read..].to_owned();
        (status.is_some_and(|status| status.success()), rest)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Harmless after its end; else `script` takes its terminal with it, and the tour leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The commands of the page.
fn commands(stage: &Stage, language: &Language) -> Vec<String> {
    let page = stage.tour(&["--page", "--lang", language.code]).ok();
    page.lines().filter(|line| line.starts_with("$ ")).map(str::to_owned).collect()
}

/// What was typed, each of which printed what it should.
fn typed(language: &Language, shown: &str) -> Vec<String> {
    let typed: Vec<String> = shown.lines().filter(|line| line.starts_with("$ ")).map(str::to_owned).collect();
    assert_eq!(shown.matches(language.expected).count(), typed.len(), "{}: {shown}", language.code);
    typed
}

/// Presses Enter at each step up to the end.
fn play_on(terminal: &mut Terminal, language: &Language) -> String {
    let mut shown = String::new();
    loop {
        terminal.press("\n");
        shown += &terminal.until(&[language.enter, language.done]);
        if shown.ends_with(language.done) {
            return shown;
        }
    }
}

#[test]
fn the_tour_is_as_it_says_in_every_language() {
    let _ports = fixed_ports();
    let stage = Stage::new();
    let all = commands(&stage, &ENGLISH);
    assert!(all.len() > 80, "{} commands", all.len());
    for language in [&KOREAN, &CHINESE] {
        assert_eq!(commands(&stage, language), all, "{}", language.code);
    }

    // English: each step waits for Enter and tells how far one is; q leaves, and it goes on there.
    let mut terminal = stage.on_terminal(&ENGLISH);
    let shown = terminal.until(&[ENGLISH.enter]);
    assert!(shown.contains("[1/21] ") && !shown.contains("[2/21] "), "{shown}");
    terminal.press("\n");
    let first = terminal.until(&[ENGLISH.enter]);
    assert!(first.contains("[2/21] ") && !first.contains("[3/21] "), "{first}");
    terminal.press("q\n");
    terminal.until(&[ENGLISH.stopped]);
    assert!(terminal.end().0, "to leave is no failure");
    stage.is_swept(&["A2"]);
    let mut terminal = stage.on_terminal(&ENGLISH);
    let shown = terminal.until(&[ENGLISH.enter]);
    assert!(shown.contains(&format!("{}A2", ENGLISH.resumes)) && shown.contains("[2/21] "), "{shown}");
    let rest = play_on(&mut terminal, &ENGLISH);
    let (succeeded, last) = terminal.end();
    assert!(succeeded, "{rest}{last}");
    assert_eq!([typed(&ENGLISH, &first), typed(&ENGLISH, &rest)].concat(), all);
    stage.is_clean();

    // Korean: from the first step to the last.
    let mut terminal = stage.on_terminal(&KOREAN);
    terminal.until(&[KOREAN.enter]);
    let shown = play_on(&mut terminal, &KOREAN);
    let (succeeded, last) = terminal.end();
    assert!(succeeded, "{shown}{last}");
    assert_eq!(typed(&KOREAN, &shown), all);
    stage.is_clean();

    // Chinese: Ctrl-C amidst a step cleans up too; the rest goes on by itself.
    let mut terminal = stage.on_terminal(&CHINESE);
    terminal.until(&[CHINESE.enter]);
    terminal.press("\n");
    let first = terminal.until(&[CHINESE.enter]);
    terminal.press("\n");
    terminal.until(&["$ kubectl apply -f $M/two-containers.yaml\n    "]);
    terminal.press("\u{3}");
    terminal.until(&[CHINESE.stopped]);
    let (succeeded, last) = terminal.end();
    assert!(!succeeded, "who was interrupted did not succeed: {last}");
    // By then the step may have come to its end.
    stage.is_swept(&["A2", "A3"]);
    let output = stage.tour(&["--yes", "--lang", "zh"]);
    assert_eq!(output.code, 0, "{}\n{}", output.stderr, output.stdout);
    let at_a3 = output.stdout.contains(&format!("{}A3", CHINESE.resumes));
    assert!(at_a3 || output.stdout.contains(&format!("{}A2", CHINESE.resumes)), "{}", output.stdout);
    assert!(output.stdout.contains(CHINESE.done), "{}", output.stdout);
    let rest = typed(&CHINESE, &output.stdout);
    let (first, skipped) = (typed(&CHINESE, &first), all.len() - rest.len());
    assert!(all.ends_with(&rest) && all.starts_with(&first), "{first:?} {rest:?}");
    // What lies between was played before Ctrl-C, or is played again.
    assert_eq!(at_a3, skipped > first.len(), "{first:?} {rest:?}");
    stage.is_clean();
}

/// By whatever signal, and when the terminal is closed, also while a command of the tour hangs.
#[test]
fn the_tour_cleans_up_however_it_is_ended() {
    let _ports = fixed_ports();
    let stage = Stage::new();
    for signal in ["TERM", "HUP", "INT"] {
        let mut terminal = stage.on_terminal_with_a_hanging_kubectl();
        terminal.until_it_hangs();
        run(Command::new("kill").arg(format!("-{signal}")).arg(terminal.tour().to_string())).ok();
        terminal.until(&[ENGLISH.stopped]);
        let (succeeded, last) = terminal.end();
        assert!(!succeeded, "{signal}: who was interrupted did not succeed: {last}");
        stage.is_swept(&["A1"]);
    }

    // The terminal is closed: nobody reads any more, and all the same nothing is left.
    let mut terminal = stage.on_terminal_with_a_hanging_kubectl();
    terminal.until_it_hangs();
    let (tour, programs) = (terminal.tour(), terminal.programs.take());
    drop(terminal);
    wait_until("the tour has ended", || !Path::new(&format!("/proc/{tour}")).exists());
    stage.is_swept(&["A1"]);
    drop(programs);

    // It waits for Enter, and nothing runs.
    let mut terminal = stage.on_terminal(&ENGLISH);
    terminal.until(&[ENGLISH.enter]);
    run(Command::new("kill").arg("-TERM").arg(terminal.tour().to_string())).ok();
    terminal.until(&[ENGLISH.stopped]);
    assert!(!terminal.end().0);
    stage.tour(&["--clean"]).ok();
    stage.is_clean();
}

#[test]
fn what_the_tour_is_not_told_in_and_where_nobody_answers_is_one_sentence() {
    let cluster = Cluster::shared();
    let tour = |args: &[&str]| {
        let mut all = vec!["tour", "--name", &cluster.name];
        all.extend(args);
        let error = skiff(&all).err();
        assert_eq!(error.trim().lines().count(), 1, "{error}");
        error
    };
    let error = tour(&["--lang", "kr"]);
    assert!(error.contains("\"kr\"") && error.contains("did you mean ko?"), "{error}");
    let error = tour(&["--lang", ""]);
    assert!(error.contains("\"\"") && error.contains("en, ko, zh"), "{error}");
    let error = tour(&[]);
    assert!(error.contains("nobody can press Enter here"), "{error}");
}
