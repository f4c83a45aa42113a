//! What policies, namespaces and pods make of the ruleset, kept up to date one change at a time.
//!
//! [`Table`] is pure: it takes in changes and says which chains and elements differ. A change costs what
//! it concerns: a pod more is an element for each selector that selects it.
//!
//! The same values answer [`Table::judge`]: which policy and rule decide on a connection.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use skiff_api::selector::Labels;
use skiff_client::ObjectKey;
use skiff_sys::nft::{Chain, Change, Contents};

use super::objects::Subject;
use super::schema::{self, Element, Numbers};
use super::spec::{Allowed, Direction, Peer, PodPeers, Policy, Port};
use crate::plan::Protocol;

/// A connection, by who began it and who really answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// The IP protocol number.
    pub protocol: u8,
    pub port: u16,
}

/// What the policies of one direction say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// No policy isolates the pod of that side in this direction, on this node.
    NotIsolated,
    /// A pod is never kept from itself.
    Itself,
    /// The first rule that allows it, counted from 0 as in the policy.
    Allowed { policy: ObjectKey, rule: usize },
    /// These isolate the pod, and none of their rules allows it.
    Denied { policies: Vec<ObjectKey> },
}

/// The state of all policies, as far as this node is concerned.
#[derive(Debug, Default)]
pub struct Table {
    namespaces: HashMap<String, Labels>,
    subjects: BTreeMap<Ipv4Addr, Arc<Subject>>,
    by_namespace: HashMap<String, BTreeSet<Ipv4Addr>>,
    policies: BTreeMap<ObjectKey, Compiled>,
    registry: Registry,
    isolated: HashMap<Ipv4Addr, Vec<(Direction, Arc<Group>)>>,
    groups: HashMap<GroupKey, (Arc<Group>, usize)>,
    /// Pods whose set of policies is to be looked at anew.
    dirty: BTreeSet<Ipv4Addr>,
}

/// A policy with the names of its chains.
#[derive(Debug)]
struct Compiled {
    policy: Policy,
    chains: Vec<(Direction, Vec<Chain>)>,
}

/// Direction, and the policies with their chains.
type GroupKey = (Direction, Vec<(ObjectKey, String)>);

/// Pods that the same policies isolate in a direction.
#[derive(Debug)]
struct Group {
    key: GroupKey,
    chain: String,
}

/// Selectors and names that policies use, each once, with the pods that they select.
#[derive(Debug, Default)]
struct Registry {
    selectors: HashMap<PodPeers, Selected>,
    names: HashMap<String, (u32, usize)>,
    /// Never given twice, so that nothing old can be taken for something new.
    last: u32,
}

#[derive(Debug)]
struct Selected {
    number: u32,
    users: usize,
    pods: HashSet<Ipv4Addr>,
}

/// A step of the ruleset from one state to the next.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) chains: Vec<Chain>,
    pub(crate) changes: Vec<Change>,
    pub(crate) idle: Vec<String>,
    /// Something that was allowed may no longer be.
    pub(crate) revokes: bool,
}

impl Step {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.changes.is_empty() && self.idle.is_empty()
    }

    fn insert(&mut self, (map, key, datum): Element) {
        self.revokes |= !schema::only_allows(map);
        self.changes.push(Change::Insert { map, key, datum });
    }

    fn remove(&mut self, (map, key, _): Element) {
        self.revokes = true;
        self.changes.push(Change::Remove { map, key });
    }
}

impl Table {
    /// Whether there is a policy.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Puts a pod at an address, or takes it away.
    pub(crate) fn set_pod(&mut self, ip: Ipv4Addr, pod: Option<Arc<Subject>>, step: &mut Step) {
        let old = match &pod {
            Some(pod) => self.subjects.insert(ip, pod.clone()),
            None => self.subjects.remove(&ip),
        };
        if old == pod {
            return;
        }
        if let Some(old) = &old {
            if let Some(ips) = self.by_namespace.get_mut(&old.pod.namespace) {
                ips.remove(&ip);
            }
            self.named_ports(ip, old).into_iter().for_each(|element| step.remove(element));
        }
        if let Some(pod) = &pod {
            self.by_namespace.entry(pod.pod.namespace.clone()).or_default().insert(ip);
            self.named_ports(ip, pod).into_iter().for_each(|element| step.insert(element));
        }
        self.select(ip, step);
        self.dirty.insert(ip);
    }

