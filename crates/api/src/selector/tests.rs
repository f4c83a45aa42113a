//! Selectors, by value: what is read, how it prints, what it matches and what is refused.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

use super::*;

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn label_selectors_match() {
    for (selector, text, expected) in [
        ("", "", true),
        ("a=b", "a=b", true),
        ("a==b", "a=b,c=d", true),
        ("a = b , c", "a=b,c=d", true),
        ("a=b", "a=c", false),
        ("a=b", "", false),
        ("a!=b", "", true),
        ("a!=b", "a=b", false),
        ("a=", "a=", true),
        ("a=,c", "a=,c=d", true),
        ("a=", "", false),
        ("a", "a=x", true),
        ("!a", "a=x", false),
        ("! a", "b=x", true),
        ("a in (x,y)", "a=y", true),
        ("a in(x,y)", "a=z", false),
        ("a in (x,)", "a=", true),
        ("a notin (x, y)", "", true),
        ("a notin (x,y)", "a=x", false),
        ("a>5", "a=6", true),
        ("a>5", "a=5", false),
        ("a<5", "a=4", true),
        ("a<5", "a=5", false),
        ("a>5", "", false),
        ("a<5", "", false),
        ("a<5", "a=no", false),
        ("in in (notin)", "in=notin", true),
        ("app.kubernetes.io/name=web,tier notin (db),!gone", "app.kubernetes.io/name=web,tier=front", true),
    ] {
        let parsed = Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(parsed.matches(Some(&labels(text))), expected, "{selector} on {text}");
        let again = Selector::parse(&parsed.to_string()).unwrap();
        assert_eq!(again, parsed, "{selector} prints as {parsed}");
    }
}

#[test]
fn label_selector_text_is_refused() {
    for (selector, message) in [
        ("a=b,", "unable to parse requirement: found '', expected: identifier after ','"),
        (",a", "unable to parse requirement: found ',', expected: identifier"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b c", "unable to parse requirement: found 'c', expected: ',' or 'end of string'"),
        ("a in x", "unable to parse requirement: found 'x', expected: '('"),
        ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("!a=b", "unable to parse requirement: found '=', expected: ',' or 'end of string'"),
        ("a==!b", "unable to parse requirement: found '!', expected: identifier"),
    ] {
        assert_eq!(Selector::parse(selector).unwrap_err().to_string(), message, "{selector}");
    }
    for selector in ["-a=b", "a=-b", "a>x", "a/b/c", "/a", "é=1"] {
        let error = Selector::parse(selector).unwrap_err().to_string();
        assert!(error.contains("Invalid value"), "{selector}: {error}");
    }
}

#[test]
fn keys_and_values_have_their_lengths_and_letters() {
    let key = |text: &str| label_key_faults(text).len();
    let a = |count: usize| "a".repeat(count);
    for text in ["a", "A-b_c.d", "1", "x.y/a", &a(63), &format!("{}/a", a(253))] {
        assert_eq!(key(text), 0, "{text}");
    }
    for text in
        [&a(64), &format!("{}/a", a(254)), "-a", "a-", "a b", "/a", "X.y/a", "x./a", "x-.y/a", "a/b/c"]
    {
        assert_eq!(key(text), 1, "{text}: {:?}", label_key_faults(text));
    }
    assert_eq!(label_key_faults(&format!("{}/a", a(254))), ["prefix part must be no more than 253 bytes"]);
    assert_eq!(label_key_faults(&a(64)), ["name part must be no more than 63 bytes"]);
    assert_eq!(label_key_faults("/a"), ["prefix part must be non-empty"]);
    assert_eq!(key(""), 2, "there is none, and it has no form");
    let value = |text: &str| label_value_faults(text).len();
    for text in ["", "a", "A-b_c.d", &a(63)] {
        assert_eq!(value(text), 0, "{text}");
    }
    for text in [&*a(64), "-a", "a.", "a b"] {
        assert_eq!(value(text), 1, "{text}");
    }
}

#[test]
fn label_selector_objects() {
    assert_eq!(Selector::from_object(None), Ok(Selector::Nothing));
    let empty = Selector::from_object(Some(&LabelSelector::default())).unwrap();
    assert!(empty.is_everything() && empty.matches(None));
    let expression = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    };
    let object = LabelSelector {
        match_labels: Some(labels("app=web")),
        match_expressions: Some(vec![
            expression("tier", "In", &["a", "b"]),
            expression("old", "DoesNotExist", &[]),
        ]),
    };
    let selector = Selector::from_object(Some(&object)).unwrap();
    assert_eq!(selector.to_string(), "app=web,tier in (a,b),!old");
    assert!(selector.matches(Some(&labels("app=web,tier=b"))));
    assert!(!selector.matches(Some(&labels("app=web,tier=b,old=1"))));
    let wrong = LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![
            expression("a", "In", &[]),
            expression("b", "Exists", &["x"]),
            expression("c", "Gt", &["1"]),
        ]),
    };
    let faults: Vec<_> =
        label_selector_faults(&wrong, "spec.selector").iter().map(Fault::to_string).collect();
    assert_eq!(
        faults,
        [
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            "spec.selector.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator",
        ]
    );
    assert_eq!(Selector::from_map(Some(&Labels::new())), Selector::Nothing);
    assert!(Selector::from_map(Some(&labels("a=b"))).matches(Some(&labels("a=b,c=d"))));
}

