//! Each hop that can be observed, marked; and what differs.

use super::{MetRule, Observed, Outcome, Sight, Tracked};
use crate::trace::walk::Hop;
use crate::trace::{Live, Protocol, Sighting, Verdict, Way};

/// Judges one connection, and marks the hops of the way that it went.
pub fn judge(ways: &mut [Way], protocol: Protocol, outcome: &Outcome, observed: &Observed) -> Live {
    let mut live = Live {
        outcome: outcome.outcome.clone(),
        way: 0,
        seen: Vec::new(),
        differences: Vec::new(),
        unseen: Vec::new(),
    };
    // The draw was the kernel's: the way that fits best is the one that was gone.
    let fit = |(index, way): &(usize, &Way)| {
        let (seen, missed): (Vec<_>, Vec<_>) =
            expected(way, false, observed).into_iter().partition(|this| this.is_seen(observed));
        // The likeliest of equals.
        (seen.len() as i64 - 2 * missed.len() as i64, usize::MAX - index)
    };
    let Some((gone, _)) = ways.iter().enumerate().max_by_key(fit) else { return live };
    live.way = gone;
    let way = &ways[gone];
    // Whoever takes a connection's beginning answers it, also where the answer is lost on its way.
    let lost = outcome.outcome == "silent" && protocol == Protocol::Tcp && loses_answer(way);
    let answered = outcome.outcome == "answered" && way.verdict == Verdict::Delivered;
    let mut marks = Vec::new();
    for answer in [false, true] {
        if answer && !answered && !lost {
            continue;
        }
        for this in expected(way, answer, observed) {
            let seen = this.is_seen(observed);
            marks.push((answer, this.index, seen));
            if let Some(difference) = this.difference(observed).filter(|_| this.certain) {
                live.differences.push(difference);
            }
            let sighting = this.sighting(observed);
            if !live.seen.contains(&sighting) {
                live.seen.push(sighting);
            }
        }
    }
    live.differences.extend(untold(ways, way, answered || lost, observed));
    live.differences.extend(mistranslated(ways, way, answered, observed));
    // What stops the answer is silence too.
    let unanswered = outcome.outcome == "silent" && way.answer.iter().any(|hop| hop.doubtful);
    if !unanswered && !agrees(way.verdict, protocol, &outcome.outcome) {
        live.differences
            .push(format!("told was {:?}, but the connection was {}", way.verdict, outcome.outcome));
    }
    let mut once = Vec::new();
    live.differences.retain(|difference| {
        let first = !once.contains(difference);
        once.push(difference.clone());
        first
    });
    live.unseen = unseen(way, protocol, &outcome.outcome, observed);
    mark(&mut ways[gone], &marks, outcome, observed);
    live
}

/// A hop of which something can be observed.
struct Expected<'a> {
    index: usize,
    hop: &'a Hop,
    answer: bool,
    kind: Kind,
    /// Nothing before it is in doubt.
    certain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device,
    Rule,
    Translation,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Rule => "rule",
            Self::Translation => "translation",
        }
    }
}

/// The hops of a way, or of its answer's, that leave a trace.
fn expected<'a>(way: &'a Way, answer: bool, observed: &Observed) -> Vec<Expected<'a>> {
    let hops = if answer { &way.answer } else { &way.hops };
    // What is not judged may have ended it before.
    let doubt = hops.iter().position(|hop| hop.doubtful).unwrap_or(hops.len());
    let last = hops.len().saturating_sub(1);
    let unasked = unanswered_from(way, answer);
    let kind = |(index, hop): (usize, &'a Hop)| {
        // A device that is down ends the way, and nothing passes it.
        let ends = if answer { loses_answer(way) } else { way.verdict == Verdict::Unreachable };
        let is_end = ends && index == last;
        let kind = match hop.kind.as_str() {
            "device" | "veth" if hop.device.is_some() && !is_end => Kind::Device,
            "filter" if observed.could_meet(hop, answer) => Kind::Rule,
            "conntrack" => Kind::Translation,
            _ => return None,
        };
        Some(Expected { index, hop, answer, kind, certain: index < doubt.min(unasked) })
    };
    hops.iter().enumerate().filter_map(kind).collect()
}

