//! Which events are told of anew, and which only raise the count of one that there is.
//!
//! As upstream does it: an event that says the same of the same object is a repeat. From the tenth different
//! message on that one object gets for one reason within ten minutes, further ones are combined into one
//! event that bears the last of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;

use super::{EventType, Note};

/// Different messages that are told one by one.
const APART_MAX: usize = 9;
const SIMILAR_FOR: Duration = Duration::from_secs(600);
const COMBINED: &str = "(combined from similar events): ";
/// Events, and sorts of events, whose repeats are counted.
const REMEMBERED_MAX: usize = 4096;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The event's.
    pub(super) name: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    pub(super) message: String,
}

/// About whom, and why: of one sort.
type Sort = (Option<String>, Option<String>, EventType, String);

/// The messages that one sort's events had lately.
#[derive(Debug)]
struct Lately {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Repeats {
    lately: HashMap<Sort, Lately>,
    /// By sort and message; the combined one of a sort has none.
    told: HashMap<(Sort, Option<String>), Told>,
}

impl Repeats {
    /// What becomes of it; `name` is its own if it is the first of its kind.
    pub(super) fn tell(&mut self, note: &Note, name: &str) -> Told {
        if self.lately.len() >= REMEMBERED_MAX || self.told.len() >= REMEMBERED_MAX {
            *self = Self::default();
        }
        let sort = sort(&note.about, note);
        let apart = self.is_apart(&sort, note);
        let message = if apart { note.message.clone() } else { format!("{COMBINED}{}", note.message) };
        let key = (sort, apart.then(|| note.message.clone()));
        let told =
            self.told.entry(key).and_modify(|told| told.count = told.count.saturating_add(1)).or_insert_with(
                || Told { name: name.to_owned(), count: 1, first: note.at, message: String::new() },
            );
        told.message = message;
        told.clone()
    }

    fn is_apart(&mut self, sort: &Sort, note: &Note) -> bool {
        let fresh = || Lately { messages: HashSet::new(), last: note.at };
        let lately = self.lately.entry(sort.clone()).or_insert_with(fresh);
        if note.at.duration_since(lately.last).unsigned_abs() > SIMILAR_FOR {
            *lately = fresh();
        }
        lately.last = note.at;
        lately.messages.contains(&note.message)
            || (lately.messages.len() < APART_MAX && lately.messages.insert(note.message.clone()))
    }
}

fn sort(about: &ObjectReference, note: &Note) -> Sort {
    (about.uid.clone(), about.name.clone(), note.event_type, note.reason.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(about: &str, reason: &str, message: &str, second: i64) -> Note {
        Note {
            about: ObjectReference { name: Some(about.to_owned()), ..ObjectReference::default() },
            event_type: EventType::Warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn said(repeats: &mut Repeats, note: &Note, name: &str) -> String {
        let told = repeats.tell(note, name);
        format!("{} x{} since {}: {}", told.name, told.count, told.first.as_second(), told.message)
    }

    #[test]
    fn the_same_of_the_same_is_counted() {
        let mut repeats = Repeats::default();
        let mut said = |note: Note, name: &str| said(&mut repeats, &note, name);
        assert_eq!(said(note("a", "Failed", "why", 1), "e1"), "e1 x1 since 1: why");
        assert_eq!(said(note("a", "Failed", "why", 2), "e2"), "e1 x2 since 1: why");
        assert_eq!(said(note("a", "Failed", "other", 3), "e3"), "e3 x1 since 3: other");
        assert_eq!(said(note("a", "Started", "why", 4), "e4"), "e4 x1 since 4: why");
        assert_eq!(said(note("b", "Failed", "why", 5), "e5"), "e5 x1 since 5: why");
        assert_eq!(said(note("a", "Failed", "why", 9_000), "e6"), "e1 x3 since 1: why");
    }

    #[test]
    fn the_tenth_of_a_sort_stands_for_those_after_it() {
        let mut repeats = Repeats::default();
        for number in 1..=9 {
            let note = note("a", "FailedCreate", &format!("pod {number}"), number);
            assert_eq!(
                said(&mut repeats, &note, &format!("e{number}")),
                format!("e{number} x1 since {number}: pod {number}")
            );
        }
        let mut said = |message: &str, second: i64| {
            said(&mut repeats, &note("a", "FailedCreate", message, second), &format!("e{second}"))
        };
        assert_eq!(said("pod 10", 10), "e10 x1 since 10: (combined from similar events): pod 10");
        assert_eq!(said("pod 11", 11), "e10 x2 since 10: (combined from similar events): pod 11");
        assert_eq!(said("pod 9", 12), "e9 x2 since 9: pod 9");
        assert_eq!(said("pod 12", 612), "e10 x3 since 10: (combined from similar events): pod 12");
        // After a pause they are told one by one again.
        assert_eq!(said("pod 13", 1_213), "e1213 x1 since 1213: pod 13");
    }
}
