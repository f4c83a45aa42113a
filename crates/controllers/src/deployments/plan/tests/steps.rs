//! Single steps, by values.

use super::*;

/// A set with pods wanted and available, made in that second, sized last for a deployment of `noted`.
fn set(name: &str, (wanted, ready): (i32, i32), second: u8, noted: i32) -> Arc<ReplicaSet> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name,
                "creationTimestamp": format!("2020-01-01T00:00:{second:02}Z"),
                "annotations": {revisions::DESIRED: noted.to_string()}},
            "spec": {"replicas": wanted, "selector": {}, "template": {}},
            "status": {"replicas": wanted, "availableReplicas": ready},
        }))
        .unwrap(),
    )
}

fn show(sizes: &[Size]) -> String {
    sizes.iter().map(|size| format!("{}={}", size.set, size.replicas)).collect::<Vec<_>>().join(" ")
}

/// One step: the current set `new`, and old ones, the oldest first.
fn step(deployment: &Deployment, new: (i32, i32), old: &[(i32, i32)]) -> String {
    let wanted = wanted(deployment);
    let current = set("new", new, 59, wanted);
    let names = ["a", "b", "c"];
    // As they come from a map: in no order of age.
    let mut old: Vec<_> =
        old.iter().enumerate().map(|(at, pods)| set(names[at], *pods, at as u8, wanted)).collect();
    old.reverse();
    show(&sizes(deployment, Some(&current), &old, false))
}

#[test]
fn a_step_of_a_rollout_grows_or_shrinks_within_the_bounds() {
    for (wanted, surge, missing, new, old, expected) in [
        // The new set grows as far as there is room, and no further than it is wanted.
        (4, 1, 1, (0, 0), &[(4, 4)][..], "new=1"),
        (4, 2, 0, (0, 0), &[(4, 4)], "new=2"),
        (2, 2, 0, (1, 1), &[], "new=2"),
        (4, 1, 1, (6, 6), &[(1, 1)], "new=4"),
        (4, 0, 1, (0, 0), &[(5, 5)], "a=3"),
        // Old pods go as far as enough are available: of the oldest set first.
        (4, 1, 1, (1, 1), &[(4, 4)], "a=2"),
        (4, 1, 1, (1, 0), &[(4, 4)], "a=3"),
        (4, 1, 0, (1, 0), &[(4, 4)], ""),
        (4, 1, 0, (1, 1), &[(4, 4)], "a=3"),
        (4, 1, 1, (1, 1), &[(2, 2), (2, 2)], "a=0"),
        (6, 0, 3, (2, 2), &[(2, 2), (2, 2)], "a=0 b=1"),
        (4, 0, 4, (2, 2), &[(1, 1), (1, 1)], "a=0 b=0"),
        // Those that are not available anyway go first, whichever set they are of.
        (4, 1, 1, (1, 1), &[(2, 2), (2, 0)], "b=0"),
        (4, 1, 1, (1, 1), &[(2, 1), (2, 1)], "a=1 b=1"),
        (4, 0, 1, (0, 0), &[(2, 0), (2, 2)], "a=1"),
        (5, 0, 1, (2, 2), &[(1, 0), (2, 2)], "a=0"),
        (6, 2, 1, (2, 1), &[(3, 1), (3, 3)], "a=1"),
        (5, 1, 1, (2, 1), &[(4, 0)], "a=3"),
        (4, 1, 1, (1, 1), &[(2, 0), (2, 0)], "a=0"),
        (4, 1, 1, (4, 4), &[], ""),
        (4, 1, 1, (4, 2), &[(1, 1)], ""),
        (4, 1, 1, (4, 3), &[(1, 1)], "a=0"),
        (4, 1, 1, (4, 4), &[(0, 0), (1, 1)], "b=0"),
        // More are said to be available than there are, as a status may lag behind.
        (4, 0, 1, (3, 4), &[(1, 1)], "a=0"),
    ] {
        let deployment = deployment(wanted, rolling(json!(surge), json!(missing)), "one");
        assert_eq!(
            step(&deployment, new, old),
            expected,
            "{wanted} wanted, {surge} more, {missing} less: {new:?}, old {old:?}"
        );
    }
}

#[test]
fn sets_share_in_a_change_of_size_by_their_own() {
    let scaled = |wanted: i32, surge: i32, new: Option<(i32, i32)>, old: &[(i32, i32)]| {
        let deployment = deployment(wanted, rolling(json!(surge), json!(1)), "one");
        let current = new.map(|pods| set("new", pods, 59, 1));
        let names = ["a", "b", "c"];
        let old: Vec<_> =
            old.iter().enumerate().map(|(at, pods)| set(names[at], *pods, at as u8, 1)).collect();
        let mut sizes = sizes(&deployment, current.as_deref(), &old, false);
        sizes.sort_by(|a, b| a.set.cmp(&b.set));
        show(&sizes)
    };
    assert_eq!(scaled(7, 0, Some((3, 3)), &[(3, 3)]), "a=3 new=4", "the newer grows");
    assert_eq!(scaled(5, 0, Some((3, 3)), &[(3, 3)]), "a=2 new=3", "the older shrinks");
    assert_eq!(scaled(9, 0, Some((2, 2)), &[(4, 4)]), "a=6 new=3");
    assert_eq!(scaled(3, 0, Some((2, 2)), &[(4, 4)]), "a=2 new=1");
    assert_eq!(scaled(0, 1, Some((2, 2)), &[(4, 4)]), "a=0 new=0", "nothing is wanted");
    assert_eq!(scaled(8, 1, Some((2, 2)), &[(4, 4)]), "a=6 new=3");
    assert_eq!(scaled(10, 0, Some((3, 3)), &[(3, 3), (3, 3)]), "a=3 b=3 new=4");
    // One alone, or none of the present template.
    assert_eq!(scaled(3, 1, Some((1, 1)), &[(0, 0)]), "new=3");
    assert_eq!(scaled(3, 1, None, &[(1, 1), (0, 0)]), "a=3");
}

#[test]
fn a_set_that_has_all_ends_the_others_when_the_size_changes() {
    let sized = |new: (i32, i32), noted: i32| {
        let deployment = deployment(5, rolling(json!(1), json!(1)), "one");
        let current = set("new", new, 59, noted);
        show(&sizes(&deployment, Some(&current), &[set("a", (1, 1), 1, 3), set("b", (2, 2), 2, 3)], false))
    };
    assert_eq!(sized((5, 5), 5), "a=0 b=0");
    // It has too few yet, or was sized for another number: then all share, in 6 for 5 and one more.
    assert_eq!(sized((5, 4), 5), "new=3 b=2 a=1");
    assert_eq!(sized((5, 5), 4), "new=3 b=2 a=1");
    assert_eq!(sized((4, 5), 5), "new=3 b=2 a=1");
}

#[test]
fn sets_of_a_recreation_stand_apart_even_while_it_is_scaled() {
    let sized = |paused: bool, new: (i32, i32), old: (i32, i32)| {
        let mut deployment = deployment(4, json!({"type": "Recreate"}), "one");
        deployment.spec.as_mut().unwrap().paused = Some(paused);
        let current = set("new", new, 59, 2);
        show(&sizes(&deployment, Some(&current), &[set("a", old, 1, 2)], false))
    };
    assert_eq!(sized(false, (1, 1), (1, 1)), "a=0");
    assert_eq!(sized(true, (1, 1), (1, 1)), "new=2 a=2");
    assert_eq!(sized(false, (2, 2), (0, 0)), "new=4");
    assert_eq!(sized(false, (0, 0), (2, 2)), "a=4", "the only one that has pods is scaled first");
}