    /// Tells a namespace's labels, or that it is gone.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>, step: &mut Step) {
        let same = match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()) == Some(labels),
            None => self.namespaces.remove(name).is_none(),
        };
        if !same {
            let pods: Vec<Ipv4Addr> = self.by_namespace.get(name).into_iter().flatten().copied().collect();
            pods.into_iter().for_each(|ip| self.select(ip, step));
        }
    }

    /// Puts a policy in place of the one of its name, or takes that away.
    pub(crate) fn set_policy(&mut self, key: &ObjectKey, policy: Option<Policy>, step: &mut Step) {
        if self.policies.get(key).map(|old| &old.policy) == policy.as_ref() {
            return;
        }
        let old = self.policies.remove(key);
        if let Some(policy) = policy {
            self.add_references(&policy, step);
            let compiled = self.compile(policy);
            step.chains.extend(compiled.chains.iter().flat_map(|(_, chains)| chains.iter().cloned()));
            self.policies.insert(key.clone(), compiled);
        }
        if let Some(old) = old {
            self.remove_references(&old.policy, step);
            step.idle
                .extend(old.chains.iter().flat_map(|(_, chains)| chains).map(|chain| chain.name.clone()));
        }
        step.revokes = true;
        self.dirty.extend(self.by_namespace.get(&key.namespace).into_iter().flatten());
    }

    /// Brings to an end what the changes began; the step is whole then.
    pub(crate) fn complete(&mut self, step: &mut Step) {
        for ip in std::mem::take(&mut self.dirty) {
            let wanted = self.groups_of(ip);
            let before = self.isolated.get(&ip).map(Vec::as_slice).unwrap_or_default();
            let is_same = before.len() == wanted.len()
                && before.iter().zip(&wanted).all(|((_, group), key)| group.key == *key);
            if is_same {
                continue;
            }
            let groups: Vec<(Direction, Arc<Group>)> =
                wanted.into_iter().map(|key| (key.0, self.join(key, step))).collect();
            let after = elements(ip, &groups);
            let before = match groups.is_empty() {
                true => self.isolated.remove(&ip),
                false => self.isolated.insert(ip, groups),
            }
            .unwrap_or_default();
            for element in elements(ip, &before) {
                if !after.iter().any(|(map, key, _)| (*map, *key) == (element.0, element.1)) {
                    step.remove(element);
                }
            }
            after.into_iter().for_each(|element| step.insert(element));
            before.into_iter().for_each(|(_, group)| self.leave(&group, step));
        }
    }

    /// Everything, for the beginning.
    pub(crate) fn contents(&self, generation: u32) -> Contents {
        let mut chains: Vec<Chain> = Vec::new();
        for compiled in self.policies.values() {
            chains.extend(compiled.chains.iter().flat_map(|(_, chains)| chains.iter().cloned()));
        }
        chains.extend(self.groups.values().map(|(group, _)| group.lower()));
        let peers = self
            .registry
            .selectors
            .values()
            .flat_map(|selected| selected.pods.iter().map(|ip| schema::peer(selected.number, *ip)));
        let ports = self.subjects.iter().flat_map(|(ip, pod)| self.named_ports(*ip, pod));
        let isolated = self.isolated.iter().flat_map(|(ip, groups)| elements(*ip, groups));
        let all = peers.chain(ports).chain(isolated).chain(schema::marks(generation));
        Contents { chains, elements: schema::by_map(all) }
    }

    /// What decides on a connection in one direction, on this node.
    pub fn judge(&self, direction: Direction, connection: &Connection) -> Ruling {
        let own = match direction {
            Direction::Ingress => connection.to,
            Direction::Egress => connection.from,
        };
        let groups = self.isolated.get(&own).into_iter().flatten();
        let Some((_, group)) = groups.into_iter().find(|(this, _)| *this == direction) else {
            return Ruling::NotIsolated;
        };
        if connection.from == connection.to {
            return Ruling::Itself;
        }
        for (policy, _) in &group.key.1 {
            let rules = self.policies.get(policy).and_then(|this| this.policy.allowed(direction));
            let admits = |rule: &Allowed| self.admits(rule, direction, connection);
            if let Some(rule) = rules.unwrap_or_default().iter().position(admits) {
                return Ruling::Allowed { policy: policy.clone(), rule };
            }
        }
        Ruling::Denied { policies: group.key.1.iter().map(|(policy, _)| policy.clone()).collect() }
    }

    fn admits(&self, rule: &Allowed, direction: Direction, connection: &Connection) -> bool {
        let other = match direction {
            Direction::Ingress => connection.from,
            Direction::Egress => connection.to,
        };
        let is_peer = |peer: &Peer| match peer {
            Peer::Pods(peers) => {
                self.registry.selectors.get(peers).is_some_and(|selected| selected.pods.contains(&other))
            }
            Peer::Block { range, except } => {
                range.contains(other) && !except.iter().any(|part| part.contains(other))
            }
        };
        let of = |protocol: Protocol| protocol as u8 == connection.protocol;
        let is_port = |port: &Port| match port {
            Port::Any(protocol) => of(*protocol),
            Port::Numbers(protocol, first, last) => {
                of(*protocol) && (first..=last).contains(&&connection.port)
            }
            Port::Named(protocol, name) => {
                let ports = self.subjects.get(&connection.to).map(|pod| pod.ports.as_slice());
                of(*protocol)
                    && ports.unwrap_or_default().iter().any(|port| {
                        port.name == *name && port.protocol == *protocol && port.number == connection.port
                    })
            }
        };
        schema::admits(rule, is_peer, is_port)
    }

    /// Brings up to date which selectors select the pod at an address.
    fn select(&mut self, ip: Ipv4Addr, step: &mut Step) {
        let pod = self.subjects.get(&ip);
        for (peers, selected) in &mut self.registry.selectors {
            let matches = pod.is_some_and(|pod| is_selected(peers, pod, &self.namespaces));
            if matches && selected.pods.insert(ip) {
                step.insert(schema::peer(selected.number, ip));
            } else if !matches && selected.pods.remove(&ip) {
                step.remove(schema::peer(selected.number, ip));
            }
        }
    }

    fn named_ports(&self, ip: Ipv4Addr, pod: &Subject) -> Vec<Element> {
        let ports = pod.ports.iter().filter_map(|port| {
            let (number, _) = self.registry.names.get(&port.name)?;
            Some(schema::named_port(*number, ip, port.protocol, port.number))
        });
        ports.collect()
    }

    fn add_references(&mut self, policy: &Policy, step: &mut Step) {
        for peers in selectors(policy) {
            if let Some(selected) = self.registry.selectors.get_mut(peers) {
                selected.users += 1;
                continue;
            }
            let number = self.registry.next();
            let pods = self.subjects.iter().filter(|(_, pod)| is_selected(peers, pod, &self.namespaces));
            let pods: HashSet<Ipv4Addr> = pods.map(|(ip, _)| *ip).collect();
            pods.iter().for_each(|ip| step.insert(schema::peer(number, *ip)));
            self.registry.selectors.insert(peers.clone(), Selected { number, users: 1, pods });
        }
        for name in names(policy) {
            if let Some((_, users)) = self.registry.names.get_mut(name) {
                *users += 1;
                continue;
            }
            let number = self.registry.next();
            self.registry.names.insert(name.to_owned(), (number, 1));
            self.ports_called(name, number).into_iter().for_each(|element| step.insert(element));
        }
    }

    fn remove_references(&mut self, policy: &Policy, step: &mut Step) {
        for peers in selectors(policy) {
            let Some(selected) = self.registry.selectors.get_mut(peers) else { continue };
            selected.users -= 1;
            if selected.users == 0
                && let Some(gone) = self.registry.selectors.remove(peers)
            {
                gone.pods.iter().for_each(|ip| step.remove(schema::peer(gone.number, *ip)));
            }
        }
        for name in names(policy) {
            let Some((number, users)) = self.registry.names.get_mut(name) else { continue };
            *users -= 1;
            if *users == 0 {
                let number = *number;
                self.ports_called(name, number).into_iter().for_each(|element| step.remove(element));
                self.registry.names.remove(name);
            }
        }
    }

    /// All pods' ports of that name.
    fn ports_called(&self, name: &str, number: u32) -> Vec<Element> {
        let ports = self.subjects.iter().flat_map(|(ip, pod)| {
            let called = pod.ports.iter().filter(|port| port.name == name);
            called.map(|port| schema::named_port(number, *ip, port.protocol, port.number))
        });
        ports.collect()
    }

    fn compile(&mut self, policy: Policy) -> Compiled {
        let directions = Direction::BOTH.into_iter().filter(|this| policy.allowed(*this).is_some());
        let chains = directions
            .map(|direction| {
                let name = schema::policy_chain(direction, self.registry.next());
                (direction, schema::policy_chains(&name, &policy, direction, &self.registry))
            })
            .collect();
        Compiled { policy, chains }
    }

    /// The groups that the pod at an address belongs to.
    fn groups_of(&self, ip: Ipv4Addr) -> Vec<GroupKey> {
        let Some(pod) = self.subjects.get(&ip).filter(|pod| pod.local) else { return Vec::new() };
        let namespace = &pod.pod.namespace;
        let first = ObjectKey::new(namespace.clone(), "");
        let here = self.policies.range(first..).take_while(|(key, _)| key.namespace == *namespace);
        let isolating: Vec<&Compiled> = here
            .map(|(_, compiled)| compiled)
            .filter(|compiled| compiled.policy.subject.matches(Some(&pod.labels)))
            .collect();
        let group = |direction| {
            let policies: Vec<(ObjectKey, String)> = isolating
                .iter()
                .filter_map(|compiled| {
                    let (_, chains) = compiled.chains.iter().find(|(this, _)| *this == direction)?;
                    Some((compiled.policy.key.clone(), chains.first()?.name.clone()))
                })
                .collect();
            (!policies.is_empty()).then_some((direction, policies))
        };
        Direction::BOTH.into_iter().filter_map(group).collect()
    }

    fn join(&mut self, key: GroupKey, step: &mut Step) -> Arc<Group> {
        if let Some((group, members)) = self.groups.get_mut(&key) {
            *members += 1;
            return group.clone();
        }
        let chain = schema::pods_chain(key.0, self.registry.next());
        let group = Arc::new(Group { key: key.clone(), chain });
        step.chains.push(group.lower());
        self.groups.insert(key, (group.clone(), 1));
        group
    }

    fn leave(&mut self, group: &Group, step: &mut Step) {
        let Some((_, members)) = self.groups.get_mut(&group.key) else { return };
        *members -= 1;
        if *members == 0 {
            self.groups.remove(&group.key);
            // One that came and went within the step was never there.
            if let Some(index) = step.chains.iter().position(|chain| chain.name == group.chain) {
                step.chains.remove(index);
            } else {
                step.idle.push(group.chain.clone());
            }
        }
    }
}

