//! Differences of two stocks: ours, those of others, and what was made for pods.

use super::*;

#[test]
fn control_groups_of_the_name_inside_of_a_node_are_the_nodes() {
    let ours = Ours { cgroups: vec!["kubepods".into()], ..Ours::default() };
    for (path, expected) in [
        ("/sys/fs/cgroup/kubepods/podu", true),
        ("/sys/fs/cgroup/cpu/kubepods", true),
        ("/sys/fs/cgroup/skiff-x/node/kubepods", false),
        ("/sys/fs/cgroup/cpu/skiff-x/node/kubepods", false),
    ] {
        assert_eq!(ours.is_ours("cgroups", path), expected, "{path}");
    }
}

#[test]
fn data_of_an_earlier_time_are_gone_by_wish() {
    let ours = Ours { paths: vec!["/d".into()], ..Ours::default() };
    let files = |all: &[&str]| Stock {
        files: all.iter().map(|fact| (*fact).to_owned()).collect(),
        ..Stock::default()
    };
    assert_eq!(compare(&files(&["/d/", "/d/store.db 7"]), &files(&[]), &ours), []);
    assert_eq!(compare(&files(&[]), &files(&["/d/"]), &ours).len(), 1);
}

fn stock(links: &[&str], routes: &[&str], processes: &[&str]) -> Stock {
    let facts = |all: &[&str]| all.iter().map(|fact| (*fact).to_owned()).collect();
    Stock { links: facts(links), routes: facts(routes), processes: facts(processes), ..Stock::default() }
}

fn ours() -> Ours {
    Ours {
        links: vec!["skf-a".into()],
        ranges: vec!["10.244.0.0/16".parse().expect("a range")],
        processes: ["7 100".to_owned()].into(),
        ..Ours::default()
    }
}

#[test]
fn what_others_changed_is_told_apart() {
    let before = stock(&["lo", "eth1"], &[], &["1 1 init"]);
    let after = stock(&["lo", "skf-a"], &["eth0 0000F40A 0 0000FFFF"], &["1 1 init", "7 100 x y", "8 7 vi"]);
    let told: Vec<(String, bool, bool)> =
        compare(&before, &after, &ours()).into_iter().map(|one| (one.fact, one.added, one.ours)).collect();
    let expected = [
        ("eth1", false, false),
        ("skf-a", true, true),
        ("eth0 0000F40A 0 0000FFFF", true, cfg!(target_endian = "little")),
        ("7 100 x y", true, true),
        ("8 7 vi", true, false),
    ];
    assert_eq!(told, expected.map(|(fact, added, ours)| (fact.to_owned(), added, ours)));
    let text = text(&before, &after, &compare(&before, &after, &ours()), &[]);
    assert!(text.contains("left over of ours: links: skf-a\n"), "{text}");
    assert!(text.contains("removed by others meanwhile: links: eth1\n"), "{text}");
    assert!(text.ends_with("3 of ours differ.\n"), "{text}");
}

#[test]
fn what_others_changed_is_one_change() {
    let tables = |all: &[&str]| Stock {
        nftables: all.iter().map(|fact| (*fact).to_owned()).collect(),
        ..Stock::default()
    };
    let before = tables(&["inet a: 3 rules", "ip b: 1 rules", "ip c: 1 rules"]);
    let after = tables(&["inet a: 4 rules", "ip6 b: 1 rules", "ip c: 1 rules"]);
    let text = text(&before, &after, &compare(&before, &after, &ours()), &[]);
    let others: Vec<&str> = text.lines().filter(|line| line.contains("by others")).collect();
    assert_eq!(
        others,
        [
            "removed by others meanwhile: nftables: ip b: 1 rules",
            "changed by others meanwhile: nftables: inet a: 4 rules (before: inet a: 3 rules)",
            "made by others meanwhile: nftables: ip6 b: 1 rules",
        ]
    );
    assert!(text.ends_with("Nothing of ours is left.\n"), "{text}");
}

#[test]
fn of_every_kind_ours_is_told_from_others() {
    let ours = Ours {
        tables: vec!["skiff".into()],
        cgroups: vec!["skiff-a".into()],
        paths: vec!["/data".into()],
        sysctls: vec![FORWARDING.into()],
        namespaces: [("net:[7]".to_owned(), Facts::new())].into(),
        ..ours()
    };
    for (kind, own, other) in [
        ("links", "skf-a", "eth7"),
        ("addresses", "eth0 10.244.0.1/24", "eth0 192.0.2.1/24"),
        ("routes", "skf-a 00000000 0 00000000", "eth0 00000000 0 00000000"),
        ("nftables", "ip skiff: 1 chains, 2 rules, 0 sets, digest 00", "inet skiff: 1 chains"),
        ("nftables", "arp skiff: 1 chains, 1 rules, 1 sets, digest 00", "bridge skiff: 1 chains"),
        ("mounts", "/data/v tmpfs tmpfs", "/database tmpfs tmpfs"),
        ("cgroups", "/sys/fs/cgroup/skiff-a/node", "/sys/fs/cgroup/user"),
        ("namespaces", "net:[7]", "net:[8]"),
        ("processes", "7 100 x", "7 101 x"),
        ("sysctls", "net/ipv4/conf/eth0/forwarding = 1", "net/ipv4/conf/eth0/mtu = 1"),
        ("files", "/data/", "/database 7"),
    ] {
        assert!(ours.is_ours(kind, own) && !ours.is_ours(kind, other), "{kind}: {own}, {other}");
    }
}

