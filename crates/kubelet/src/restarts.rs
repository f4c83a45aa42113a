//! Whether a container that has ended starts again: its own rules, then its own policy, then the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

/// Whether a container of the pod that ended with that code starts again.
pub(crate) fn restarts(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    // The API takes rules only beside a policy.
    let Some(own) = container.restart_policy.as_deref() else {
        return by_policy(spec.restart_policy.as_deref(), exit_code);
    };
    let mut rules = container.restart_policy_rules.iter().flatten();
    let matching = rules.find(|rule| matches(rule, exit_code));
    matching.is_some_and(|rule| rule.action == "Restart") || by_policy(Some(own), exit_code)
}

fn by_policy(policy: Option<&str>, exit_code: i32) -> bool {
    match policy {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    }
}

fn matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(pod: &str, own: Value, expected: [bool; 3]) {
        let mut container = own.clone();
        container["name"] = json!("c");
        let spec = json!({"restartPolicy": pod, "containers": [container]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a pod specification");
        let got = [0, 1, 42].map(|code| restarts(&spec, &spec.containers[0], code));
        assert_eq!(got, expected, "{own} in a pod of {pod}");
    }

    #[test]
    fn the_containers_own_policy_goes_before_the_pods() {
        for (policy, expected) in
            [("Always", [true, true, true]), ("OnFailure", [false, true, true]), ("Never", [false; 3])]
        {
            check(policy, json!({}), expected);
            for pod in ["Always", "OnFailure", "Never"] {
                check(pod, json!({"restartPolicy": policy}), expected);
            }
        }
    }

    #[test]
    fn the_first_rule_that_matches_goes_before_the_policy() {
        let rule = |operator: &str, values: &[i32]| json!({"action": "Restart", "exitCodes": {"operator": operator, "values": values}});
        let own =
            |policy: &str, rules: &[Value]| json!({"restartPolicy": policy, "restartPolicyRules": rules});
        check("Always", own("Never", &[rule("In", &[42])]), [false, false, true]);
        check("Always", own("Never", &[rule("NotIn", &[0, 1])]), [false, false, true]);
        check("Never", own("Never", &[rule("In", &[0]), rule("In", &[1])]), [true, true, false]);
        check("Never", own("OnFailure", &[rule("In", &[0])]), [true, true, true]);
        check("Never", own("Never", &[rule("NotIn", &[])]), [true, true, true]);
        check("Never", own("Never", &[json!({"action": "Restart"})]), [false; 3]);
    }
}