impl Group {
    fn lower(&self) -> Chain {
        let policies: Vec<(String, String)> =
            self.key.1.iter().map(|(policy, chain)| (policy.to_string(), chain.clone())).collect();
        schema::chain_of_pods(self.chain.clone(), self.key.0, &policies)
    }
}

impl Registry {
    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }
}

impl Numbers for Registry {
    /// Zero is nobody's number, should it ever be asked for what was not added.
    fn selector(&self, peers: &PodPeers) -> u32 {
        self.selectors.get(peers).map_or(0, |selected| selected.number)
    }

    fn name(&self, name: &str) -> u32 {
        self.names.get(name).map_or(0, |(number, _)| *number)
    }
}

fn elements(ip: Ipv4Addr, groups: &[(Direction, Arc<Group>)]) -> Vec<Element> {
    schema::isolation(ip, groups.iter().map(|(direction, group)| (*direction, group.chain.clone())))
}

fn is_selected(peers: &PodPeers, pod: &Subject, namespaces: &HashMap<String, Labels>) -> bool {
    peers.matches(&pod.pod.namespace, namespaces.get(&pod.pod.namespace), &pod.labels)
}

fn selectors(policy: &Policy) -> impl Iterator<Item = &PodPeers> {
    let peers = policy.rules().flat_map(|rule| rule.peers.iter().flatten());
    peers.filter_map(|peer| match peer {
        Peer::Pods(peers) => Some(peers),
        Peer::Block { .. } => None,
    })
}

fn names(policy: &Policy) -> impl Iterator<Item = &str> {
    let ports = policy.rules().flat_map(|rule| rule.ports.iter().flatten());
    ports.filter_map(|port| match port {
        Port::Named(_, name) => Some(name.as_str()),
        Port::Any(_) | Port::Numbers(..) => None,
    })
}
