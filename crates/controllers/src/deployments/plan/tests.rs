//! Whole rollouts on values: the plan's sizes applied step by step, with pods that become ready in between.

use serde_json::{Value, json};

use super::*;
use crate::deployments::{revisions, status};

mod steps;

fn deployment(replicas: i32, strategy: Value, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// A deployment and its sets, as the server would hold them.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    log: Vec<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), log: Vec::new() }
    }

    /// One look of the controller.
    fn look(&mut self) {
        let current = match revisions::current(&self.deployment, &self.sets) {
            Some(current) => {
                let (marked, _) = revisions::marked(&self.deployment, &self.sets, &current);
                let current = marked.map_or(current, Arc::new);
                self.put(current.clone());
                Some(current)
            }
            None if is_paused(&self.deployment) => None,
            None if is_recreate(&self.deployment) && self.sets.iter().any(|set| replicas(set) > 0) => {
                for set in self.sets.clone() {
                    self.resize(&size(&set, 0));
                }
                return;
            }
            None if is_recreate(&self.deployment) && self.pods_left(None) => return,
            None => {
                let first = first_size(&self.deployment, &self.sets);
                let (mut set, _) = revisions::new_set(&self.deployment, &self.sets, first);
                set.metadata.uid = set.metadata.name.clone();
                let at = format!("2020-01-01T00:00:{:02}Z", self.sets.len());
                set.metadata.creation_timestamp = serde_json::from_value(json!(at)).unwrap();
                let set = Arc::new(set);
                self.sets.push(set.clone());
                Some(set)
            }
        };
        let uid = current.as_ref().and_then(|current| current.metadata.uid.clone());
        let old: Vec<_> = self.sets.iter().filter(|set| set.metadata.uid != uid).cloned().collect();
        let left = self.pods_left(uid.as_deref());
        for size in sizes(&self.deployment, current.as_deref(), &old, left) {
            self.resize(&size);
        }
        self.log.push(self.show());
    }

    fn pods_left(&self, current: Option<&str>) -> bool {
        self.sets
            .iter()
            .filter(|set| set.metadata.uid.as_deref() != current)
            .any(|set| set.status.as_ref().is_some_and(|status| status.replicas > 0))
    }

    fn put(&mut self, set: Arc<ReplicaSet>) {
        for slot in &mut self.sets {
            if slot.metadata.uid == set.metadata.uid {
                *slot = set.clone();
            }
        }
    }

    fn resize(&mut self, size: &Size) {
        let deployment = self.deployment.clone();
        for slot in &mut self.sets {
            if name(slot) == size.set {
                let mut set = (**slot).clone();
                revisions::note_size(&deployment, &mut set);
                set.spec.as_mut().unwrap().replicas = Some(size.replicas);
                *slot = Arc::new(set);
            }
        }
    }

    /// Pods start and end; those that are there become ready, unless the image is broken.
    fn pods_settle(&mut self) {
        for slot in &mut self.sets {
            let mut set = (**slot).clone();
            let broken =
                set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0]
                    .image
                    .as_deref()
                    == Some("broken");
            let count = replicas(&set);
            let ready = if broken { 0 } else { count };
            set.status = serde_json::from_value(
                json!({"replicas": count, "availableReplicas": ready, "readyReplicas": ready,
                "observedGeneration": 0}),
            )
            .unwrap();
            *slot = Arc::new(set);
        }
    }

    fn show(&self) -> String {
        self.sets.iter().map(|set| replicas(set).to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Looks until nothing changes, checking the bounds of the strategy at each step.
    fn settle(&mut self) -> Vec<String> {
        self.log.clear();
        let mut was_available = self.available();
        for _ in 0..100 {
            let before = self.sets.clone();
            self.look();
            self.pods_settle();
            let total: i32 = self.sets.iter().map(|set| replicas(set)).sum();
            let bound = wanted(&self.deployment) + surge(&self.deployment);
            assert!(total <= bound.max(before.iter().map(|set| replicas(set)).sum()), "{:?}", self.log);
            let least = wanted(&self.deployment) - unavailable(&self.deployment);
            let available = self.available();
            if !is_recreate(&self.deployment) {
                assert!(available >= least.min(was_available), "{:?}", self.log);
            }
            was_available = available;
            if before == self.sets {
                self.log.dedup();
                return self.log.clone();
            }
        }
        panic!("it never ends: {:?}", self.log);
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|set| available(set)).sum()
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image =
            Some(image.to_owned());
    }

    fn set_replicas(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
    }

    fn revisions(&self) -> Vec<i64> {
        self.sets.iter().map(|set| revisions::revision(&set.metadata)).collect()
    }
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    let mut world = World::new(deployment(4, json!({"type": "RollingUpdate"}), "one"));
    assert_eq!(world.settle(), ["4"]);
    world.set_image("two");
    assert_eq!(world.settle(), ["3 1", "3 2", "1 2", "1 4", "0 4"]);
    assert_eq!(world.revisions(), [1, 2]);
    let mut world = World::new(deployment(3, rolling(json!(1), json!(0)), "one"));
    world.settle();
    world.set_image("two");
    assert_eq!(world.settle(), ["3 1", "2 1", "2 2", "1 2", "1 3", "0 3"]);
    let mut world = World::new(deployment(3, rolling(json!(0), json!(1)), "one"));
    world.settle();
    world.set_image("two");
    assert_eq!(world.settle(), ["2 0", "2 1", "1 1", "1 2", "0 2", "0 3"]);
    let mut world = World::new(deployment(2, rolling(json!("0%"), json!("0%")), "one"));
    world.settle();
    world.set_image("two");
    assert_eq!(world.settle().last().map(String::as_str), Some("0 2"), "both zero still moves");
}