/// Whether it arrives and its answer does not.
fn loses_answer(way: &Way) -> bool {
    way.answer_ends == Some(Verdict::Dropped)
}

impl Observed {
    /// Whether the rule would be told if a packet met it. Packets are traced from where they are routed on; before
    /// that, rules of bridges and devices, whose tables bear their family, are told where it is said so.
    fn could_meet(&self, hop: &Hop, answer: bool) -> bool {
        let Some(table) = hop.table.as_ref().filter(|_| hop.handle.is_some()) else { return false };
        let blind = self.blind.iter().any(|blind| blind.place == hop.place);
        let told = match table.split_once(' ') {
            None => true,
            Some((family, _)) => self.frames.iter().any(|frames| {
                frames.place == hop.place && frames.family == family && (frames.answers || !answer)
            }),
        };
        told && !blind || self.rules.iter().any(|met| is_rule(hop, met))
    }
}

impl Expected<'_> {
    /// On its device, as it was told to be there; else on its device at all.
    fn sight<'o>(&self, observed: &'o Observed) -> Option<&'o Sight> {
        let here = |sight: &&Sight| {
            sight.answer == self.answer
                && sight.place == self.hop.place
                && Some(&sight.device) == self.hop.device.as_ref()
        };
        let all = || observed.sights.iter().filter(here);
        all().find(|sight| self.is_as_told(sight)).or_else(|| all().next())
    }

    /// The sender's port is the kernel's choice.
    fn is_as_told(&self, sight: &Sight) -> bool {
        let to = sight.destination;
        let destination = match self.answer {
            true => self.hop.destination.split(':').next() == Some(to.ip().to_string().as_str()),
            false => self.hop.destination == to.to_string(),
        };
        destination && self.hop.source == sight.source.ip().to_string()
    }

    fn rule<'o>(&self, observed: &'o Observed) -> Option<&'o MetRule> {
        observed.rules.iter().find(|met| self.answer == met.answer && is_rule(self.hop, met))
    }

    fn translation<'o>(&self, observed: &'o Observed) -> Option<&'o Tracked> {
        observed.tracked.iter().find(|tracked| tracked.place == self.hop.place)
    }

    fn is_seen(&self, observed: &Observed) -> bool {
        match self.kind {
            Kind::Device => self.sight(observed).is_some(),
            Kind::Rule => self.rule(observed).is_some(),
            Kind::Translation => self.translation(observed).is_some(),
        }
    }

    fn difference(&self, observed: &Observed) -> Option<String> {
        let Hop { place, device, chain, .. } = self.hop;
        let it = if self.answer { "the answer" } else { "it" };
        let device = device.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Device => match self.sight(observed) {
                None => Some(format!("{it} should have passed {device} of {place}")),
                Some(sight) if self.is_as_told(sight) => None,
                Some(sight) => Some(format!(
                    "{it} was on {device} of {place} as {} to {}, told was {} to {}",
                    sight.source, sight.destination, self.hop.source, self.hop.destination
                )),
            },
            Kind::Rule => self.rule(observed).is_none().then(|| {
                let chain = chain.as_deref().unwrap_or_default();
                let rule = self.hop.rule.as_deref().unwrap_or_default();
                format!("{it} should have met chain {chain} of {place}, rule `{rule}`")
            }),
            Kind::Translation => self
                .translation(observed)
                .is_none()
                .then(|| format!("connection tracking of {place} should have an entry of it")),
        }
    }

    fn sighting(&self, observed: &Observed) -> Sighting {
        let packet = |(from, to): (String, String)| format!("{from} to {to}");
        let words = match self.kind {
            Kind::Device => {
                self.sight(observed).map(|sight| (sight.source.to_string(), sight.destination.to_string()))
            }
            Kind::Rule => {
                self.rule(observed).map(|met| (met.source.to_string(), met.destination.to_string()))
            }
            Kind::Translation => {
                self.translation(observed).map(|own| (own.source.to_string(), own.destination.to_string()))
            }
        };
        Sighting {
            place: self.hop.place.clone(),
            kind: self.kind.name().into(),
            device: self.hop.device.clone().filter(|_| self.kind == Kind::Device),
            chain: self.hop.chain.clone().filter(|_| self.kind == Kind::Rule),
            answer: self.answer,
            seen: words.is_some(),
            packet: words.map(packet),
            verdict: match self.kind {
                Kind::Device => None,
                Kind::Rule => self.rule(observed).map(|met| met.verdict.clone()),
                Kind::Translation => self
                    .translation(observed)
                    .map(|own| format!("answered by {} to {}", own.answer_source, own.answer_destination)),
            },
        }
    }
}

