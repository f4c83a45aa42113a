//! The planner against the plain model of the specification, on random clusters, and its steps against new
//! beginnings.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use skiff_client::ObjectKey;
use skiff_sys::nft::{self, Datum, Key};

use super::objects::{NamedPort, Subject};
use super::spec::{Direction, Policy};
use super::table::{Connection, Ruling, Step, Table};
use crate::plan::Protocol;

#[path = "../../tests/grid/model.rs"]
mod model;

use model::{Cluster, End, Pod};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 4] = [80, 81, 90, 443];

#[derive(Debug, Clone)]
enum Change {
    Pod(u8, Option<Value>),
    Namespace(&'static str, Option<Value>),
    Policy(&'static str, u8, Option<Value>),
}

fn labels() -> impl Strategy<Value = Value> {
    (select(vec!["x", "y"]), any::<bool>()).prop_map(|(k, extra)| match extra {
        true => json!({"k": k, "extra": "1"}),
        false => json!({ "k": k }),
    })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        select(vec!["x", "y"]).prop_map(|k| json!({"matchLabels": {"k": k}})),
        Just(json!({"matchExpressions": [{"key": "extra", "operator": "Exists"}]})),
        Just(json!({"matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["y"]}]})),
        Just(
            json!({"matchExpressions": [{"key": "extra", "operator": "DoesNotExist"}, {"key": "k", "operator": "In", "values": ["x", "y"]}]})
        ),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/30"}})),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.4/31", "10.0.0.2/32"]}})),
        Just(json!({"ipBlock": {"cidr": "2001:db8::/32"}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = select(vec!["TCP", "UDP", "SCTP"]);
    let port = prop_oneof![
        Just(json!({})),
        select(PORTS.to_vec()).prop_map(|port| json!({ "port": port })),
        Just(json!({"port": 80, "endPort": 90})),
        select(vec!["web", "dns"]).prop_map(|name| json!({ "port": name })),
    ];
    (protocol, port).prop_map(|(protocol, mut port)| {
        port["protocol"] = protocol.into();
        port
    })
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    let lists = (proptest::collection::vec(peer(), 0..4), proptest::collection::vec(port(), 0..4));
    lists.prop_map(move |(list, ports)| json!({peers: list, "ports": ports}))
}

fn policy() -> impl Strategy<Value = Value> {
    let types = select(vec![json!([]), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let rules = |peers| proptest::collection::vec(rule(peers), 0..3);
    (selector(), types, rules("from"), rules("to")).prop_map(|(pods, types, ingress, egress)| {
        json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let ports = select(vec![
        json!([]),
        json!([["web", "TCP", 80]]),
        json!([["web", "TCP", 443], ["dns", "UDP", 81]]),
        json!([["web", "UDP", 80], ["dns", "SCTP", 90]]),
    ]);
    (select(NAMESPACES.to_vec()), labels(), ports).prop_map(
        |(namespace, labels, ports)| json!({"namespace": namespace, "labels": labels, "ports": ports}),
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (1u8..8, proptest::option::weighted(0.8, pod())).prop_map(|(ip, pod)| Change::Pod(ip, pod)),
        1 => (select(NAMESPACES.to_vec()), proptest::option::weighted(0.8, labels()))
            .prop_map(|(name, labels)| Change::Namespace(name, labels)),
        3 => (select(NAMESPACES.to_vec()), 0u8..3, proptest::option::weighted(0.8, policy()))
            .prop_map(|(namespace, name, policy)| Change::Policy(namespace, name, policy)),
    ]
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// What there is, as both sides want to be told.
#[derive(Default)]
struct World {
    pods: BTreeMap<u8, Pod>,
    cluster: Cluster,
}

impl World {
    fn apply(&mut self, change: &Change, table: &mut Table, step: &mut Step) {
        match change {
            Change::Pod(last, None) => {
                self.pods.remove(last);
                table.set_pod(ip(*last), None, step);
            }
            Change::Pod(last, Some(pod)) => {
                let pod = Pod {
                    namespace: pod["namespace"].as_str().unwrap().into(),
                    name: format!("p{last}"),
                    labels: serde_json::from_value(pod["labels"].clone()).unwrap(),
                    ip: ip(*last),
                    ports: serde_json::from_value(pod["ports"].clone()).unwrap(),
                };
                table.set_pod(ip(*last), Some(Arc::new(subject(&pod))), step);
                self.pods.insert(*last, pod);
            }
            Change::Namespace(name, labels) => {
                let labels = labels.clone().map(|labels| serde_json::from_value(labels).unwrap());
                match labels.clone() {
                    Some(labels) => self.cluster.namespaces.insert((*name).to_owned(), labels),
                    None => self.cluster.namespaces.remove(*name),
                };
                table.set_namespace(name, labels, step);
            }
            Change::Policy(namespace, name, spec) => {
                let key = ObjectKey::new(*namespace, name.to_string());
                self.cluster.policies.retain(|policy| ObjectKey::of(policy) != key);
                let policy = spec.clone().map(|spec| {
                    let metadata = json!({"namespace": namespace, "name": name.to_string()});
                    serde_json::from_value::<NetworkPolicy>(json!({"metadata": metadata, "spec": spec}))
                        .unwrap()
                });
                table.set_policy(&key, policy.as_ref().map(Policy::read), step);
                self.cluster.policies.extend(policy);
            }
        }
    }
}

fn subject(pod: &Pod) -> Subject {
    let protocol = |name: &str| match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    let ports = pod.ports.iter().map(|(name, of, number)| NamedPort {
        name: name.clone(),
        protocol: protocol(of),
        number: *number,
    });
    Subject {
        pod: ObjectKey::new(pod.namespace.clone(), pod.name.clone()),
        uid: pod.name.clone(),
        labels: pod.labels.clone(),
        ports: ports.collect(),
        local: true,
    }
}

/// The ruleset as steps make it.
#[derive(Default)]
struct Kernel {
    chains: BTreeMap<String, nft::Chain>,
    elements: HashMap<(&'static str, Key), Datum>,
}

impl Kernel {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        for chain in step.chains {
            prop_assert!(self.chains.insert(chain.name.clone(), chain).is_none(), "names are given once");
        }
        for change in step.changes {
            match change {
                nft::Change::Insert { map, key, datum } => drop(self.elements.insert((map, key), datum)),
                nft::Change::Remove { map, key } => drop(self.elements.remove(&(map, key))),
            }
        }
        for name in &step.idle {
            prop_assert!(self.chains.remove(name).is_some(), "{} was there", name);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_are_those_of_the_specification(history in proptest::collection::vec(change(), 1..40)) {
        let (mut world, mut table) = (World::default(), Table::default());
        let mut step = Step::default();
        for change in &history {
            world.apply(change, &mut table, &mut step);
        }
        table.complete(&mut step);
        let outside = ip(100);
        let ends: Vec<End<'_>> = world.pods.values().map(End::Pod).chain([End::Address(outside)]).collect();
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
            for (protocol, name) in [(6, "TCP"), (17, "UDP"), (132, "SCTP")] {
                for port in PORTS {
                    let connection = Connection { from: from.ip(), to: to.ip(), protocol, port };
                    let rulings = Direction::BOTH.map(|direction| table.judge(direction, &connection));
                    let allowed = rulings.iter().all(|ruling| !matches!(ruling, Ruling::Denied { .. }));
                    prop_assert_eq!(
                        allowed, world.cluster.allows(from, to, name, port),
                        "{:?} {:?}", connection, rulings
                    );
                }
            }
        }
    }

    /// What steps leave is what a new beginning makes, but for the numbers.
    #[test]
    fn steps_lead_where_a_new_beginning_would(
        history in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..15)
    ) {
        let (mut world, mut table, mut kernel) = (World::default(), Table::default(), Kernel::default());
        for changes in &history {
            let mut step = Step::default();
            for change in changes {
                world.apply(change, &mut table, &mut step);
            }
            table.complete(&mut step);
            kernel.take(step)?;
        }
        let whole = table.contents(0);
        let marks: HashSet<Key> = super::schema::marks(0).into_iter().map(|(_, key, _)| key).collect();
        let elements: HashMap<_, _> = whole
            .elements
            .into_iter()
            .flat_map(|(map, elements)| elements.into_iter().map(move |(key, datum)| ((map, key), datum)))
            .filter(|((map, key), _)| !(map.starts_with("policy-pass") || *map == "policy-marks") || !marks.contains(key))
            .collect();
        prop_assert_eq!(&kernel.elements, &elements);
        let chains: BTreeMap<_, _> =
            whole.chains.into_iter().map(|chain| (chain.name.clone(), chain.rules)).collect();
        let stepped: BTreeMap<_, _> =
            kernel.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.clone())).collect();
        prop_assert_eq!(stepped, chains);
        // And the table itself is the one that the present state alone would make.
        let mut fresh = Table::default();
        let mut ignored = Step::default();
        for (name, labels) in &world.cluster.namespaces {
            fresh.set_namespace(name, Some(labels.clone()), &mut ignored);
        }
        for policy in &world.cluster.policies {
            fresh.set_policy(&ObjectKey::of(policy), Some(Policy::read(policy)), &mut ignored);
        }
        for (last, pod) in &world.pods {
            fresh.set_pod(ip(*last), Some(Arc::new(subject(pod))), &mut ignored);
        }
        fresh.complete(&mut ignored);
        let shape = |table: &Table| {
            let contents = table.contents(0);
            let mut sizes: Vec<(&str, usize)> =
                contents.elements.iter().map(|(map, elements)| (*map, elements.len())).collect();
            sizes.sort_unstable();
            let mut lengths: Vec<usize> = contents.chains.iter().map(|chain| chain.rules.len()).collect();
            lengths.sort_unstable();
            (sizes, lengths)
        };
        prop_assert_eq!(shape(&table), shape(&fresh));
    }
}

#[test]
fn a_pod_more_is_an_element_for_each_selector_and_revokes_nothing() {
    let (mut table, mut step) = (Table::default(), Step::default());
    let spec = json!({"podSelector": {"matchLabels": {"k": "none"}}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"k": "x"}}}, {"namespaceSelector": {}}]},
        {"from": [{"podSelector": {"matchLabels": {"k": "y"}}}]},
    ]});
    let mut world = World::default();
    world.apply(&Change::Namespace("a", Some(json!({}))), &mut table, &mut step);
    world.apply(&Change::Policy("a", 0, Some(spec)), &mut table, &mut step);
    table.complete(&mut step);
    let mut step = Step::default();
    let pod = json!({"namespace": "a", "labels": {"k": "x"}, "ports": []});
    world.apply(&Change::Pod(1, Some(pod)), &mut table, &mut step);
    table.complete(&mut step);
    assert_eq!((step.changes.len(), step.chains.len(), step.revokes), (2, 0, false));
    let mut step = Step::default();
    world.apply(&Change::Pod(1, None), &mut table, &mut step);
    table.complete(&mut step);
    assert_eq!((step.changes.len(), step.revokes), (2, true));
}

