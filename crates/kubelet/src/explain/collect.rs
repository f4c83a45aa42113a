//! Reads the facts about pods off the kernel, and has them judged.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use skiff_client::ObjectKey;
use skiff_explain::devices::Device;
use skiff_explain::facts::{self as told, Holder, Protocol};
use skiff_explain::namespaces::{Inodes, Kind};
use skiff_explain::node::{NodeExplanation, node as explain_node};
use skiff_explain::pod::{HostPort, Interface, PodExplanation, Route, Security, WritablePath};
use skiff_explain::{Metadata, Missing, judge};
use skiff_network::facts as network;
use skiff_runtime::facts as processes;
use skiff_runtime::{Container, ContainerState};

use super::scan::Scan;
use super::services::services;
use super::{approach, elsewhere};
use crate::agent::{Refusal, internal};
use crate::config::Config;
use crate::labels;
use crate::node_context::Context;
use crate::observed::exit_code;
use crate::translate;

/// The pods of this node that are `wanted`, explained.
pub(super) async fn pods(
    context: &Arc<Context>,
    wanted: impl Fn(&ObjectKey) -> bool,
) -> Result<Vec<PodExplanation>, Refusal> {
    let pods: Vec<Arc<Pod>> =
        context.pods.list().into_iter().filter(|pod| wanted(&ObjectKey::of(&**pod))).collect();
    if pods.is_empty() {
        return Ok(Vec::new());
    }
    let scan = context.memory.scan(context).await?;
    let services = context.services.list();
    let config = context.config.clone();
    let sandboxes = approach::sandboxes(context).await;
    let read = tokio::task::spawn_blocking(move || {
        let reader = Reader::new(&scan, &config, &services, sandboxes);
        pods.iter().map(|pod| reader.facts(pod)).collect::<Vec<_>>()
    });
    let mut facts = read.await.map_err(internal)?;
    approach::follow(context, &mut facts).await;
    let judged = facts.iter_mut().map(|facts| {
        mark_ended(facts);
        judge::pod(facts)
    });
    let mut explained: Vec<PodExplanation> = judged.collect();
    context.memory.forget_scan();
    for pod in &mut explained {
        let key = ObjectKey::new(&pod.metadata.namespace, &pod.metadata.name);
        mark_deleted(pod, context.pods.get(&key).as_deref());
    }
    Ok(explained)
}

/// What was read of a sandbox's process may be another's by now, if it ended meanwhile: then it is told as
/// past.
fn mark_ended(facts: &mut told::Pod) {
    let gone = facts
        .sandbox
        .as_ref()
        .is_some_and(|own| processes::namespaces(own.pid).is_none_or(|now| Inodes(now) != own.inodes));
    if gone {
        facts.past = Some("the pod's sandbox ended while it was being looked at".into());
    }
}

/// The same of a pod that is not this node's any more, or another by the same name now.
fn mark_deleted(told: &mut PodExplanation, now: Option<&Pod>) {
    let same = now.is_some_and(|now| now.metadata.uid.as_deref() == Some(told.metadata.uid.as_str()));
    if !same && told.past.is_none() {
        told.past = Some("the pod was deleted while it was being looked at".into());
    }
}

/// The node, with all its pods.
pub(super) async fn node(context: &Arc<Context>) -> Result<NodeExplanation, Refusal> {
    let pods = pods(context, |_| true).await?;
    let scan = context.memory.scan(context).await?;
    let told = explain_node(&scan.node_name, scan.inodes, scan.processes.len(), &pods);
    context.memory.forget_scan();
    Ok(told)
}

/// How many of those that hold one socket are told.
const HOLDERS_MAX: usize = 16;

/// All listening sockets of the node's own network.
pub(super) fn node_sockets(scan: &Scan) -> Vec<told::Socket> {
    let found = network::sockets(std::process::id());
    sockets(scan, scan.inodes.of(Kind::Net), &found, &[])
}

fn sockets(
    scan: &Scan,
    net: u64,
    found: &[network::SocketFact],
    links: &[network::LinkFact],
) -> Vec<told::Socket> {
    told_sockets(scan, scan.members(Kind::Net, net), found, links)
}

