//! Where a pod may go, and when: affinity between pods, spreading, and gates.

use std::collections::{BTreeMap, BTreeSet};

use super::container::choice;
use super::cursor::At;
use super::{names, selector};
use crate::selector::label_key_faults;
use crate::status::Cause;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_POSITIVE: &str = "must be greater than zero";
const WITHOUT_SELECTOR: &str = "must not be specified when labelSelector is not set";

/// Each is compared with every pod there is, whenever the pod's place is decided. Upstream bounds them by the
/// size of an object alone: some ten thousand, for which all other pods would wait.
const TERMS_MAX: usize = 256;

/// `affinity` of a pod's specification, but for that to nodes.
pub(super) fn pod_affinity(affinity: &At<'_>, faults: &mut Vec<Cause>) {
    for kind in ["podAffinity", "podAntiAffinity"].map(|kind| affinity.get(kind)) {
        let (required, preferred) = (kind.get(REQUIRED), kind.get(PREFERRED));
        let too_many = [&required, &preferred].into_iter().filter(|list| list.items().count() > TERMS_MAX);
        let before = faults.len();
        faults
            .extend(too_many.map(|list| Cause::too_many(list.path.clone(), list.items().count(), TERMS_MAX)));
        if faults.len() > before {
            continue;
        }
        required.items().for_each(|one| term(&one, faults));
        for preferred in preferred.items() {
            weight(&preferred.get("weight"), faults);
            term(&preferred.get("podAffinityTerm"), faults);
        }
    }
}

/// How much a preference counts.
pub(super) fn weight(weight: &At<'_>, faults: &mut Vec<Cause>) {
    let number = weight.number().unwrap_or(0);
    if !(1..=100).contains(&number) {
        faults.push(Cause::invalid(weight.path.clone(), number, "must be in the range 1-100"));
    }
}

fn term(term: &At<'_>, faults: &mut Vec<Cause>) {
    let selected = term.get("labelSelector");
    selector::check(&selected, faults);
    selector::check(&term.get("namespaceSelector"), faults);
    for namespace in term.get("namespaces").items() {
        if let Some(fault) = names::label(namespace.text()) {
            faults.push(Cause::invalid(term.child("namespace"), namespace.text(), fault));
        }
    }
    let (same, other) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for keys in [&same, &other] {
        match selected.is_there() || keys.is_empty() {
            true => keys.items().for_each(|key| label_key(&key, faults)),
            false => faults.push(Cause::forbidden(keys.path.clone(), WITHOUT_SELECTOR)),
        }
    }
    // As upstream, the place is the term's own, with the key's number behind it.
    selected_twice(&same, &selected, &term.path, faults);
    let other: BTreeSet<&str> = other.items().map(|key| key.text()).collect();
    for key in same.items().filter(|key| other.contains(key.text())) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        faults.push(Cause::invalid(key.path.clone(), key.text(), detail));
    }
    let key = term.get("topologyKey");
    topology_key(&key, faults);
    let wrong = if key.is_empty() { Vec::new() } else { label_key_faults(key.text()) };
    faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
}

fn topology_key(key: &At<'_>, faults: &mut Vec<Cause>) {
    if key.is_empty() {
        faults.push(Cause::required(key.path.clone(), "can not be empty"));
    }
}

/// A key of labels, as its own element of a list.
fn label_key(key: &At<'_>, faults: &mut Vec<Cause>) {
    let wrong = label_key_faults(key.text());
    faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
}

/// Keys that the selector has once more than it got when the pod was made: once each is looked for already.
fn selected_twice(keys: &At<'_>, selector: &At<'_>, place: &str, faults: &mut Vec<Cause>) {
    let mut seen: BTreeSet<&str> = selector.get("matchLabels").entries().map(|(key, _)| key).collect();
    // Where each stands last.
    let wanted: BTreeMap<&str, usize> = keys.items().enumerate().map(|(at, key)| (key.text(), at)).collect();
    for expression in selector.get("matchExpressions").items() {
        let key = expression.get("key").text();
        if let Some(at) = wanted.get(key).filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            faults.push(Cause::invalid(format!("{place}[{at}]"), key, detail));
        }
        seen.insert(key);
    }
}

/// `schedulingGates`: names like those of labels, each once.
pub(super) fn gates(gates: &At<'_>, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name").text();
        let wrong = label_key_faults(name);
        faults.extend(wrong.into_iter().map(|fault| Cause::invalid(gate.path.clone(), name, fault)));
        if !seen.insert(name) {
            faults.push(Cause::duplicate(gate.path.clone(), name));
        }
    }
}

/// `resourceClaims`: each has a name of its own, and one source.
pub(super) fn resource_claims(claims: &At<'_>, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if !seen.insert(name.text()) {
            faults.push(Cause::duplicate(name.path.clone(), name.text()));
        } else if let Some(fault) = names::label(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| claim.get(field));
        let detail = match sources.each_ref().map(At::is_there) {
            [true, true] => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            [false, false] => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !detail.is_empty() {
            faults.push(Cause::invalid(claim.path.clone(), claim.value.clone(), detail));
        }
        for source in sources.iter().filter(|source| source.is_there()) {
            if let Some(fault) = names::subdomain(source.text()) {
                faults.push(Cause::invalid(source.path.clone(), source.text(), fault));
            }
        }
    }
}

pub(super) fn topology_spread(constraints: &At<'_>, faults: &mut Vec<Cause>) {
    let count = constraints.items().count();
    if count > TERMS_MAX {
        faults.push(Cause::too_many(constraints.path.clone(), count, TERMS_MAX));
        return;
    }
    // A pair that occurs again is told where it first stands.
    let pair = |constraint: &At<'_>| {
        (
            constraint.get("topologyKey").text().to_owned(),
            constraint.get("whenUnsatisfiable").text().to_owned(),
        )
    };
    let mut again: BTreeSet<usize> = BTreeSet::new();
    let pairs: Vec<_> = constraints.items().map(|constraint| pair(&constraint)).collect();
    let mut later = BTreeSet::new();
    for (at, one) in pairs.iter().enumerate().rev() {
        if !later.insert(one) {
            again.insert(at);
        }
    }
    for (at, constraint) in constraints.items().enumerate() {
        let skew = constraint.get("maxSkew");
        let number = skew.number().unwrap_or(0);
        if number <= 0 {
            faults.push(Cause::invalid(skew.path.clone(), number, NOT_POSITIVE));
        }
        topology_key(&constraint.get("topologyKey"), faults);
        let action = constraint.get("whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.text()) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            faults.push(Cause::not_supported(action.path.clone(), action.text(), supported));
        }
        if again.contains(&at) {
            let (key, action) = &pairs[at];
            let place = constraint.child("{topologyKey, whenUnsatisfiable}");
            faults.push(Cause::duplicate(place, format!("{{{key}, {action}}}")));
        }
        let domains = constraint.get("minDomains");
        if let Some(number) = domains.number() {
            if number <= 0 {
                faults.push(Cause::invalid(domains.path.clone(), number, NOT_POSITIVE));
            }
            if action.text() != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                faults.push(Cause::invalid(domains.path.clone(), number, detail));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            choice(&constraint.get(policy), &["Honor", "Ignore"], faults);
        }
        let (keys, selected) = (constraint.get("matchLabelKeys"), constraint.get("labelSelector"));
        if !keys.is_empty() && !selected.is_there() {
            faults.push(Cause::forbidden(keys.path.clone(), WITHOUT_SELECTOR));
        }
        keys.items().for_each(|key| label_key(&key, faults));
        selected_twice(&keys, &selected, &keys.path, faults);
        selector::check(&selected, faults);
    }
}
