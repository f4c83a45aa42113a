//! Containers: made, started, stopped and removed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skiff_sys::private;
use tracing::warn;

use super::cleanup::remove_dir;
use super::records::{ContainerRecord, RECORD};
use super::sandboxes::limits;
use super::{ContainerEntry, Inner, cgroup_error, doing, make_dir, new_id};
use crate::apparmor;
use crate::files::write_json;
use crate::protocol::{Create, Progress, Reply, Request};
use crate::seccomp;
use crate::shim::SHM;
use crate::spec::{self, DeviceNode, Places};
use crate::types::*;
use crate::usage::DiskUsage;

/// Between a shim's answer and its news to all.
const TOLD_TIMEOUT: Duration = Duration::from_secs(5);
const SIGTERM: i32 = nix::libc::SIGTERM;
const SIGKILL: i32 = nix::libc::SIGKILL;

impl Inner {
    pub(super) async fn create_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, Error> {
        let sandbox_config = {
            let state = self.state.lock();
            let entry = state.sandboxes.get(&sandbox.0).ok_or_else(|| Error::NoSandbox(sandbox.clone()))?;
            if !entry.ready() {
                return Err(Error::Invalid(format!("sandbox {} is not running", sandbox.0)));
            }
            entry.record.config.clone()
        };
        let image = self.images.get(&config.image)?;
        let image = image.ok_or_else(|| ImageError::NotPresent(config.image.clone()))?;
        let id = new_id();
        self.images.hold(&image.id, &id, &self.owner()).await?;
        let layers = match self.images.layers(&image.id).await {
            Ok(layers) => layers,
            Err(error) => {
                self.images.release(&id).await?;
                return Err(error.into());
            }
        };
        let (inner, sandbox, own) = (self.clone(), sandbox.0.clone(), id.clone());
        let made = tokio::task::spawn_blocking(move || {
            let making = Making { id: own, sandbox, sandbox_config, config, image, layers };
            let cgroup = inner.group_of(&making);
            inner.make_container(&making).inspect_err(|_| {
                if let Err(error) = inner.clear_container(&making.id, &cgroup) {
                    warn!(container = making.id, error = &error as &dyn std::error::Error, "cannot clear up");
                }
            })
        });
        match made.await {
            Ok(Ok(())) => Ok(ContainerId(id)),
            Ok(Err(error)) => {
                self.images.release(&id).await?;
                Err(error)
            }
            Err(error) => Err(doing("create the container")(std::io::Error::other(error))),
        }
    }

    fn group_of(&self, making: &Making) -> PathBuf {
        self.parent_group(&making.sandbox_config.cgroup_parent).child(&making.id).path().to_owned()
    }

    fn make_container(&self, making: &Making) -> Result<(), Error> {
        let Making { id, sandbox, sandbox_config, config, image, layers } = making;
        let dir = self.container_dir(id);
        let cgroup = self.group_of(making);
        let stop_signal = config.stop_signal.as_ref().or(image.stop_signal.as_ref());
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: config.name.clone(),
            labels: config.labels.clone(),
            image: config.image.clone(),
            image_id: image.id.clone(),
            created_at: SystemTime::now(),
            log_path: config.log_path.clone(),
            stop_signal: stop_signal.map_or(Ok(SIGTERM), |name| signal_number(name))?,
            tty: config.tty,
            stdin: config.stdin,
            cgroup: cgroup.clone(),
        };
        make_dir(&dir)?;
        for name in ["upper", "work", "rootfs"] {
            make_dir(&dir.join(name))?;
        }
        // The container's /, for whoever it runs as.
        fs::set_permissions(dir.join("upper"), fs::Permissions::from_mode(0o755))
            .map_err(doing("set the mode of the container's layer"))?;
        write_json(&dir.join(RECORD), &record, false).map_err(doing("record the container"))?;