/// Sockets, each with those of these processes that hold it.
pub(super) fn told_sockets(
    scan: &Scan,
    members: &[u32],
    found: &[network::SocketFact],
    links: &[network::LinkFact],
) -> Vec<told::Socket> {
    let holders = network::holders(members.iter().copied(), found, HOLDERS_MAX);
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("number {index}"), |link| link.name.clone())
    };
    let found = found.iter().filter_map(|socket| {
        let protocol = match socket.protocol {
            skiff_network::Protocol::Tcp => Protocol::Tcp,
            skiff_network::Protocol::Udp => Protocol::Udp,
            skiff_network::Protocol::Sctp => return None,
        };
        let mut held = holders.get(&socket.inode).into_iter().flatten().map(|pid| scan.process(*pid));
        let process = held.next();
        let also = held.collect();
        Some(told::Socket {
            protocol,
            address: socket.address,
            port: socket.port,
            device: (socket.link != 0).then(|| name(socket.link)),
            six_only: socket.six_only,
            process,
            also,
        })
    });
    found.collect()
}

/// The PID namespace that the machine began with (PROC_PID_INIT_INO of linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What is the same for all pods of one look.
struct Reader<'a> {
    scan: &'a Scan,
    config: &'a Config,
    services: &'a [Arc<Service>],
    node: told::Node,
    node_network: network::Facts,
    mounts: Vec<processes::MountFact>,
}

