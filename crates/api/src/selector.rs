//! The three selector languages of the API: label selectors (text and object), node selector terms, and
//! field selectors. Each is read once into requirements and then matched against plain maps.

mod fields;
mod nodes;
mod text;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use fields::{FieldRequirement, FieldSelector};
pub use nodes::{node_selector_matches, node_term_matches};

pub type Labels = BTreeMap<String, String>;

/// How a requirement compares a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// The label is an integer above the value.
    Gt,
    /// The label is an integer below the value.
    Lt,
}

impl Operator {
    /// The word that objects use.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::Gt,
            "Lt" => Self::Lt,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// An absent label satisfies `NotIn` and `DoesNotExist`.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|one| one == value);
        match (self.operator, value) {
            (Operator::In, Some(value)) => among(value),
            (Operator::NotIn, Some(value)) => !among(value),
            (Operator::NotIn | Operator::DoesNotExist, None) => true,
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, Some(_)) | (Operator::In | Operator::Gt | Operator::Lt, None) => false,
            (Operator::Gt, Some(value)) => self.compare(value, |label, bound| label > bound),
            (Operator::Lt, Some(value)) => self.compare(value, |label, bound| label < bound),
        }
    }

    fn compare(&self, value: &str, holds: impl Fn(i64, i64) -> bool) -> bool {
        let bound = match self.values.as_slice() {
            [bound] => bound.parse().ok(),
            _ => None,
        };
        value.parse().ok().zip(bound).is_some_and(|(label, bound)| holds(label, bound))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let list = values.join(",");
        match operator {
            Operator::In if values.len() == 1 => write!(out, "{key}={list}"),
            Operator::NotIn if values.len() == 1 => write!(out, "{key}!={list}"),
            Operator::In => write!(out, "{key} in ({list})"),
            Operator::NotIn => write!(out, "{key} notin ({list})"),
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::Gt => write!(out, "{key}>{list}"),
            Operator::Lt => write!(out, "{key}<{list}"),
        }
    }
}

/// A label selector: all of its requirements, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    Nothing,
    /// With no requirement: everything.
    All(Vec<Requirement>),
}

/// A fault in a selector's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Unexpected { found: String, expected: &'static str },
    #[error("unable to parse requirement: {0}")]
    Fault(Fault),
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Field { selector: String, part: String },
    #[error("invalid field selector: {0}")]
    Escape(String),
}

impl Selector {
    pub const EVERYTHING: Self = Self::All(Vec::new());

    /// Reads `a=b,c!=d,e in (x,y),!f`. The empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        text::selector(text)
    }

    /// A selector object; an absent one selects nothing, an empty one everything. Faults are what
    /// [`label_selector_faults`] finds.
    pub fn from_object(object: Option<&LabelSelector>) -> Result<Self, Vec<Fault>> {
        let Some(object) = object else { return Ok(Self::Nothing) };
        let faults = label_selector_faults(object, "");
        if !faults.is_empty() {
            return Err(faults);
        }
        let equal = object.match_labels.iter().flatten().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        });
        let expressions = object.match_expressions.iter().flatten().map(|expression| Requirement {
            key: expression.key.clone(),
            operator: Operator::parse(&expression.operator).unwrap_or(Operator::In),
            values: expression.values.clone().unwrap_or_default(),
        });
        Ok(Self::All(equal.chain(expressions).collect()))
    }

    /// A Service's or ReplicationController's plain map; an empty one selects nothing.
    pub fn from_map(map: Option<&Labels>) -> Self {
        match map {
            Some(map) if !map.is_empty() => Self::All(
                map.iter()
                    .map(|(key, value)| Requirement {
                        key: key.clone(),
                        operator: Operator::In,
                        values: vec![value.clone()],
                    })
                    .collect(),
            ),
            _ => Self::Nothing,
        }
    }

    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        self.matches_by(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// Matches where labels are kept in another shape than a map.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(requirements) => requirements.iter().all(|one| one.matches(label(&one.key))),
        }
    }

    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(requirements) if requirements.is_empty())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::All(requirements) = self else { return out.write_str("<nothing>") };
        for (index, requirement) in requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// One fault of a selector object, at a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path below the root that the caller gave, such as `spec.selector.matchExpressions[0].values`.
    pub field: String,
    pub kind: FaultKind,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    Required,
    Forbidden,
    /// With the value, shown quoted.
    Invalid(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, kind, detail } = self;
        match kind {
            FaultKind::Required => write!(out, "{field}: Required value: {detail}"),
            FaultKind::Forbidden => write!(out, "{field}: Forbidden: {detail}"),
            FaultKind::Invalid(value) => write!(out, "{field}: Invalid value: {value:?}: {detail}"),
        }
    }
}

/// Everything wrong with a label selector object, in upstream's words; `path` is the selector's own.
pub fn label_selector_faults(object: &LabelSelector, path: &str) -> Vec<Fault> {
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let invalid = |field: String, value: &str, detail: &str| Fault {
        field,
        kind: FaultKind::Invalid(value.to_owned()),
        detail: detail.to_owned(),
    };
    let mut faults = Vec::new();
    for (key, value) in object.match_labels.iter().flatten() {
        faults.extend(label_key_faults(key).iter().map(|why| invalid(under("matchLabels"), key, why)));
        faults.extend(label_value_faults(value).iter().map(|why| invalid(under("matchLabels"), value, why)));
    }
    for (index, expression) in object.match_expressions.iter().flatten().enumerate() {
        let base = format!("{}[{index}]", under("matchExpressions"));
        let values = expression.values.as_deref().unwrap_or_default();
        match Operator::parse(&expression.operator) {
            Some(Operator::In | Operator::NotIn) => {
                if values.is_empty() {
                    faults.push(Fault {
                        field: format!("{base}.values"),
                        kind: FaultKind::Required,
                        detail: "must be specified when `operator` is 'In' or 'NotIn'".to_owned(),
                    });
                }
            }
            Some(Operator::Exists | Operator::DoesNotExist) => {
                if !values.is_empty() {
                    faults.push(Fault {
                        field: format!("{base}.values"),
                        kind: FaultKind::Forbidden,
                        detail: "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                            .to_owned(),
                    });
                }
            }
            Some(Operator::Gt | Operator::Lt) | None => {
                let field = format!("{base}.operator");
                faults.push(invalid(field, &expression.operator, "not a valid selector operator"));
            }
        }
        let field = format!("{base}.key");
        let key = &expression.key;
        faults.extend(label_key_faults(key).iter().map(|why| invalid(field.clone(), key, why)));
        for (at, value) in values.iter().enumerate() {
            let field = format!("{base}.values[{at}]");
            faults.extend(label_value_faults(value).iter().map(|why| invalid(field.clone(), value, why)));
        }
    }
    faults
}

const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
    validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const PREFIX_PART: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
    validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
    (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
    '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
    '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What upstream says about a key that is no qualified name; empty when it is one.
pub fn label_key_faults(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match key.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > 253 {
                    faults.push("prefix part must be no more than 253 bytes".to_owned());
                }
                if !is_subdomain(prefix) {
                    faults.push(PREFIX_PART.to_owned());
                }
            }
            *name
        }
        _ => return vec![QUALIFIED.to_owned()],
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_word(name) {
        faults.push(NAME_PART.to_owned());
    }
    faults
}

/// What upstream says about a text that is no label value; empty when it is one.
pub fn label_value_faults(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > 63 {
        faults.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_word(value) {
        faults.push(LABEL_VALUE.to_owned());
    }
    faults
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.split('.').all(|part| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
    })
}

#[cfg(test)]
mod tests;
