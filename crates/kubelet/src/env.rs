//! A container's environment: values, fields, resources, config maps, secrets, services, and `$(VAR)`.
//!
//! Plain functions over values; whoever calls has fetched the objects that [`Sources`] finds.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret, Service,
};
use skiff_api::quantity::{self, Quantity};

use crate::expansion::{self, Room, expand};
use crate::resources::{limits, requests};
use crate::tokens::Wanted;

/// Where values come from beside the pod.
pub(crate) trait Sources {
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    fn secret(&self, name: &str) -> Option<&Secret>;
    /// A token of the pod's service account.
    fn token(&self, _: &Wanted) -> Option<&str> {
        None
    }
}

/// What fields of the pod and the node can say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ip: Option<Ipv4Addr>,
    pub(crate) node_ip: Ipv4Addr,
    pub(crate) node_cpu_milli: i64,
    pub(crate) node_memory_bytes: i64,
    pub(crate) node_disk_bytes: i64,
}

/// Why a value is not there. Upstream's wording, as it ends up in `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error("field label not supported: {0}")]
    Field(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error(transparent)]
    TooLarge(#[from] expansion::Error),
}

/// The environment in order: services first, so that the container's own values win.
pub(crate) fn environment(
    facts: &Facts<'_>,
    container: &Container,
    services: BTreeMap<String, String>,
    sources: &impl Sources,
) -> Result<Vec<(String, String)>, Error> {
    let namespace = facts.pod.metadata.namespace.clone().unwrap_or_default();
    let mut known = Known::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_map(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        known.insert(&format!("{prefix}{key}"), value.clone())?;
                    }
                }
                None if reference.optional.unwrap_or(false) => {}
                None => return Err(Error::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secret(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        known.insert(&format!("{prefix}{key}"), text(&value.0))?;
                    }
                }
                None if reference.optional.unwrap_or(false) => {}
                None => return Err(Error::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let Some(from) = &variable.value_from else {
            let raw = variable.value.as_deref().unwrap_or_default();
            let value_of =
                |name: &str| known.all.get(name).or_else(|| services.get(name)).map(String::as_str);
            let value = expand(raw, value_of);
            let what = || format!("environment variable {}", variable.name);
            known.insert(&variable.name, value.ok_or_else(|| expansion::Error::String { what: what() })?)?;
            continue;
        };
        let value = if let Some(field) = &from.field_ref {
            Some(self::field(facts, field)?)
        } else if let Some(resource) = &from.resource_field_ref {
            Some(self::resource(facts, resource, Some(container))?)
        } else if let Some(key) = &from.config_map_key_ref {
            let optional = key.optional.unwrap_or(false);
            let map = sources.config_map(&key.name);
            match map.and_then(|map| map.data.as_ref()?.get(&key.key)) {
                Some(value) => Some(value.clone()),
                None if optional => None,
                None if map.is_none() => return Err(Error::NoConfigMap(key.name.clone())),
                None => {
                    let (name, key) = (key.name.clone(), key.key.clone());
                    return Err(Error::NoConfigMapKey { namespace, name, key });
                }
            }
        } else if let Some(key) = &from.secret_key_ref {
            let optional = key.optional.unwrap_or(false);
            let secret = sources.secret(&key.name);
            match secret.and_then(|secret| secret.data.as_ref()?.get(&key.key)) {
                Some(value) => Some(text(&value.0)),
                None if optional => None,
                None if secret.is_none() => return Err(Error::NoSecret(key.name.clone())),
                None => {
                    let (name, key) = (key.name.clone(), key.key.clone());
                    return Err(Error::NoSecretKey { namespace, name, key });
                }
            }
        } else {
            None
        };
        if let Some(value) = value {
            known.insert(&variable.name, value)?;
        }
    }
    let mut all = services;
    all.extend(known.all);
    Ok(all.into_iter().collect())
}

/// What a container says itself, no more than a program can be given.
#[derive(Default)]
struct Known {
    all: BTreeMap<String, String>,
    room: Room,
}

