//! One rule of a role: which requests it allows, which other rules it covers, and how it is told.
//!
//! What is allowed is upstream's: `*` for any verb, group or resource, `*/scale` for a subresource of any
//! resource, no names for any name, and a path that ends in `*` for all that begin so.

use std::collections::HashMap;

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
    fn pieces(&self) -> impl Iterator<Item = Rule> + '_ {
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> = match self.names.as_slice() {
            [] => vec![Vec::new()],
            names => names.iter().map(one).collect(),
        };
        let things = self.groups.iter().flat_map(|group| self.resources.iter().map(move |it| (group, it)));
        let of_things = things.flat_map(move |(group, resource)| {
            let piece = |verb, names: &Vec<String>| Rule {
                verbs: one(verb),
                groups: one(group),
                resources: one(resource),
                names: names.clone(),
                urls: Vec::new(),
            };
            let pieces = self.verbs.iter().flat_map(|verb| names.iter().map(move |names| piece(verb, names)));
            pieces.collect::<Vec<_>>()
        });
        let of_urls = self.urls.iter().flat_map(move |url| {
            self.verbs.iter().map(move |verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() })
        });
        of_things.chain(of_urls)
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
    pieces_besides(owned, wanted).filter(|piece| !owned.iter().any(|rule| rule.covers(piece))).collect()
}

/// The pieces of what no single one of `owned` covers whole.
fn pieces_besides<'a>(owned: &'a [Rule], wanted: &'a [Rule]) -> impl Iterator<Item = Rule> + 'a {
    wanted.iter().filter(|rule| !owned.iter().any(|own| own.covers(rule))).flat_map(Rule::pieces)
}

/// What somebody lacks to have all of some rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    pub(crate) rules: Vec<Rule>,
    /// There may be more, which nobody has looked for.
    pub(crate) and_more: bool,
}

/// So much of what is lacking is told, and so many pieces are looked at for it: a rule of some thousand
/// bytes can stand for millions.
const TOLD_MAX: usize = 500;
const PIECES_MAX: usize = 50_000;

/// [`missing`] for rules that anybody may write: what takes too long to compare counts as lacking.
pub(crate) fn lacking(owned: &[Rule], wanted: &[Rule]) -> Lacking {
    let mut lacking = Lacking::default();
    for (looked_at, piece) in pieces_besides(owned, wanted).enumerate() {
        if looked_at == PIECES_MAX || lacking.rules.len() == TOLD_MAX {
            lacking.and_more = true;
            break;
        }
        if !owned.iter().any(|rule| rule.covers(&piece)) {
            lacking.rules.push(piece);
        }
    }
    lacking
}

/// Rules of one resource (and at most one name) put together, in the order in which they first come.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compact: Vec<Rule> = Vec::new();
    let mut by_thing: HashMap<(String, String, Option<String>), usize> = HashMap::new();
    for rule in rules {
        let thing = match (rule.groups.as_slice(), rule.resources.as_slice(), rule.names.as_slice()) {
            ([group], [resource], names) if names.len() <= 1 && rule.urls.is_empty() => {
                Some((group.clone(), resource.clone(), names.first().cloned()))
            }
            _ => None,
        };
        if let Some(at) = thing.as_ref().and_then(|thing| by_thing.get(thing)) {
            let verbs = &mut compact[*at].verbs;
            rule.verbs.into_iter().for_each(|verb| {
                if !verbs.contains(&verb) {
                    verbs.push(verb);
                }
            });
            continue;
        }
        if let Some(thing) = thing {
            by_thing.insert(thing, compact.len());
        }
        compact.push(rule);
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
    fn what_a_short_rule_stands_for_is_not_looked_at_without_bound() {
        let many = |prefix: &str| (0..150).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        let cube = Rule { verbs: many("v"), groups: many("g"), resources: many("r"), ..Rule::default() };
        let told = lacking(&[], std::slice::from_ref(&cube));
        assert_eq!((told.rules.len(), told.and_more), (TOLD_MAX, true));
        // One that has it whole is found without looking at its pieces.
        assert_eq!(lacking(&[rule("* * *")], std::slice::from_ref(&cube)), Lacking::default());
        // Had in parts, but for the last verb, which nobody gets to: too much to compare is not granted.
        let parts: Vec<Rule> =
            cube.verbs[..149].iter().map(|verb| Rule { verbs: vec![verb.clone()], ..cube.clone() }).collect();
        let told = lacking(&parts, std::slice::from_ref(&cube));
        assert!(told.and_more, "{}", told.rules.len());
        let little = lacking(&[rule("get '' pods")], &[rule("get,list '' pods")]);
        assert_eq!((little.rules, little.and_more), (vec![rule("list '' pods")], false));
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

    #[test]
    fn a_lone_fault_stands_without_brackets() {
        assert_eq!(aggregate(&["one".into()]), "one");
        assert_eq!(aggregate(&["one".into(), "two".into()]), "[one, two]");
    }
}
