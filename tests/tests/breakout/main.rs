//! Known ways out of a pod, tried through the whole platform: the API lets a hostile pod in, the kubelet
//! translates it, the runtime starts it on a node with a victim. How each ends, and why, is said by the table
//! that the runtime's own suite uses too; that one also leaves the runtime's guards out, which no pod can ask for.
//!
//! Nothing of the machine is changed: what concerns the whole machine is opened for writing and never written.

#[path = "../../../crates/runtime/tests/breakout/attempts.rs"]
mod attempts;
mod hostile;
mod loosened;
mod manifest;
mod outcome;

use attempts::{ATTEMPTS, Attempt, Expected, Setting};
use hostile::Hostile;

/// A hierarchy of version 1 names a release agent; a machine without one has nothing to attack there.
fn all() -> Vec<&'static Attempt> {
    let agent = std::fs::exists("/sys/fs/cgroup/memory/release_agent").expect("it can be looked for");
    ATTEMPTS.iter().filter(|attempt| agent || attempt.name != "release-agent").collect()
}

fn as_the_table_says(name: &str, setting: Setting) {
    let hostile = Hostile::new(name, setting);
    let tried = hostile.tries(&all());
    let mut wrong = Vec::new();
    for (attempt, outcome) in tried {
        let (expected, why) = match attempt.expected[setting as usize] {
            Expected::Allowed(why) => (true, why),
            Expected::Blocked(why) => (false, why),
        };
        if outcome.succeeded != expected {
            wrong.push(format!("{}: expected {expected} as {why}; {}", attempt.name, outcome.said));
        }
    }
    assert!(wrong.is_empty(), "{setting:?}:\n{}", wrong.join("\n"));
}

#[test]
fn breakout_under_the_default_setting() {
    as_the_table_says("breakout-default", Setting::Default);
}

#[test]
fn breakout_under_the_baseline_setting() {
    as_the_table_says("breakout-baseline", Setting::Baseline);
}

#[test]
fn breakout_under_the_restricted_setting() {
    as_the_table_says("breakout-restricted", Setting::Restricted);
}

#[test]
fn breakout_privileged() {
    as_the_table_says("breakout-privileged", Setting::Privileged);
}

#[test]
fn breakout_with_users_of_its_own() {
    as_the_table_says("breakout-users", Setting::Users);
}

#[test]
fn breakout_privileged_among_users_of_its_own() {
    as_the_table_says("breakout-strong-users", Setting::PrivilegedUsers);
}

/// Shows that the attempts attack something: what a pod may ask for lets it out.
#[test]
fn breakout_succeeds_where_a_pod_asked_for_it() {
    let hostile = Hostile::new("breakout-loosened", Setting::Default);
    let wrong: Vec<String> = hostile
        .tries_loosened(&all())
        .into_iter()
        .filter(|(_, outcome)| !outcome.succeeded)
        .map(|(attempt, outcome)| format!("{}: {}", attempt.name, outcome.said))
        .collect();
    assert!(wrong.is_empty(), "these do not attack anything:\n{}", wrong.join("\n"));
}
