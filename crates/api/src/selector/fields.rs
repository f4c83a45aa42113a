//! Field selectors: comparisons of an object's fields with texts.

use std::fmt;

use super::SelectorError;

/// One `field=value` or `field!=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    /// False for `!=`.
    pub equal: bool,
    pub value: String,
}

/// A conjunction of field comparisons; the empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector(pub Vec<FieldRequirement>);

impl FieldSelector {
    /// Reads `a.b=c,d!=e`, with `\\`, `\,` and `\=` as escapes in values.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let cannot = || SelectorError::Field { selector: text.to_owned(), part: part.to_owned() };
            let at = part.find('=').ok_or_else(cannot)?;
            let (field, equal) = match part[..at].strip_suffix('!') {
                Some(field) => (field, false),
                None => (&part[..at], true),
            };
            let raw = &part[at + 1..];
            let raw = if equal { raw.strip_prefix('=').unwrap_or(raw) } else { raw };
            if field.is_empty() {
                return Err(cannot());
            }
            requirements.push(FieldRequirement { field: field.to_owned(), equal, value: unescape(raw)? });
        }
        Ok(Self(requirements))
    }

    /// An unknown field compares as the empty text; refuse such fields before matching.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|one| (field(&one.field).unwrap_or_default() == one.value) == one.equal)
    }

    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that a field must have, if the selector pins one: `metadata.name=x` needs no scan.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|one| one.equal && one.field == field).map(|one| one.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let sign = if one.equal { "=" } else { "!=" };
            let value = one.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(out, "{comma}{}{sign}{value}", one.field)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(raw: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => value.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError::Escape(format!("invalid escape sequence: {sequence}")));
                }
            },
            ',' | '=' => {
                return Err(SelectorError::Escape(format!("unescaped character in value: {c}")));
            }
            c => value.push(c),
        }
    }
    Ok(value)
}
