//! What types and fields are for, in words.

use std::borrow::Cow;
use std::collections::HashMap;

/// Texts by definition and field, borrowed from lines: `@DEFINITION<tab>TEXT`, and below it `FIELD<tab>TEXT`
/// for each of its fields. In a text `\n` is a line's end and `\\` a backslash.
///
/// ```
/// use skiff_api::openapi::Texts;
/// let texts = Texts::read("@io.k8s.api.core.v1.Pod\tA pod.\nspec\tWhat is wanted.\n");
/// assert_eq!(texts.of_field("io.k8s.api.core.v1.Pod", "spec").as_deref(), Some("What is wanted."));
/// ```
#[derive(Debug, Default)]
pub struct Texts<'a>(HashMap<&'a str, Described<'a>>);

#[derive(Debug, Default)]
struct Described<'a> {
    text: &'a str,
    fields: HashMap<&'a str, &'a str>,
}

impl<'a> Texts<'a> {
    pub fn read(lines: &'a str) -> Self {
        let mut all: HashMap<&str, Described<'_>> = HashMap::new();
        let mut definition = None;
        for (name, text) in lines.lines().filter_map(|line| line.split_once('\t')) {
            match (name.strip_prefix('@'), definition) {
                (Some(name), _) => {
                    definition = Some(name);
                    all.entry(name).or_default().text = text;
                }
                (None, Some(definition)) => {
                    all.entry(definition).or_default().fields.insert(name, text);
                }
                (None, None) => {}
            }
        }
        Self(all)
    }

    /// What a type is for, if that is known.
    pub fn of_type(&self, definition: &str) -> Option<Cow<'a, str>> {
        self.0.get(definition).map(|described| described.text).filter(|text| !text.is_empty()).map(unescaped)
    }

    /// What a field of a type is for, if that is known.
    pub fn of_field(&self, definition: &str, field: &str) -> Option<Cow<'a, str>> {
        self.0.get(definition)?.fields.get(field).copied().filter(|text| !text.is_empty()).map(unescaped)
    }
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            plain => out.push(plain),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back_as_they_were() {
        let texts = Texts::read("lost\tx\n@a.B\tTwo\\nlines.\nc\tA \\\\ here.\nd\t\n@e.F\t\n");
        assert_eq!(texts.of_type("a.B").as_deref(), Some("Two\nlines."));
        assert_eq!(texts.of_field("a.B", "c").as_deref(), Some("A \\ here."));
        for (definition, field) in [("a.B", "d"), ("a.B", "lost"), ("e.F", "c"), ("none", "c")] {
            assert_eq!(texts.of_field(definition, field), None, "{definition} {field}");
        }
        assert_eq!(texts.of_type("e.F"), None);
    }
}