impl<'a> Reader<'a> {
    fn new(
        scan: &'a Scan,
        config: &'a Config,
        services: &'a [Arc<Service>],
        sandboxes: Vec<Ipv4Addr>,
    ) -> Self {
        let own = std::process::id();
        let node_network = network::read(own).unwrap_or_default();
        let objects = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sysvipc/{name}")).unwrap_or_default();
            text.lines().skip(1).count()
        };
        let node = told::Node {
            name: scan.node_name.clone(),
            inodes: scan.inodes,
            processes: scan.processes.len(),
            links: node_network.links.len(),
            ipc_objects: ["shm", "sem", "msg"].iter().map(|name| objects(name)).sum(),
            others: approach::others(&node_network.routes),
            sandboxes,
            nested: scan.inodes.of(Kind::Pid) != FIRST_PID_NAMESPACE,
        };
        // What is mounted for one pod is no name of it for others.
        let pods = config.data_dir.join("pods");
        let mounts = processes::mounts(own).unwrap_or_default().into_iter();
        let mounts = mounts.filter(|mount| !mount.target.starts_with(&pods));
        Self { scan, config, services, node, node_network, mounts: mounts.collect() }
    }

    fn facts(&self, pod: &Pod) -> told::Pod {
        let metadata = &pod.metadata;
        let uid = metadata.uid.clone().unwrap_or_default();
        let mut facts = told::Pod {
            metadata: Metadata {
                name: metadata.name.clone().unwrap_or_default(),
                namespace: metadata.namespace.clone().unwrap_or_default(),
                uid: uid.clone(),
            },
            node: self.node.clone(),
            node_ip: self.config.node_ip().to_string(),
            services: services(pod, self.services.iter().map(|service| &**service)),
            ..told::Pod::default()
        };
        let mut sandboxes: Vec<_> =
            self.scan.sandboxes.iter().filter(|own| labels::uid(&own.config.labels) == uid).collect();
        sandboxes.sort_by_key(|own| std::cmp::Reverse((labels::attempt(&own.config.labels), own.created_at)));
        let sandbox = sandboxes.first().filter(|own| own.pid != 0);
        facts.sandbox = sandbox.and_then(|own| holder("pause", own.pid));
        facts.containers = self.containers(pod, &uid);
        facts.outsiders = self.outsiders(&facts, &uid);
        match facts.sandbox.as_ref().map(|holder| (holder.pid, holder.inodes.of(Kind::Net))) {
            None => {
                let why = match sandboxes.is_empty() {
                    true => "the pod has no sandbox yet",
                    false => "the pod's sandbox has ended",
                };
                facts.missing.push(Missing::new("namespaces, network and listening sockets", why));
            }
            Some((pid, net)) => {
                self.network(&mut facts, pod, pid, net);
                facts.elsewhere = elsewhere::elsewhere(self.scan, &uid, net);
            }
        }
        facts
    }

    fn containers(&self, pod: &Pod, uid: &str) -> Vec<told::Container> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let latest = |name: &str| {
            let own = self.scan.containers.iter().filter(|container| {
                labels::uid(&container.labels) == uid && labels::container_name(container) == name
            });
            own.max_by_key(|container| (container.created_at, labels::attempt(&container.labels)))
        };
        let begins = spec.containers.iter().all(|own| latest(&own.name).is_none());
        let init = spec.init_containers.iter().flatten().filter(|init| match latest(&init.name) {
            // The others wait for it, whether it runs, has failed or has not begun.
            None => begins,
            Some(own) => own.state != ContainerState::Exited || begins && exit_code(own) != 0,
        });
        init.chain(&spec.containers)
            .map(|container| {
                let asked = Asked {
                    host_paths: host_path_targets(pod, container),
                    devices: is_privileged(container),
                };
                self.container(&container.name, latest(&container.name), uid, &asked)
            })
            .collect()
    }

    fn container(&self, name: &str, found: Option<&Container>, uid: &str, asked: &Asked) -> told::Container {
        let state = match found {
            None => "not created yet".to_owned(),
            Some(own) => match own.state {
                ContainerState::Created => "created, not started yet".to_owned(),
                ContainerState::Running => "running".to_owned(),
                ContainerState::Exited if own.reason.as_deref() == Some("Unknown") => {
                    "ended; how is not known".to_owned()
                }
                ContainerState::Exited => format!("ended with exit code {}", exit_code(own)),
                ContainerState::Unknown => "its shim does not answer".to_owned(),
            },
        };
        let pid = found
            .filter(|own| own.state == ContainerState::Running)
            .map(|own| own.pid)
            .filter(|pid| *pid != 0);
        let holder = pid.and_then(|pid| holder(name, pid));
        // A PID may be another's by now; its control group can't be.
        let holder = holder.filter(|own| self.scan.pod_uid(own.pid).as_deref() == Some(uid));
        let privileges = holder.as_ref().and_then(|own| processes::privileges(own.pid).ok());
        let mounts = holder.as_ref().and_then(|own| processes::mounts(own.pid).ok());
        let own_dirs = [self.config.pod_dir(uid), self.config.data_dir.join("runtime")];
        let paths = mounts.map(|mounts| {
            processes::writable_node_paths(&mounts, &self.mounts, &own_dirs, &asked.host_paths, Path::exists)
        });
        let shown = |path: PathBuf| path.display().to_string();
        // The sandbox's own, wherever its runtime keeps it.
        let own_shm =
            holder.as_ref().is_some_and(|own| own.inodes.of(Kind::Ipc) != self.node.inodes.of(Kind::Ipc));
        let paths = paths.unwrap_or_default().into_iter();
        let paths = paths.filter(|(mount, _)| !(own_shm && mount.as_os_str() == "/dev/shm"));
        // The kernel's settings are files of the node's root, whatever capabilities others have.
        let is_root = holder.as_ref().zip(privileges.as_ref()).is_some_and(|(own, privileges)| {
            own.inodes.of(Kind::User) == self.node.inodes.of(Kind::User) && privileges.effective_user == 0
        });
        let wished = |mount: &Path| asked.host_paths.iter().any(|target| mount.starts_with(target));
        let paths = paths.filter(|(mount, _)| {
            let setting = mount.starts_with("/sys") || mount.starts_with("/proc");
            is_root || !setting || wished(mount)
        });
        // The control group of any other container keeps it from them.
        let seen = holder.as_ref().zip(privileges.as_ref()).filter(|_| asked.devices);
        let devices = seen.map(|(own, privileges)| self.devices(own, privileges)).unwrap_or_default();
        told::Container {
            name: name.to_owned(),
            state,
            holder,
            devices,
            security: privileges.map(security),
            writable_paths: paths
                .map(|(mount, path)| WritablePath { mount: shown(mount), path: shown(path) })
                .collect(),
        }
    }

    /// The devices of the node that a privileged container may write.
    fn devices(&self, own: &Holder, privileges: &processes::Privileges) -> Vec<Device> {
        // Root of other users than the node's overrides permissions of its own files alone.
        let of_node = own.inodes.of(Kind::User) == self.node.inodes.of(Kind::User);
        let groups = privileges.supplementary_groups.iter().copied().chain([privileges.effective_group]);
        let asker = processes::Asker {
            user: privileges.effective_user,
            groups: groups.collect(),
            overrides: of_node && privileges.capabilities.contains(&"DAC_OVERRIDE"),
        };
        let device = |found: processes::DeviceFact| Device {
            name: found.name.display().to_string(),
            block: found.block,
            major: found.major,
        };
        processes::devices(own.pid, &asker).into_iter().map(device).collect()
    }

    /// Who is in the pod's namespaces and not of the pod.
    fn outsiders(&self, facts: &told::Pod, uid: &str) -> BTreeMap<(Kind, u64), Vec<told::Process>> {
        let held = facts.sandbox.iter().chain(facts.containers.iter().filter_map(|own| own.holder.as_ref()));
        let held: Vec<&Holder> = held.collect();
        let mut outsiders = BTreeMap::new();
        let mut of_pod: HashMap<u32, bool> = held.iter().map(|holder| (holder.pid, true)).collect();
        for holder in &held {
            for kind in Kind::ALL {
                let inode = holder.inodes.of(kind);
                if inode == 0 || inode == self.node.inodes.of(kind) || outsiders.contains_key(&(kind, inode))
                {
                    continue;
                }
                let foreign = self.scan.members(kind, inode).iter().filter(|pid| {
                    !*of_pod.entry(**pid).or_insert_with(|| {
                        // One that has ended since is in no namespace any more.
                        let gone =
                            || processes::namespaces(**pid).is_none_or(|now| Inodes(now).of(kind) != inode);
                        self.scan.pod_uid(**pid).as_deref() == Some(uid) || gone()
                    })
                });
                let foreign: Vec<told::Process> = foreign.map(|pid| self.scan.process(*pid)).collect();
                outsiders.insert((kind, inode), foreign);
            }
        }
        outsiders
    }

    fn network(&self, facts: &mut told::Pod, pod: &Pod, pid: u32, net: u64) {
        let on_node = net == self.node.inodes.of(Kind::Net);
        let read;
        let found = match on_node {
            true => &self.node_network,
            false => match network::read(pid) {
                Ok(found) => {
                    read = found;
                    &read
                }
                Err(error) => {
                    let why = crate::images::chain(&error);
                    return facts.missing.push(Missing::new("interfaces, routes and listening sockets", why));
                }
            },
        };
        facts.interfaces = found.links.iter().map(interface).collect();
        facts.routes = found.routes.iter().map(route).collect();
        facts.sockets = sockets(self.scan, net, &found.sockets, &found.links);
        if on_node {
            facts.pod_ip = Some(facts.node_ip.clone());
            return;
        }
        let eth0 = found.links.iter().find(|link| link.name == "eth0");
        let four = eth0.and_then(|link| link.addresses.iter().find(|(ip, _)| ip.is_ipv4()));
        facts.pod_ip = four.map(|(ip, _)| ip.to_string());
        facts.host_ports = translate::host_ports(pod)
            .into_iter()
            .map(|port| HostPort {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port,
                protocol: match port.protocol {
                    skiff_network::Protocol::Tcp => "TCP".into(),
                    skiff_network::Protocol::Udp => "UDP".into(),
                    skiff_network::Protocol::Sctp => "SCTP".into(),
                },
                container_port: port.container_port,
            })
            .collect();
    }
}

