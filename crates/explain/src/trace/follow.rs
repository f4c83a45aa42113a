//! From node to node: which one to ask next, and what its answer means for the whole way.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::advice;
use super::target::{self, Request, Target, TraceError};
use super::walk::{Conversation, End, Hop, NodeWay, Packets, Question, Start, Tuple};
use super::world::{Node, World};
use super::{Verdict, Way};

/// Every new connection has some port; no rule of ours looks at it.
const SOURCE_PORT: u16 = 40_000;
/// More nodes than any way passes, so that one in circles ends.
const ASKS_MAX: usize = 400;

/// A question to be put to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub node: String,
    pub question: Question,
}

/// The whole way, in the making.
pub struct Follow {
    world: Arc<World>,
    request: Request,
    open: VecDeque<Branch>,
    done: Vec<Way>,
    asked: usize,
    origins: Vec<Origin>,
}

/// Where the connection may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub node: String,
    pub start: Start,
    /// What it is addressed to.
    pub to: (Ipv4Addr, u16),
}

#[derive(Clone)]
struct Branch {
    ask: Ask,
    chance: f64,
    hops: Vec<Hop>,
    answer: Vec<Hop>,
    /// By node.
    conversations: HashMap<String, Vec<Conversation>>,
    /// Where the first packet arrived; the answer is under way.
    arrived: Option<Arrived>,
}

#[derive(Clone)]
struct Arrived {
    place: String,
    process: String,
    tuple: Tuple,
}

impl Follow {
    pub fn new(world: Arc<World>, request: Request) -> Result<Self, TraceError> {
        let goals = target::addresses(&request, &world)?;
        let mut this =
            Self { world, request, open: VecDeque::new(), done: Vec::new(), asked: 0, origins: Vec::new() };
        let starts = this.starts(&goals)?;
        let chance = 1.0 / starts.len().max(1) as f64;
        for (node, start, tuple) in starts {
            let packets = Packets { protocol: this.request.protocol.number(), tuple, reply: false };
            let to = (tuple.destination, tuple.destination_port);
            this.origins.push(Origin { node: node.clone(), start: start.clone(), to });
            let question = Question { start, packets, conversations: Vec::new() };
            this.open.push_back(Branch {
                ask: Ask { node, question },
                chance,
                hops: Vec::new(),
                answer: Vec::new(),
                conversations: HashMap::new(),
                arrived: None,
            });
        }
        Ok(this)
    }

    /// Where the connection may begin: one, but for services.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Whom to ask now. `None` when all ways are at their ends.
    pub fn next(&self) -> Option<&Ask> {
        self.open.front().map(|branch| &branch.ask)
    }

    /// The answer to [`Follow::next`], or why there is none.
    pub fn answer(&mut self, answer: Result<Vec<NodeWay>, String>) {
        let Some(branch) = self.open.pop_front() else { return };
        self.asked += 1;
        let ways = match answer {
            Ok(ways) if self.asked <= ASKS_MAX => ways,
            Ok(_) => return self.lost(branch, "the way goes through more nodes than can be"),
            Err(why) => return self.lost(branch, &why),
        };
        if ways.is_empty() {
            return self.lost(branch, "its agent told no way");
        }
        if branch.arrived.is_some() {
            // An answer follows one way: that of its connection.
            let way = ways.into_iter().max_by(|a, b| a.chance.total_cmp(&b.chance)).expect("not empty");
            return self.go_back(branch, way);
        }
        for way in ways {
            self.go_on(branch.clone(), way);
        }
    }

    /// The ways with the likeliest first, and the world that they are in.
    pub fn finish(self) -> (Vec<Way>, Arc<World>, Request) {
        let mut ways = self.done;
        ways.sort_by(|a, b| b.chance.total_cmp(&a.chance).then_with(|| a.destination.cmp(&b.destination)));
        (ways, self.world, self.request)
    }

