//! What is broken on purpose is named: a rule that somebody else put there, a route, a link.

use serde_json::Value;
use skiff_tests::{Cluster, Namespace, wait_for, wait_until};

use crate::{peer, traced};

/// A cluster of its own: what is broken here would break other tests.
pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    pub(crate) cluster: skiff_tests::OwnCluster,
}

pub(crate) fn scene(name: &str) -> Scene {
    let cluster = Cluster::start(name, 3);
    let namespace = cluster.namespace("damage");
    let pods = [
        peer("c1", &cluster.worker(1), "", "tcp, '7000'", "{containerPort: 7000}"),
        peer("s2", &cluster.worker(2), "", "tcp, '7000'", "{containerPort: 7000, hostPort: 18954}"),
    ];
    namespace.apply(&pods.concat()).ok();
    ["c1", "s2"].iter().for_each(|pod| namespace.serves(pod));
    Scene { namespace, cluster }
}

/// What is told and seen. Once more where an agent had no time for its answer, which is of the machine and not
/// of what was broken.
pub(crate) fn live(scene: &Scene) -> Value {
    wait_for("every agent answers in time", || {
        let told = traced(&scene.namespace, &["c1", "s2", "--live"]);
        let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
        let whole = told["live"].is_object() && !summary.contains(" can't say: ");
        if !whole {
            eprintln!("told in part: {}, {}", told["ways"][0]["summary"], told["missing"]);
        }
        whole.then_some(told)
    })
}

#[track_caller]
pub(crate) fn agrees(told: &Value) {
    assert_eq!(told["live"]["differences"], serde_json::json!([]), "{told:#}");
}

