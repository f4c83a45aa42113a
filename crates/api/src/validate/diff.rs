//! What is different between two values: a unified diff of their JSON, as upstream prints one since 1.35.
//!
//! Upstream's lines are of its internal types, with Go's names and each unset field; these are of the API's.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Lines shown before and after what differs.
const CONTEXT: usize = 3;
/// More lines than that are counted only, so that a message stays readable.
const SHOWN_MAX: usize = 400;
/// Where a table of so many pairs of lines would be needed, all between the first and the last difference is
/// shown as replaced.
const PAIRS_MAX: usize = 1 << 20;

/// Hunks of lines after `@@ -FROM +TO @@`, each line after a space, `-` or `+`; empty where nothing differs.
pub(super) fn diff(old: &Value, new: &Value) -> String {
    let (old, new) = (lines(old), lines(new));
    let mut text = String::new();
    let mut left = SHOWN_MAX;
    let mut cut = 0;
    for hunk in hunks(&changes(&old, &new)) {
        let (first, last) = (&hunk[0], &hunk[hunk.len() - 1]);
        let (from, to) = (first.old.0.saturating_sub(CONTEXT), (last.old.1 + CONTEXT).min(old.len()));
        // Before the first change as many lines are equal on either side.
        let new_from = first.new.0 - (first.old.0 - from);
        let new_to = last.new.1 + (to - last.old.1);
        let mut shown = vec![format!("@@ -{} +{} @@", span(from, to), span(new_from, new_to))];
        let mut at = from;
        for change in hunk {
            shown.extend(old[at..change.old.0].iter().map(|line| format!(" {line}")));
            shown.extend(old[change.old.0..change.old.1].iter().map(|line| format!("-{line}")));
            shown.extend(new[change.new.0..change.new.1].iter().map(|line| format!("+{line}")));
            at = change.old.1;
        }
        shown.extend(old[at..to].iter().map(|line| format!(" {line}")));
        let fits = shown.len().min(left);
        shown[..fits].iter().for_each(|line| text.extend([line, "\n"]));
        (left, cut) = (left - fits, cut + shown.len() - fits);
    }
    if cut > 0 {
        text.push_str(&format!("… and {cut} more lines\n"));
    }
    text
}

fn lines(value: &Value) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut out = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    value.serialize(&mut out).expect("a value can be written to memory");
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Lines of the old text that were replaced by lines of the new one, as half-open spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    old: (usize, usize),
    new: (usize, usize),
}

/// Changes so near to each other that their contexts meet.
fn hunks(changes: &[Change]) -> Vec<&[Change]> {
    changes.chunk_by(|one, next| next.old.0 - one.old.1 <= 2 * CONTEXT).collect()
}

/// `FIRST,COUNT`, or the number alone of a single line; before nothing stands the line in front of it.
fn span(from: usize, to: usize) -> String {
    match to - from {
        1 => (from + 1).to_string(),
        0 => format!("{from},0"),
        count => format!("{},{count}", from + 1),
    }
}

fn changes(old: &[String], new: &[String]) -> Vec<Change> {
    let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let (old_end, new_end) = (old.len() - end, new.len() - end);
    let mut changes = Vec::new();
    let (mut at, mut new_at) = (start, start);
    let kept = kept(&old[start..old_end], &new[start..new_end]);
    let all = kept.into_iter().map(|(old, new)| (old + start, new + start)).chain([(old_end, new_end)]);
    for (old, new) in all {
        if (at, new_at) != (old, new) {
            changes.push(Change { old: (at, old), new: (new_at, new) });
        }
        (at, new_at) = (old + 1, new + 1);
    }
    changes
}