        let caps = spec::caps(config)?;
        let filter =
            if config.security.privileged { None } else { seccomp::filter(&config.security.seccomp, caps)? };
        let seccomp = filter.map(|filter| (dir.join("seccomp"), filter.to_bytes()));
        if let Some((path, bytes)) = &seccomp {
            private::create(path)
                .and_then(|mut file| file.write_all(bytes))
                .map_err(doing("keep the system call filter"))?;
        }
        let security = &config.security;
        let apparmor = apparmor::profile(
            &security.apparmor,
            security.privileged,
            &self.config.data_dir.join("apparmor"),
        )?;
        let devices = config.devices.iter().map(device).collect::<Result<Vec<_>, _>>()?;
        let group = self.hierarchy.group(&cgroup);
        {
            let _alone = self.groups.lock();
            group.create().map_err(cgroup_error)?;
        }
        group.limit(&limits(&config.resources)).map_err(cgroup_error)?;
        let rules = spec::device_rules(config, &devices);
        if !config.security.privileged {
            group.restrict_devices(&rules).map_err(cgroup_error)?;
        }
        let own_ipc = sandbox_config.ipc != NamespaceMode::Node;
        let places = Places {
            layers: layers.clone(),
            dir: dir.clone(),
            shm: if own_ipc { self.run_dir(sandbox).join(SHM) } else { "/dev/shm".into() },
            join: group.join_files(),
            seccomp: seccomp.map(|(path, _)| path),
            apparmor,
            devices,
            weakness: self.config.weakness,
        };
        let node_name = || nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        let hostname = match sandbox_config.network {
            NamespaceMode::Node => node_name(),
            NamespaceMode::Pod | NamespaceMode::Container => sandbox_config.hostname.clone(),
        };
        let spec = spec::spec(config, sandbox_config, image, &hostname, places)?;
        self.keep_spec(sandbox, id, &spec)?;
        if let Some(parent) = config.log_path.as_deref().and_then(Path::parent) {
            make_dir(parent)?;
        }
        // Known before the shim can speak of it.
        let entry = ContainerEntry { record, progress: Progress::default(), lost: false };
        self.update(|state| state.containers.insert(id.clone(), entry));
        let create = Request::Create(Create {
            id: id.clone(),
            dir,
            cgroup,
            log_path: config.log_path.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            pid: spec.pid,
            weakness: spec.weakness,
        });
        self.ask(sandbox, create).map(drop).inspect_err(|_| {
            self.update(|state| state.containers.remove(id));
        })
    }

    pub(super) async fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), Error> {
        let sandbox = self.known(id)?.sandbox;
        let (inner, own) = (self.clone(), id.0.clone());
        let asked = tokio::task::spawn_blocking(move || inner.ask(&sandbox, Request::Start { id: own }));
        let answer =
            asked.await.map_err(|error| doing("start the container")(std::io::Error::other(error)))?;
        if matches!(answer, Ok(_) | Err(Error::Start { .. })) {
            // The shim tells all listeners, of whom this process is one: let it be in the picture.
            let told = self.until(|state| match state.containers.get(&id.0) {
                Some(entry) if entry.state() == ContainerState::Created => None,
                _ => Some(()),
            });
            let _ = tokio::time::timeout(TOLD_TIMEOUT, told).await;
        }
        match answer? {
            Reply::Running { .. } => Ok(()),
            other => Err(super::shims::unexpected(&other)),
        }
    }

    pub(super) async fn stop_container(
        self: &Arc<Self>,
        id: &ContainerId,
        grace: Duration,
    ) -> Result<(), Error> {
        let Ok(record) = self.known(id) else { return Ok(()) };
        let state = self.state.lock().containers.get(&id.0).map(ContainerEntry::state);
        if state == Some(ContainerState::Running) && !grace.is_zero() {
            let (inner, own) = (self.clone(), record.clone());
            let signalled = tokio::task::spawn_blocking(move || {
                inner.ask(&own.sandbox, Request::Signal { id: own.id.clone(), signal: own.stop_signal })
            });
            match signalled.await {
                Ok(Ok(_)) => {
                    if tokio::time::timeout(grace, self.until_over(&id.0)).await.is_ok() {
                        return Ok(());
                    }
                }
                Ok(Err(error)) => {
                    warn!(
                        container = id.0,
                        error = &error as &dyn std::error::Error,
                        "cannot ask it to stop"
                    );
                }
                Err(error) => return Err(doing("stop the container")(std::io::Error::other(error))),
            }
        }
        self.kill_container(&id.0).await?;
        self.until_over(&id.0).await;
        Ok(())
    }

    /// SIGKILL to all of it. Also what waits to be started, and what a dead shim left, is ended.
    pub(super) async fn kill_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some((record, state)) =
            self.state.lock().containers.get(id).map(|entry| (entry.record.clone(), entry.state()))
        else {
            return Ok(());
        };
        if state == ContainerState::Exited {
            return Ok(());
        }
        let inner = self.clone();
        let killed = tokio::task::spawn_blocking(move || {
            if state != ContainerState::Unknown {
                let signal = Request::Signal { id: record.id.clone(), signal: SIGKILL };
                if let Err(error) = inner.ask(&record.sandbox, signal) {
                    warn!(
                        container = record.id,
                        error = &error as &dyn std::error::Error,
                        "its group is killed"
                    );
                }
            }
            inner.hierarchy.group(&record.cgroup).kill();
        });
        killed.await.map_err(|error| doing("kill the container")(std::io::Error::other(error)))
    }

    /// Returns when it has ended, or its shim has.
    pub(super) async fn until_over(&self, id: &str) {
        self.until(|state| match state.containers.get(id).map(ContainerEntry::state) {
            Some(ContainerState::Running | ContainerState::Created) => None,
            Some(ContainerState::Exited | ContainerState::Unknown) | None => Some(()),
        })
        .await;
    }

    pub(super) async fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), Error> {
        let Ok(record) = self.known(id) else { return Ok(()) };
        self.kill_container(&id.0).await?;
        self.until_over(&id.0).await;
        let (inner, own) = (self.clone(), record.clone());
        let cleared = tokio::task::spawn_blocking(move || {
            // One that is being stopped forgets all by itself.
            let lives = inner.state.lock().sandboxes.get(&own.sandbox).is_some_and(|entry| entry.ready());
            if lives && let Err(error) = inner.ask(&own.sandbox, Request::Forget { id: own.id.clone() }) {
                warn!(container = own.id, error = &error as &dyn std::error::Error, "its shim does not hear");
            }
            inner.clear_container(&own.id, &own.cgroup)
        });
        cleared.await.map_err(|error| doing("remove the container")(std::io::Error::other(error)))??;
        self.images.release(&id.0).await?;
        self.update(|state| state.containers.remove(&id.0));
        Ok(())
    }

    fn clear_container(&self, id: &str, cgroup: &Path) -> Result<(), Error> {
        let group = self.hierarchy.group(cgroup);
        group.kill();
        group.remove().map_err(cgroup_error)?;
        self.forget_spec(id)?;
        remove_dir(&self.container_dir(id))
    }

    pub(super) fn reopen_log(&self, id: &ContainerId) -> Result<(), Error> {
        let record = self.known(id)?;
        self.ask(&record.sandbox, Request::ReopenLog { id: id.0.clone() }).map(drop)
    }

    pub(super) fn stats(&self, id: &ContainerId) -> Result<Stats, Error> {
        let record = self.known(id)?;
        let usage = self.hierarchy.group(&record.cgroup).usage().map_err(cgroup_error)?;
        Ok(Stats {
            cpu_nanoseconds: usage.cpu_ns,
            memory_bytes: usage.memory_bytes,
            memory_working_set_bytes: usage.working_set_bytes,
            memory_anonymous_bytes: usage.anonymous_bytes,
            page_faults: usage.page_faults,
            major_page_faults: usage.major_page_faults,
            pids: usage.pids,
        })
    }

    pub(super) fn written(&self, id: &ContainerId) -> Result<DiskUsage, Error> {
        let upper = self.container_dir(&self.known(id)?.id).join("upper");
        crate::usage::of(&upper).map_err(doing(format_args!("measure {}", upper.display())))
    }

    pub(super) fn known(&self, id: &ContainerId) -> Result<ContainerRecord, Error> {
        let state = self.state.lock();
        let entry = state.containers.get(&id.0).ok_or_else(|| Error::NoContainer(id.clone()))?;
        Ok(entry.record.clone())
    }
}

