//! What a container says of its own restarts: a policy, and rules that go before it.

use super::container::choice;
use super::cursor::At;
use crate::status::Cause;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

pub(super) fn check(container: &At<'_>, faults: &mut Vec<Cause>) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    choice(&policy, &["Always", "Never", "OnFailure"], faults);
    let count = rules.items().count();
    if count > 0 && policy.is_empty() {
        faults.push(Cause::required(
            policy.path.clone(),
            "must specify restartPolicy when restart rules are used",
        ));
    }
    if count > RULES_MAX {
        faults.push(Cause::too_many(rules.path.clone(), count, RULES_MAX));
    }
    for rule in rules.items() {
        one_of(&rule.get("action"), &["Restart", "RestartAllContainers"], faults);
        let codes = rule.get("exitCodes");
        if !codes.is_there() {
            faults.push(Cause::required(codes.path.clone(), "must be specified"));
            continue;
        }
        one_of(&codes.get("operator"), &["In", "NotIn"], faults);
        let values = codes.get("values");
        let count = values.items().count();
        if count > EXIT_CODES_MAX {
            faults.push(Cause::too_many(values.path.clone(), count, EXIT_CODES_MAX));
        }
    }
}

/// A text that must be one of a set, and be given.
fn one_of(place: &At<'_>, supported: &[&str], faults: &mut Vec<Cause>) {
    if !supported.contains(&place.text()) {
        faults.push(Cause::not_supported(place.path.clone(), place.text(), supported));
    }
}
