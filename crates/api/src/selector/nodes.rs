//! Terms by which a pod chooses nodes.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::{Labels, Operator};

/// Whether a node with these labels and this name satisfies any of the selector's terms.
pub fn node_selector_matches(selector: &NodeSelector, labels: Option<&Labels>, name: &str) -> bool {
    selector.node_selector_terms.iter().any(|term| node_term_matches(term, labels, name))
}

/// Whether a node satisfies one term. A term without requirements matches no node.
pub fn node_term_matches(term: &NodeSelectorTerm, labels: Option<&Labels>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(name);
    expressions.iter().all(|one| node_requirement_matches(one, label(&one.key)))
        && fields.iter().all(|one| node_requirement_matches(one, field(&one.key)))
}

fn node_requirement_matches(one: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = one.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|each| each == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || if let [bound] = values { number(bound) } else { None };
    match (Operator::parse(&one.operator), value) {
        (Some(Operator::In), Some(value)) => among(value),
        (Some(Operator::NotIn), value) => !value.is_some_and(among),
        (Some(Operator::Exists), value) => value.is_some(),
        (Some(Operator::DoesNotExist), value) => value.is_none(),
        (Some(Operator::Gt), Some(value)) => number(value).zip(bound()).is_some_and(|(a, b)| a > b),
        (Some(Operator::Lt), Some(value)) => number(value).zip(bound()).is_some_and(|(a, b)| a < b),
        (Some(Operator::In | Operator::Gt | Operator::Lt), None) | (None, _) => false,
    }
}
