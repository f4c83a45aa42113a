//! The small grammar of the checks' messages.

use std::collections::BTreeSet;

/// `"a", "b"`.
pub(crate) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

pub(crate) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub(crate) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// Who set what they may not: the pod, some of its containers, or both. Empty when nobody did.
pub(crate) fn setters(pod: bool, names: &[&str]) -> String {
    match (pod, names.is_empty()) {
        (false, true) => String::new(),
        (true, true) => "pod".to_owned(),
        (false, false) => containers(names),
        (true, false) => format!("pod and {}", containers(names)),
    }
}

/// Values in order, each once.
pub(crate) type Values = BTreeSet<String>;