#[test]
fn a_pod_that_is_isolated_takes_back_what_was_let_in_before() {
    let (mut world, mut table, mut step) = (World::default(), Table::default(), Step::default());
    assert!(step.is_empty());
    world.apply(&Change::Namespace("a", Some(json!({}))), &mut table, &mut step);
    table.complete(&mut step);
    assert!(step.is_empty() && !step.revokes, "nobody asks for its labels");
    world.apply(&Change::Policy("a", 0, Some(json!({"podSelector": {}}))), &mut table, &mut step);
    table.complete(&mut step);
    assert!(!step.is_empty() && step.revokes);

    // Whoever comes to an address under the policy is isolated, and what the address had is worth nothing.
    let pod = || json!({"namespace": "a", "labels": {"k": "x"}, "ports": []});
    let mut step = Step::default();
    world.apply(&Change::Pod(1, Some(pod())), &mut table, &mut step);
    table.complete(&mut step);
    assert!(step.revokes && !step.changes.is_empty() && !step.chains.is_empty());
    // The second of its like needs no chain more.
    let mut step = Step::default();
    world.apply(&Change::Pod(2, Some(pod())), &mut table, &mut step);
    table.complete(&mut step);
    assert!(step.revokes && !step.is_empty() && step.chains.is_empty());
    // The same once more is nothing.
    let mut step = Step::default();
    world.apply(&Change::Pod(2, Some(pod())), &mut table, &mut step);
    table.complete(&mut step);
    assert!(step.is_empty() && !step.revokes);
    // With the policy its chains go, and all that it isolated.
    let mut step = Step::default();
    world.apply(&Change::Policy("a", 0, None), &mut table, &mut step);
    table.complete(&mut step);
    assert!(step.revokes && !step.idle.is_empty() && step.chains.is_empty());
    assert!(table.is_empty());
}

