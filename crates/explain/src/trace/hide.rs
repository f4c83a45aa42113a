//! What the asker may not see goes out of an answer as a whole: objects of other namespaces wherever a
//! sentence names them, and processes by name.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Live, Way};

/// Stands where a name was.
pub const HIDDEN: &str = "(hidden)";

/// Decides for each namespace once whether its objects are hidden.
pub struct Hider<F> {
    decide: F,
    decided: BTreeMap<String, bool>,
    /// Whether anything was taken out.
    pub hid: bool,
}

impl<F: FnMut(&str) -> bool> Hider<F> {
    /// `decide` says `true` of a namespace of the cluster whose objects the asker may not see.
    pub fn new(decide: F) -> Self {
        Self { decide, decided: BTreeMap::new(), hid: false }
    }

    pub fn hides(&mut self, namespace: &str) -> bool {
        if let Some(known) = self.decided.get(namespace) {
            return *known;
        }
        let hides = (self.decide)(namespace);
        self.decided.insert(namespace.to_owned(), hides);
        hides
    }

    /// The text without `NAMESPACE/NAME` of what is hidden, and without commands in such a namespace.
    pub fn text(&mut self, text: &str) -> Option<String> {
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '/');
        let (mut out, mut rest, mut changed) = (String::with_capacity(text.len()), text, false);
        while let Some(start) = rest.find(name) {
            let (before, from) = rest.split_at(start);
            out.push_str(before);
            let (run, after) = from.split_at(from.find(|c| !name(c)).unwrap_or(from.len()));
            match run.split_once('/') {
                Some((namespace, _)) if self.hides(namespace) => {
                    out.push_str(HIDDEN);
                    // The sentence goes on after a name that it ends with.
                    out.push_str(&run[run.trim_end_matches('.').len()..]);
                    changed = true;
                }
                None if before == " " && out.ends_with("-n ") && self.hides(run) => {
                    self.hid = true;
                    return Some(HIDDEN.to_owned());
                }
                _ => out.push_str(run),
            }
            rest = after;
        }
        out.push_str(rest);
        self.hid |= changed;
        changed.then_some(out)
    }

    /// The same in every text of an answer.
    pub fn answer<T: Serialize + DeserializeOwned>(&mut self, told: T) -> serde_json::Result<T> {
        let mut value = serde_json::to_value(&told)?;
        if !self.value(&mut value) {
            return Ok(told);
        }
        serde_json::from_value(value)
    }

    fn value(&mut self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => match self.text(text) {
                Some(without) => {
                    *text = without;
                    true
                }
                None => false,
            },
            // Each is looked at, also after one that changed.
            Value::Array(all) => all.iter_mut().fold(false, |changed, one| self.value(one) | changed),
            Value::Object(all) => all.values_mut().fold(false, |changed, one| self.value(one) | changed),
            _ => false,
        }
    }

    /// What a real connection met inside of hidden pods: rules of their own.
    pub fn live(&mut self, live: &mut Live) {
        let Live { seen, differences, .. } = live;
        for sighting in seen.iter_mut().filter(|sighting| sighting.chain.is_some()) {
            let pod = sighting.place.strip_prefix("pod ").and_then(|pod| pod.split_once('/'));
            if pod.is_some_and(|(namespace, _)| self.hides(namespace)) {
                (sighting.chain, sighting.verdict) = (None, None);
                self.hid = true;
            }
        }
        for difference in differences.iter_mut().filter(|difference| difference.contains(" chain ")) {
            if let Some(without) = self.text(difference) {
                let place = without.split_whitespace().any(|word| word.trim_matches([',', '`']) == HIDDEN);
                if place {
                    *difference = "a rule of a hidden pod's own did something else than was told".into();
                }
            }
        }
    }

    /// What is inside hidden pods and nodes: processes, and rules of a pod's own filter.
    /// `sees_node` says whether the asker may see the processes of a node.
    pub fn insides(&mut self, way: &mut Way, sees_node: impl Fn(&str) -> bool) {
        let mut hide = |hop: &mut super::Hop, summary: Option<&mut String>| {
            let by = match hop.place.split_once(' ') {
                Some(("node", node)) if !sees_node(node) => "a process of the node",
                Some(("pod", pod))
                    if self.hides(pod.split_once('/').map_or("", |(namespace, _)| namespace)) =>
                {
                    "a process of the pod"
                }
                _ => return,
            };
            let taken = hop.text.split_once(" is taken by ");
            if let Some((target, process)) =
                taken.map(|(target, process)| (target.to_owned(), process.to_owned()))
            {
                if process.starts_with("process ") {
                    hop.text = format!("{target} is taken by {by}");
                    if let Some(summary) = summary {
                        *summary = summary.replacen(&process, by, 1);
                    }
                    self.hid = true;
                }
            } else if hop.place.starts_with("pod ") && matches!(hop.kind.as_str(), "route" | "neighbour") {
                // Where it goes is told by the next hop.
                (hop.text, hop.device) = ("as the pod's own routes and neighbours say".into(), None);
                self.hid = true;
            } else if hop.rule.is_some() && hop.place.starts_with("pod ") {
                (hop.table, hop.chain, hop.handle, hop.comment, hop.rule) = (None, None, None, None, None);
                if let Some((kept, _)) = summary.as_ref().and_then(|summary| summary.split_once(" by chain "))
                    && let kept = kept.to_owned()
                    && let Some(summary) = summary
                {
                    *summary = format!("{kept} by a rule of the pod's own");
                }
                self.hid = true;
            }
        };
        let Way { hops, answer, summary, .. } = way;
        let last = hops.len().saturating_sub(1);
        for (index, hop) in hops.iter_mut().enumerate() {
            hide(hop, (index == last).then_some(&mut *summary));
        }
        answer.iter_mut().for_each(|hop| hide(hop, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Hop, Sighting, Verdict};

    fn hider() -> Hider<impl FnMut(&str) -> bool> {
        Hider::new(|namespace: &str| namespace == "other")
    }

    #[test]
    fn names_of_hidden_namespaces_leave_every_sentence() {
        let mut hider = hider();
        let mut text = |text: &str| hider.text(text).unwrap_or_else(|| text.to_owned());
        assert_eq!(
            text("dropped by NetworkPolicy other/secret, default/mine: 10.0.0.0/8 or kubernetes.io/x."),
            "dropped by NetworkPolicy (hidden), default/mine: 10.0.0.0/8 or kubernetes.io/x."
        );
        assert_eq!(
            text("0.0.0.0:80/TCP is held by pod other/hidden."),
            "0.0.0.0:80/TCP is held by pod (hidden)."
        );
        assert_eq!(text("other words and another/name"), "other words and another/name");
        assert_eq!(text("in no other words: -n"), "in no other words: -n");
        assert_eq!(text("kubectl -n other delete pod hidden"), "(hidden)");
        assert_eq!(text("kubectl -n default delete pod web"), "kubectl -n default delete pod web");
        assert!(hider.hid);
    }

    #[test]
    fn a_way_through_hidden_pods_keeps_its_verdict_alone() {
        let socket = |place: &str| Hop {
            place: place.into(),
            kind: "socket".into(),
            text: "10.0.0.1:80/tcp is taken by process 7 (secretd)".into(),
            ..Hop::default()
        };
        let mut way = Way::unreachable(
            "reaches pod other/hidden: process 7 (secretd) takes it and sees 10.0.0.2 (pod default/c) as the sender"
                .into(),
        );
        way.verdict = Verdict::Delivered;
        way.receiver = Some("pod other/hidden".into());
        way.hops = vec![socket("pod other/hidden")];
        way.hops.push(Hop {
            place: "pod other/hidden".into(),
            kind: "route".into(),
            device: Some("secret0".into()),
            text: "10.9.0.0/16 dev secret0".into(),
            ..Hop::default()
        });
        way.hops.rotate_right(1);
        let mut hider = hider();
        hider.insides(&mut way, |_| true);
        let way = hider.answer(way).unwrap();
        let text = serde_json::to_string(&way).unwrap();
        assert!(!text.contains("other") && !text.contains("secret"), "{text}");
        assert!(!text.contains("10.9.0.0"), "{text}");
        assert_eq!(
            way.summary,
            "reaches pod (hidden): a process of the pod takes it and sees 10.0.0.2 (pod default/c) as the sender"
        );
        assert_eq!(way.verdict, Verdict::Delivered);
        assert!(hider.hid);
    }

    #[test]
    fn an_answers_socket_does_not_change_where_it_arrived() {
        let summary =
            "reaches node w2: process 9 (sshd) takes it and sees 10.100.1.3 (node w1) as the sender";
        let mut way = Way::unreachable(summary.into());
        way.hops = vec![Hop {
            place: "node w2".into(),
            kind: "socket".into(),
            text: "10.100.1.4:22/tcp is taken by process 9 (sshd)".into(),
            ..Hop::default()
        }];
        way.answer = vec![Hop {
            place: "node w1".into(),
            kind: "socket".into(),
            text: "10.100.1.3:40000/tcp is taken by the connection's own socket".into(),
            ..Hop::default()
        }];
        let mut hider = hider();
        let whole = way.clone();
        hider.insides(&mut way, |_| true);
        assert_eq!(way, whole);
        hider.insides(&mut way, |_| false);
        assert_eq!(
            way.summary,
            "reaches node w2: a process of the node takes it and sees 10.100.1.3 (node w1) as the sender"
        );
        assert_eq!(way.hops[0].text, "10.100.1.4:22/tcp is taken by a process of the node");
        assert_eq!(way.answer, whole.answer);
    }

    #[test]
    fn a_rule_inside_a_hidden_pod_is_not_told() {
        let mut way = Way::unreachable(
            "dropped on pod other/hidden by chain mine of table own, rule `tcp drop`".into(),
        );
        way.hops = vec![Hop {
            place: "pod other/hidden".into(),
            kind: "filter".into(),
            text: "dropped".into(),
            rule: Some("tcp drop".into()),
            table: Some("own".into()),
            chain: Some("mine".into()),
            ..Hop::default()
        }];
        let mut hider = hider();
        hider.insides(&mut way, |_| true);
        let way = hider.answer(way).unwrap();
        assert_eq!(way.summary, "dropped on pod (hidden) by a rule of the pod's own");
        assert_eq!((way.hops[0].rule.as_deref(), way.hops[0].table.as_deref()), (None, None));
    }

    #[test]
    fn what_a_connection_met_inside_a_hidden_pod_is_not_told() {
        let rule = |place: &str| Sighting {
            place: place.into(),
            kind: "rule".into(),
            device: None,
            chain: Some("secret".into()),
            answer: false,
            seen: true,
            packet: None,
            verdict: Some("jump secret".into()),
        };
        let mut live = Live {
            outcome: "silent".into(),
            way: 0,
            seen: vec![rule("pod other/hidden"), rule("pod default/own"), rule("node n1")],
            differences: vec![
                "it should have met chain secret of pod other/hidden, rule `drop secret`".into(),
                "it should have met chain own of node n1, rule `drop`".into(),
            ],
            unseen: Vec::new(),
        };
        let mut hider = hider();
        hider.live(&mut live);
        let live = hider.answer(live).unwrap();
        assert_eq!((live.seen[0].chain.as_deref(), live.seen[0].verdict.as_deref()), (None, None));
        assert_eq!(live.seen[0].place, "pod (hidden)");
        assert!(live.seen[1..].iter().all(|sighting| sighting.chain.is_some()));
        assert_eq!(
            live.differences,
            [
                "a rule of a hidden pod's own did something else than was told",
                "it should have met chain own of node n1, rule `drop`",
            ]
        );
        assert!(hider.hid);
    }

    #[test]
    fn the_insides_of_ones_own_pods_and_the_rules_of_nodes_stay() {
        let mut own = Way::unreachable("reaches pod default/own: process 7 (web) takes it".into());
        own.hops = vec![Hop {
            place: "pod default/own".into(),
            kind: "socket".into(),
            text: "10.0.0.1:80/tcp is taken by process 7 (web)".into(),
            ..Hop::default()
        }];
        let mut ruled = Way::unreachable("dropped on node n1 by chain mine of table own".into());
        ruled.hops = vec![Hop {
            place: "node n1".into(),
            kind: "filter".into(),
            text: "dropped".into(),
            rule: Some("tcp drop".into()),
            ..Hop::default()
        }];
        let mut hider = hider();
        for way in [own, ruled] {
            let mut hidden = way.clone();
            hider.insides(&mut hidden, |_| false);
            assert_eq!(hidden, way);
        }
        assert!(!hider.hid);
    }

    #[test]
    fn a_rule_of_a_node_that_names_what_is_hidden_keeps_its_place() {
        let told = "it should have met chain own of node n1, rule `drop comment \"other/deny ingress[0]\"`";
        let mut live = Live {
            outcome: "silent".into(),
            way: 0,
            seen: Vec::new(),
            differences: vec![told.into()],
            unseen: Vec::new(),
        };
        let mut hider = hider();
        hider.live(&mut live);
        let live = hider.answer(live).unwrap();
        assert_eq!(
            live.differences,
            ["it should have met chain own of node n1, rule `drop comment \"(hidden) ingress[0]\"`"]
        );
    }

    #[test]
    fn each_of_several_hidden_names_is_left_out() {
        let mut hider = hider();
        let list: Vec<String> = ["pod other/a", "pod other/b", "pod own/c"].map(str::to_owned).into();
        assert_eq!(hider.answer(list).unwrap(), ["pod (hidden)", "pod (hidden)", "pod own/c"]);
        let fields = std::collections::BTreeMap::from([("x", "other/a"), ("y", "other/b")]);
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let told: std::collections::BTreeMap<String, String> = hider.answer(fields.collect()).unwrap();
        assert!(told.values().all(|value| value == "(hidden)"), "{told:?}");
    }
}