/// Pairs of equal lines in the same order on both sides, as many as there can be.
fn kept(old: &[String], new: &[String]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if old.len().saturating_mul(new.len()) > PAIRS_MAX {
        return Vec::new();
    }
    // How many pairs there can be behind each two places.
    let mut behind = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            behind[i * width + j] = match old[i] == new[j] {
                true => behind[(i + 1) * width + j + 1] + 1,
                false => behind[(i + 1) * width + j].max(behind[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if behind[(i + 1) * width + j] >= behind[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_shown_with_what_is_around_it() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": {"f": [1, 2]}, "g": 7});
        let mut new = old.clone();
        new["d"] = json!("x");
        new["e"]["f"] = json!([1, 2, 3]);
        assert_eq!(
            diff(&old, &new),
            "@@ -2,11 +2,12 @@\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3,\n- \"d\": 4,\n+ \"d\": \"x\",\n  \"e\": {\n   \
             \"f\": [\n    1,\n-   2\n+   2,\n+   3\n   ]\n  },\n  \"g\": 7\n"
        );
        assert_eq!(diff(&old, &old), "");
    }

    #[test]
    fn what_is_far_apart_is_in_hunks_of_its_own() {
        let old = json!((0..30).collect::<Vec<_>>());
        let mut new = old.clone();
        new[2] = json!("x");
        new[25] = json!("y");
        let text = diff(&old, &new);
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -1,7 +1,7 @@", "@@ -24,7 +24,7 @@"]);
        assert_eq!(text.lines().filter(|line| line.starts_with(['-', '+'])).count(), 4);
    }

    #[test]
    fn one_line_has_a_number_and_none_the_one_before() {
        assert_eq!(diff(&json!(1), &json!(2)), "@@ -1 +1 @@\n-1\n+2\n");
        assert_eq!((span(3, 3), span(3, 4), span(3, 5)), ("3,0".into(), "4".into(), "4,2".into()));
    }

    #[test]
    fn a_long_difference_is_cut() {
        let many = json!((0..500).collect::<Vec<_>>());
        let text = diff(&json!([]), &many);
        assert_eq!(text.lines().count(), SHOWN_MAX + 1);
        assert!(text.ends_with("more lines\n"), "{text}");
        // More lines than are compared one by one: one place, replaced as a whole.
        let (old, new) = (json!(vec![1; 2000]), json!(vec![2; 2000]));
        assert!(diff(&old, &new).starts_with("@@ -1,2002 +1,2002 @@\n [\n- 1,\n"));
    }

    #[test]
    fn as_many_lines_are_kept_as_can_be() {
        /// By trying everything.
        fn most(old: &[String], new: &[String]) -> usize {
            match (old, new) {
                ([], _) | (_, []) => 0,
                ([a, old @ ..], [b, new @ ..]) if a == b => 1 + most(old, new),
                ([_, rest @ ..], [_, other @ ..]) => most(rest, new).max(most(old, other)),
            }
        }
        let texts: Vec<Vec<String>> = (0..5_u32)
            .flat_map(|length| (0..3_u32.pow(length)).map(move |number| (length, number)))
            .map(|(length, number)| (0..length).map(|at| (number / 3_u32.pow(at) % 3).to_string()).collect())
            .collect();
        for old in &texts {
            for new in &texts {
                let pairs = kept(old, new);
                assert_eq!(pairs.len(), most(old, new), "{old:?} {new:?}");
                assert!(pairs.iter().all(|(i, j)| old[*i] == new[*j]), "{old:?} {new:?}: {pairs:?}");
                assert!(pairs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{old:?} {new:?}: {pairs:?}");
            }
        }
        // Up to a bound.
        let same = |count: usize| vec!["x".to_owned(); count];
        assert_eq!(kept(&same(1 << 10), &same(1 << 10)).len(), 1 << 10);
        assert_eq!(kept(&same(1 << 10), &same((1 << 10) + 1)), []);
    }

    #[test]
    fn changes_whose_contexts_meet_are_one_hunk() {
        let heads = |apart: usize| {
            let old = json!((0..30).collect::<Vec<_>>());
            let mut new = old.clone();
            new[5] = json!("x");
            new[5 + apart] = json!("y");
            diff(&old, &new).lines().filter(|line| line.starts_with("@@")).count()
        };
        assert_eq!((heads(2), heads(7), heads(8)), (1, 1, 2));
    }

    #[test]
    fn what_is_shown_is_bounded_over_all_hunks() {
        let old = json!((0..1000).collect::<Vec<_>>());
        let mut new = old.clone();
        for at in (0..150).chain(800..950) {
            new[at] = json!("x");
        }
        let text = diff(&old, &new);
        assert_eq!(text.lines().count(), SHOWN_MAX + 1);
        // Two of 300 lines each, with their heads and what is around them: the list's first line, and three each.
        let all = (1 + 1 + 300 + 3) + (1 + 3 + 300 + 3);
        assert!(text.ends_with(&format!("… and {} more lines\n", all - SHOWN_MAX)), "{text}");
    }
}
