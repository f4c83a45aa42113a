//! What a container may do: its security context over its pod's, as the runtime takes it.
//!
//! Plain functions. What can't be is an error whose words are upstream's, and the container waits with it
//! in `CreateContainerConfigError`; what a node never takes is [`admission`]'s.

pub(crate) mod admission;
mod apparmor;
pub(crate) mod sysctls;
pub(crate) mod users;

use std::path::Path;

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use skiff_runtime::{Seccomp, Security};

use crate::plan::full_name;

const USER_MAX: i64 = i32::MAX as i64;

/// Where the node keeps profiles of its own, below the agent's directory.
pub(crate) const SECCOMP_DIR: &str = "seccomp";

/// What the node says where a pod says nothing.
pub(crate) struct Defaults<'a> {
    /// Where localhost profiles lie.
    pub(crate) seccomp_dir: &'a Path,
    /// Filter by the runtime's own profile a container that names none.
    pub(crate) seccomp_default: bool,
}

/// `image_user` is what the image names: `user`, `uid`, either with a group, or nothing.
pub(crate) fn of_container(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    image_user: &str,
    defaults: &Defaults<'_>,
) -> Result<Security, String> {
    let none = (PodSecurityContext::default(), SecurityContext::default());
    let of_pod = spec.security_context.as_ref().unwrap_or(&none.0);
    let own = container.security_context.as_ref().unwrap_or(&none.1);
    // The image's group has no say, as upstream has it.
    let image_user = image_user.split(':').next().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(user, image_user)
            .map_err(|why| format!("{why} (pod: {:?}, container: {})", full_name(pod), container.name))?;
    }
    let image_user = if image_user.is_empty() { "0" } else { image_user };
    let group = own.run_as_group.or(of_pod.run_as_group);
    let supplemental = of_pod.fs_group.iter().chain(of_pod.supplemental_groups.iter().flatten());
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged,
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        user: Some(user.map_or_else(|| image_user.to_owned(), |user| user.to_string())),
        group: group.map(|group| id("runAsGroup", group)).transpose()?,
        supplemental_groups: supplemental
            .map(|group| id("supplementalGroups", *group))
            .collect::<Result<_, _>>()?,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        read_only_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), defaults)?,
        apparmor: apparmor::of_container(pod, spec, container),
        unmasked_proc: privileged || own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn verify_non_root(user: Option<i64>, image_user: &str) -> Result<(), String> {
    let image_id = if image_user.is_empty() { Some(0) } else { image_user.parse::<i64>().ok() };
    match (user, image_id) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".into()),
        (Some(_), _) => Ok(()),
        (None, None) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root"
        )),
        (None, Some(0)) => Err("container has runAsNonRoot and image will run as root".into()),
        (None, Some(uid)) if !(0..=USER_MAX).contains(&uid) => Err(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({USER_MAX})): \
             must be between 0 and {USER_MAX}, inclusive"
        )),
        (None, Some(_)) => Ok(()),
    }
}

/// The API refuses what is out of range; a second look costs nothing.
fn id(field: &str, number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{field} {number} is out of range"))
}

fn seccomp(profile: Option<&SeccompProfile>, defaults: &Defaults<'_>) -> Result<Seccomp, String> {
    let Some(profile) = profile else {
        return Ok(if defaults.seccomp_default { Seccomp::RuntimeDefault } else { Seccomp::Unconfined });
    };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let missing = "localhostProfile must be set if seccompProfile type is Localhost.";
            let name = profile.localhost_profile.as_deref().filter(|name| !name.is_empty()).ok_or(missing)?;
            if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                return Err(format!("localhostProfile {name:?} must be a path below {SECCOMP_DIR}/"));
            }
            Ok(Seccomp::Profile(defaults.seccomp_dir.join(name)))
        }
        other => Err(format!("unknown seccompProfile type {other:?}")),
    }
}

#[cfg(test)]
mod tests;