#[test]
fn a_namespace_that_took_the_number_of_one_of_ours_is_somebody_elses() {
    let members = |all: &[(&str, &[&str])]| -> Members {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        all.iter().map(|(name, of_it)| ((*name).to_owned(), of(of_it))).collect()
    };
    let learned = members(&[
        ("net:[1]", &["7 100", "8 100"]),
        ("net:[2]", &["9 100"]),
        ("net:[3]", &["7 100"]),
        ("net:[4]", &["7 100"]),
    ]);
    let ours = Ours { namespaces: learned, ..ours() };
    // One of two is left; an older one is in a new namespace of that number; a PID was used again; gone.
    let now = members(&[("net:[1]", &["8 100"]), ("net:[2]", &["3 50", "12 120"]), ("net:[3]", &["7 300"])]);
    assert_eq!(ours.still_held(&now).namespaces.into_keys().collect::<Vec<_>>(), ["net:[1]"]);
}

#[test]
fn who_holds_a_namespace_of_ours_is_named() {
    let words = "held open by process 9 (sleep 5)".to_owned();
    let holder = held::Holder { id: "9 100".into(), words };
    let after = Stock {
        namespaces: ["net:[1]".to_owned()].into(),
        held: [("net:[1]".to_owned(), [holder].into())].into(),
        ..Stock::default()
    };
    // He held it when it was learned too: a mount or an open file keeps it beyond its last member.
    let mut now = Members::new();
    held::join(&mut now, &after.held);
    let namespaces = [("net:[1]".to_owned(), ["7 100".to_owned(), "9 100".to_owned()].into())].into();
    let ours = Ours { namespaces, ..ours() }.still_held(&now);
    let told = text(&Stock::default(), &after, &compare(&Stock::default(), &after, &ours), &[]);
    let line = "left over of ours: namespaces: net:[1], held open by process 9 (sleep 5)\n";
    assert!(told.contains(line) && told.ends_with("1 of ours differ.\n"), "{told}");
}

#[test]
fn no_difference_is_the_proof() {
    let same = stock(&["lo"], &[], &[]);
    assert_eq!(compare(&same, &same, &ours()), []);
    let told = text(&same, &same, &[], &[]);
    assert!(told.ends_with("Nothing of ours is left.\n"));
    assert!(
        told.contains("\nNot looked at: what pods wrote to paths of this machine that hostPath volumes "),
        "{told}"
    );
}

#[test]
fn what_was_made_for_pods_is_told_apart_from_ours_and_from_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = |name: &str, whose: &str| -> MadePath {
        let path = dir.path().join(name);
        serde_json::from_value(serde_json::json!({"path": path, "for": whose, "state": "begun"}))
            .expect("as it is written down")
    };
    fs::create_dir(dir.path().join("d")).expect("makes");
    fs::write(dir.path().join("f"), "x").expect("writes");
    // Two nodes of one machine had the same path made, and one is gone again.
    let made = still_there(vec![made("f", "n/a"), made("d", "n/a"), made("d", "n/b"), made("gone", "n/a")]);
    let of = |name: &str| dir.path().join(name).display().to_string();
    let same = stock(&["lo"], &[], &[]);
    let files = [format!("{}/", of("d")), format!("{} 1", of("f")), format!("{}/", of("others"))];
    let after = Stock { files: files.into(), ..same.clone() };
    let mut differences = compare(&same, &after, &ours());
    assert_eq!(differences.len(), 3);
    differences.retain(|one| !told_as_made(one, &made));
    let told = text(&same, &after, &differences, &made);
    let line = |name: &str, whose: &str| {
        format!("made for pods by hostPath, still there: {} (for {whose})\n", of(name))
    };
    assert!(told.contains(&(line("d", "n/b") + &line("f", "n/a"))), "{told}");
    assert!(told.contains(&format!("made by others meanwhile: files: {}/\n", of("others"))), "{told}");
    assert_eq!(told.matches("by others meanwhile").count(), 1, "{told}");
    let end = "\nNothing else of ours is left; 2 paths that were made for pods are there, yours to keep or to \
               remove.\n";
    assert!(told.ends_with(end), "{told}");
    // Beside what is ours, both are counted.
    let left = stock(&["lo", "skf-a"], &[], &[]);
    let told = text(&same, &left, &compare(&same, &left, &ours()), &made[..1]);
    let end = "\n1 of ours differ; 1 path that was made for a pod is there, yours to keep or to remove.\n";
    assert!(told.ends_with(end), "{told}");
}