    /// Where the connection begins: node, start and first packet of each possible beginning.
    fn starts(&mut self, goals: &[(Ipv4Addr, u16)]) -> Result<Vec<(String, Start, Tuple)>, TraceError> {
        let tuple = |source: Ipv4Addr, goal: &(Ipv4Addr, u16)| Tuple {
            source,
            source_port: SOURCE_PORT,
            destination: goal.0,
            destination_port: goal.1,
        };
        let mut starts = Vec::new();
        let from = self.request.from.clone();
        for goal in goals {
            match &from {
                Target::Pod { .. } | Target::Service { .. } => {
                    for pod in target::senders(&from, &self.world)? {
                        starts.push(self.at_pod(pod, |source| tuple(source, goal))?);
                    }
                }
                Target::Node { name } => {
                    starts.push((name.clone(), Start::Node, tuple(Ipv4Addr::UNSPECIFIED, goal)));
                }
                Target::Address(ip) => {
                    if let Some(pod) = self.world.pod_at(*ip) {
                        starts.push(self.at_pod(pod, |source| tuple(source, goal))?);
                    } else if let Some(node) = self.world.node_at(*ip) {
                        starts.push((node.name.clone(), Start::Node, tuple(*ip, goal)));
                    } else {
                        let node = self.entrance(goal.0)?.name.clone();
                        starts.push((node, Start::Outside, tuple(*ip, goal)));
                    }
                }
                Target::External => {
                    let node = self.entrance(goal.0)?.name.clone();
                    starts.push((node, Start::Outside, tuple(Ipv4Addr::UNSPECIFIED, goal)));
                }
            }
        }
        Ok(starts)
    }

    fn at_pod(
        &self,
        pod: &super::world::Pod,
        tuple: impl Fn(Ipv4Addr) -> Tuple,
    ) -> Result<(String, Start, Tuple), TraceError> {
        let name = format!("pod {}/{}", pod.namespace, pod.name);
        if pod.node.is_empty() {
            return Err(TraceError(format!("{name} is not on a node yet: it sends nothing")));
        }
        if pod.host_network {
            return Ok((pod.node.clone(), Start::Node, tuple(Ipv4Addr::UNSPECIFIED)));
        }
        let ip = pod.ip.ok_or_else(|| TraceError(format!("{name} has no address yet: it sends nothing")))?;
        Ok((pod.node.clone(), Start::Sandbox { ip }, tuple(ip)))
    }

    /// The node where a packet from outside comes in.
    fn entrance(&self, to: Ipv4Addr) -> Result<&Node, TraceError> {
        if let Some(node) = self.world.node_at(to) {
            return Ok(node);
        }
        if let Some(node) = self.world.pod_at(to).and_then(|pod| self.world.node(&pod.node)) {
            return Ok(node);
        }
        if self.world.services.iter().any(|service| service.cluster_ip == Some(to)) {
            return Err(TraceError(format!(
                "{to} ({}) is an address inside the cluster: nothing outside leads there; use a node port",
                self.world.who(to)
            )));
        }
        Err(TraceError(format!("{to} is no address of this cluster: nothing outside leads to it here")))
    }

    fn go_on(&mut self, mut branch: Branch, way: NodeWay) {
        branch.chance *= way.chance;
        branch.hops.extend(way.hops);
        let node = branch.ask.node.clone();
        branch.conversations.entry(node.clone()).or_default().extend(way.conversations);
        match way.end {
            End::Leaves { next_hop, link } => match self.world.node_at(next_hop) {
                Some(next) => {
                    let (next, near) = (next.name.clone(), self.world.node(&node).map(|node| node.ip));
                    self.enter(branch, next, near, way.tuple, false);
                }
                None => {
                    if let Some(beyond) = self.beyond_router(&way.tuple) {
                        branch.hops.push(self.router(next_hop, &beyond, &way.tuple));
                        return self.enter(branch, beyond, Some(next_hop), way.tuple, false);
                    }
                    let to = way.tuple.destination;
                    let uplink = self.world.node(&node).and_then(|node| node.uplink);
                    let (verdict, summary) = advice::left(&node, &link, to, uplink);
                    self.close(branch, verdict, summary, None, way.tuple);
                }
            },
            End::Delivered { place, process } => {
                let arrived = Arrived { place: place.clone(), process, tuple: way.tuple };
                branch.arrived = Some(arrived);
                let start = if place.starts_with("pod ") {
                    Start::Sandbox { ip: way.tuple.destination }
                } else {
                    Start::Node
                };
                let known = branch.conversations.get(&node).cloned().unwrap_or_default();
                branch.ask.question = Question {
                    start,
                    packets: Packets {
                        protocol: self.request.protocol.number(),
                        tuple: way.tuple.turned(),
                        reply: true,
                    },
                    conversations: known,
                };
                self.open.push_back(branch);
            }
            end => {
                let told = advice::stopped(&end, &way.tuple, &branch.hops, &self.request, &self.world);
                self.close(branch, told.verdict, told.summary, told.advice, way.tuple);
            }
        }
    }