impl Known {
    fn insert(&mut self, name: &str, value: String) -> Result<(), expansion::Error> {
        self.room.take(name, &value, self.all.get(name))?;
        self.all.insert(name.to_owned(), value);
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The downward API's fields.
pub(crate) fn field(facts: &Facts<'_>, selector: &ObjectFieldSelector) -> Result<String, Error> {
    let (metadata, spec) = (&facts.pod.metadata, facts.pod.spec.as_ref());
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return Err(Error::Field(path.into())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let pod_ip = || {
        let ip = if host_network { Some(facts.node_ip) } else { facts.pod_ip };
        ip.map(|ip| ip.to_string()).unwrap_or_default()
    };
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => pairs(metadata.labels.as_ref()),
        "metadata.annotations" => pairs(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => facts.node_ip.to_string(),
        "status.podIP" | "status.podIPs" => pod_ip(),
        other => return Err(Error::Field(other.into())),
    })
}

/// `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let inner = key
        .strip_prefix('\'')
        .and_then(|key| key.strip_suffix('\''))
        .or_else(|| key.strip_prefix('"').and_then(|key| key.strip_suffix('"')))?;
    Some((map, inner))
}

/// One `key="value"` a line, quoted as Go quotes.
fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            other if other.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(other))),
            other if other.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The downward API's resources; a missing limit is the node's.
pub(crate) fn resource(
    facts: &Facts<'_>,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
) -> Result<String, Error> {
    let spec = facts.pod.spec.as_ref();
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => spec
            .and_then(|spec| {
                spec.containers
                    .iter()
                    .chain(spec.init_containers.iter().flatten())
                    .find(|container| container.name == name)
            })
            .ok_or_else(|| Error::NoContainer(name.into()))?,
        None => own.ok_or_else(|| Error::NoContainer(String::new()))?,
    };
    let (list, name) =
        selector.resource.split_once('.').ok_or_else(|| Error::Resource(selector.resource.clone()))?;
    let list = match list {
        "limits" => limits(container),
        "requests" => requests(container),
        _ => return Err(Error::Resource(selector.resource.clone())),
    };
    let mut value = quantity::of(list.and_then(|list| list.get(name)));
    if value.is_zero() && selector.resource.starts_with("limits.") {
        value = match name {
            "cpu" => Quantity::from_milli(facts.node_cpu_milli),
            "memory" => Quantity::from_value(facts.node_memory_bytes, quantity::Format::BinarySi),
            "ephemeral-storage" => Quantity::from_value(facts.node_disk_bytes, quantity::Format::BinarySi),
            _ => value,
        };
    }
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(Error::Resource(selector.resource.clone()));
    }
    let divisor = quantity::of(selector.divisor.as_ref());
    let divisor = if divisor.is_zero() { Quantity::from_milli(1_000) } else { divisor };
    // The result is a whole number, rounded up.
    let (value, divisor) = (value.nanos(), divisor.nanos());
    Ok(((value + divisor - 1).div_euclid(divisor)).to_string())
}

