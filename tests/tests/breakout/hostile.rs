//! Hostile pods beside a victim, on one node.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use skiff_tests::{Cluster, Namespace, wait_for, wait_until};

use crate::attempts::{Attempt, DESCRIPTORS, Setting, Way};
use crate::loosened;
use crate::manifest::{PROGRAM, attacking, has_own_users, level, pod, running, with};
use crate::outcome::{End, Outcome, end, tried, tried_or_refused};

type Tried = Vec<(&'static Attempt, Outcome)>;

/// A namespace for hostile pods, a victim on their node, and a place that none of them was given.
pub(crate) struct Hostile {
    namespace: Namespace,
    /// Its pods ask for what the hostile ones' namespace may refuse.
    _victims: Namespace,
    setting: Setting,
    node: String,
    /// The victim's.
    address: String,
    outside: PathBuf,
    /// Where the node keeps logs.
    logs: PathBuf,
    _dir: tempfile::TempDir,
}

impl Hostile {
    pub(crate) fn new(name: &str, setting: Setting) -> Hostile {
        let cluster = Cluster::shared();
        let node = cluster.worker(2);
        let namespace = cluster.namespace(name);
        if let Some(level) = level(setting) {
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            cluster.kubectl(&["label", "namespace", name, &label]).ok();
        }
        let victims = cluster.namespace(&format!("{name}-victims"));
        // A pod of its own, which has a token and listens, and a listener of the node's.
        let victim = |pod_name: &str, words: [&str; 2], more: Value| {
            let container = attacking("main", &words, Setting::Default);
            let pod = pod(pod_name, &node, Setting::Default, vec![container], more);
            victims.apply(&pod.to_string()).ok();
        };
        victim("victim", ["victim", name], json!({}));
        victim("listener", ["listen", name], json!({"hostNetwork": true}));
        for pod in ["victim", "listener"] {
            wait_until(&format!("{pod} listens"), || victims.kubectl(&["logs", pod]).stdout == "ready\n");
        }
        let address = wait_for("the victim's address is told", || {
            Some(victims.pod("victim")["status"]["podIP"].as_str()?.to_owned())
        });
        let logs = cluster.data_dir().join("nodes").join(&node).join("pods-log");
        let dir = tempfile::tempdir_in(cluster.data_dir()).expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("secret"), "secret of the node\n").expect("a file");
        fs::write(outside.join("log"), "").expect("a file");
        Hostile { namespace, _victims: victims, setting, node, address, outside, logs, _dir: dir }
    }

    /// Tries all of them, as many as may be in one pod.
    pub(crate) fn tries(&self, attempts: &[&'static Attempt]) -> Tried {
        let (seeing, blind): (Vec<&'static Attempt>, Vec<&'static Attempt>) =
            attempts.iter().partition(|attempt| attempt.sees_node && !has_own_users(self.setting));
        let mut all = self.programs("programs", &blind, json!({}));
        all.extend(self.in_sight_of_the_node(&seeing));
        all.extend(self.volumes(&blind));
        all.extend(self.logs(&blind));
        for attempt in &blind {
            let outcome = match attempt.way {
                Way::Command(words) => self.command(words),
                Way::DirectoryOfDescriptor => self.directories(),
                _ => continue,
            };
            all.push((attempt, outcome));
        }
        assert_eq!(all.len(), attempts.len(), "each is tried once");
        all
    }

    /// Tries those that a pod may ask for, with what it has to ask for.
    pub(crate) fn tries_loosened(&self, attempts: &[&'static Attempt]) -> Tried {
        let mut all = Tried::new();
        for (number, (fields, group)) in loosened::pods(attempts).into_iter().enumerate() {
            let containers = group
                .iter()
                .map(|attempt| with(self.container(attempt), loosened::of_container(attempt.loosened)));
            let name = format!("loosened-{number}");
            let statuses = self.run(&name, containers.collect(), fields);
            all.extend(group.into_iter().map(|attempt| (attempt, tried(ended(&statuses, attempt.name)))));
        }
        assert!(all.len() > attempts.len() / 2, "most can be asked for");
        all
    }

    fn container(&self, attempt: &Attempt) -> Value {
        let words = match attempt.way {
            Way::Program(words) => words.to_vec(),
            Way::Against(what) => vec![what, self.namespace.name.as_str()],
            Way::AgainstAddress(what) => vec![what, self.address.as_str()],
            other => panic!("{other:?} is no program's"),
        };
        attacking(attempt.name, &words, self.setting)
    }

    fn programs(&self, name: &str, attempts: &[&'static Attempt], more: Value) -> Tried {
        let attempts: Vec<&'static Attempt> =
            attempts.iter().copied().filter(|each| is_program(each)).collect();
        let containers = attempts.iter().map(|attempt| self.container(attempt)).collect();
        let statuses = self.run(name, containers, more);
        attempts.into_iter().map(|attempt| (attempt, tried(ended(&statuses, attempt.name)))).collect()
    }

    /// A level that keeps the node's processes from pods has stopped these attempts already.
    fn in_sight_of_the_node(&self, attempts: &[&'static Attempt]) -> Tried {
        if attempts.is_empty() {
            return Tried::new();
        }
        let fields = json!({"hostPID": true});
        if level(self.setting).is_none() {
            return self.programs("in-sight", attempts, fields);
        }
        let container = attacking("main", &["runtime-memory"], self.setting);
        let pod = pod("in-sight", &self.node, self.setting, vec![container], fields);
        let said = self.refused(&pod, "host namespaces (hostPID=true)");
        let mut hidden = self.programs("out-of-sight", attempts, json!({}));
        for (_, outcome) in &mut hidden {
            outcome.said = format!("{}; {said}", outcome.said);
        }
        hidden
    }

    fn command(&self, words: &[&str]) -> Outcome {
        let holder = running("main", &["sleep", "999999"], self.setting);
        let manifest = pod("holder", &self.node, self.setting, vec![holder], json!({}));
        self.namespace.apply(&manifest.to_string()).ok();
        self.namespace.ready("holder");
        let command: Vec<&str> = std::iter::once(PROGRAM).chain(words.iter().copied()).collect();
        let output = self.namespace.exec("holder", &command);
        assert!(matches!(output.code, 0 | 1) && !output.stdout.is_empty(), "{output:?}");
        Outcome { succeeded: output.code == 0, said: output.stdout }
    }

    /// Whether any of the directories lies outside. Most do not exist, and the container does not start.
    fn directories(&self) -> Outcome {
        let containers = DESCRIPTORS.map(|number| {
            let container = attacking(&format!("descriptor-{number}"), &["directory"], self.setting);
            with(container, json!({"workingDir": format!("/proc/self/fd/{number}")}))
        });
        let statuses = self.run("directories", containers.collect(), json!({}));
        let mut all = Outcome::blocked("");
        for number in DESCRIPTORS {
            let place = format!("/proc/self/fd/{number}");
            let each = tried_or_refused(ended(&statuses, &format!("descriptor-{number}")), &place);
            all.succeeded |= each.succeeded;
            all.said.push_str(&format!("{number}: {}\n", each.said));
        }
        all
    }

    /// Volumes that the pod filled with links before the container was made.
    fn volumes(&self, attempts: &[&'static Attempt]) -> Tried {
        let outside = self.outside.display();
        let fill = format!(
            "ln -s {outside} /filled/links/out && ln -s / /filled/links/top && echo forged > /filled/forged/forged && \
             ln -s /proc/interrupts /filled/nulls/null && ln -s /kept/file /filled/consoles/console && \
             echo kept > /filled/kept/file"
        );
        const VOLUMES: [&str; 6] = ["links", "forged", "nulls", "consoles", "kept", "empty"];
        let mounted: Vec<Value> = VOLUMES
            .iter()
            .map(|name| json!({"name": name, "mountPath": format!("/filled/{name}")}))
            .collect();
        let filler =
            with(running("filler", &["sh", "-c", &fill], self.setting), json!({"volumeMounts": mounted}));
        let at = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let mut containers = Vec::new();
        for attempt in attempts {
            let (words, fields) = match attempt.way {
                Way::LinkInVolume => {
                    let mounts = [at("links", "/volume"), at("empty", "/volume/out/made")];
                    (vec!["directory"], json!({"volumeMounts": mounts}))
                }
                Way::NullInVolume => {
                    (vec!["read", "/proc/interrupts"], json!({"volumeMounts": [at("nulls", "/dev")]}))
                }
                Way::VolumeAt(path) => {
                    let path = path.replace("/volume/link/", "/volume/top/");
                    let mounts = [at("links", "/volume"), at("forged", &path)];
                    (vec!["read", "/proc/tty/forged"], json!({"volumeMounts": mounts}))
                }
                Way::ConsoleInVolume => {
                    let mounts = [at("consoles", "/dev"), at("kept", "/kept")];
                    (vec!["emptied", "/kept/file"], json!({"volumeMounts": mounts, "tty": true}))
                }
                Way::LinkForPart => {
                    let part = with(at("links", "/part"), json!({"subPath": "out"}));
                    (vec!["read", "/part/secret"], json!({"volumeMounts": [part]}))
                }
                _ => continue,
            };
            containers.push(with(attacking(attempt.name, &words, self.setting), fields));
        }
        let volumes: Vec<Value> = VOLUMES.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
        let fields = json!({"initContainers": [filler], "volumes": volumes});
        let statuses = self.run("volumes", containers, fields);
        let outcome = |attempt: &Attempt| {
            let end = || ended(&statuses, attempt.name);
            Some(match attempt.way {
                // Below the container's root there is nothing where the link leads.
                Way::LinkInVolume => Outcome {
                    succeeded: fs::exists(self.outside.join("made")).expect("it can be looked for"),
                    ..tried_or_refused(end(), "cannot make the mount point /volume/out/made")
                },
                Way::NullInVolume => tried(end()),
                Way::VolumeAt(_) => {
                    tried_or_refused(end(), "\"/proc/tty\" cannot be mounted because it is inside /proc")
                }
                Way::ConsoleInVolume => tried_or_refused(end(), "/dev/console"),
                Way::LinkForPart => {
                    tried_or_refused(end(), "failed to prepare subPath for volumeMount \"links\"")
                }
                _ => return None,
            })
        };
        attempts.iter().filter_map(|attempt| Some((*attempt, outcome(attempt)?))).collect()
    }

    /// The pod was given the node's directory of logs, and puts links in the places of its own: that of the
    /// attempt to come leads to an empty file, that of the other container to a secret.
    fn logs(&self, attempts: &[&'static Attempt]) -> Tried {
        let outside = self.outside.display();
        let own = format!("/logs/{}_logs_$UID", self.namespace.name);
        let writer = format!(
            "test -L {own}/writer/1.log || {{ ln -s {outside}/log {own}/writer/1.log; exit 1; }}; echo escaped"
        );
        let reader = format!(
            "mv {own}/reader/0.log {own}/reader/old.log && ln -s {outside}/secret {own}/reader/0.log && sleep 999999"
        );
        let fields = json!({
            "env": [{"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
            "volumeMounts": [{"name": "logs", "mountPath": "/logs"}],
        });
        let container = |name: &str, script: &str| {
            with(
                running(name, &["sh", "-c", &script.replace("$UID", "$(UID)")], self.setting),
                fields.clone(),
            )
        };
        let pod = pod(
            "logs",
            &self.node,
            self.setting,
            vec![container("writer", &writer), container("reader", &reader)],
            json!({
                "restartPolicy": "OnFailure",
                "volumes": [{"name": "logs", "hostPath": {"path": self.logs}}],
            }),
        );
        let of = |way: fn(&Way) -> bool| {
            attempts.iter().find(|each| way(&each.way)).copied().expect("it is in the table")
        };
        let written = of(|way| matches!(way, Way::LinkForLog));
        let read = of(|way| matches!(way, Way::LinkForReadLog));
        if level(self.setting).is_some() {
            let said = self.refused(&pod, "hostPath");
            return vec![(written, Outcome::blocked(said.clone())), (read, Outcome::blocked(said))];
        }
        self.namespace.apply(&pod.to_string()).ok();
        let said = wait_for("the container is started again, or not", || {
            let status = self.status("logs", "writer")?;
            let again = status["restartCount"].as_i64() >= Some(1);
            match end(&status)? {
                End::Tried(true, said) => Some(said),
                End::Tried(false, said) => again.then_some(said),
                End::Refused(said) => Some(said),
            }
        });
        let log = fs::read_to_string(self.outside.join("log")).expect("the file is there");
        let wrote = Outcome { succeeded: log.contains("escaped"), said: format!("{said} {log:?}") };
        let place = self.logs.clone();
        let own = wait_for("the pod has a directory of logs", || {
            let uid = self.namespace.pod("logs")["metadata"]["uid"].as_str()?.to_owned();
            Some(place.join(format!("{}_logs_{uid}/reader/0.log", self.namespace.name)))
        });
        wait_until("the log is a link", || own.is_symlink());
        let output = self.namespace.kubectl(&["logs", "logs", "-c", "reader"]);
        let said = format!("{output:?}");
        vec![(written, wrote), (read, Outcome { succeeded: said.contains("secret of the node"), said })]
    }

    /// What the API says of a pod that it doesn't let in.
    #[track_caller]
    fn refused(&self, pod: &Value, reason: &str) -> String {
        let said = self.namespace.apply(&pod.to_string()).err();
        assert!(said.contains("violates PodSecurity") && said.contains(reason), "{said}");
        said
    }

    /// The statuses of all containers, each as of when it had ended or was refused: one that is refused is
    /// tried again, while another is still at its first attempt.
    fn run(&self, name: &str, containers: Vec<Value>, more: Value) -> Vec<Value> {
        let count = containers.len();
        let manifest = pod(name, &self.node, self.setting, containers, more);
        self.namespace.apply(&manifest.to_string()).ok();
        let mut ended: BTreeMap<String, Value> = BTreeMap::new();
        wait_for(&format!("the containers of {name} have ended"), || {
            for status in self.namespace.pod(name)["status"]["containerStatuses"].as_array()? {
                if end(status).is_some() {
                    ended.insert(status["name"].as_str()?.to_owned(), status.clone());
                }
            }
            (ended.len() == count).then(|| ended.values().cloned().collect())
        })
    }

    fn status(&self, pod: &str, container: &str) -> Option<Value> {
        let statuses = self.namespace.pod(pod)["status"]["containerStatuses"].as_array()?.clone();
        statuses.into_iter().find(|status| status["name"] == container)
    }
}

fn is_program(attempt: &Attempt) -> bool {
    matches!(attempt.way, Way::Program(_) | Way::Against(_) | Way::AgainstAddress(_))
}

fn ended(statuses: &[Value], container: &str) -> End {
    let status = statuses.iter().find(|status| status["name"] == container).expect("it is in the pod");
    end(status).expect("it has ended")
}