#[test]
fn every_strategy_ends_with_the_new_template() {
    for replicas in [0, 1, 2, 5, 10] {
        for (surge, missing) in [("25%", "25%"), ("100%", "0%"), ("0%", "100%"), ("30%", "10%")] {
            let mut world = World::new(deployment(replicas, rolling(json!(surge), json!(missing)), "one"));
            world.settle();
            world.set_image("two");
            world.settle();
            assert_eq!(world.show(), format!("0 {replicas}"), "{surge} {missing}");
        }
    }
}

#[test]
fn a_broken_template_stops_with_enough_pods_left_and_undo_brings_it_back() {
    let mut world = World::new(deployment(4, json!({}), "one"));
    world.settle();
    world.set_image("broken");
    world.settle();
    assert_eq!(world.show(), "3 2");
    world.set_image("one");
    world.settle();
    assert_eq!(world.show(), "4 0");
    assert_eq!(world.revisions(), [3, 2], "the old template is the newest revision");
    let history = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(history["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn scaling_reaches_the_only_set_and_is_shared_amid_a_rollout() {
    let mut world = World::new(deployment(4, json!({}), "one"));
    world.settle();
    world.set_replicas(7);
    assert_eq!(world.settle(), ["7"]);
    world.set_replicas(0);
    assert_eq!(world.settle(), ["0"]);
    world.set_replicas(10);
    world.settle();
    world.set_image("broken");
    world.settle();
    assert_eq!(world.show(), "8 5");
    world.set_replicas(20);
    world.look();
    assert_eq!(world.show(), "15 10", "25 in all, at eight to five");
    world.pods_settle();
    world.settle();
    assert_eq!(world.available(), 15);
}

#[test]
fn recreate_ends_the_old_pods_first() {
    let mut world = World::new(deployment(3, json!({"type": "Recreate"}), "one"));
    assert_eq!(world.settle(), ["3"]);
    world.set_image("two");
    world.look();
    assert_eq!((world.show(), world.sets.len()), ("0".to_owned(), 1));
    world.look();
    assert_eq!(world.sets.len(), 1, "its pods are still there");
    world.pods_settle();
    world.look();
    assert_eq!(world.show(), "0 3");
    world.pods_settle();
    world.set_image("one");
    world.look();
    assert_eq!(world.show(), "0 0");
    world.look();
    assert_eq!(world.show(), "0 0");
    world.pods_settle();
    world.look();
    assert_eq!(world.show(), "3 0");
}

#[test]
fn a_paused_deployment_is_scaled_only() {
    let mut world = World::new(deployment(2, json!({}), "one"));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("two");
    world.set_replicas(3);
    world.settle();
    assert_eq!(world.show(), "3");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    assert_eq!(world.show(), "0 3");
}

#[test]
fn a_paused_deployment_is_scaled_up_from_nothing_though_its_template_has_changed() {
    let mut world = World::new(deployment(0, json!({}), "one"));
    world.settle();
    world.set_image("two");
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("three");
    world.set_replicas(2);
    world.settle();
    assert_eq!(world.show(), "0 2", "the newest there is");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    assert_eq!(world.show(), "0 0 2");
}

#[test]
fn history_is_bounded() {
    let mut world = World::new(deployment(1, json!({}), "one"));
    world.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for image in ["one", "two", "three", "four"] {
        world.set_image(image);
        world.settle();
    }
    let old: Vec<_> = world.sets[..3].to_vec();
    let gone = revisions::superfluous(&world.deployment, &old);
    assert_eq!(gone.iter().map(|set| revisions::revision(&set.metadata)).collect::<Vec<_>>(), [1]);
}

#[test]
fn shares_round_as_their_side_needs() {
    let percent = |text: &str| IntOrString::String(text.to_owned());
    for (value, of, up, down) in [
        (percent("25%"), 4, 1, 1),
        (percent("25%"), 5, 2, 1),
        (percent("25%"), 1, 1, 0),
        (percent("0%"), 9, 0, 0),
        (percent("100%"), 9, 9, 9),
        (IntOrString::Int(3), 1, 3, 3),
    ] {
        assert_eq!((share(&value, of, true), share(&value, of, false)), (up, down), "{value:?} of {of}");
    }
}

#[test]
fn status_tells_what_rollout_status_reads() {
    use k8s_openapi::jiff::Timestamp;
    let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0)), "one"));
    let tell = |world: &mut World, seconds: i64| {
        let current = revisions::current(&world.deployment, &world.sets);
        let (told, look_again) =
            status::status(&world.deployment, &world.sets, current.as_deref(), at(seconds));
        world.deployment.status = Some(told.clone());
        let conditions: Vec<_> = told
            .conditions
            .iter()
            .flatten()
            .map(|condition| {
                format!("{}={} {}", condition.type_, condition.status, condition.reason.as_deref().unwrap())
            })
            .collect();
        let look_again = look_again.map_or(String::new(), |after| format!(" look in {}", after.as_secs()));
        format!(
            "{}/{} of {} {}{look_again}",
            told.available_replicas.unwrap_or(0),
            told.updated_replicas.unwrap_or(0),
            told.replicas.unwrap_or(0),
            conditions.join(", ")
        )
    };
    world.look();
    assert_eq!(
        tell(&mut world, 0),
        "0/0 of 0 Progressing=True NewReplicaSetCreated, Available=False MinimumReplicasUnavailable look in 601"
    );
    world.pods_settle();
    assert_eq!(
        tell(&mut world, 5),
        "2/2 of 2 Progressing=True NewReplicaSetAvailable, Available=True MinimumReplicasAvailable"
    );
    let told = world.deployment.status.clone();
    tell(&mut world, 900);
    assert_eq!(world.deployment.status, told, "nothing new, nothing to write");
    world.set_image("broken");
    world.deployment.metadata.generation = Some(2);
    world.look();
    world.pods_settle();
    assert_eq!(
        tell(&mut world, 1000),
        "2/1 of 3 Available=True MinimumReplicasAvailable, Progressing=True ReplicaSetUpdated look in 601"
    );
    assert_eq!(
        tell(&mut world, 1600),
        "2/1 of 3 Available=True MinimumReplicasAvailable, Progressing=False ProgressDeadlineExceeded"
    );
    let message = world.deployment.status.clone().unwrap().conditions.unwrap()[1].message.clone().unwrap();
    assert!(
        message.starts_with("ReplicaSet \"web-") && message.ends_with("\" has timed out progressing."),
        "{message}"
    );
}
