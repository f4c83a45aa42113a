//! Known ways out of a container, tried by a hostile program under every setting that a pod can have been let
//! in with. [`table::ATTEMPTS`] says how each ends and why; and with its guard left out each succeeds, which
//! shows that the others fail because of the guards.
//!
//! Needs root, `rustc` in the path, and `/bin/busybox` of Debian's package `busybox-static`.

#[allow(dead_code, reason = "shared with the tests in `kernel`, which use more of it")]
#[path = "../kernel/node.rs"]
mod node;
mod table;
mod ways;

use std::collections::BTreeMap;

use table::{ATTEMPTS, Attempt, Expected, Plan, Setting};
use ways::Hostile;

use skiff_runtime::*;

/// A hierarchy of version 1 names a release agent; a machine without one has nothing to attack there.
fn exists_here(attempt: &Attempt) -> bool {
    attempt.name != "release-agent" || std::fs::exists("/sys/fs/cgroup/memory/release_agent").unwrap()
}

async fn as_the_table_says(setting: Setting) {
    let hostile = Hostile::new(Weakness::default()).await;
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS.iter().filter(|attempt| exists_here(attempt)) {
        let plan = Plan {
            security: setting.security(),
            users: setting.users(),
            // A pod with users of its own can't ask for the node's processes: the API refuses both together.
            pid: match attempt.sees_node && setting.users().is_none() {
                true => NamespaceMode::Node,
                false => NamespaceMode::Container,
            },
            ..Plan::default()
        };
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
    for attempt in ATTEMPTS.iter().filter(|attempt| exists_here(attempt)) {
        let mut plan = Plan {
            security: Setting::Default.security(),
            pid: if attempt.sees_node { NamespaceMode::Node } else { NamespaceMode::Container },
            ..Plan::default()
        };
        (attempt.weaken)(&mut plan);
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
