//! Known ways out of a container, tried by a hostile program under every setting that a pod can have been let
//! in with. [`attempts::ATTEMPTS`] says how each ends and why; and with its guard left out each succeeds, which
//! shows that the others fail because of the guards.
//!
//! Needs root, `rustc` in the path, and `/bin/busybox` of Debian's package `busybox-static`.

mod attempts;
#[allow(dead_code, reason = "shared with the tests in `kernel`, which use more of it")]
#[path = "../kernel/node.rs"]
mod node;
mod plan;
mod ways;

use std::collections::BTreeMap;

use attempts::{ATTEMPTS, Attempt, Expected, Setting, Way};
use plan::Plan;
use ways::Hostile;

use skiff_runtime::Weakness;

/// The kubelet's own ways, and the network's, are the other suite's. A hierarchy of version 1 names a release agent; a machine without one
/// has nothing to attack there.
fn attempts() -> impl Iterator<Item = &'static Attempt> {
    let agent = std::fs::exists("/sys/fs/cgroup/memory/release_agent").unwrap();
    ATTEMPTS.iter().filter(move |attempt| match attempt.way {
        Way::LinkForPart | Way::LinkForReadLog | Way::AgainstAddress(_) => false,
        _ => agent || attempt.name != "release-agent",
    })
}

async fn as_the_table_says(setting: Setting) {
    let hostile = Hostile::new(Weakness::default()).await;
    let mut wrong = Vec::new();
    for attempt in attempts() {
        let plan = Plan::under(setting, attempt.sees_node);
        let (succeeded, said) = hostile.tries(attempt, &plan).await;
        let (expected, why) = match attempt.expected[setting as usize] {
            Expected::Allowed(why) => (true, why),
            Expected::Blocked(why) => (false, why),
        };
        if succeeded != expected {
            wrong.push(format!("{}: expected {expected} as {why}; {said}", attempt.name));
        }
    }
    assert!(wrong.is_empty(), "{setting:?}:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn under_the_default_setting() {
    as_the_table_says(Setting::Default).await;
}

#[tokio::test]
async fn under_the_baseline_setting() {
    as_the_table_says(Setting::Baseline).await;
}

#[tokio::test]
async fn under_the_restricted_setting() {
    as_the_table_says(Setting::Restricted).await;
}

#[tokio::test]
async fn privileged() {
    as_the_table_says(Setting::Privileged).await;
}

#[tokio::test]
async fn with_users_of_its_own() {
    as_the_table_says(Setting::Users).await;
}

#[tokio::test]
async fn privileged_among_users_of_its_own() {
    as_the_table_says(Setting::PrivilegedUsers).await;
}

#[tokio::test]
async fn without_its_guard_every_attempt_succeeds() {
    // A node for each weakness of the runtime's own.
    let mut nodes: BTreeMap<String, Hostile> = BTreeMap::new();
    let mut wrong = Vec::new();
    for attempt in attempts() {
        let plan = Plan::under(Setting::Default, attempt.sees_node).without(attempt.loosened);
        let key = format!("{:?}", plan.weakness);
        if !nodes.contains_key(&key) {
            nodes.insert(key.clone(), Hostile::new(plan.weakness).await);
        }
        let (succeeded, said) = nodes[&key].tries(attempt, &plan).await;
        if !succeeded {
            wrong.push(format!("{}: {said}", attempt.name));
        }
    }
    assert!(wrong.is_empty(), "these do not attack anything:\n{}", wrong.join("\n"));
}
