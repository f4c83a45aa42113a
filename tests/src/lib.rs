//! What the end-to-end tests share: a running cluster, real kubectl, and waiting for state.
//!
//! `cargo xtask test` starts one cluster of three nodes in a network namespace without a way out and names
//! it in the environment; tests run side by side on it, each in a namespace of its own. A test that kills
//! parts of the platform starts a cluster of its own with [`Cluster::start`].

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test fails: machines are slow, or busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Output {
    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "it failed: {self:?}");
        self.stdout
    }

    /// Standard error of a command that failed.
    #[track_caller]
    pub fn err(self) -> String {
        assert_ne!(self.code, 0, "it succeeded: {self:?}");
        self.stderr
    }
}

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run these tests with `cargo xtask test`"))
        .into()
}

/// The binary under test.
pub fn skiff_path() -> PathBuf {
    variable("SKIFF")
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

/// Runs the binary under test.
pub fn skiff(args: &[&str]) -> Output {
    run(Command::new(skiff_path()).args(args).env_remove("KUBECONFIG"))
}

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: String,
    pub kubeconfig: PathBuf,
    data_dir: PathBuf,
}

/// A cluster of one test, taken down when it ends.
pub struct OwnCluster(Cluster);

impl std::ops::Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let output = skiff(&["down", "--name", &self.0.name]);
        if !std::thread::panicking() {
            assert_eq!(output.code, 0, "{output:?}");
        }
    }
}

impl Cluster {
    /// The cluster that all tests share: a control plane, which takes no ordinary pods, and two workers.
    pub fn shared() -> Cluster {
        let name = std::env::var("SKIFF_CLUSTER")
            .expect("SKIFF_CLUSTER is not set: run these tests with `cargo xtask test`");
        let data_dir = variable("SKIFF_CLUSTER_DATA");
        Cluster { name, kubeconfig: data_dir.join("kubeconfig"), data_dir }
    }

    /// A cluster for one test alone.
    pub fn start(name: &str, nodes: u32) -> OwnCluster {
        Self::start_with(name, nodes, &[])
    }

    /// As [`Cluster::start`], with more flags.
    pub fn start_with(name: &str, nodes: u32, flags: &[&str]) -> OwnCluster {
        let data_dir = std::env::temp_dir().join(format!("skiff-test-{name}-{}", std::process::id()));
        let cluster = Cluster { name: name.to_owned(), kubeconfig: data_dir.join("kubeconfig"), data_dir };
        let own = OwnCluster(cluster);
        let images = variable("SKIFF_IMAGES");
        let mut command = Command::new(skiff_path());
        command.args(["up", "--detach", "--port", "0", "--name", name, "--nodes", &nodes.to_string()]);
        command.arg("--data-dir").arg(&own.data_dir).arg("--images").arg(images).args(flags);
        run(&mut command).ok();
        own
    }

    /// Runs kubectl 1.35.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(self.command("KUBECTL").args(args))
    }

    /// Runs kubectl 1.20.
    pub fn old_kubectl<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(self.command("KUBECTL_1_20").args(args))
    }

    /// A kubectl that is not started yet. `which` is `KUBECTL` or `KUBECTL_1_20`.
    pub fn command(&self, which: &str) -> Command {
        let mut command = Command::new(variable(which));
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.data_dir);
        command
    }

    /// Runs a command on a node, outside all pods.
    pub fn on_node(&self, node: &str, command: &[&str]) -> Output {
        let mut args = vec!["node", "shell", "--name", &self.name, node, "--"];
        args.extend(command);
        skiff(&args)
    }

    /// An object, as JSON.
    pub fn object(&self, args: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(args);
        serde_json::from_str(&self.kubectl(&all).ok()).expect("kubectl prints JSON")
    }

    /// A namespace of its own for a test, with its default service account.
    pub fn namespace(&self, name: &str) -> Namespace {
        self.kubectl(&["create", "namespace", name]).ok();
        Namespace { cluster: self.clone(), name: name.to_owned() }
    }

    /// `NAME-control-plane`.
    pub fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// `NAME-worker-N`, counted from 1.
    pub fn worker(&self, number: u32) -> String {
        format!("{}-worker-{number}", self.name)
    }

    /// A node's address.
    pub fn node_ip(&self, node: &str) -> String {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        self.kubectl(&["get", "node", node, "-o", path]).ok()
    }

    /// The kubeconfig and data of this cluster are below it.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