/// The variables that tell a pod of its namespace's services, and always of the API's own.
pub(crate) fn service_links<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let metadata = &service.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let own = metadata.namespace.as_deref() == Some(namespace) && links;
        let master = metadata.namespace.as_deref() == Some("default") && name == "kubernetes";
        let spec = service.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        if !(own || master) || matches!(address, "" | "None") || ports.is_empty() {
            continue;
        }
        let prefix = upper(name);
        variables.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
        for (index, port) in ports.iter().enumerate() {
            let number = port.port;
            if index == 0 {
                variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            }
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                variables.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), number.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{address}:{number}", protocol.to_lowercase());
            if index == 0 {
                variables.insert(format!("{prefix}_PORT"), url.clone());
            }
            let base = format!("{prefix}_PORT_{number}_{protocol}");
            variables.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{base}_PORT"), number.to_string());
            variables.insert(format!("{base}_ADDR"), address.to_owned());
            variables.insert(base, url);
        }
    }
    variables
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Default)]
    struct Fixed {
        map: Option<ConfigMap>,
        secret: Option<Secret>,
    }

    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<&ConfigMap> {
            self.map.as_ref().filter(|map| map.metadata.name.as_deref() == Some(name))
        }

        fn secret(&self, name: &str) -> Option<&Secret> {
            self.secret.as_ref().filter(|secret| secret.metadata.name.as_deref() == Some(name))
        }
    }

    fn sources() -> Fixed {
        Fixed {
            map: serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"K": "v", "x": "y"}}))
                .ok(),
            secret: serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"P": "aHVudGVy"}}))
                .ok(),
        }
    }

    fn run(container: Value) -> Result<Vec<(String, String)>, Error> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web", "tier": "a\"b"}},
            "spec": {"nodeName": "node", "containers": [container]},
        }))
        .expect("a pod");
        let facts = Facts {
            pod: &pod,
            pod_ip: Some(Ipv4Addr::new(10, 244, 0, 5)),
            node_ip: Ipv4Addr::new(10, 100, 0, 2),
            node_cpu_milli: 2_000,
            node_memory_bytes: 1 << 30,
            node_disk_bytes: 1 << 40,
        };
        let container = &pod.spec.as_ref().expect("has one").containers[0];
        let services = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())]);
        environment(&facts, container, services, &sources())
    }

    fn get(env: &[(String, String)], name: &str) -> Option<String> {
        env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn values_that_name_others_grow_no_further_than_a_program_takes() {
        let mut env = vec![json!({"name": "A0", "value": "xxxxxxxxxx"})];
        env.extend((1..40).map(|level| {
            let before = format!("$(A{})", level - 1);
            json!({"name": format!("A{level}"), "value": before.repeat(4)})
        }));
        let what = "environment variable A7".to_owned();
        let refused = run(json!({"name": "c", "env": env}));
        assert_eq!(refused, Err(Error::TooLarge(expansion::Error::String { what })));
        // Each fits, and together they don't.
        let mut env = env[..7].to_vec();
        assert!(run(json!({"name": "c", "env": env})).is_ok());
        env.extend((0..200).map(|number| json!({"name": format!("B{number}"), "value": "$(A6)"})));
        let refused = run(json!({"name": "c", "env": env}));
        assert_eq!(refused, Err(Error::TooLarge(expansion::Error::Total { what: "the environment" })));
        // One that is given anew takes its place once.
        let again = vec![json!({"name": "A", "value": "x".repeat(100_000)}); 100];
        assert!(run(json!({"name": "c", "env": again})).is_ok());
    }

    #[test]
    fn values_of_every_origin() {
        let env = run(json!({"name": "c",
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
            "env": [
                {"name": "ONE", "value": "1"},
                {"name": "TWO", "value": "$(ONE)2 $(THREE) $(KUBERNETES_SERVICE_HOST)"},
                {"name": "THREE", "value": "3"},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "K"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}},
            ],
            "resources": {"requests": {"memory": "1500Ki"}}}))
        .expect("all are there");
        let expected = [
            ("M_K", Some("v")),
            ("P", Some("hunter")),
            ("TWO", Some("12 $(THREE) 10.96.0.1")),
            ("KEY", Some("v")),
            ("GONE", None),
            ("IP", Some("10.244.0.5")),
            ("LABEL", Some("web")),
            ("CPU", Some("2")),
            ("MEM", Some("2")),
        ];
        for (name, value) in expected {
            assert_eq!(get(&env, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |env: Value| run(json!({"name": "c", "env": [env]})).expect_err("missing").to_string();
        assert_eq!(
            missing(json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none"}}})),
            "couldn't find key none in ConfigMap n/m"
        );
        assert_eq!(
            missing(json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "q", "key": "none"}}})),
            "secret \"q\" not found"
        );
    }

    #[test]
    fn services_become_variables() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432}]},
        }))
        .expect("a service");
        let variables = service_links([&service].into_iter(), "n", true);
        let expected = [
            ("MY_DB_SERVICE_HOST", "10.96.0.9"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
            ("MY_DB_PORT", "tcp://10.96.0.9:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.9"),
        ];
        for (name, value) in expected {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(service_links([&service].into_iter(), "n", false).is_empty());
    }

    #[test]
    fn a_missing_source_is_an_error_unless_it_is_optional() {
        let all_of = |from: Value| run(json!({"name": "c", "envFrom": [from]})).map(|env| env.len());
        assert_eq!(all_of(json!({"configMapRef": {"name": "q"}})), Err(Error::NoConfigMap("q".into())));
        assert_eq!(all_of(json!({"secretRef": {"name": "q"}})), Err(Error::NoSecret("q".into())));
        // The services' variable is there anyway.
        assert_eq!(all_of(json!({"configMapRef": {"name": "q", "optional": true}})), Ok(1));
        assert_eq!(all_of(json!({"secretRef": {"name": "q", "optional": true}})), Ok(1));
        let one = |kind: &str, name: &str, key: &str, optional: bool| {
            let from = json!({kind: {"name": name, "key": key, "optional": optional}});
            run(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]})).map(|env| get(&env, "A"))
        };
        for (kind, name) in [("configMapKeyRef", "m"), ("secretKeyRef", "s")] {
            assert_eq!(one(kind, name, "none", true), Ok(None), "{kind}");
            assert_eq!(one(kind, "q", "none", true), Ok(None), "{kind}");
        }
        let key = || "none".to_owned();
        assert_eq!(
            one("configMapKeyRef", "m", "none", false),
            Err(Error::NoConfigMapKey { namespace: "n".into(), name: "m".into(), key: key() })
        );
        assert_eq!(one("configMapKeyRef", "q", "none", false), Err(Error::NoConfigMap("q".into())));
        assert_eq!(
            one("secretKeyRef", "s", "none", false),
            Err(Error::NoSecretKey { namespace: "n".into(), name: "s".into(), key: key() })
        );
        assert_eq!(one("secretKeyRef", "q", "none", false), Err(Error::NoSecret("q".into())));
    }

    fn facts(pod: &Pod) -> Facts<'_> {
        Facts {
            pod,
            pod_ip: Some(Ipv4Addr::new(10, 244, 0, 5)),
            node_ip: Ipv4Addr::new(10, 100, 0, 2),
            node_cpu_milli: 2_000,
            node_memory_bytes: 1 << 30,
            node_disk_bytes: 1 << 40,
        }
    }

    #[test]
    fn each_field_of_the_downward_api_has_its_value() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"app": "web", "tier": "a\"b"}, "annotations": {"note": "one\ntwo"}},
            "spec": {"nodeName": "node", "serviceAccountName": "robot", "containers": []},
        }))
        .unwrap();
        let of = |pod: &Pod, path: &str| {
            let selector = ObjectFieldSelector { field_path: path.into(), api_version: None };
            field(&facts(pod), &selector)
        };
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels", "app=\"web\"\ntier=\"a\\\"b\""),
            ("metadata.annotations", "note=\"one\\ntwo\""),
            ("metadata.labels['app']", "web"),
            ("metadata.labels[\"app\"]", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['note']", "one\ntwo"),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "10.100.0.2"),
            ("status.hostIPs", "10.100.0.2"),
            ("status.podIP", "10.244.0.5"),
            ("status.podIPs", "10.244.0.5"),
        ] {
            assert_eq!(of(&pod, path).as_deref(), Ok(value), "{path}");
        }
        for path in ["spec.hostname", "metadata.uid['a']", "metadata.labels[app]", "metadata.labels['app"] {
            assert_eq!(of(&pod, path), Err(Error::Field(path.into())));
        }
        pod.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(of(&pod, "status.podIP").as_deref(), Ok("10.100.0.2"));
    }

    #[test]
    fn quotes_are_those_of_go() {
        assert_eq!(go_quote("a\\b\t\r\n\"é\u{7}\u{8}\u{b}\u{c}"), r#""a\\b\t\r\n\"é\a\b\v\f""#);
        assert_eq!(go_quote("\u{1}\u{7f}\u{85}"), r#""\x01\x7f\u0085""#);
    }

    #[test]
    fn resources_are_whole_numbers_of_their_divisor() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [
                {"name": "own", "resources": {"requests": {"cpu": "250m", "memory": "1500Ki"},
                    "limits": {"cpu": "1500m", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"}}},
                {"name": "other", "resources": {"limits": {"memory": "2Gi"}}}],
            "initContainers": [{"name": "init", "resources": {"requests": {"cpu": "3"}}}],
        }}))
        .unwrap();
        let of = |container: &str, resource: &str, divisor: &str| {
            let selector: ResourceFieldSelector = serde_json::from_value(
                json!({"containerName": container, "resource": resource, "divisor": divisor}),
            )
            .unwrap();
            super::resource(&facts(&pod), &selector, pod.spec.as_ref().map(|spec| &spec.containers[0]))
        };
        for (container, resource, divisor, value) in [
            ("", "requests.cpu", "0", "1"),
            ("", "requests.cpu", "1m", "250"),
            ("own", "limits.cpu", "1", "2"),
            ("own", "limits.cpu", "500m", "3"),
            ("own", "requests.memory", "1", "1536000"),
            ("own", "requests.memory", "1Ki", "1500"),
            ("own", "requests.memory", "1Mi", "2"),
            ("own", "limits.memory", "1Mi", "1024"),
            ("other", "limits.memory", "1Mi", "2048"),
            ("other", "limits.cpu", "1m", "2000"),
            ("other", "requests.cpu", "1m", "0"),
            ("own", "limits.hugepages-2Mi", "1Mi", "4"),
            ("own", "limits.ephemeral-storage", "1Gi", "1"),
            ("other", "limits.ephemeral-storage", "1Gi", "1024"),
            ("init", "requests.cpu", "1", "3"),
        ] {
            assert_eq!(
                of(container, resource, divisor).as_deref(),
                Ok(value),
                "{container} {resource} {divisor}"
            );
        }
        for wrong in ["cpu", "uses.cpu", "limits.pods", "requests.example.com/gpu"] {
            assert_eq!(of("own", wrong, "1"), Err(Error::Resource(wrong.into())));
        }
        assert_eq!(of("nobody", "limits.cpu", "1"), Err(Error::NoContainer("nobody".into())));
    }

    #[test]
    fn only_services_with_an_address_and_ports_become_variables() {
        let links = |namespace: &str, name: &str, address: &str, ports: Value, links: bool| {
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": address, "ports": ports},
            }))
            .unwrap();
            service_links([&service].into_iter(), "n", links)
        };
        let port = || json!([{"port": 80}]);
        assert_eq!(links("n", "web", "10.96.0.9", port(), true).len(), 7);
        for (namespace, name, address, ports) in [
            ("other", "web", "10.96.0.9", port()),
            ("n", "web", "None", port()),
            ("n", "web", "", port()),
            ("n", "web", "10.96.0.9", json!([])),
            ("other", "kubernetes", "10.96.0.9", port()),
            ("default", "web", "10.96.0.9", port()),
        ] {
            assert!(links(namespace, name, address, ports, true).is_empty(), "{namespace}/{name} {address}");
        }
        // The API's own is told in each namespace, also of who wants no others.
        assert!(!links("default", "kubernetes", "10.96.0.1", port(), false).is_empty());
        let two = json!([{"name": "", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let variables = links("n", "my-web", "10.96.0.9", two, true);
        let told: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            told,
            [
                "MY_WEB_PORT=tcp://10.96.0.9:80",
                "MY_WEB_PORT_53_UDP=udp://10.96.0.9:53",
                "MY_WEB_PORT_53_UDP_ADDR=10.96.0.9",
                "MY_WEB_PORT_53_UDP_PORT=53",
                "MY_WEB_PORT_53_UDP_PROTO=udp",
                "MY_WEB_PORT_80_TCP=tcp://10.96.0.9:80",
                "MY_WEB_PORT_80_TCP_ADDR=10.96.0.9",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_SERVICE_HOST=10.96.0.9",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_DNS=53",
            ]
        );
    }
}
