//! Containers.

use std::collections::BTreeSet;

use super::cursor::At;
use super::resource::{self, HUGE_PAGES};
use super::{downward, ip, names, probe, restart, security, volume};
use crate::quantity::Quantity;
use crate::status::Cause;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];

/// What a container is judged against.
pub(super) struct Pod<'a> {
    pub(super) volumes: BTreeSet<&'a str>,
    /// Names of the devices that the pod claims.
    pub(super) claims: BTreeSet<&'a str>,
    pub(super) restart_policy: &'a str,
    pub(super) host_network: bool,
    /// Not in a user namespace of its own.
    pub(super) host_users: bool,
}

/// Ports of the node that containers before this one took.
#[derive(Default)]
pub(super) struct HostPorts(BTreeSet<String>);

pub(super) fn check(
    container: &At<'_>,
    pod: &Pod<'_>,
    taken: &mut HostPorts,
    init: bool,
    faults: &mut Vec<Cause>,
) {
    let name = container.get("name");
    if name.is_empty() {
        faults.push(Cause::required(name.path.clone(), ""));
    } else if let Some(fault) = names::label(name.text()) {
        faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
    }
    let image = container.get("image");
    if image.is_empty() {
        faults.push(Cause::required(image.path.clone(), ""));
    } else if image.text().trim() != image.text() {
        faults.push(Cause::invalid(
            image.path.clone(),
            image.text(),
            "must not have leading or trailing whitespace",
        ));
    }
    ports(&container.get("ports"), pod, taken, faults);
    environment(container, faults);
    let privileged = container.get("securityContext").get("privileged").is_true();
    volume::mounts(&container.get("volumeMounts"), &pod.volumes, privileged, faults);
    volume::devices(&container.get("volumeDevices"), &pod.volumes, faults);
    let lifecycle = container.get("lifecycle");
    let restartable = container.get("restartPolicy").text() == "Always";
    if init && !restartable && lifecycle.is_there() {
        let detail = "may not be set for init containers without restartPolicy=Always";
        faults.push(Cause::forbidden(lifecycle.path, detail));
    } else {
        for hook in ["postStart", "preStop"] {
            probe::hook(&lifecycle.get(hook), faults);
        }
    }
    choice(&container.get("imagePullPolicy"), PULL_POLICIES, faults);
    choice(&container.get("terminationMessagePolicy"), &["FallbackToLogsOnError", "File"], faults);
    resources(&container.get("resources"), faults);
    claims(&container.get("resources").get("claims"), &pod.claims, faults);
    resize_policy(&container.get("resizePolicy"), pod.restart_policy, faults);
    restart::check(container, faults);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let place = container.get(field);
        if init && !restartable && place.is_there() {
            faults.push(Cause::forbidden(
                place.path,
                "may not be set for init containers without restartPolicy=Always",
            ));
        } else {
            probe::check(&place, field, faults);
        }
    }
    security::container(&container.get("securityContext"), pod.host_users, faults);
}

/// A text that must be one of a set, where it is given.
pub(super) fn choice(place: &At<'_>, supported: &[&str], faults: &mut Vec<Cause>) {
    if !place.is_empty() && !supported.contains(&place.text()) {
        faults.push(Cause::not_supported(place.path.clone(), place.text(), supported));
    }
}

fn ports(ports: &At<'_>, pod: &Pod<'_>, taken: &mut HostPorts, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let wrong = names::port_name(name.text());
            if wrong.is_empty() && !seen.insert(name.text()) {
                faults.push(Cause::duplicate(name.path.clone(), name.text()));
            }
            faults
                .extend(wrong.into_iter().map(|fault| Cause::invalid(name.path.clone(), name.text(), fault)));
        }
        let container_port = port.get("containerPort");
        match container_port.number().unwrap_or(0) {
            0 => faults.push(Cause::required(container_port.path.clone(), "")),
            number => {
                faults.extend(
                    names::port(number)
                        .map(|fault| Cause::invalid(container_port.path.clone(), number, fault)),
                );
            }
        }
        let host_port = port.get("hostPort");
        let host = host_port.number().unwrap_or(0);
        if host != 0 {
            match names::port(host) {
                Some(fault) => faults.push(Cause::invalid(host_port.path.clone(), host, fault)),
                None if pod.host_network && Some(host) != container_port.number() => {
                    let number = container_port.number().unwrap_or(0);
                    faults.push(Cause::invalid(
                        container_port.path.clone(),
                        number,
                        "must match `hostPort` when `hostNetwork` is true",
                    ));
                }
                None => {}
            }
        }
        let protocol = port.get("protocol");
        if protocol.is_empty() {
            faults.push(Cause::required(protocol.path.clone(), ""));
        }
        choice(&protocol, PROTOCOLS, faults);
        let host_ip = port.get("hostIP");
        if !host_ip.is_empty() {
            ip::address(&host_ip, faults);
        }
        if host != 0 {
            let key = format!("{}/{}/{host}", protocol.text(), host_ip.text());
            if !taken.0.insert(key.clone()) {
                faults.push(Cause::duplicate(host_port.path.clone(), key));
            }
        }
    }
}

