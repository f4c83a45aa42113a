//! Cells that many kinds share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::selector::Selector;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";

pub(super) fn name(object: &Value) -> Value {
    object["metadata"]["name"].as_str().unwrap_or_default().into()
}

/// A text, or `otherwise` where it is missing or empty.
pub(super) fn text_or<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value.as_str().filter(|t| !t.is_empty()).unwrap_or(otherwise)
}

pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn seconds(time: &Value) -> Option<i64> {
    time.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// The time since the object was created.
pub fn age(object: &Value, now: i64) -> String {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// The time since a timestamp.
pub(super) fn since(time: &Value, now: i64) -> String {
    seconds(time).map_or_else(|| UNKNOWN.into(), |then| duration(now - then))
}

/// Two units at most, and coarser the longer it is.
pub(super) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |big: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{smaller}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// `k=v,…` in order of keys.
pub(super) fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { NONE.into() } else { pairs.join(",") }
}

/// A `LabelSelector` in text.
pub(super) fn selector(selector: &Value) -> String {
    let parsed: Option<LabelSelector> = serde_json::from_value(selector.clone()).ok();
    match Selector::from_object(parsed.as_ref()) {
        Ok(selector) => match selector.to_string() {
            text if text.is_empty() => NONE.into(),
            text => text,
        },
        Err(_) => "<error>".into(),
    }
}

/// At most three, and how many more there are; `otherwise` for none at all.
pub(super) fn first_three(items: &[String], otherwise: &str) -> String {
    const MAX: usize = 3;
    let shown = items.iter().take(MAX).cloned().collect::<Vec<_>>().join(",");
    match items.len() {
        0 => otherwise.into(),
        n if n > MAX => format!("{shown} + {} more...", n - MAX),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_get_coarser() {
        let check = |seconds: i64, text: &str| assert_eq!(duration(seconds), text, "{seconds}");
        check(-5, "<invalid>");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(125, "2m5s");
        check(600, "10m");
        check(3 * 3600 - 1, "179m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 60, "3h1m");
        check(8 * 3600, "8h");
        check(48 * 3600, "2d");
        check(49 * 3600, "2d1h");
        check(8 * 86_400, "8d");
        check(2 * 365 * 86_400 + 86_400, "2y1d");
        check(9 * 365 * 86_400, "9y");
    }

    #[test]
    fn long_lists_are_cut() {
        let items: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).into();
        assert_eq!(first_three(&items, "-"), "a,b,c + 2 more...");
        assert_eq!(first_three(&items[..3], "-"), "a,b,c");
        assert_eq!(first_three(&[], "-"), "-");
    }
}
