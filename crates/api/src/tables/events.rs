//! Events, in both shapes: each value is looked for under the core name, then under the newer one.

use serde_json::Value;

use super::format::{UNKNOWN, name, number, since, text_or};
use super::{Column, NAME, col, wide};

pub(super) static COLUMNS: &[Column] = &[
    col("Last Seen"),
    col("Type"),
    col("Reason"),
    col("Object"),
    wide("Subobject"),
    wide("Source"),
    col("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { priority: 1, ..NAME },
];

fn either<'a>(event: &'a Value, core: &str, newer: &str) -> &'a Value {
    event.get(core).unwrap_or(&event[newer])
}

pub(super) fn cells(event: &Value, now: i64) -> Vec<Value> {
    let first = match since(either(event, "firstTimestamp", "deprecatedFirstTimestamp"), now) {
        unknown if unknown == UNKNOWN => since(&event["eventTime"], now),
        first => first,
    };
    let mut last = match since(either(event, "lastTimestamp", "deprecatedLastTimestamp"), now) {
        unknown if unknown == UNKNOWN => first.clone(),
        last => last,
    };
    let mut count = number(either(event, "count", "deprecatedCount"));
    let series = &event["series"];
    if series.is_object() {
        last = since(&series["lastObservedTime"], now);
        count = number(&series["count"]);
    } else if count == 0 {
        count = 1;
    }
    let about = either(event, "involvedObject", "regarding");
    let kind = text_or(&about["kind"], "").to_lowercase();
    let object = match text_or(&about["name"], "") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either(event, "source", "deprecatedSource");
    let reporting = either(event, "reportingComponent", "reportingController");
    let component = text_or(&source["component"], text_or(reporting, ""));
    let host = text_or(&source["host"], text_or(&event["reportingInstance"], ""));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text_or(&event["type"], "").into(),
        text_or(&event["reason"], "").into(),
        object.into(),
        text_or(&about["fieldPath"], "").into(),
        source.into(),
        text_or(either(event, "message", "note"), "").trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_give_the_same_row() {
        let core = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": " text\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:30Z", "count": 3,
        });
        let newer = json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "note": " text\n",
            "regarding": {"kind": "Pod", "name": "p"},
            "deprecatedSource": {"component": "kubelet", "host": "n"},
            "deprecatedFirstTimestamp": "1970-01-01T00:00:00Z",
            "deprecatedLastTimestamp": "1970-01-01T00:00:30Z", "deprecatedCount": 3,
        });
        let row = cells(&core, 60);
        assert_eq!(row, cells(&newer, 60));
        assert_eq!(row[0], "30s");
        assert_eq!(row[3], "pod/p");
        assert_eq!(row[5], "kubelet, n");
        assert_eq!(row[6], "text");
    }
}