    /// The node to which a router between nodes hands the packet, if it is for one.
    fn beyond_router(&self, tuple: &Tuple) -> Option<String> {
        let pod = self.world.pod_at(tuple.destination);
        let node = self.world.node_at(tuple.destination).or_else(|| self.world.node(&pod?.node))?;
        Some(node.name.clone())
    }

    /// A machine that is no node: what it does is known only where it is this platform's own.
    fn router(&self, at: Ipv4Addr, node: &str, tuple: &Tuple) -> Hop {
        let known = self.world.nodes.iter().any(|node| node.uplink.is_some());
        Hop {
            place: format!("router {at}"),
            kind: "route".into(),
            text: format!("passes it on to node {node}"),
            source: tuple.source.to_string(),
            destination: format!("{}:{}", tuple.destination, tuple.destination_port),
            doubtful: !known,
            ..Hop::default()
        }
    }

    fn go_back(&mut self, mut branch: Branch, way: NodeWay) {
        branch.answer.extend(way.hops);
        let node = branch.ask.node.clone();
        let verdict = match way.end {
            End::Leaves { next_hop, .. } => match self.world.node_at(next_hop) {
                Some(next) => {
                    let (next, near) = (next.name.clone(), self.world.node(&node).map(|node| node.ip));
                    return self.enter(branch, next, near, way.tuple, true);
                }
                None => {
                    if let Some(beyond) = self.beyond_router(&way.tuple) {
                        branch.answer.push(self.router(next_hop, &beyond, &way.tuple));
                        return self.enter(branch, beyond, Some(next_hop), way.tuple, true);
                    }
                    format!("the answer leaves {node} for {}", way.tuple.destination)
                }
            },
            End::Delivered { place, .. } => {
                format!("the answer reaches {place}, from {}:{}", way.tuple.source, way.tuple.source_port)
            }
            End::Dropped { place, by } => format!("the answer is dropped on {place} by {by}"),
            End::Rejected { place, by } => format!("the answer is rejected on {place} by {by}"),
            End::Refused { why, .. } | End::Unroutable { why, .. } | End::Down { why, .. } => {
                format!("the answer gets lost: {why}")
            }
        };
        self.arrive(branch, Some(verdict));
    }

    /// The packet goes on to another node.
    fn enter(&mut self, mut branch: Branch, node: String, near: Option<Ipv4Addr>, tuple: Tuple, reply: bool) {
        let next_hop = near.unwrap_or(tuple.source);
        let conversations = branch.conversations.get(&node).cloned().unwrap_or_default();
        let packets = Packets { protocol: self.request.protocol.number(), tuple, reply };
        branch.ask =
            Ask { node, question: Question { start: Start::Link { next_hop }, packets, conversations } };
        self.open.push_back(branch);
    }

    fn arrive(&mut self, branch: Branch, answer_verdict: Option<String>) {
        let Some(Arrived { place, process, tuple }) = branch.arrived.clone() else { return };
        let untouched = branch.hops.first().is_some_and(|hop| hop.source == tuple.source.to_string());
        let sender = (self.request.from != Target::External || !untouched).then_some(tuple.source);
        let summary = advice::delivered(&place, &process, sender, &self.world);
        let receiver = Some(place);
        let mut way = self.way(branch, Verdict::Delivered, summary, None, tuple);
        way.receiver = receiver;
        // Which address somebody outside has is not known, only whether it arrives as it is.
        way.source_seen = Some(sender.map_or_else(|| super::OWN_ADDRESS.into(), |sender| sender.to_string()));
        way.answer_verdict = answer_verdict;
        self.done.push(way);
    }

