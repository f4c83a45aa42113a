//! Pods, and the pod specs of templates.

use std::collections::BTreeSet;

use super::container::{self, HostPorts, Pod, choice};
use super::cursor::At;
use super::{annotations, ip, metadata, names, scheduling, security, volume};
use crate::selector::{label_key_faults, label_value_faults};
use crate::status::Cause;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn check(pod: &At<'_>, faults: &mut Vec<Cause>) {
    annotations::check(pod, faults);
    let spec_place = pod.get("spec");
    spec(&spec_place, faults);
    let node = spec_place.get("nodeName");
    if !node.is_empty() && !spec_place.get("schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        faults.push(Cause::forbidden(node.path, detail));
    }
}

/// Where a pod is said to be, to which others can be led.
pub(super) fn addresses(status: &At<'_>, faults: &mut Vec<Cause>) {
    let one = status.get("podIP");
    if !one.is_empty() {
        ip::address(&one, faults);
    }
    for list in ["podIPs", "hostIPs"] {
        let list = status.get(list);
        let mut seen = BTreeSet::new();
        let mut families = BTreeSet::new();
        for item in list.items() {
            let text = item.get("ip").text();
            if let Some(fault) = ip::fault(text) {
                faults.push(Cause::invalid(item.path.clone(), text, fault));
            }
            if !seen.insert(text) {
                faults.push(Cause::duplicate(item.path.clone(), item.value.clone()));
            }
            families.insert(text.contains(':'));
        }
        if seen.len() > families.len() {
            let detail = "may specify no more than one IP for each IP family";
            faults.push(Cause::invalid(list.path.clone(), list.value.clone(), detail));
        }
    }
}

pub(super) fn spec(spec: &At<'_>, faults: &mut Vec<Cause>) {
    let volumes = spec.get("volumes");
    volume::check(&volumes, faults);
    let volume_list: Vec<At<'_>> = volumes.items().collect();
    let pod = Pod {
        volumes: volume_list.iter().map(|volume| volume.get("name").text()).collect(),
        claims: spec.get("resourceClaims").items().map(|claim| claim.get("name").text()).collect(),
        restart_policy: spec.get("restartPolicy").text(),
        host_network: spec.get("hostNetwork").is_true(),
        host_users: security::shares_the_nodes_users(spec),
    };
    scheduling::resource_claims(&spec.get("resourceClaims"), faults);
    containers(spec, &pod, faults);
    security::pod(spec, faults);
    let restart = spec.get("restartPolicy");
    if restart.is_empty() {
        faults.push(Cause::required(restart.path.clone(), ""));
    }
    choice(&restart, &["Always", "OnFailure", "Never"], faults);
    let dns = spec.get("dnsPolicy");
    choice(&dns, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], faults);
    dns_config(&spec.get("dnsConfig"), dns.text(), faults);
    deadline(&spec.get("activeDeadlineSeconds"), faults);
    host_name_instead(spec, faults);
    for field in ["hostname", "subdomain"] {
        let place = spec.get(field);
        if !place.is_empty()
            && let Some(fault) = names::label(place.text())
        {
            faults.push(Cause::invalid(place.path.clone(), place.text(), fault));
        }
    }
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "runtimeClassName"] {
        let place = spec.get(field);
        if !place.is_empty()
            && let Some(fault) = names::subdomain(place.text())
        {
            faults.push(Cause::invalid(place.path.clone(), place.text(), fault));
        }
    }
    metadata::labels(&spec.get("nodeSelector"), faults);
    tolerations(&spec.get("tolerations"), faults);
    node_affinity(&spec.get("affinity").get("nodeAffinity"), faults);
    scheduling::pod_affinity(&spec.get("affinity"), faults);
    scheduling::gates(&spec.get("schedulingGates"), faults);
    scheduling::topology_spread(&spec.get("topologySpreadConstraints"), faults);
    for alias in spec.get("hostAliases").items() {
        ip::address(&alias.get("ip"), faults);
        for name in alias.get("hostnames").items() {
            if let Some(fault) = names::subdomain(name.text()) {
                faults.push(Cause::invalid(alias.child("hostnames"), name.text(), fault));
            }
        }
    }
    if spec.get("hostPID").is_true() && spec.get("shareProcessNamespace").is_true() {
        let place = spec.child("shareProcessNamespace");
        faults.push(Cause::invalid(place, true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
}

/// A host name that has nothing to do with what DNS knows of the pod.
fn host_name_instead(spec: &At<'_>, faults: &mut Vec<Cause>) {
    const BYTES_MAX: usize = 64;
    let name = spec.get("hostnameOverride");
    if !name.is_there() {
        return;
    }
    if name.text().len() > BYTES_MAX {
        faults.push(Cause::too_long(name.path.clone(), BYTES_MAX));
    }
    if let Some(fault) = names::subdomain(name.text()) {
        faults.push(Cause::invalid(name.path.clone(), name.text(), fault));
    }
    for other in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.get(other).is_true() {
            faults
                .push(Cause::forbidden(name.path.clone(), format!("may not be set when `{other}` is true")));
        }
    }
}

pub(super) fn deadline(place: &At<'_>, faults: &mut Vec<Cause>) {
    if let Some(number) = place.number().filter(|number| !(1..=i64::from(i32::MAX)).contains(number)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        faults.push(Cause::invalid(place.path.clone(), number, detail));
    }
}

fn containers(spec: &At<'_>, pod: &Pod<'_>, faults: &mut Vec<Cause>) {
    let list = spec.get("containers");
    if list.is_empty() {
        faults.push(Cause::required(list.path.clone(), ""));
    }
    let mut seen = BTreeSet::new();
    let mut taken = HostPorts::default();
    for item in list.items() {
        container::check(&item, pod, &mut taken, false, faults);
        unique(&item, &mut seen, faults);
    }
    for item in spec.get("initContainers").items() {
        // Init containers run one after the other, so each may take the same ports.
        container::check(&item, pod, &mut HostPorts::default(), true, faults);
        unique(&item, &mut seen, faults);
    }
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        faults.push(Cause::forbidden(ephemeral.path, "cannot be set on create"));
    }
}