fn environment(container: &At<'_>, faults: &mut Vec<Cause>) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if let Some(fault) = names::environment(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
        let from = variable.get("valueFrom");
        if from.is_there() {
            value_from(&variable, &from, faults);
        }
    }
    for source in container.get("envFrom").items() {
        let references = ["configMapRef", "secretRef"].map(|field| source.get(field));
        match references.iter().filter(|reference| reference.is_there()).count() {
            0 => faults.push(Cause::invalid(
                source.path.clone(),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => faults.push(Cause::invalid(
                source.path.clone(),
                "",
                "may not have more than one field specified at a time",
            )),
        }
        for reference in references.iter().filter(|reference| reference.is_there()) {
            if reference.get("name").is_empty() {
                faults.push(Cause::required(reference.child("name"), ""));
            }
        }
    }
}

fn value_from(variable: &At<'_>, from: &At<'_>, faults: &mut Vec<Cause>) {
    let field = from.get("fieldRef");
    let keys = ["configMapKeyRef", "secretKeyRef"].map(|kind| from.get(kind));
    let resource = from.get("resourceFieldRef");
    let file = from.get("fileKeyRef");
    let count =
        [&field, &resource, &file].into_iter().chain(&keys).filter(|source| source.is_there()).count();
    if !variable.get("value").is_empty() && count > 0 {
        faults.push(Cause::invalid(from.path.clone(), "", "may not be specified when `value` is not empty"));
    } else if count > 1 {
        faults.push(Cause::invalid(
            from.path.clone(),
            "",
            "may not have more than one field specified at a time",
        ));
    } else if count == 0 {
        faults.push(Cause::invalid(
            from.path.clone(),
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    }
    downward::field(&field, downward::FIELDS_OF_ENVIRONMENT, faults);
    downward::resource(&resource, false, faults);
    for key in keys.iter().filter(|key| key.is_there()) {
        if key.get("name").is_empty() {
            faults.push(Cause::required(key.child("name"), ""));
        }
        let name = key.get("key");
        if name.is_empty() {
            faults.push(Cause::required(name.path.clone(), ""));
        } else if let Some(fault) = names::config_key(name.text()) {
            faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
        }
    }
}

pub(super) fn resources(resources: &At<'_>, faults: &mut Vec<Cause>) {
    let limits = resources.get("limits");
    let requests = resources.get("requests");
    for list in [&limits, &requests] {
        for (name, place) in list.entries() {
            resource::name_in_container(name, &place, faults);
            resource::amount(name, &place, faults);
        }
    }
    for (name, request) in requests.entries() {
        let limit = limits.get(name);
        if !limit.is_there() && (name.contains('/') || name.starts_with(HUGE_PAGES)) {
            let detail = "Limit must be set for non overcommitable resources";
            faults.push(Cause::required(limits.path.clone(), detail));
        }
        let (Ok(asked), Ok(most)) = (request.text().parse::<Quantity>(), limit.text().parse::<Quantity>())
        else {
            continue;
        };
        if asked > most {
            let detail = format!("must be less than or equal to {name} limit of {}", limit.text());
            faults.push(Cause::invalid(requests.path.clone(), request.text(), detail));
        } else if (name.contains('/') || name.starts_with(HUGE_PAGES)) && asked != most {
            let detail = format!("must be equal to {name} limit of {}", limit.text());
            faults.push(Cause::invalid(requests.path.clone(), request.text(), detail));
        }
    }
    let any = |of: fn(&str) -> bool| limits.entries().chain(requests.entries()).any(|(name, _)| of(name));
    if any(|name| name.starts_with(HUGE_PAGES)) && !any(|name| ["cpu", "memory"].contains(&name)) {
        faults.push(Cause::forbidden(resources.path.clone(), "HugePages require cpu or memory"));
    }
}

/// What a container uses of what its pod claims.
fn claims(claims: &At<'_>, of_pod: &BTreeSet<&str>, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name").text();
        if name.is_empty() {
            faults.push(Cause::required(claim.path.clone(), ""));
            continue;
        }
        if !seen.insert(name) {
            faults.push(Cause::duplicate(claim.path.clone(), name));
        }
        if !of_pod.contains(name) {
            let mut fault = Cause::not_found(claim.path.clone(), name);
            fault.message.push_str(": must be one of the names in pod.spec.resourceClaims");
            if of_pod.is_empty() {
                fault.message.push_str(" which is empty");
            } else {
                let names: Vec<&str> = of_pod.iter().copied().collect();
                fault.message.push_str(&format!(": {}", names.join(", ")));
            }
            faults.push(fault);
        }
    }
}

/// What a change of resources means for a running container. Upstream names the list, not its element.
fn resize_policy(policies: &At<'_>, restart_policy: &str, faults: &mut Vec<Cause>) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName").text(), policy.get("restartPolicy").text());
        if !seen.insert(resource) {
            faults.push(Cause::duplicate(policy.path.clone(), resource));
        }
        let sets = [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])];
        for (value, supported) in sets {
            if value.is_empty() {
                faults.push(Cause::required(policies.path.clone(), ""));
            } else if !supported.contains(&value) {
                faults.push(Cause::not_supported(policies.path.clone(), value, &supported));
            }
        }
        if restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            faults.push(Cause::invalid(policies.path.clone(), restart, detail));
        }
    }
}

/// A port by number or by name.
pub(super) fn port_reference(port: &At<'_>, faults: &mut Vec<Cause>) {
    match port.number() {
        Some(number) => {
            faults.extend(names::port(number).map(|fault| Cause::invalid(port.path.clone(), number, fault)))
        }
        None => {
            let wrong = names::port_name(port.text());
            faults
                .extend(wrong.into_iter().map(|fault| Cause::invalid(port.path.clone(), port.text(), fault)));
        }
    }
}