/// All that goes into a new container.
struct Making {
    id: String,
    sandbox: String,
    sandbox_config: SandboxConfig,
    config: ContainerConfig,
    image: Image,
    layers: Vec<PathBuf>,
}

fn device(device: &Device) -> Result<DeviceNode, Error> {
    let path = &device.path;
    let found = fs::metadata(path).map_err(doing(format_args!("find the device {}", path.display())))?;
    let block = found.file_type().is_block_device();
    if !block && !found.file_type().is_char_device() {
        return Err(Error::Invalid(format!("{} is not a device", path.display())));
    }
    Ok(DeviceNode {
        path: if device.target.as_os_str().is_empty() { path.clone() } else { device.target.clone() },
        source: path.clone(),
        block,
        major: nix::libc::major(found.rdev()),
        minor: nix::libc::minor(found.rdev()),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
fn signal_number(name: &str) -> Result<i32, Error> {
    let unknown = || Error::Invalid(format!("unknown signal {name:?}"));
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, offset: &str, sign: i32| offset.parse::<i32>().ok().map(|n| base + sign * n);
    let number = match short {
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        short => match (short.strip_prefix("RTMIN+"), short.strip_prefix("RTMAX-")) {
            (Some(offset), _) => real_time(34, offset, 1),
            (_, Some(offset)) => real_time(64, offset, -1),
            (None, None) => {
                format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
            }
        },
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        let number = |name: &str| signal_number(name).unwrap_or(-1);
        assert_eq!(number("SIGQUIT"), 3);
        assert_eq!(number("quit"), 3);
        assert_eq!(number("9"), 9);
        assert_eq!(number("SIGRTMIN+3"), 37);
        assert_eq!(number("RTMAX-1"), 63);
        assert_eq!(number("SIGRTMIN+99"), -1);
        assert_eq!(number("SIGNOPE"), -1);
        assert_eq!(number("0"), -1);
    }
}
