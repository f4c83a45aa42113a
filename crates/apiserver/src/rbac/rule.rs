//! One rule of a role: which requests it allows, which other rules it covers, and how it is told.
//!
//! What is allowed is upstream's: `*` for any verb, group or resource, `*/scale` for a subresource of any
//! resource, no names for any name, and a path that ends in `*` for all that begin so.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::auth::Attributes;

/// A [`PolicyRule`] without its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
}

impl From<&PolicyRule> for Rule {
    fn from(rule: &PolicyRule) -> Self {
        Self {
            verbs: rule.verbs.clone(),
            groups: rule.api_groups.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            names: rule.resource_names.clone().unwrap_or_default(),
            urls: rule.non_resource_urls.clone().unwrap_or_default(),
        }
    }
}

impl From<&Rule> for PolicyRule {
    fn from(rule: &Rule) -> Self {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        Self {
            verbs: rule.verbs.clone(),
            api_groups: some(&rule.groups),
            resources: some(&rule.resources),
            resource_names: some(&rule.names),
            non_resource_urls: some(&rule.urls),
        }
    }
}

const ALL: &str = "*";

fn has(list: &[String], one: &str) -> bool {
    list.iter().any(|entry| entry == ALL || entry == one)
}

/// Whether a path of a rule stands for this path.
fn is_path(entry: &str, path: &str) -> bool {
    match entry.strip_suffix(ALL) {
        Some(prefix) => path.starts_with(prefix),
        None => entry == path,
    }
}

impl Rule {
    pub(crate) fn allows(&self, what: &Attributes<'_>) -> bool {
        if !has(&self.verbs, what.verb) {
            return false;
        }
        if what.resource.is_empty() {
            return self.urls.iter().any(|entry| is_path(entry, what.path));
        }
        has(&self.groups, what.group)
            && self.resources.iter().any(|entry| names_resource(entry, what.resource, what.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == what.name))
    }

    /// Whether whoever has this rule has `other` too, which is [`Rule::pieces`]' kind of rule.
    fn covers(&self, other: &Rule) -> bool {
        let all = |own: &[String], theirs: &[String]| theirs.iter().all(|one| has(own, one));
        let resource = |wanted: &String| match wanted.split_once('/') {
            Some((main, sub)) => self.resources.iter().any(|entry| names_resource(entry, main, sub)),
            None => has(&self.resources, wanted),
        };
        let path = |wanted: &String| self.urls.iter().any(|entry| entry == wanted || is_path(entry, wanted));
        let names = match other.names.as_slice() {
            [] => self.names.is_empty(),
            names => self.names.is_empty() || names.iter().all(|name| self.names.contains(name)),
        };
        all(&self.verbs, &other.verbs)
            && all(&self.groups, &other.groups)
            && other.resources.iter().all(resource)
            && names
            && other.urls.iter().all(path)
    }

    /// The same as rules of one verb and one thing each.
    fn pieces(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut pieces = Vec::new();
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let piece = |names| Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names,
                        urls: Vec::new(),
                    };
                    match self.names.as_slice() {
                        [] => pieces.push(piece(Vec::new())),
                        names => pieces.extend(names.iter().map(|name| piece(one(name)))),
                    }
                }
            }
        }
        for url in &self.urls {
            let piece = |verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() };
            pieces.extend(self.verbs.iter().map(piece));
        }
        pieces
    }
}

/// Whether an entry such as `pods`, `pods/log`, `*` or `*/scale` means this resource.
fn names_resource(entry: &str, resource: &str, subresource: &str) -> bool {
    let with_sub =
        |main: &str| entry.strip_prefix(main).and_then(|rest| rest.strip_prefix('/')) == Some(subresource);
    entry == ALL
        || match subresource {
            "" => entry == resource,
            _ => with_sub(resource) || with_sub(ALL),
        }
}

/// The pieces of `wanted` that none of `owned` covers.
pub(crate) fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let pieces = wanted.iter().flat_map(Rule::pieces);
    pieces.filter(|piece| !owned.iter().any(|rule| rule.covers(piece))).collect()
}

