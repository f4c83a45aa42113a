//! The steps of the tour: what is typed, and what must stand in what it prints. What is said about them is
//! in the languages' tables.

mod host;
mod network;
mod pods;
mod ports;
mod rules;

/// One command of a step.
pub(super) struct Typed {
    pub(super) command: &'static str,
    /// All of these stand in what it prints; `!` in front: does not. `{pods}`, `{nodes}` and `{services}` are
    /// how addresses of these ranges begin.
    pub(super) expect: &'static [&'static str],
}

pub(super) struct Step {
    /// The scenario's name: a letter and a number.
    pub(super) id: &'static str,
    /// File name and text.
    pub(super) manifest: Option<(&'static str, &'static str)>,
    /// Pods of earlier steps that this one speaks to: who begins here gets them first.
    pub(super) needs: &'static [Needed],
    pub(super) typed: &'static [Typed],
    /// From the running system.
    pub(super) explained: &'static [Typed],
    /// What the step leaves behind, and no later one speaks to, goes by this.
    pub(super) cleanup: &'static str,
}

/// A pod, and the file that makes it.
pub(super) struct Needed {
    pub(super) pod: &'static str,
    pub(super) file: &'static str,
}

const KUBIA: Needed = Needed { pod: "kubia", file: "kubia.yaml" };
const CLIENT: Needed = Needed { pod: "client", file: "client.yaml" };
const HOST_PORT: Needed = Needed { pod: "kubia-hostport", file: "host-port.yaml" };
const SIMPLEWEB: Needed = Needed { pod: "simpleweb", file: "simpleweb.yaml" };
const HOST_PID: Needed = Needed { pod: "pod-with-host-pid-and-ipc", file: "host-pid.yaml" };

const fn type_in(command: &'static str, expect: &'static [&'static str]) -> Typed {
    Typed { command, expect }
}

macro_rules! manifest {
    ($file:literal) => {
        Some(($file, include_str!(concat!("../manifests/", $file))))
    };
}
use manifest;

/// Where the tour works.
pub(super) const NAMESPACE: &str = "skiff-tour";
/// The namespace of the step about Pod Security.
pub(super) const GUARDED: &str = "skiff-tour-guarded";
/// What outlives the tour's namespaces goes by this: files in a node's memory, and what they name.
macro_rules! outside {
    () => {
        "skiff node shell --name $CLUSTER $NODE_A -- sh -c 'cd /dev/shm; test -s skiff-tour-semaphores && ipcrm -s $(tr -dc 0-9 < skiff-tour-semaphores); test -s skiff-tour-queue && ipcrm -q $(tr -dc 0-9 < skiff-tour-queue); rm -f skiff-tour skiff-tour-pod skiff-tour-semaphores skiff-tour-queue /dev/mqueue/skiff-tour'"
    };
}
use outside;

pub(super) const OUTSIDE: &str = outside!();

/// All steps in their order. `$NODE_A` and `$NODE_B` are two nodes that take pods, `$IP_A` and `$IP_B` their
/// addresses; `$M` is the directory of the manifests.
pub(super) fn steps() -> Vec<&'static Step> {
    [pods::STEPS, network::STEPS, ports::STEPS, network::SERVICES, host::STEPS, rules::STEPS]
        .into_iter()
        .flatten()
        .collect()
}

/// Further files that steps name.
pub(super) const FILES: &[(&str, &str)] = &[
    ("port-waiter.yaml", include_str!("../manifests/port-waiter.yaml")),
    ("differing-ports.yaml", include_str!("../manifests/differing-ports.yaml")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_a_step_and_is_explained_by_the_running_system() {
        let ids: Vec<&str> = steps().iter().map(|step| step.id).collect();
        let rows = "A1 A2 A3 B1 B2 B3 C1 C2 C3 C4 D1 D2 D3 E1 F1 F2 F3 G1 H1 H2 H3";
        assert_eq!(ids.join(" "), rows);
        for step in steps() {
            assert!(!step.typed.is_empty() && !step.explained.is_empty(), "{}", step.id);
            for typed in step.typed.iter().chain(step.explained) {
                assert!(
                    !typed.expect.is_empty(),
                    "{}: {} is expected to print nothing",
                    step.id,
                    typed.command
                );
            }
            for typed in step.explained {
                assert!(typed.command.starts_with("skiff "), "{}: {}", step.id, typed.command);
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_written_and_no_other() {
        let all = steps();
        let mut files: Vec<&str> = all
            .iter()
            .filter_map(|step| step.manifest)
            .chain(FILES.iter().copied())
            .map(|(name, _)| name)
            .collect();
        files.sort_unstable();
        let needed = all.iter().flat_map(|step| step.needs).map(|needed| needed.file);
        let commands = all.iter().flat_map(|step| step.typed.iter().chain(step.explained));
        let words = commands.flat_map(|typed| typed.command.split([' ', ';']));
        let mut named: Vec<&str> = words.filter_map(|word| word.strip_prefix("$M/")).chain(needed).collect();
        named.retain(|name| name.ends_with(".yaml"));
        named.sort_unstable();
        named.dedup();
        assert_eq!(named, files);
    }

    #[test]
    fn what_a_step_speaks_to_is_there_whoever_begins_with_it() {
        // What a step makes itself, or needs, is all that its commands and its explanations may name.
        let all = [&KUBIA, &CLIENT, &HOST_PORT, &SIMPLEWEB, &HOST_PID];
        for step in steps() {
            let commands: Vec<&str> =
                step.typed.iter().chain(step.explained).map(|typed| typed.command).collect();
            for one in all {
                let spoken_to =
                    [format!("exec {} ", one.pod), format!("pod/{}", one.pod), format!("pod {}", one.pod)];
                let named = commands.iter().any(|command| {
                    spoken_to.iter().any(|words| {
                        let ends = |rest: &str| !rest.starts_with(|c: char| c == '-' || c.is_alphanumeric());
                        command.split(words.as_str()).skip(1).any(|rest| words.ends_with(' ') || ends(rest))
                    })
                });
                let made = commands.iter().any(|command| command.contains(one.file));
                let needed = step.needs.iter().any(|needed| needed.pod == one.pod);
                assert!(!named || made || needed, "{} speaks to {}", step.id, one.pod);
            }
        }
    }
}