#[test]
fn node_selectors_match() {
    let requirement = |text: &str| {
        let mut words = text.split(' ');
        NodeSelectorRequirement {
            key: words.next().unwrap().to_owned(),
            operator: words.next().unwrap().to_owned(),
            values: Some(words.map(str::to_owned).collect()),
        }
    };
    let node = labels("zone=a,cpus=8");
    for (expressions, fields, expected) in [
        (vec![], vec![], false),
        (vec!["zone In a b"], vec![], true),
        (vec!["zone NotIn a"], vec![], false),
        (vec!["rack NotIn a"], vec![], true),
        (vec!["rack Exists"], vec![], false),
        (vec!["rack DoesNotExist", "zone Exists"], vec![], true),
        (vec!["cpus Gt 7"], vec![], true),
        (vec!["cpus Gt 8"], vec![], false),
        (vec!["cpus Lt 9"], vec![], true),
        (vec!["cpus Lt 8"], vec![], false),
        (vec!["rack In a"], vec![], false),
        (vec!["rack Gt 1"], vec![], false),
        (vec!["rack Lt 1"], vec![], false),
        (vec!["cpus Lt 1 9"], vec![], false),
        (vec!["zone Gt 1"], vec![], false),
        (vec!["zone Like a"], vec![], false),
        (vec![], vec!["metadata.name In n1"], true),
        (vec!["zone In a"], vec!["metadata.name NotIn n1"], false),
        (vec![], vec!["metadata.uid In n1"], false),
    ] {
        let term = NodeSelectorTerm {
            match_expressions: Some(expressions.iter().map(|text| requirement(text)).collect()),
            match_fields: Some(fields.iter().map(|text| requirement(text)).collect()),
        };
        assert_eq!(node_term_matches(&term, Some(&node), "n1"), expected, "{expressions:?} {fields:?}");
        let either = NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default(), term] };
        assert_eq!(node_selector_matches(&either, Some(&node), "n1"), expected);
    }
}

#[test]
fn field_selectors() {
    let field = |name: &str| match name {
        "metadata.name" => Some("web"),
        "spec.nodeName" => Some(""),
        "odd" => Some("a,b=c\\d"),
        _ => None,
    };
    for (text, expected) in [
        ("", true),
        ("metadata.name=web", true),
        ("metadata.name==web,spec.nodeName=", true),
        ("metadata.name!=web", false),
        ("spec.nodeName!=", false),
        (",metadata.name=web,", true),
        (r"odd=a\,b\=c\\d", true),
    ] {
        let selector = FieldSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(field), expected, "{text}");
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
    }
    for text in ["metadata.name", "=x", "a=b=c", r"a=\x", r"a=\"] {
        assert!(FieldSelector::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        FieldSelector::parse("metadata.name").unwrap_err().to_string(),
        "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
    );
    assert_eq!(FieldSelector::parse("a=1,b!=2").unwrap().exact("a"), Some("1"));
    assert_eq!(FieldSelector::parse("a=1,b!=2").unwrap().exact("b"), None);
    assert_eq!(FieldSelector::parse("a=1,b!=2").unwrap().exact("c"), None);
    assert!(FieldSelector::parse("").unwrap().is_everything());
    assert!(!FieldSelector::parse("a=1").unwrap().is_everything());
    let said = |text: &str| FieldSelector::parse(text).unwrap_err().to_string();
    assert_eq!(said(r"a=\x"), r"invalid field selector: invalid escape sequence: \x");
    assert_eq!(said(r"a=\"), r"invalid field selector: invalid escape sequence: \");
    assert_eq!(said("a=b=c"), "invalid field selector: unescaped character in value: =");
}

#[test]
fn random_selectors_are_refused_or_printed_as_they_are_read() {
    use crate::codec::random::Dice;
    let mut dice = Dice::seeded("random_selectors_are_refused_or_printed_as_they_are_read");
    let parts =
        ["a", "b/c", "in", "notin", "5", "é", "=", "==", "!=", "!", "(", ")", ",", ">", "<", " ", "\\"];
    let mut taken = 0;
    for _ in 0..50_000 {
        let text: String = (0..dice.below(10)).map(|_| *dice.pick(&parts)).collect();
        if let Ok(selector) = Selector::parse(&text) {
            taken += 1;
            let printed = selector.to_string();
            assert_eq!(Selector::parse(&printed), Ok(selector), "{text:?} prints as {printed:?}");
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            taken += 1;
            let printed = selector.to_string();
            assert_eq!(FieldSelector::parse(&printed), Ok(selector), "{text:?} prints as {printed:?}");
        }
    }
    assert!(taken > 100, "only {taken} were selectors");
}

#[test]
fn a_selector_prints_one_value_without_a_list() {
    for text in ["a=b", "a!=b", "a in (b,c)", "a notin (b,c)", "a", "!a"] {
        let selector = Selector::parse(text).unwrap();
        assert_eq!(selector.to_string(), text);
        assert!(!selector.is_everything(), "{text}");
    }
    assert!(Selector::EVERYTHING.is_everything());
    assert!(!Selector::Nothing.is_everything());
}

#[test]
fn a_keys_prefix_is_a_subdomain() {
    for (key, faults) in [("a-b.c/x", 0), ("a_b/x", 1), ("-a/x", 1), ("a-/x", 1), ("A/x", 1), ("a..b/x", 1)] {
        assert_eq!(label_key_faults(key).len(), faults, "{key}");
    }
}
