//! No port of the host's.

use super::Found;
use crate::pod::Pod;
use crate::wording::{Values, containers, plural};

pub(super) fn check(pod: Pod<'_>) -> Found {
    let mut ports = Values::new();
    let names = pod.containers_where(|container| {
        let list = container.field("ports").as_array();
        let used = list.into_iter().flatten().filter_map(|port| port["hostPort"].as_i64());
        let used: Vec<i64> = used.filter(|port| *port != 0).collect();
        ports.extend(used.iter().map(i64::to_string));
        !used.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", names.len());
    let what = plural("hostPort", "hostPorts", ports.len());
    let ports: Vec<String> = ports.into_iter().collect();
    Some(("hostPort".to_owned(), format!("{} {uses} {what} {}", containers(&names), ports.join(", "))))
}