    fn lost(&mut self, branch: Branch, why: &str) {
        let why = format!("node {} can't say: {why}", branch.ask.node);
        if branch.arrived.is_some() {
            return self.arrive(branch, Some(why));
        }
        let tuple = branch.ask.question.packets.tuple;
        self.close(branch, Verdict::Unknown, why, None, tuple);
    }

    fn close(
        &mut self,
        branch: Branch,
        verdict: Verdict,
        summary: String,
        advice: Option<String>,
        tuple: Tuple,
    ) {
        let way = self.way(branch, verdict, summary, advice, tuple);
        self.done.push(way);
    }

    fn way(
        &self,
        branch: Branch,
        verdict: Verdict,
        summary: String,
        advice: Option<String>,
        tuple: Tuple,
    ) -> Way {
        let doubtful = branch.hops.iter().any(|hop| hop.doubtful);
        Way {
            chance: branch.chance,
            verdict: if doubtful && verdict != Verdict::Unknown { Verdict::Unknown } else { verdict },
            summary: if doubtful {
                format!("{summary}, unless a rule marked with ? below says otherwise")
            } else {
                summary
            },
            advice,
            receiver: None,
            destination: Some(format!("{}:{}", tuple.destination, tuple.destination_port)),
            source_seen: None,
            hops: branch.hops,
            answer: branch.answer,
            answer_verdict: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::world::{Endpoint, Pod, PodPort, Service, ServicePort};

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn world() -> World {
        let pod = |name: &str, address: &str, node: &str| Pod {
            namespace: "default".into(),
            name: name.into(),
            ip: Some(ip(address)),
            node: node.into(),
            host_network: false,
            ports: vec![PodPort {
                name: "http".into(),
                protocol: "TCP".into(),
                port: 8080,
                host_port: (name == "web").then_some((Ipv4Addr::UNSPECIFIED, 9000)),
            }],
        };
        let node =
            |name: &str, address: &str| Node { name: name.into(), ip: ip(address), uplink: Some(false) };
        World {
            nodes: vec![node("n1", "10.100.0.2"), node("n2", "10.100.0.3")],
            pods: vec![pod("client", "10.244.1.2", "n1"), pod("web", "10.244.2.2", "n2")],
            services: vec![Service {
                namespace: "default".into(),
                name: "svc".into(),
                cluster_ip: Some(ip("10.96.0.9")),
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: "TCP".into(),
                    port: 80,
                    node_port: Some(30080),
                    endpoints: vec![Endpoint { ip: ip("10.244.2.2"), port: 8080 }],
                }],
            }],
            ranges: vec![(ip("10.244.0.0"), 16), (ip("10.96.0.0"), 16)],
        }
    }

    fn follow(from: &str, to: &str) -> Result<Follow, TraceError> {
        let world = world();
        let request = Request::read(from, to, "default", &world)?;
        Follow::new(Arc::new(world), request)
    }

    fn way(end: End, tuple: Tuple) -> NodeWay {
        NodeWay { chance: 1.0, hops: Vec::new(), end, tuple, conversations: Vec::new() }
    }