fn unique<'a>(container: &At<'a>, seen: &mut BTreeSet<&'a str>, faults: &mut Vec<Cause>) {
    let name = container.get("name");
    if !name.is_empty() && !seen.insert(name.text()) {
        faults.push(Cause::duplicate(name.path.clone(), name.text()));
    }
}

fn dns_config(config: &At<'_>, policy: &str, faults: &mut Vec<Cause>) {
    let servers = config.get("nameservers");
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        let place = if config.is_there() { servers.path.clone() } else { config.path.clone() };
        faults.push(Cause::required(place, detail));
    }
    let count = servers.items().count();
    if count > 3 {
        faults.push(Cause::invalid(
            servers.path.clone(),
            servers.value.clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for server in servers.items() {
        ip::address(&server, faults);
    }
    let searches = config.get("searches");
    if searches.items().count() > 32 {
        faults.push(Cause::invalid(
            searches.path.clone(),
            searches.value.clone(),
            "must not have more than 32 search paths",
        ));
    }
    for search in searches.items() {
        // One dot alone is the root; one at the end says that nothing is put behind it.
        if search.text() != "." {
            let wrong = names::search_path(search.text().strip_suffix('.').unwrap_or(search.text()));
            faults.extend(wrong.map(|fault| Cause::invalid(search.path.clone(), search.text(), fault)));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            faults.push(Cause::required(option.path.clone(), "must not be empty"));
        }
    }
}

fn tolerations(tolerations: &At<'_>, faults: &mut Vec<Cause>) {
    for toleration in tolerations.items() {
        let (key, operator, value) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        if !key.is_empty() {
            let wrong = label_key_faults(key.text());
            faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
        } else if operator.text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            faults.push(Cause::invalid(operator.path.clone(), operator.text(), detail));
        }
        let effect = toleration.get("effect");
        let seconds = toleration.get("tolerationSeconds");
        if seconds.is_there() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            faults.push(Cause::invalid(effect.path.clone(), effect.text(), detail));
        }
        match operator.text() {
            "" | "Equal" => {
                let wrong = label_value_faults(value.text());
                faults.extend(
                    wrong.into_iter().map(|fault| Cause::invalid(operator.path.clone(), value.text(), fault)),
                );
            }
            "Exists" if !value.is_empty() => {
                faults.push(Cause::invalid(
                    operator.path.clone(),
                    value.text(),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            other => faults.push(Cause::not_supported(operator.path.clone(), other, &["Equal", "Exists"])),
        }
        choice(&effect, EFFECTS, faults);
    }
}

fn node_affinity(affinity: &At<'_>, faults: &mut Vec<Cause>) {
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_there() {
        let terms = required.get("nodeSelectorTerms");
        if terms.is_empty() {
            faults.push(Cause::required(terms.path.clone(), "must have at least one node selector term"));
        }
        terms.items().for_each(|term| node_term(&term, faults));
    }
    for preferred in affinity.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        scheduling::weight(&preferred.get("weight"), faults);
        node_term(&preferred.get("preference"), faults);
    }
}

fn node_term(term: &At<'_>, faults: &mut Vec<Cause>) {
    for requirement in term.get("matchExpressions").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        let count = values.items().count();
        match operator.text() {
            "In" | "NotIn" if count == 0 => {
                faults.push(Cause::required(
                    values.path.clone(),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                faults.push(Cause::forbidden(
                    values.path.clone(),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "Gt" | "Lt" if count != 1 => {
                faults.push(Cause::required(
                    values.path.clone(),
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                faults.push(Cause::invalid(operator.path.clone(), other, "not a valid selector operator"))
            }
        }
        let wrong = label_key_faults(key.text());
        faults.extend(wrong.into_iter().map(|fault| Cause::invalid(key.path.clone(), key.text(), fault)));
    }
}
