//! What is different between two values, in words for a person.

use std::collections::BTreeSet;

use serde_json::Value;

/// More than that many differences are counted only, so that a message stays readable.
const SHOWN_MAX: usize = 16;

/// The places that differ, each with the old value after `-` and the new one after `+`; empty where nothing
/// differs.
pub(super) fn diff(old: &Value, new: &Value) -> String {
    let mut places = Vec::new();
    walk("", old, new, &mut places);
    let mut lines = String::new();
    for (path, old, new) in places.iter().take(SHOWN_MAX) {
        for (sign, value) in [('-', old), ('+', new)] {
            if let Some(value) = value {
                lines.push_str(&format!("{sign} {path}: {value}\n"));
            }
        }
    }
    if let Some(more) = places.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        lines.push_str(&format!("… and {more} more\n"));
    }
    lines
}

type Place<'a> = (String, Option<&'a Value>, Option<&'a Value>);

fn walk<'a>(path: &str, old: &'a Value, new: &'a Value, places: &mut Vec<Place<'a>>) {
    let mut part = |path: String, old: Option<&'a Value>, new: Option<&'a Value>| match (old, new) {
        (Some(old), Some(new)) => walk(&path, old, new, places),
        (None, None) => {}
        (old, new) => places.push((path, old, new)),
    };
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(olds), Value::Object(news)) => {
            let keys: BTreeSet<&String> = olds.keys().chain(news.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                part(path, olds.get(key), news.get(key));
            }
        }
        (Value::Array(olds), Value::Array(news)) => {
            for at in 0..olds.len().max(news.len()) {
                part(format!("{path}[{at}]"), olds.get(at), news.get(at));
            }
        }
        (old, new) => places.push((path.to_owned(), Some(old), Some(new))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_said() {
        let old = json!({"a": 1, "b": {"c": "x", "d": [1, 2]}, "e": true});
        let new = json!({"a": 1, "b": {"c": "y", "d": [1, 3, 4]}, "f": null});
        assert_eq!(
            diff(&old, &new),
            "- b.c: \"x\"\n+ b.c: \"y\"\n- b.d[1]: 2\n+ b.d[1]: 3\n+ b.d[2]: 4\n- e: true\n+ f: null\n"
        );
        assert_eq!(diff(&old, &old), "");
    }

    #[test]
    fn a_long_difference_is_cut() {
        let many = json!((0..20).collect::<Vec<_>>());
        let text = diff(&json!([]), &many);
        assert_eq!(text.lines().count(), SHOWN_MAX + 1);
        assert!(text.ends_with("… and 4 more\n"), "{text}");
    }
}