    #[test]
    fn a_service_is_followed_over_two_nodes_and_back() {
        let mut follow = follow("pod/client", "svc/svc").unwrap();
        let first = follow.next().unwrap().clone();
        assert_eq!(
            (first.node.as_str(), &first.question.start),
            ("n1", &Start::Sandbox { ip: ip("10.244.1.2") })
        );
        let tuple = first.question.packets.tuple;
        assert_eq!((tuple.destination, tuple.destination_port), (ip("10.96.0.9"), 80));
        let translated = Tuple { destination: ip("10.244.2.2"), destination_port: 8080, ..tuple };
        let leaves = |to: &str| End::Leaves { link: "eth0".into(), next_hop: ip(to) };
        let mut one = way(leaves("10.100.0.3"), translated);
        let kept = Conversation { place: "node n1".into(), protocol: 6, original: tuple, translated };
        one.conversations.push(kept.clone());
        follow.answer(Ok(vec![one]));
        let second = follow.next().unwrap().clone();
        assert_eq!(second.node, "n2");
        assert_eq!(second.question.start, Start::Link { next_hop: ip("10.100.0.2") });
        let taken = End::Delivered { place: "pod default/web".into(), process: "process 7 (web)".into() };
        follow.answer(Ok(vec![way(taken, translated)]));
        let back = follow.next().unwrap().clone();
        assert!(back.question.packets.reply);
        assert_eq!(back.question.packets.tuple, translated.turned());
        follow.answer(Ok(vec![way(leaves("10.100.0.2"), translated.turned())]));
        // The node that translated is told of it again.
        assert_eq!(follow.next().unwrap().question.conversations, [kept]);
        let home = End::Delivered { place: "pod default/client".into(), process: String::new() };
        follow.answer(Ok(vec![way(home, tuple.turned())]));
        assert_eq!(follow.next(), None);
        let (ways, ..) = follow.finish();
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0].verdict, Verdict::Delivered);
        assert_eq!(ways[0].source_seen.as_deref(), Some("10.244.1.2"));
        let answer = ways[0].answer_verdict.as_deref();
        assert_eq!(answer, Some("the answer reaches pod default/client, from 10.96.0.9:80"));
    }

    #[test]
    fn questions_that_make_no_sense_are_told_in_a_sentence() {
        let wrong = |from, to| follow(from, to).err().map(|error| error.0).unwrap_or_default();
        assert_eq!(
            wrong("pod/clinet", "svc/svc"),
            "there is no pod clinet in namespace default; did you mean client?"
        );
        assert_eq!(wrong("client", "node/n1"), "say which port: 10.100.0.2:PORT");
        assert_eq!(wrong("client", "svc/svc:metrics"), "service default/svc has no TCP port metrics");
        assert_eq!(wrong("client", "web/udp"), "pod default/web names no UDP port: say pod/web:PORT");
        assert_eq!(
            wrong("external", "svc/svc"),
            "10.96.0.9 (service default/svc) is an address inside the cluster: nothing outside leads there; \
             use a node port"
        );
        assert_eq!(wrong("client", "10.0.0.1:99999"), "\"99999\" is no port (1 to 65535)");
        assert_eq!(
            wrong("client", "job/x"),
            "job/x: no kind \"job\" (pod/NAME, svc/NAME, node/NAME, an address or external)"
        );
    }

    #[test]
    fn what_stops_it_is_named_with_what_would_let_it_pass() {
        let mut refused = follow("client", "node/n1:9000").unwrap();
        let tuple = refused.next().unwrap().question.packets.tuple;
        let why = "nothing listens on 10.100.0.2:9000/tcp in node n1".to_owned();
        refused.answer(Ok(vec![way(End::Refused { place: "node n1".into(), why }, tuple)]));
        let (ways, ..) = refused.finish();
        assert_eq!(ways[0].verdict, Verdict::Refused);
        let advice = ways[0].advice.as_deref();
        assert_eq!(
            advice,
            Some("hostPort 9000 of pod default/web is open on node n2 alone, where the pod is")
        );

        let mut dropped = follow("client", "web").unwrap();
        let tuple = dropped.next().unwrap().question.packets.tuple;
        let mut stop = way(End::Dropped { place: "node n2".into(), by: "a rule".into() }, tuple);
        stop.hops.push(Hop {
            comment: Some("ingress isolated by default/deny".into()),
            table: Some("skiff".into()),
            ..Hop::default()
        });
        dropped.answer(Ok(vec![stop]));
        let (ways, ..) = dropped.finish();
        assert_eq!(
            ways[0].summary,
            "dropped on node n2 by NetworkPolicy default/deny: none of its ingress rules allows it"
        );

        let mut outside = follow("client", "192.0.2.1:80").unwrap();
        let tuple = outside.next().unwrap().question.packets.tuple;
        let leaves = End::Leaves { link: "eth0".into(), next_hop: ip("10.100.0.1") };
        outside.answer(Ok(vec![way(leaves, tuple)]));
        let (ways, ..) = outside.finish();
        assert!(ways[0].summary.contains("--uplink"), "{}", ways[0].summary);

        let mut silent = follow("client", "web").unwrap();
        silent.answer(Err("no answer within 3 s".into()));
        let (ways, ..) = silent.finish();
        assert_eq!(
            (ways[0].verdict, ways[0].summary.as_str()),
            (Verdict::Unknown, "node n1 can't say: no answer within 3 s")
        );
    }
}