fn holder(name: &str, pid: u32) -> Option<Holder> {
    let inodes = Inodes(processes::namespaces(pid)?);
    Some(Holder { name: name.to_owned(), pid, inodes })
}

fn security(found: processes::Privileges) -> Security {
    let owned = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
    Security {
        effective_user: found.effective_user,
        effective_group: found.effective_group,
        supplementary_groups: found.supplementary_groups,
        capabilities: owned(found.capabilities),
        beyond_default: owned(found.beyond_default),
        seccomp: match found.seccomp {
            0 => "disabled".into(),
            1 => "strict".into(),
            _ => "filter".into(),
        },
        no_new_privileges: found.no_new_privileges,
        gainable: owned(found.gainable),
        own_users: false,
        inside_user: found.inside_user,
        inside_group: found.inside_group,
    }
}

fn interface(link: &network::LinkFact) -> Interface {
    Interface {
        name: link.name.clone(),
        up: link.up,
        mtu: link.mtu,
        kind: link.kind.clone(),
        addresses: link.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect(),
    }
}

fn route(route: &network::RouteFact) -> Route {
    let destination = match route.prefix {
        0 => "default".to_owned(),
        prefix => format!("{}/{prefix}", route.destination),
    };
    Route { destination, via: route.via.map(|via| via.to_string()), device: route.link.clone() }
}

/// What a container asks for of the node.
struct Asked {
    /// Where it has paths of the node mounted by wish.
    host_paths: Vec<PathBuf>,
    /// All its devices.
    devices: bool,
}

fn is_privileged(container: &k8s_openapi::api::core::v1::Container) -> bool {
    container.security_context.as_ref().is_some_and(|own| own.privileged == Some(true))
}

/// Where a container has paths of the node mounted by wish.
fn host_path_targets(pod: &Pod, container: &k8s_openapi::api::core::v1::Container) -> Vec<PathBuf> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names: Vec<&str> =
        volumes.filter(|volume| volume.host_path.is_some()).map(|volume| volume.name.as_str()).collect();
    let mounts = container.volume_mounts.iter().flatten();
    let wished = mounts.filter(|mount| names.contains(&mount.name.as_str()));
    wished.map(|mount| PathBuf::from(&mount.mount_path)).collect()
}

#[cfg(test)]
mod tests;
