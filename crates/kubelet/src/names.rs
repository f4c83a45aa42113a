//! What a pod is called and whom it asks: host name, `/etc/hosts`, `/etc/resolv.conf`.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use crate::config::Config;

/// The longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 63;
const SEARCHES_MAX: usize = 32;
const NAMESERVERS_MAX: usize = 3;

/// The host name of a pod: its short name and, where it has a subdomain, the domain after it.
pub(crate) fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    if let Some(override_) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return (override_, None);
    }
    let own = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    if name.len() > HOSTNAME_MAX {
        name.truncate(HOSTNAME_MAX);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    (name, subdomain.map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}")))
}

/// What `hostname` prints in the pod; a name that the kernel would not take is refused.
pub(crate) fn hostname(pod: &Pod, config: &Config) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network).unwrap_or(false)
        && spec.is_none_or(|spec| spec.hostname_override.is_none())
    {
        return Ok(config.node_name.clone());
    }
    let (name, domain) = hostname_and_domain(pod, &config.cluster_domain);
    let as_fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    let name = match domain.filter(|_| as_fqdn) {
        Some(domain) => format!("{name}.{domain}"),
        None => name,
    };
    if name.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// The pod's `/etc/hosts`; on the node's network it is the node's own with the aliases after it.
pub(crate) fn hosts(pod: &Pod, ip: Option<Ipv4Addr>, node_hosts: &str, config: &Config) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let mut text = if host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost \
             ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = ip {
            let (name, domain) = hostname_and_domain(pod, &config.cluster_domain);
            text += &match domain {
                Some(domain) => format!("{ip}\t{name}.{domain}\t{name}\n"),
                None => format!("{ip}\t{name}\n"),
            };
        }
        text
    };
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
        for alias in aliases {
            text += &format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

/// A resolver configuration, in order and without repetitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    fn print(mut self) -> String {
        fn distinct(list: &mut Vec<String>, max: usize) {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|item| seen.insert(item.clone()));
            list.truncate(max);
        }
        distinct(&mut self.searches, SEARCHES_MAX);
        distinct(&mut self.nameservers, NAMESERVERS_MAX);
        let mut text = String::new();
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

/// The pod's `/etc/resolv.conf` by its policy and its own wishes.
pub(crate) fn resolv_conf(pod: &Pod, node: &str, config: &Config) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let node = Resolver::parse(node);
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if cluster {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &config.cluster_domain;
        let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        searches.extend(node.searches);
        Resolver {
            nameservers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        resolver.nameservers.extend(own.nameservers.iter().flatten().cloned());
        resolver.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            resolver.options.retain(|before| before.split(':').next() != Some(name));
            resolver.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    resolver.print()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fakes;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c"}]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec}))
            .expect("a pod")
    }

    const NODE: &str = "search corp.example\nnameserver 192.0.2.1\noptions rotate\n";

    #[test]
    fn resolvers_by_policy() {
        let config = fakes::config();
        let cluster = "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        for (spec, expected) in [
            (json!({}), cluster),
            (json!({"hostNetwork": true}), NODE),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster),
            (json!({"dnsPolicy": "Default"}), NODE),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "options": [{"name": "ndots", "value": "2"}]}}),
                "nameserver 192.0.2.9\noptions ndots:2\n",
            ),
        ] {
            assert_eq!(resolv_conf(&pod(spec.clone()), NODE, &config), expected, "{spec}");
        }
    }

    #[test]
    fn names_by_subdomain() {
        let config = fakes::config();
        let full = pod(json!({"hostname": "a", "subdomain": "s", "setHostnameAsFQDN": true}));
        assert_eq!(hostname(&full, &config).as_deref(), Ok("a.s.n.svc.cluster.local"));
        assert_eq!(hostname(&pod(json!({})), &config).as_deref(), Ok("web-0"));
        assert_eq!(hostname(&pod(json!({"hostNetwork": true})), &config).as_deref(), Ok("node"));
        let text = hosts(&full, Some(Ipv4Addr::new(10, 244, 0, 2)), "", &config);
        assert!(text.ends_with("10.244.0.2\ta.s.n.svc.cluster.local\ta\n"), "{text}");
    }

    #[test]
    fn aliases_come_last() {
        let aliased = pod(json!({"hostAliases": [{"ip": "192.0.2.3", "hostnames": ["x", "y"]}]}));
        let text = hosts(&aliased, None, "", &fakes::config());
        assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.3\tx\ty\n"), "{text}");
    }

    #[test]
    fn a_long_name_is_cut_and_ends_in_no_separator() {
        let short = |length: usize| {
            let mut pod = pod(json!({}));
            pod.metadata.name = Some("a".repeat(length));
            hostname_and_domain(&pod, "cluster.local").0
        };
        assert_eq!((short(62).len(), short(63).len(), short(64).len()), (62, 63, 63));
        let mut odd = pod(json!({}));
        odd.metadata.name = Some(format!("{}-.{}", "a".repeat(61), "b".repeat(9)));
        assert_eq!(hostname_and_domain(&odd, "cluster.local").0, "a".repeat(61));
        // What fits is left as it is.
        let whole = format!("{}-", "a".repeat(62));
        odd.metadata.name = Some(whole.clone());
        assert_eq!(hostname_and_domain(&odd, "cluster.local").0, whole);
    }

    #[test]
    fn a_full_name_has_the_kernels_length() {
        let config = fakes::config();
        let tail = ".s.n.svc.cluster.local";
        let full = |length: usize| {
            let own = "a".repeat(length - tail.len());
            hostname(&pod(json!({"hostname": own, "subdomain": "s", "setHostnameAsFQDN": true})), &config)
        };
        assert_eq!(full(63).map(|name| name.len()), Ok(63));
        assert_eq!(full(64).map(|name| name.len()), Ok(64));
        assert!(
            full(65)
                .is_err_and(|error| error.ends_with("(64 characters is the max, 65 characters requested)"))
        );
    }

    #[test]
    fn servers_and_options_of_the_pods_own_are_added_once() {
        let config = fakes::config();
        let conf =
            |dns: Value| resolv_conf(&pod(json!({"dnsPolicy": "None", "dnsConfig": dns})), "", &config);
        assert_eq!(
            conf(json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3", "192.0.2.4"],
                "searches": ["a", "b", "a"]})),
            "search a b\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
        );
        let options = |own: Value| {
            let text = resolv_conf(&pod(json!({"dnsConfig": {"options": own}})), "", &config);
            text.lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(options(json!([])), "options ndots:5");
        assert_eq!(options(json!([{"name": "ndots", "value": "2"}])), "options ndots:2");
        assert_eq!(options(json!([{"name": "edns0"}])), "options ndots:5 edns0");
        assert_eq!(options(json!([{"name": "timeout", "value": ""}])), "options ndots:5 timeout");
    }
}