/// The same number for whatever is asked.
struct Given {
    selector: u32,
    name: u32,
}

impl super::schema::Numbers for Given {
    fn selector(&self, _: &super::spec::PodPeers) -> u32 {
        self.selector
    }

    fn name(&self, _: &str) -> u32 {
        self.name
    }
}

#[test]
fn rules_look_up_what_the_pods_that_they_mean_are_elements_of() {
    use super::schema::{named_port, peer, policy_chain, policy_chains};
    let (mut world, mut table, mut step) = (World::default(), Table::default(), Step::default());
    let spec = |k: &str, name: &str, protocol: &str| {
        json!({"podSelector": {}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"k": k}}}], "ports": [{"port": name, "protocol": protocol}]}]})
    };
    let pod = |k: &str, port: Value| json!({"namespace": "a", "labels": {"k": k}, "ports": [port]});
    world.apply(&Change::Pod(1, Some(pod("x", json!(["web", "TCP", 80])))), &mut table, &mut step);
    world.apply(&Change::Pod(2, Some(pod("y", json!(["dns", "UDP", 81])))), &mut table, &mut step);
    world.apply(&Change::Policy("a", 0, Some(spec("x", "web", "TCP"))), &mut table, &mut step);
    world.apply(&Change::Policy("a", 1, Some(spec("y", "dns", "UDP"))), &mut table, &mut step);
    table.complete(&mut step);
    let contents = table.contents(0);
    let elements: HashSet<(&str, Key)> = contents
        .elements
        .iter()
        .flat_map(|(map, elements)| elements.iter().map(|(key, _)| (*map, *key)))
        .collect();
    let number = |element: &dyn Fn(u32) -> super::schema::Element| {
        let found = (1..100).find(|number| {
            let (map, key, _) = element(*number);
            elements.contains(&(map, key))
        });
        found.expect("the pod is an element")
    };
    let given = [
        Given {
            selector: number(&|n| peer(n, ip(1))),
            name: number(&|n| named_port(n, ip(1), Protocol::Tcp, 80)),
        },
        Given {
            selector: number(&|n| peer(n, ip(2))),
            name: number(&|n| named_port(n, ip(2), Protocol::Udp, 81)),
        },
    ];
    let chains: Vec<_> = contents.chains.iter().map(|chain| (&chain.name, &chain.rules)).collect();
    for (policy, given) in world.cluster.policies.iter().map(Policy::read).zip(given) {
        let is_there = (1..100).any(|number| {
            let name = policy_chain(Direction::Ingress, number);
            let wanted = policy_chains(&name, &policy, Direction::Ingress, &given);
            wanted.iter().all(|chain| chains.contains(&(&chain.name, &chain.rules)))
        });
        assert!(is_there, "{}", policy.key);
    }
}

#[test]
fn a_table_is_empty_until_there_is_a_policy() {
    let (mut world, mut table, mut step) = (World::default(), Table::default(), Step::default());
    world.apply(&Change::Namespace("a", Some(json!({}))), &mut table, &mut step);
    assert!(table.is_empty());
    world.apply(&Change::Policy("a", 0, Some(json!({"podSelector": {}}))), &mut table, &mut step);
    assert!(!table.is_empty());
    world.apply(&Change::Policy("a", 0, None), &mut table, &mut step);
    assert!(table.is_empty());
    assert_eq!(Direction::BOTH.map(Direction::name), ["ingress", "egress"]);
}
