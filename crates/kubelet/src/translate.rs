//! From a pod to what the runtime and the network take: plain functions.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use skiff_network::{HostPort, Protocol};
use skiff_runtime::{ContainerConfig, Image, Mount, NamespaceMode, SandboxConfig, UserRange};

use crate::config::Config;
use crate::expansion::{self, expand_all};
use crate::security::{self, Defaults};
use crate::{labels, names, resources};

/// The sandbox of a pod.
pub(crate) fn sandbox(
    pod: &Pod,
    attempt: u32,
    users: Option<UserRange>,
    config: &Config,
) -> Result<SandboxConfig, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no specification")?;
    let own = |host: Option<bool>| match host {
        Some(true) => NamespaceMode::Node,
        _ => NamespaceMode::Pod,
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    Ok(SandboxConfig {
        labels: labels::of_pod(pod, attempt),
        hostname: names::hostname(pod, config)?,
        network: own(spec.host_network),
        pid,
        ipc: own(spec.host_ipc),
        cgroup_parent: resources::cgroup_parent(spec, pod.metadata.uid.as_deref().unwrap_or_default()),
        resources: resources::of_pod(spec),
        sysctls: security::sysctls::of_pod(spec),
        users,
    })
}

/// What a container needs that is not in its specification.
pub(crate) struct Surroundings<'a> {
    pub(crate) attempt: u32,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) volume_mounts: Vec<Mount>,
    /// Small files of the agent's own: target in the container, and source.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    pub(crate) message_path: PathBuf,
    pub(crate) log_path: PathBuf,
    pub(crate) image: &'a Image,
    pub(crate) memory_capacity_bytes: u64,
}

/// A container of a pod.
pub(crate) fn container(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    around: Surroundings<'_>,
    config: &Config,
) -> Result<ContainerConfig, String> {
    let defaults = Defaults { seccomp_dir: &config.seccomp_dir(), seccomp_default: config.seccomp_default };
    let image_user = around.image.user.as_deref().unwrap_or_default();
    let security = security::of_container(pod, spec, container, image_user, &defaults)?;
    let env = around.env;
    let mut labels = labels::of_pod(pod, around.attempt);
    labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    labels.insert(labels::SPEC_HASH.into(), labels::spec_hash(container));
    let image = container.image.clone().unwrap_or_default();
    let shown = around.image.tags.iter().find(|tag| tag.ends_with(&image)).or(around.image.tags.first());
    labels.insert(labels::IMAGE.into(), shown.cloned().unwrap_or_else(|| image.clone()));
    let image_id = around.image.digests.first().cloned().unwrap_or_else(|| around.image.id.clone());
    labels.insert(labels::IMAGE_ID.into(), image_id);
    labels.insert(labels::MESSAGE_PATH.into(), around.message_path.display().to_string());
    if container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") {
        labels.insert(labels::MESSAGE_FROM_LOGS.into(), "true".into());
    }
    let mut mounts = around.volume_mounts;
    let taken: Vec<PathBuf> = mounts.iter().map(|mount| mount.target.clone()).collect();
    for (target, source) in around.files {
        // A volume that the pod mounts there wins.
        if !taken.contains(&target) {
            mounts.push(Mount { source, target, ..Mount::default() });
        }
    }
    let message_target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    mounts.push(Mount {
        source: around.message_path,
        target: Path::new("/").join(message_target),
        ..Mount::default()
    });
    let too_large = |error: expansion::Error| error.to_string();
    Ok(ContainerConfig {
        labels,
        name: container.name.clone(),
        image,
        command: expand_all("command", container.command.as_ref(), &env).map_err(too_large)?,
        args: expand_all("args", container.args.as_ref(), &env).map_err(too_large)?,
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        env,
        mounts,
        resources: resources::of_container(spec, container, around.memory_capacity_bytes),
        security,
        log_path: Some(around.log_path),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        devices: Vec::new(),
        stop_signal: None,
    })
}

/// The ports of the node that lead to the pod. On the node's network there is nothing to lead.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?;
            let container_port = u16::try_from(port.container_port).ok()?;
            let host_ip = port
                .host_ip
                .as_deref()
                .filter(|ip| !ip.is_empty())
                .and_then(|ip| ip.parse().ok())
                .unwrap_or(Ipv4Addr::UNSPECIFIED);
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(HostPort { host_ip, host_port, protocol, container_port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fakes;

    #[test]
    fn namespaces_as_asked() {
        let pod = |spec: serde_json::Value| -> Pod {
            let mut spec = spec;
            spec["containers"] = json!([{"name": "c"}]);
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec}))
                .expect("a pod")
        };
        use NamespaceMode::{Container, Node, Pod as Own};
        for (spec, expected) in [
            (json!({}), (Own, Container, Own)),
            (json!({"shareProcessNamespace": true}), (Own, Own, Own)),
            (json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), (Node, Node, Node)),
        ] {
            let made = sandbox(&pod(spec), 0, None, &fakes::config()).expect("a sandbox");
            assert_eq!((made.network, made.pid, made.ipc), expected);
        }
    }

    #[test]
    fn host_ports_have_an_address_and_a_protocol() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "ports": [
            {"containerPort": 80},
            {"containerPort": 8080, "hostPort": 9000},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
        ]}]}}))
        .expect("a pod");
        let made: Vec<String> = host_ports(&pod)
            .iter()
            .map(|port| {
                format!("{}:{}/{:?}->{}", port.host_ip, port.host_port, port.protocol, port.container_port)
            })
            .collect();
        assert_eq!(made, ["0.0.0.0:9000/Tcp->8080", "127.0.0.1:53/Udp->53"]);
    }
}
