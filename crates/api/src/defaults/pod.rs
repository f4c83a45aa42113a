//! Pods, and the pod templates of other kinds.

use serde_json::{Map, Value, json};

use super::{each, made, missing, number, object, text};

/// A pod of its own: a template's defaults and those that templates don't get.
pub(super) fn pod(pod: &mut Map<String, Value>) {
    let Some(spec) = made(pod, "spec") else { return };
    self::spec(spec);
    missing(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            if let Some(resources) = object(container, "resources") {
                requests_from_limits(resources);
            }
            if host_network {
                each(container, "ports").for_each(host_port);
            }
        }
    }
}

/// A pod's spec, of its own or in a template.
pub(super) fn spec(spec: &mut Map<String, Value>) {
    text(spec, "dnsPolicy", "ClusterFirst");
    text(spec, "restartPolicy", "Always");
    text(spec, "schedulerName", "default-scheduler");
    missing(spec, "terminationGracePeriodSeconds", 30);
    missing(spec, "securityContext", json!({}));
    // The older name follows the newer one.
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        missing(spec, "serviceAccount", name);
    } else if let Some(name) = spec.get("serviceAccount").cloned() {
        missing(spec, "serviceAccountName", name);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
}

/// Pods on the node's network listen on their ports themselves.
fn host_port(port: &mut Map<String, Value>) {
    if let Some(container_port) = port.get("containerPort").and_then(Value::as_i64) {
        number(port, "hostPort", container_port);
    }
}

/// What is limited and not asked for is asked for in full.
fn requests_from_limits(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = made(resources, "requests") {
        for (name, amount) in limits {
            missing(requests, &name, amount);
        }
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    text(container, "imagePullPolicy", policy);
    text(container, "terminationMessagePath", "/dev/termination-log");
    text(container, "terminationMessagePolicy", "File");
    missing(container, "resources", json!({}));
    each(container, "ports").for_each(|port| text(port, "protocol", "TCP"));
    for variable in each(container, "env") {
        if let Some(field) = object(variable, "valueFrom").and_then(|from| object(from, "fieldRef")) {
            text(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, name) {
            number(probe, "timeoutSeconds", 1);
            number(probe, "periodSeconds", 10);
            number(probe, "successThreshold", 1);
            number(probe, "failureThreshold", 3);
            handler(probe);
            if let Some(grpc) = object(probe, "grpc") {
                missing(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle, name) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Map<String, Value>) {
    if let Some(get) = object(handler, "httpGet") {
        text(get, "path", "/");
        text(get, "scheme", "HTTP");
    }
}

/// `Always` for an image without a tag or with `latest`, else `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

const FILE_MODE: i64 = 0o644;

fn volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(field, value)| field == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, source) {
            missing(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = object(volume, "hostPath") {
        missing(path, "type", "");
    }
    if let Some(api) = object(volume, "downwardAPI") {
        downward_items(api);
    }
    if let Some(projected) = object(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                missing(token, "expirationSeconds", 3600);
            }
            if let Some(api) = object(source, "downwardAPI") {
                downward_items(api);
            }
        }
    }
}

fn downward_items(api: &mut Map<String, Value>) {
    for item in each(api, "items") {
        if let Some(field) = object(item, "fieldRef") {
            text(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults::apply;

    #[test]
    fn only_moving_tags_are_pulled_always() {
        for image in ["alpine", "alpine:latest", "reg:5000/a/b", "reg:5000/a/b:latest"] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["alpine:3", "reg:5000/a/b:1", "alpine@sha256:0", "alpine:3@sha256:0"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }

    fn ports(host_network: bool) -> Value {
        json!({
            "hostNetwork": host_network,
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 9001}]}],
        })
    }

    #[test]
    fn a_pod_on_the_nodes_network_owns_its_ports_and_a_template_does_not() {
        let mut pod = json!({"spec": ports(true)});
        apply("", "Pod", &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 9001);
        let mut pod = json!({"spec": ports(false)});
        apply("", "Pod", &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], Value::Null);
        let mut deployment = json!({"spec": {"template": {"spec": ports(true)}}});
        apply("apps", "Deployment", &mut deployment);
        let template = &deployment["spec"]["template"]["spec"];
        assert_eq!(template["containers"][0]["ports"][0]["hostPort"], Value::Null);
        assert_eq!(template["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(template["enableServiceLinks"], Value::Null);
    }

    #[test]
    fn defaults_are_stable() {
        let mut once = json!({"spec": {
            "containers": [{
                "name": "c", "image": "i",
                "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "m"}}],
        }});
        apply("", "Pod", &mut once);
        let mut twice = once.clone();
        apply("", "Pod", &mut twice);
        assert_eq!(once, twice);
        let spec = &once["spec"];
        assert_eq!(spec["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(spec["containers"][0]["livenessProbe"]["httpGet"]["path"], "/");
        assert_eq!(spec["containers"][0]["livenessProbe"]["periodSeconds"], 10);
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    }
}