#[test]
fn damage_is_named_and_agrees_with_a_real_connection() {
    let scene = scene("trace-damage");
    let (one, two) = (scene.cluster.worker(1), scene.cluster.worker(2));
    let on = |node: &str, command: &[&str]| scene.cluster.on_node(node, command).ok();
    let range =
        scene.cluster.object(&["node", &two])["spec"]["podCIDR"].as_str().expect("a range").to_owned();
    // A node makes its route to another one's pods when it hears of it.
    let routes = wait_for("the one knows the way to the other", || {
        Some(on(&one, &["ip", "route", "show", &range])).filter(|routes| !routes.trim().is_empty())
    });
    let told = live(&scene);
    assert_eq!(told["ways"][0]["verdict"], "Delivered", "{told:#}");
    agrees(&told);

    // A rule that drops, in a table that is not ours.
    on(
        &two,
        &[
            "nft",
            "add table ip foreign; add chain ip foreign stop { type filter hook forward priority 5; }; add rule ip foreign stop tcp dport 7000 drop",
        ],
    );
    let told = live(&scene);
    let way = &told["ways"][0];
    assert_eq!(way["verdict"], "Dropped", "{told:#}");
    let summary = way["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("chain stop of table foreign"), "{summary}");
    assert!(way["advice"].as_str().unwrap_or_default().contains("not Skiff's"), "{way:#}");
    agrees(&told);
    on(&two, &["nft", "delete table ip foreign"]);

    // One that drops on the bridge itself, one at the sender's device, and one whose question nobody can answer
    // here: that is no fault.
    on(
        &two,
        &[
            "nft",
            "add table bridge alien; add chain bridge alien stop { type filter hook output priority 0; }; add rule bridge alien stop ip daddr != 127.0.0.1 tcp dport 7000 drop",
        ],
    );
    let told = live(&scene);
    let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("chain stop of table bridge alien"), "{told:#}");
    assert_eq!(told["ways"][0]["verdict"], "Dropped", "{told:#}");
    agrees(&told);
    on(&two, &["nft", "flush chain bridge alien stop; add rule bridge alien stop ip ttl 1-255 drop"]);
    let told = live(&scene);
    let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
    assert!(summary.starts_with("not known") && summary.contains("table bridge alien"), "{told:#}");
    assert_eq!(
        (&told["ways"][0]["verdict"], &told["live"]["outcome"]),
        (&"Unknown".into(), &"silent".into())
    );
    agrees(&told);
    on(&two, &["nft", "delete table bridge alien"]);
    let told = live(&scene);
    assert_eq!(told["ways"][0]["verdict"], "Delivered", "{told:#}");
    let hops = told["ways"][0]["hops"].as_array().cloned().unwrap_or_default();
    let sender = hops.iter().find(|hop| hop["kind"] == "veth").and_then(|hop| hop["device"].as_str());
    let sender = sender.expect("it goes over a veth").to_owned();
    on(
        &one,
        &[
            "nft",
            &format!(
                "add table netdev alien; add chain netdev alien stop {{ type filter hook ingress device {sender} priority 0; }}; add rule netdev alien stop ip protocol tcp drop"
            ),
        ],
    );
    let told = live(&scene);
    let summary = told["ways"][0]["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("chain stop of table netdev alien"), "{told:#}");
    agrees(&told);
    // It is before all routing, and is seen there all the same.
    let seen = told["live"]["seen"].as_array().cloned().unwrap_or_default();
    let stop = seen.iter().find(|sighting| sighting["chain"] == "stop");
    assert_eq!(stop.map(|sighting| &sighting["verdict"]), Some(&"drop".into()), "{told:#}");
    on(&one, &["nft", "delete table netdev alien"]);

    // A route that is gone: the way is then over the router, which knows all nodes.
    on(&one, &["ip", "route", "del", &range]);
    let told = live(&scene);
    let text = told["ways"][0]["hops"].to_string();
    assert!(text.contains("passes it on to node") && text.contains("has no route of its own"), "{told:#}");
    agrees(&told);
    // And one that forbids it.
    on(&one, &["ip", "route", "add", "unreachable", &range]);
    let told = live(&scene);
    assert_eq!(told["ways"][0]["verdict"], "Unreachable", "{told:#}");
    agrees(&told);
    on(&one, &["ip", "route", "del", "unreachable", &range]);
    let restore: Vec<&str> = routes.split_whitespace().collect();
    on(&one, &[&["ip", "route", "replace"], restore.as_slice()].concat());
    agrees(&live(&scene));

    // A veth that is down.
    let told = live(&scene);
    let hops = told["ways"][0]["hops"].as_array().cloned().unwrap_or_default();
    let veth = hops
        .iter()
        .rev()
        .find(|hop| hop["kind"] == "veth" && hop["place"] == format!("node {two}"))
        .and_then(|hop| hop["device"].as_str())
        .expect("it goes over a veth")
        .to_owned();
    on(&two, &["ip", "link", "set", &veth, "down"]);
    let told = live(&scene);
    let way = &told["ways"][0];
    assert_eq!(way["verdict"], "Unreachable", "{told:#}");
    let summary = way["summary"].as_str().unwrap_or_default();
    assert!(summary.contains(&veth) && summary.contains("down"), "{summary}");
    agrees(&told);
    on(&two, &["ip", "link", "set", &veth, "up"]);
    // And that of the sender.
    let told = live(&scene);
    let hops = told["ways"][0]["hops"].as_array().cloned().unwrap_or_default();
    let own = hops.iter().find(|hop| hop["kind"] == "veth").and_then(|hop| hop["device"].as_str());
    let own = own.expect("it goes over a veth").to_owned();
    on(&one, &["ip", "link", "set", &own, "down"]);
    let told = live(&scene);
    let advice = told["ways"][0]["advice"].as_str().unwrap_or_default();
    assert_eq!(advice, format!("bring {own} up on node {one}"), "{told:#}");
    agrees(&told);
    on(&one, &["ip", "link", "set", &own, "up"]);

    // Until the kernel has looked at it, the bridge keeps the port closed.
    wait_until("the way is open again", || live(&scene)["ways"][0]["verdict"] == "Delivered");
    // A port of the bridge that carries no frames: the receiver's, then the sender's.
    for (node, port) in [(&two, &veth), (&one, &own)] {
        on(node, &["bridge", "link", "set", "dev", port, "state", "0"]);
        let told = live(&scene);
        let way = &told["ways"][0];
        // A link that came up a moment ago has its port like that as well: what it will be is not known.
        assert_eq!(way["verdict"], "Unknown", "{told:#}");
        let summary = way["summary"].as_str().unwrap_or_default();
        assert!(summary.contains(&format!("{port}, a port of bridge cbr0")), "{summary}");
        assert!(summary.ends_with("is disabled"), "{summary}");
        let advice = way["advice"].as_str().unwrap_or_default();
        assert!(advice.starts_with(&format!("let the port {port} forward on node {node}")), "{advice}");
        agrees(&told);
        on(node, &["bridge", "link", "set", "dev", port, "state", "3"]);
    }

    // A rule of ours that somebody deletes comes back by itself; until then it is seen to be gone.
    on(&two, &["nft", "flush chain ip skiff host-ports-any"]);
    wait_until("the host port leads to the pod again", || {
        let target = format!("node/{two}:18954");
        let told = traced(&scene.namespace, &["c1", &target, "--live"]);
        told["ways"][0]["verdict"] == "Delivered" && told["live"]["outcome"] == "answered"
    });
}
