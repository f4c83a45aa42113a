//! Certificate signing requests.

use serde_json::Value;

use super::format::{NONE, age, duration, list, name, text_or};
use super::{AGE, Column, NAME, col};

pub(super) static COLUMNS: &[Column] = &[
    NAME,
    AGE,
    col("SignerName"),
    col("Requestor"),
    col("RequestedDuration"),
    Column { description: "How it was decided, and whether the certificate is there.", ..col("Condition") },
];

pub(super) fn cells(csr: &Value, now: i64) -> Vec<Value> {
    let spec = &csr["spec"];
    vec![
        name(csr),
        age(csr, now).into(),
        text_or(&spec["signerName"], NONE).into(),
        text_or(&spec["username"], "").into(),
        spec["expirationSeconds"].as_i64().map_or_else(|| NONE.to_owned(), duration).into(),
        condition(csr).into(),
    ]
}

fn condition(csr: &Value) -> String {
    let status = &csr["status"];
    let is = |type_: &str| list(&status["conditions"]).iter().any(|c| c["type"] == type_);
    let mut words = vec![match (is("Denied"), is("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }];
    if is("Failed") {
        words.push("Failed");
    }
    if !text_or(&status["certificate"], "").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_condition_says_how_far_it_is() {
        let with = |types: &[&str], certificate: &str| {
            let conditions: Vec<Value> = types.iter().map(|type_| json!({"type": type_})).collect();
            condition(&json!({"status": {"conditions": conditions, "certificate": certificate}}))
        };
        assert_eq!(with(&[], ""), "Pending");
        assert_eq!(with(&["Approved"], "x"), "Approved,Issued");
        assert_eq!(with(&["Approved", "Failed"], ""), "Approved,Failed");
        assert_eq!(with(&["Denied"], ""), "Denied");
    }
}