/// A namespace of the API that a test works in; deleted, without waiting, when the test ends.
pub struct Namespace {
    pub cluster: Cluster,
    pub name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

impl Namespace {
    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        let mut all = vec!["-n", &self.name];
        all.extend(args);
        self.cluster.kubectl(&all)
    }

    /// Applies a manifest of `tests/manifests`.
    pub fn apply_file(&self, file: &str) -> Output {
        self.kubectl(&["apply", "-f", &manifest(file)])
    }

    /// Applies a manifest.
    pub fn apply(&self, text: &str) -> Output {
        self.pipe(&["apply", "-f", "-"], text)
    }

    /// Runs kubectl with standard input.
    pub fn pipe(&self, args: &[&str], text: &str) -> Output {
        let mut command = self.cluster.command("KUBECTL");
        command.args(["-n", &self.name]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Waits until a pod is Ready.
    #[track_caller]
    pub fn ready(&self, pod: &str) {
        let output =
            self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=120s"]);
        assert_eq!(output.code, 0, "{output:?}\n{}", self.kubectl(&["describe", "pod", pod]).stdout);
    }

    /// Waits until a pod is Ready and the tests' own server, which its first container runs, listens. Without
    /// a probe a pod is Ready as soon as its program starts, and that it listens is what the program says then.
    #[track_caller]
    pub fn serves(&self, pod: &str) {
        self.ready(pod);
        wait_until(&format!("{pod} listens"), || {
            self.kubectl(&["logs", pod]).stdout.contains("listening on")
        });
    }

    /// Runs a command in a pod's first container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Output {
        let mut args = vec!["exec", pod, "--"];
        args.extend(command);
        self.kubectl(&args)
    }

    /// A pod, as JSON.
    pub fn pod(&self, name: &str) -> Value {
        self.cluster.object(&["-n", &self.name, "pod", name])
    }

    /// A pod's address, once it has one.
    pub fn pod_ip(&self, name: &str) -> String {
        wait_for("the pod has an address", || self.pod(name)["status"]["podIP"].as_str().map(str::to_owned))
    }

    /// Waits until the events of an object hold this text, and returns the message.
    pub fn event(&self, object: &str, reason: &str, text: &str) -> String {
        let selector = format!("involvedObject.name={object},reason={reason}");
        wait_for(&format!("an event {reason} of {object} with {text:?}"), || {
            let list = self.cluster.object(&["-n", &self.name, "events", "--field-selector", &selector]);
            let items = list["items"].as_array()?.clone();
            items
                .iter()
                .filter_map(|event| event["message"].as_str())
                .find(|message| message.contains(text))
                .map(str::to_owned)
        })
    }

    /// Deletes soon and waits until it is gone. Not by force: then a pod's object would go first, and its
    /// ports some time later.
    pub fn delete(&self, kind: &str, name: &str) {
        self.kubectl(&["delete", kind, name, "--grace-period=1", "--timeout=120s"]).ok();
    }
}

/// The manifest of a pod on one node, which ends soon when it is told to: further fields of its spec, each line
/// indented by two, and its container.
pub fn pod_on(node: &str, name: &str, spec: &str, container: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  {spec}
  containers: [{{name: main, {container}}}]
---
"
    )
}

/// The path of a manifest of `tests/manifests`.
pub fn manifest(file: &str) -> String {
    format!("{}/manifests/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Looks until there is a value. The interval only bounds how often is looked.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Looks until it holds, for what takes most of [`PATIENCE`] by design.
#[track_caller]
pub fn wait_longer(what: &str, mut look: impl FnMut() -> bool) {
    wait_within(3 * PATIENCE, what, || look().then_some(()))
}

#[track_caller]
fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks until it holds.
#[track_caller]
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || look().then_some(()));
}

/// What a web server says.
pub fn http_get(address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().expect("an address and a port");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer))
}

/// Whether a connection is refused, at once and not by silence.
pub fn refused(address: &str) -> bool {
    let address: SocketAddr = address.parse().expect("an address and a port");
    let result = TcpStream::connect_timeout(&address, Duration::from_secs(3));
    result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Held by tests whose manifests name fixed ports of the nodes.
pub fn fixed_ports() -> MutexGuard<'static, ()> {
    static PORTS: OnceLock<Mutex<()>> = OnceLock::new();
    PORTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is killed when the test ends.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The tests' network tool, for use on nodes.
pub fn peer_path() -> PathBuf {
    variable("SKIFF_PROGRAMS").join("peer")
}