fn is_rule(hop: &Hop, met: &MetRule) -> bool {
    hop.place == met.place
        && hop.table.as_ref() == Some(&met.table)
        && hop.chain.as_ref() == Some(&met.chain)
        && hop.handle == Some(met.handle)
}

/// Whether something on the way is not judged; an answer's depends on that of what it answers.
fn doubt(way: &Way, answer: bool) -> bool {
    let hops = way.hops.iter().chain(way.answer.iter().filter(|_| answer));
    hops.into_iter().any(|hop| hop.doubtful)
}

/// What was observed that no way tells: sent again, the kernel may have drawn anew.
fn untold(ways: &[Way], gone: &Way, answered: bool, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let hops = |way: &'_ Way, answer: bool| -> Vec<Hop> {
        if answer { way.answer.clone() } else { way.hops.clone() }
    };
    for answer in [false, true] {
        if answer && !answered {
            continue;
        }
        let it = if answer { "the answer" } else { "it" };
        let told: Vec<Hop> = ways.iter().flat_map(|way| hops(way, answer)).collect();
        let devices: Vec<Expected<'_>> =
            ways.iter().flat_map(|way| expected(way, answer, observed)).collect();
        let threshold: Vec<_> = ways.iter().flat_map(|way| threshold(way, answer)).collect();
        // What is not judged may lead it, or what follows from it, anywhere.
        if doubt(gone, answer) {
            continue;
        }
        for sight in observed.sights.iter().filter(|sight| sight.answer == answer && sight.device != "lo") {
            let at = |this: &Expected<'_>| {
                this.kind == Kind::Device
                    && this.hop.place == sight.place
                    && this.hop.device.as_ref() == Some(&sight.device)
            };
            if !devices.iter().any(at) && !threshold.contains(&(&sight.place, &sight.device)) {
                found.push(format!(
                    "{it} was seen on {} of {}, where it should not come",
                    sight.device, sight.place
                ));
            }
        }
        // Sent again, it may meet what is for connections that are known.
        for met in observed.rules.iter().filter(|met| met.answer == answer && !met.again) {
            let decides = match met.verdict.as_str() {
                "drop" => true,
                "accept" => met.handle > 0,
                _ => false,
            };
            if decides && !told.iter().any(|hop| is_rule(hop, met)) {
                let MetRule { place, table, chain, verdict, .. } = met;
                found.push(format!(
                    "{it} met chain {chain} of table {table} on {place}, which said {verdict}: not told"
                ));
            }
        }
    }
    found
}

/// What connection tracking keeps of each visit of a place, beside what the hops there tell. An entry may also be
/// of another way, which the kernel drew when the packet was sent again.
fn mistranslated(ways: &[Way], way: &Way, answered: bool, observed: &Observed) -> Vec<String> {
    if way.hops.iter().any(|hop| hop.doubtful) {
        return Vec::new();
    }
    fn visits_of(way: &Way) -> impl Iterator<Item = &[Hop]> {
        way.hops.chunk_by(|one, next| one.place == next.place)
    }
    let visits: Vec<&[Hop]> = visits_of(way).collect();
    let ends = |visit: &[Hop]| {
        let (first, last) = (visit.first()?.clone(), visit.last()?.clone());
        Some((first, last))
    };
    let fits = |visit: &[Hop], tracked: &Tracked| {
        let Some((first, last)) = ends(visit) else { return false };
        first.place == tracked.place
            && first.destination == tracked.destination.to_string()
            && last.destination == tracked.answer_source.to_string()
            && last.source == tracked.answer_destination.ip().to_string()
    };
    let mut found = Vec::new();
    for tracked in &observed.tracked {
        let here = || ways.iter().flat_map(visits_of).filter(|visit| visit[0].place == tracked.place);
        if here().next().is_some() && !here().any(|visit| fits(visit, tracked)) {
            found.push(format!(
                "connection tracking of {} has {} to {} answered by {} to {}: not told",
                tracked.place,
                tracked.source,
                tracked.destination,
                tracked.answer_source,
                tracked.answer_destination
            ));
        }
    }
    for visit in visits.iter().filter(|_| answered) {
        let Some((first, last)) = ends(visit) else { continue };
        let translated = first.destination != last.destination || first.source != last.source;
        if translated && !observed.tracked.iter().any(|tracked| fits(visit, tracked)) {
            found.push(format!(
                "connection tracking of {} should have {} led to {}",
                first.place, first.destination, last.destination
            ));
        }
    }
    found
}

