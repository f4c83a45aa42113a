//! The files of configMap, secret, downwardAPI and projected volumes: a plain function from values.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource, Volume,
};

use crate::env::{self, Facts, Sources};
use crate::tokens::Wanted;

const DEFAULT_MODE: u32 = 0o644;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    /// Whose it is, where that is not root.
    pub(crate) owner: Owner,
}

/// User and group of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl File {
    fn new(bytes: Vec<u8>, mode: u32) -> Self {
        Self { bytes, mode, owner: Owner::default() }
    }
}

/// Files by their path below the volume.
pub(crate) type Files = BTreeMap<String, File>;

/// The files of a volume, or `None` if it is of a kind that has no content of its own.
pub(crate) fn files(
    volume: &Volume,
    facts: &Facts<'_>,
    sources: &impl Sources,
) -> Result<Option<Files>, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let from = Named { name: &source.name, items: source.items.as_deref(), optional: source.optional };
        config_map(&from, mode, sources, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let SecretVolumeSource { items, optional, secret_name, .. } = source;
        let name = secret_name.as_deref().unwrap_or_default();
        let from = Named { name, items: items.as_deref(), optional: *optional };
        secret(&from, mode(source.default_mode), sources, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        downward(items, mode(source.default_mode), facts, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected(source, facts, sources, &mut files)?;
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn projected(
    source: &ProjectedVolumeSource,
    facts: &Facts<'_>,
    sources: &impl Sources,
    files: &mut Files,
) -> Result<(), String> {
    let mode = mode(source.default_mode);
    for part in source.sources.iter().flatten() {
        if let Some(from) = &part.config_map {
            let from = Named { name: &from.name, items: from.items.as_deref(), optional: from.optional };
            config_map(&from, mode, sources, files)?;
        }
        if let Some(from) = &part.secret {
            let from = Named { name: &from.name, items: from.items.as_deref(), optional: from.optional };
            secret(&from, mode, sources, files)?;
        }
        if let Some(from) = &part.downward_api {
            downward(from.items.as_deref().unwrap_or_default(), mode, facts, files)?;
        }
        if let Some(from) = &part.service_account_token {
            let token = sources.token(&Wanted::from(from)).ok_or("the token has not been fetched yet")?;
            let (owner, mode) = token_owner(facts.pod, mode);
            files.insert(safe(&from.path)?, File { bytes: token.into(), mode, owner });
        }
    }
    Ok(())
}

/// Who may read a token: everybody in the pod, unless it says by which user or group it runs.
fn token_owner(pod: &Pod, mode: u32) -> (Owner, u32) {
    let Some(spec) = &pod.spec else { return (Owner::default(), mode) };
    let context = spec.security_context.as_ref();
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let group = id(context.and_then(|context| context.fs_group));
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = containers.map(|container| {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        id(own.or_else(|| context.and_then(|context| context.run_as_user)))
    });
    // Only where all run as one.
    let first = users.next().flatten();
    let user = first.filter(|_| users.all(|other| other == first));
    let mode = match (user, group) {
        (_, Some(_)) => 0o640,
        (Some(_), None) => 0o600,
        (None, None) => mode,
    };
    (Owner { user, group }, mode)
}

/// The config maps and secrets that a pod's volumes and environments name.
pub(crate) fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for part in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            maps.extend(part.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(part.secret.iter().map(|source| source.name.clone()));
        }
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|key| key.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|key| key.name.clone()));
        }
    }
    (maps, secrets)
}

struct Named<'a> {
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
}

fn config_map(from: &Named<'_>, mode: u32, sources: &impl Sources, files: &mut Files) -> Result<(), String> {
    let Some(map) = sources.config_map(from.name) else {
        return missing(from, || format!("configmap \"{}\" not found", from.name));
    };
    let mut all: BTreeMap<&str, &[u8]> = BTreeMap::new();
    all.extend(map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes())));
    all.extend(map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())));
    pick(from, mode, &all, "config", files)
}

fn secret(from: &Named<'_>, mode: u32, sources: &impl Sources, files: &mut Files) -> Result<(), String> {
    let Some(secret) = sources.secret(from.name) else {
        return missing(from, || format!("secret \"{}\" not found", from.name));
    };
    let all: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    pick(from, mode, &all, "secret", files)
}

fn missing(from: &Named<'_>, why: impl FnOnce() -> String) -> Result<(), String> {
    if from.optional.unwrap_or(false) { Ok(()) } else { Err(why()) }
}

fn pick(
    from: &Named<'_>,
    default_mode: u32,
    all: &BTreeMap<&str, &[u8]>,
    kind: &str,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = from.items.filter(|items| !items.is_empty()) else {
        files.extend(
            all.iter().map(|(key, bytes)| ((*key).to_owned(), File::new(bytes.to_vec(), default_mode))),
        );
        return Ok(());
    };
    for item in items {
        match all.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.map_or(default_mode, |mode| mode as u32 & 0o7777);
                files.insert(safe(&item.path)?, File::new(bytes.to_vec(), mode));
            }
            None => missing(from, || format!("references non-existent {kind} key: {}", item.key))?,
        }
    }
    Ok(())
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    facts: &Facts<'_>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            env::field(facts, field)
        } else if let Some(resource) = &item.resource_field_ref {
            env::resource(facts, resource, None)
        } else {
            continue;
        };
        let text = text.map_err(|error| error.to_string())?;
        let mode = item.mode.map_or(default_mode, |mode| mode as u32 & 0o7777);
        files.insert(safe(&item.path)?, File::new(text.into_bytes(), mode));
    }
    Ok(())
}

fn mode(default: Option<i32>) -> u32 {
    default.map_or(DEFAULT_MODE, |mode| mode as u32 & 0o7777)
}

/// The API refuses such paths already; a second look costs nothing.
fn safe(path: &str) -> Result<String, String> {
    let unsafe_ = path.is_empty()
        || path.starts_with('/')
        || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        || path.starts_with("..");
    if unsafe_ { Err(format!("invalid path: {path:?}")) } else { Ok(path.to_owned()) }
}
