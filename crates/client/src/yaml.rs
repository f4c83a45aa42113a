//! Writes YAML that readers of YAML 1.1 and of 1.2 read alike.
//!
//! kubectl reads 1.1, where a bare `yes`, `on` or `12:30` is no string. So only strings that nobody can
//! mistake stand bare, and all others in double quotes, as JSON escapes them.

use serde_yaml_ng::{Mapping, Value};

/// A document of this mapping.
pub(crate) fn to_string(root: &Mapping) -> String {
    let mut out = String::new();
    match root.is_empty() {
        true => out.push_str("{}\n"),
        false => mapping(root, 0, &mut out),
    }
    out
}

fn mapping(map: &Mapping, indent: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        // The first line goes on after what stands before it, such as a dash.
        if index > 0 {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Value::Mapping(map) if !map.is_empty() => {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 2));
                mapping(map, indent + 2, out);
            }
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                sequence(items, indent, out);
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str("- ");
        match item {
            Value::Mapping(map) if !map.is_empty() => mapping(map, indent + 2, out),
            Value::Sequence(items) if !items.is_empty() => sequence(items, indent + 2, out),
            other => {
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

/// What fits on a line: scalars, and empty collections.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if stands_bare(text) => text.clone(),
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        // Kubernetes' files have no tags: the value is what counts.
        Value::Tagged(tagged) => scalar(&tagged.value),
    }
}

/// Whether no reader takes this bare text for anything but a string.
fn stands_bare(text: &str) -> bool {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@+=".contains(c))
        && !text.ends_with(':')
        && !words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_as_it_was() {
        let text = "a: {b: [1, 2.5, null, 'yes', \"x\\ty\", [], {}, [[1, {c: d}], -3]], e: {}}\nf: |\n  several\n  lines\n'12:30': [{g: 'On', h: ~, i: true}, '0x1', '', ' x', 'a: b', 'a #b', '-', 'é']\n";
        let root: Mapping = serde_yaml_ng::from_str(text).expect("it parses");
        let written = to_string(&root);
        assert_eq!(serde_yaml_ng::from_str::<Mapping>(&written).expect(&written), root, "{written}");
        for quoted in ["\"yes\"", "\"On\"", "\"12:30\":", "\"0x1\"", "\"several\\nlines\\n\""] {
            assert!(written.contains(quoted), "{quoted}: {written}");
        }
        assert_eq!(to_string(&Mapping::new()), "{}\n");
    }

    #[test]
    fn a_document_reads_well() {
        let text = "apiVersion: v1\nclusters:\n- cluster:\n    server: https://127.0.0.1:6443\n  name: skiff\nusers: []\n";
        let root: Mapping = serde_yaml_ng::from_str(text).expect("it parses");
        assert_eq!(to_string(&root), text);
    }
}