/// Rules of one resource (and at most one name) put together, in the order in which they first come.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compact: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = |rule: &Rule| {
            rule.groups.len() == 1
                && rule.resources.len() == 1
                && rule.names.len() <= 1
                && rule.urls.is_empty()
        };
        let same = |other: &&mut Rule| {
            simple(other)
                && (&other.groups, &other.resources, &other.names)
                    == (&rule.groups, &rule.resources, &rule.names)
        };
        match compact.iter_mut().find(same).filter(|_| simple(&rule)) {
            Some(other) => {
                let new: Vec<String> =
                    rule.verbs.into_iter().filter(|verb| !other.verbs.contains(verb)).collect();
                other.verbs.extend(new);
            }
            None => compact.push(rule),
        }
    }
    compact
}

/// Rules a line each, as upstream tells what somebody lacks.
pub(crate) fn lines(rules: Vec<Rule>) -> String {
    let mut lines: Vec<String> = compact(rules).iter().map(line).collect();
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

fn line(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list.iter().map(String::as_str))))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// `["a" "b"]`.
pub(crate) fn quoted<'a>(list: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<String> = list.map(|one| format!("{one:?}")).collect();
    format!("[{}]", list.join(" "))
}

/// Several faults as one text: a lone one as it is, more of them in brackets.
pub(crate) fn aggregate(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(',').filter(|word| !word.is_empty()).map(|word| word.replace("''", "")).collect()
    }

    /// `verbs groups resources names`, lists with commas, `''` for the core group, `-` for none.
    fn rule(text: &str) -> Rule {
        let mut parts = text.split(' ').map(|part| if part == "-" { "" } else { part });
        let mut next = || words(parts.next().unwrap_or_default());
        Rule { verbs: next(), groups: next(), resources: next(), names: next(), urls: next() }
    }

    fn allows(text: &str, verb: &str, group: &str, resource: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        rule(text).allows(&Attributes { verb, group, resource, subresource, name, ..Attributes::default() })
    }

    #[test]
    fn a_rule_allows_what_it_lists() {
        assert!(allows("get,list '' pods", "get", "", "pods", "a"));
        assert!(!allows("get,list '' pods", "delete", "", "pods", "a"));
        assert!(!allows("get '' pods", "get", "apps", "pods", "a"));
        assert!(!allows("get '' pods", "get", "", "pods/log", "a"));
        assert!(allows("get '' pods/log", "get", "", "pods/log", "a"));
        assert!(!allows("get '' pods/log", "get", "", "pods", "a"));
    }

    #[test]
    fn stars_stand_for_all() {
        assert!(allows("* * *", "escalate", "x", "y/z", ""));
        assert!(allows("get * */scale", "get", "apps", "deployments/scale", "a"));
        assert!(!allows("get * */scale", "get", "apps", "deployments", "a"));
        assert!(!allows("get '' pods/*", "get", "", "pods/log", "a"), "a subresource has no pattern");
        assert!(!allows("get '' pods/,*/", "get", "", "pods", "a"), "no subresource is none to name");
    }

    #[test]
    fn names_bind_a_rule_to_objects() {
        assert!(allows("get '' secrets a,b", "get", "", "secrets", "b"));
        assert!(!allows("get '' secrets a,b", "get", "", "secrets", "c"));
        assert!(!allows("list '' secrets a", "list", "", "secrets", ""), "a list has no name");
    }

    #[test]
    fn paths_match_whole_or_by_their_beginning() {
        let allows = |text: &str, path: &str| {
            rule(text).allows(&Attributes { verb: "get", path, ..Attributes::default() })
        };
        assert!(allows("get - - - /healthz,/api/*", "/healthz"));
        assert!(allows("get - - - /healthz,/api/*", "/api/v1"));
        assert!(!allows("get - - - /healthz,/api/*", "/api"));
        assert!(!allows("get - - - /healthz", "/healthz/ping"));
        assert!(allows("get - - - *", "/anything"));
        assert!(!allows("get * *", "/healthz"), "resources are no paths");
    }

    fn lacks(owned: &[&str], wanted: &str) -> String {
        let owned: Vec<Rule> = owned.iter().map(|text| rule(text)).collect();
        lines(missing(&owned, &[rule(wanted)]))
    }

    #[test]
    fn what_is_owned_in_parts_is_owned() {
        assert_eq!(lacks(&["get '' pods", "list '' pods"], "get,list '' pods"), "");
        assert_eq!(lacks(&["* * *"], "get '' pods x"), "");
        assert_eq!(lacks(&["get '' secrets"], "get '' secrets a"), "");
        assert_eq!(lacks(&["get * */scale"], "get apps deployments/scale"), "");
        assert_eq!(lacks(&["get - - - /x/*"], "get - - - /x/y,/x/z*"), "");
    }

    #[test]
    fn what_is_missing_is_told_in_upstreams_form() {
        assert_eq!(
            lacks(&["get '' pods"], "get,list,watch '' pods,secrets"),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"watch\"]}"
        );
        assert_eq!(
            lacks(&["get '' secrets a"], "get '' secrets a,b"),
            "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}"
        );
        assert_eq!(lacks(&["get '' secrets a"], "get '' secrets"), lacks(&[], "get '' secrets"));
        assert_eq!(
            lacks(&["get - - - /x"], "get - - - /x,/y"),
            "{NonResourceURLs:[\"/y\"], Verbs:[\"get\"]}"
        );
        assert_eq!(lacks(&["get '' *"], "* '' *"), "{APIGroups:[\"\"], Resources:[\"*\"], Verbs:[\"*\"]}");
    }

    #[test]
    fn what_covers_a_rule_has_all_of_it() {
        let covered = |owned: &str, wanted: &str| lacks(&[owned], wanted).is_empty();
        for (owned, wanted, expected) in [
            ("get '' pods", "get '' pods", true),
            ("get '' pods", "list '' pods", false),
            ("get '' pods", "get apps pods", false),
            ("get '' pods", "get '' secrets", false),
            ("get '' pods", "get '' pods/log", false),
            ("get '' pods/log", "get '' pods/log", true),
            ("get '' pods/log", "get '' pods", false),
            ("get '' */log", "get '' pods/log", true),
            ("get '' *", "get '' pods/log", true),
            ("get '' pods/log", "get '' */log", false),
            ("get '' pods", "get '' *", false),
            ("get '' pods", "* '' pods", false),
            ("get '' pods", "get * pods", false),
            ("get '' pods a,b", "get '' pods b", true),
            ("get '' pods a", "get '' pods", false),
            ("get '' pods", "get '' pods a", true),
            ("get - - - /a*", "get - - - /a*", true),
            ("get - - - /a*", "get - - - /ab", true),
            ("get - - - /a", "get - - - /a*", false),
            ("get - - - *", "get - - - /a*", true),
            ("get * *", "get - - - /a", false),
            ("get - - - *", "get '' pods", false),
        ] {
            assert_eq!(covered(owned, wanted), expected, "{owned} for {wanted}");
        }
    }

    #[test]
    fn rules_of_one_thing_are_told_on_one_line() {
        let told = |texts: &[&str]| lines(texts.iter().map(|text| rule(text)).collect());
        assert_eq!(
            told(&["get '' pods", "list '' pods", "get '' pods"]),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
        );
        assert_eq!(
            told(&["get '' pods a", "list '' pods a", "list '' pods b"]),
            "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"a\"], Verbs:[\"get\" \"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"b\"], Verbs:[\"list\"]}"
        );
        // Paths are told one by one, as are rules of several things.
        assert_eq!(
            told(&["get - - - /a", "put - - - /a"]),
            "{NonResourceURLs:[\"/a\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/a\"], Verbs:[\"put\"]}"
        );
        for several in ["'',apps pods", "'' pods,secrets", "'' pods a,b"] {
            let both = told(&[&format!("get {several}"), &format!("list {several}")]);
            assert_eq!(both.lines().count(), 2, "{both}");
        }
    }

    #[test]
    fn rules_survive_the_way_through_the_api() {
        let own = rule("get,list '',apps pods a /x");
        assert_eq!(Rule::from(&PolicyRule::from(&own)), own);
    }
}