/// Writes down at each hop whether it was seen.
fn mark(way: &mut Way, marks: &[(bool, usize, bool)], outcome: &Outcome, observed: &Observed) {
    for (answer, index, seen) in marks {
        let hops = if *answer { &mut way.answer } else { &mut way.hops };
        hops[*index].seen = Some(*seen);
    }
    for (answer, hops) in [(false, &mut way.hops), (true, &mut way.answer)] {
        for hop in hops {
            let passed = |sight: &Sight| {
                sight.answer == answer
                    && sight.place == hop.place
                    && Some(&sight.device) == hop.device.as_ref()
            };
            // A route is seen by where it led to.
            if hop.kind == "route" && observed.sights.iter().any(passed) {
                hop.seen = Some(true);
            }
            let heard = match way.verdict {
                Verdict::Delivered => outcome.outcome == "answered",
                Verdict::Refused => outcome.outcome == "refused",
                _ => false,
            };
            if hop.kind == "socket" && heard {
                hop.seen = Some(true);
            }
        }
    }
}

/// What one connection leaves open.
fn unseen(way: &Way, protocol: Protocol, outcome: &str, observed: &Observed) -> Vec<String> {
    let mut open: Vec<String> =
        observed.blind.iter().map(|blind| format!("rules on {}: {}", blind.place, blind.why)).collect();
    if protocol == Protocol::Udp && outcome == "silent" && way.verdict == Verdict::Delivered {
        open.push(
            "the answer's way: whoever takes a datagram need not answer one that it does not understand"
                .into(),
        );
    }
    if way.hops.iter().chain(&way.answer).any(|hop| hop.doubtful) {
        open.push("what is marked with ? above: no verdict was given that could be compared".into());
    }
    open
}

fn agrees(verdict: Verdict, protocol: Protocol, outcome: &str) -> bool {
    match verdict {
        // Whoever takes a datagram need not answer it.
        Verdict::Delivered => outcome == "answered" || protocol == Protocol::Udp && outcome == "silent",
        Verdict::Refused => outcome == "refused",
        Verdict::Dropped => outcome == "silent",
        Verdict::Unreachable => !matches!(outcome, "answered" | "refused"),
        Verdict::Left | Verdict::Unknown => true,
    }
}

/// Where a way ends at a device that is down: that device, and the one that its route leads over, as a bridge
/// over its port. The kernel tells its queues and neighbours of a lost carrier up to a second later (linkwatch),
/// and until then they let a packet come this far, so that it may be seen there or not.
fn threshold(way: &Way, answer: bool) -> Vec<(&String, &String)> {
    let (hops, ends) = match answer {
        true => (&way.answer, loses_answer(way)),
        false => (&way.hops, way.verdict == Verdict::Unreachable),
    };
    let Some((end, before)) = hops.split_last() else { return Vec::new() };
    if !ends || !matches!(end.kind.as_str(), "device" | "bridge") {
        return Vec::new();
    }
    let route = before.iter().rev().find(|hop| hop.kind == "route" && hop.place == end.place);
    [Some(end), route]
        .into_iter()
        .flatten()
        .filter_map(|hop| Some((&hop.place, hop.device.as_ref()?)))
        .collect()
}

/// From which hop on a packet may not even be sent: where a bridge lets nothing pass, nobody answers who has the
/// next address either, and it is sent only if that is known from before.
fn unanswered_from(way: &Way, answer: bool) -> usize {
    let hops = if answer { &way.answer } else { &way.hops };
    let blocked = hops.last().is_some_and(|end| end.kind == "bridge");
    let route = hops.iter().rposition(|hop| hop.kind == "route");
    route.filter(|_| blocked).map_or(hops.len(), |route| route + 1)
}

#[cfg(test)]
mod tests;
