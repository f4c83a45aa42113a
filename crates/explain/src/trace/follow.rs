//! From node to node: which one to ask next, and what its answer means for the whole way.

mod begin;

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::advice;
use super::target::{self, Protocol, Request, Target, TraceError};
use super::walk::{Conversation, End, Hop, NodeWay, Packets, Question, Start, Tuple};
use super::world::World;
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
    /// By which node the packet came to which, and with what addresses.
    passed: Vec<(String, Ipv4Addr, Tuple)>,
}

/// What became of an answer.
struct Answer {
    ends: Verdict,
    words: String,
    advice: Option<String>,
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
            let hops = this.brought(&node, &start, &tuple).into_iter().collect();
            let packets = Packets { protocol: this.request.protocol.number(), tuple, reply: false };
            let to = (tuple.destination, tuple.destination_port);
            this.origins.push(Origin { node: node.clone(), start: start.clone(), to });
            let question = Question { start, packets, conversations: Vec::new() };
            this.open.push_back(Branch {
                ask: Ask { node, question },
                chance,
                hops,
                answer: Vec::new(),
                conversations: HashMap::new(),
                arrived: None,
                passed: Vec::new(),
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
                        let hop = self.router(next_hop, &node, &beyond, &way.tuple, &branch.hops);
                        branch.hops.push(hop);
                        return self.enter(branch, beyond, Some(next_hop), way.tuple, false);
                    }
                    let to = way.tuple.destination;
                    let uplink = self.world.node(&node).and_then(|node| node.uplink);
                    let (verdict, summary) = advice::left(&node, &link, to, uplink, &self.world);
                    self.close(branch, verdict, summary, None, way.tuple);
                }
            },
            End::Delivered { place, process } => {
                let arrived = Arrived { place: place.clone(), process, tuple: way.tuple };
                branch.arrived = Some(arrived);
                branch.passed.clear();
                let start = match place.strip_prefix("pod ") {
                    // It may have arrived at another address than the pod is known by, as at its loopback.
                    Some(pod) => Start::Sandbox { ip: self.address_of(pod).unwrap_or(way.tuple.destination) },
                    None => Start::Node,
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

    /// The address of `NAMESPACE/NAME`.
    fn address_of(&self, pod: &str) -> Option<Ipv4Addr> {
        let (namespace, name) = pod.split_once('/')?;
        self.world.pod(namespace, name)?.ip
    }

    /// The node to which a router between nodes hands the packet, if it is for one.
    fn beyond_router(&self, tuple: &Tuple) -> Option<String> {
        let pod = self.world.pod_at(tuple.destination);
        let node = self.world.node_at(tuple.destination).or_else(|| self.world.node(&pod?.node))?;
        Some(node.name.clone())
    }

    /// A machine that is no node: what it does is known only where it is this platform's own.
    fn router(&self, at: Ipv4Addr, from: &str, node: &str, tuple: &Tuple, before: &[Hop]) -> Hop {
        let known = self.world.nodes.iter().any(|node| node.uplink.is_some());
        // Nodes know the ways to each other's pods. One that sends by its default route lacks this one.
        let by_default = before.iter().rev().find(|hop| hop.kind == "route");
        let direct = match by_default {
            Some(hop) if hop.text.starts_with("default ") => {
                format!("; {from} has no route of its own to {}", self.world.who(tuple.destination))
            }
            _ => String::new(),
        };
        Hop {
            place: format!("router {at}"),
            kind: "route".into(),
            text: format!("passes it on to node {node}{direct}"),
            source: tuple.source.to_string(),
            destination: format!("{}:{}", tuple.destination, tuple.destination_port),
            doubtful: !known,
            ..Hop::default()
        }
    }

    fn go_back(&mut self, mut branch: Branch, way: NodeWay) {
        branch.answer.extend(way.hops);
        let node = branch.ask.node.clone();
        let arrives = |ends, words| Answer { ends, words, advice: None };
        let answer = match way.end {
            End::Leaves { next_hop, .. } => match self.world.node_at(next_hop) {
                Some(next) => {
                    let (next, near) = (next.name.clone(), self.world.node(&node).map(|node| node.ip));
                    return self.enter(branch, next, near, way.tuple, true);
                }
                None => {
                    if let Some(beyond) = self.beyond_router(&way.tuple) {
                        let hop = self.router(next_hop, &node, &beyond, &way.tuple, &branch.answer);
                        branch.answer.push(hop);
                        return self.enter(branch, beyond, Some(next_hop), way.tuple, true);
                    }
                    let to = way.tuple.destination;
                    let whose =
                        self.world.neighbour(to).map(|whose| format!(" ({whose})")).unwrap_or_default();
                    arrives(Verdict::Left, format!("the answer leaves {node} for {to}{whose}"))
                }
            },
            End::Delivered { place, .. } => {
                let words = format!(
                    "the answer reaches {place}, from {}:{}",
                    way.tuple.source, way.tuple.source_port
                );
                arrives(Verdict::Delivered, words)
            }
            end => {
                let to = way.tuple.destination;
                let (words, advice) = advice::answer_lost(&end, to, &branch.answer, &self.world);
                Answer { ends: Verdict::Dropped, words, advice }
            }
        };
        self.arrive(branch, answer);
    }

    /// The packet goes on to another node.
    fn enter(&mut self, mut branch: Branch, node: String, near: Option<Ipv4Addr>, tuple: Tuple, reply: bool) {
        let next_hop = near.unwrap_or(tuple.source);
        let conversations = branch.conversations.get(&node).cloned().unwrap_or_default();
        let packets = Packets { protocol: self.request.protocol.number(), tuple, reply };
        let passed = (node.clone(), next_hop, tuple);
        if branch.passed.contains(&passed) {
            return self.circles(branch, tuple);
        }
        branch.passed.push(passed);
        branch.ask =
            Ask { node, question: Question { start: Start::Link { next_hop }, packets, conversations } };
        self.open.push_back(branch);
    }

    /// The packet comes to a node a second time as it came there before, and so again and again.
    fn circles(&mut self, branch: Branch, tuple: Tuple) {
        let hops = if branch.arrived.is_some() { &branch.answer } else { &branch.hops };
        let (words, advice) = advice::circles(hops, &branch.passed, tuple.destination, &self.world);
        if branch.arrived.is_some() {
            let words = format!("the answer gets lost: {words}");
            return self.arrive(branch, Answer { ends: Verdict::Dropped, words, advice });
        }
        self.close(branch, Verdict::Unreachable, format!("gets nowhere: {words}"), advice, tuple);
    }

    fn arrive(&mut self, branch: Branch, answer: Answer) {
        let Some(Arrived { place, process, tuple }) = branch.arrived.clone() else { return };
        let untouched = branch.hops.first().is_some_and(|hop| hop.source == tuple.source.to_string());
        let known = self.request.from != Target::External || self.world.surroundings.is_some();
        let sender = (known || !untouched).then_some(tuple.source);
        let mut summary = advice::delivered(&place, &process, sender, &self.world);
        if let Some(rule) = advice::allowing(&branch.hops) {
            summary = format!("{summary}, as NetworkPolicy {rule} allows");
        }
        // What is not judged may be in the answer's way as well.
        let doubtful = branch.answer.iter().any(|hop| hop.doubtful);
        // Whoever sends a datagram may want no answer; without one there is no connection.
        let lost = answer.ends == Verdict::Dropped && self.request.protocol == Protocol::Tcp;
        let verdict = match (lost, doubtful) {
            (false, _) => Verdict::Delivered,
            (true, false) => Verdict::Dropped,
            (true, true) => Verdict::Unknown,
        };
        if verdict != Verdict::Delivered {
            let doubt = if doubtful { "not known: by what is marked with ? below, " } else { "" };
            summary =
                format!("{doubt}no connection comes about: its beginning {summary}, but {}", answer.words);
        }
        let receiver = Some(place);
        let advice = answer.advice.filter(|_| answer.ends == Verdict::Dropped);
        let mut way = self.way(branch, verdict, summary, advice, tuple);
        way.receiver = receiver;
        way.answer_ends = Some(if doubtful { Verdict::Unknown } else { answer.ends });
        // Which address somebody outside has is not known, only whether it arrives as it is.
        way.source_seen = Some(sender.map_or_else(|| super::OWN_ADDRESS.into(), |sender| sender.to_string()));
        way.answer_verdict = Some(match doubtful {
            true => format!(
                "not known: what is marked with ? below is not judged; apart from that, {}",
                answer.words
            ),
            false => answer.words,
        });
        self.done.push(way);
    }

    fn lost(&mut self, branch: Branch, why: &str) {
        let why = format!("node {} can't say: {why}", branch.ask.node);
        if branch.arrived.is_some() {
            return self.arrive(branch, Answer { ends: Verdict::Unknown, words: why, advice: None });
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
        let doubtful = branch.hops.iter().any(|hop| hop.doubtful) && verdict != Verdict::Unknown;
        let by_policy = branch.hops.iter().any(advice::is_of_policy);
        let judged_for = match (&self.request.from, self.world.surroundings) {
            (Target::External, Some(around)) if by_policy => Some(format!(
                "; that is for the sender {}: an ipBlock may decide otherwise for another one (ask from its \
                 address)",
                around.machine
            )),
            _ => None,
        };
        // Any policy on the way may ask for the address, which nobody has told.
        let unknown_sender =
            by_policy && self.request.from == Target::External && self.world.surroundings.is_none();
        Way {
            chance: branch.chance,
            verdict: if doubtful || unknown_sender { Verdict::Unknown } else { verdict },
            summary: if unknown_sender {
                "not known: a NetworkPolicy is on the way, whose ipBlock may ask for the sender's address; ask \
                 from that address instead of external"
                    .to_owned()
            } else if doubtful && branch.hops.last().is_some_and(|hop| hop.doubtful) {
                format!("not known: whether what is marked with ? below applies; if it does, {summary}")
            } else if doubtful {
                format!("not known: what is marked with ? below is not judged; apart from that, {summary}")
            } else {
                format!("{summary}{}", judged_for.unwrap_or_default())
            },
            advice,
            receiver: None,
            destination: Some(format!("{}:{}", tuple.destination, tuple.destination_port)),
            source_seen: None,
            hops: branch.hops,
            answer: branch.answer,
            answer_verdict: None,
            answer_ends: None,
        }
    }
}

#[cfg(test)]
mod tests;
