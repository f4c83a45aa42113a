//! Probes and hooks, which the node carries out, go to the pod and to no other host.

use super::Found;
use crate::pod::{Container, Pod};
use crate::wording::{Values, containers, plural, quoted};

fn hosts(container: Container<'_>) -> impl Iterator<Item = &str> {
    let probes =
        ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| container.field(probe)).into_iter();
    let hooks = ["postStart", "preStop"].map(|hook| &container.field("lifecycle")[hook]).into_iter();
    probes
        .chain(hooks)
        .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
        .filter_map(|host| host.as_str().filter(|host| !host.is_empty()))
}

pub(super) fn check(pod: Pod<'_>) -> Found {
    let mut named = Values::new();
    let mut names = pod.containers_where(|container| {
        let found: Vec<String> = hosts(container).map(str::to_owned).collect();
        let any = !found.is_empty();
        named.extend(found);
        any
    });
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    names.dedup();
    let uses = plural("uses", "use", names.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", named.len());
    Some((
        "probe or lifecycle host".to_owned(),
        format!("{} {uses} {what} {}", containers(&names), quoted(named)),
    ))
}
