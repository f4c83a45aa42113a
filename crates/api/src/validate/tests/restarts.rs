//! Restart policies and rules of containers.

use serde_json::{Value, json};

use super::pods::container;

fn ruled(rule: Value) -> Value {
    json!({"restartPolicy": "Never", "restartPolicyRules": [rule]})
}

#[test]
fn rules_need_a_policy_and_say_what_they_do_at_which_codes() {
    let good = || json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1, 2]}});
    let codes = |codes: Value| ruled(json!({"action": "Restart", "exitCodes": codes}));
    let many: Vec<i32> = (0..256).collect();
    container(&[
        (json!({"restartPolicy": "OnFailure"}), ""),
        (ruled(good()), ""),
        (
            ruled(
                json!({"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}),
            ),
            "",
        ),
        (
            json!({"restartPolicy": "Sometimes"}),
            "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            json!({"restartPolicyRules": [good()]}),
            "restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            ruled(json!({"action": "Stop", "exitCodes": {"operator": "In"}})),
            "restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \"RestartAllContainers\"",
        ),
        (
            ruled(json!({"action": "Restart"})),
            "restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
        (
            codes(json!({"values": [1]})),
            "restartPolicyRules[0].exitCodes.operator: Unsupported value: \"\": supported values: \"In\", \"NotIn\"",
        ),
        (
            codes(json!({"operator": "In", "values": many})),
            "restartPolicyRules[0].exitCodes.values: Too many: 256: must have at most 255 items",
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": vec![good(); 21]}),
            "restartPolicyRules: Too many: 21: must have at most 20 items",
        ),
    ]);
}
