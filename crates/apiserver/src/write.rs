//! Create, update and patch: decode → default → admission → name → strategy → validation → compare-and-set.
//!
//! Every write of an existing object is a [`modify`]: a pure step from the present state to a new one,
//! repeated when somebody else's write came between.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::status::StatusError;
use skiff_store::{CommitError, Expect, Store, Write};

use crate::cache::Caches;
use crate::claims::Taken;
use crate::metadata;
use crate::object::{Object, to_stored};
use crate::request::Address;
use crate::resources::{Cx, Resource};
use crate::server::{Call, Inner};
use crate::{admission, delete, validation};

/// How often a write is retried when others come between.
const ATTEMPTS: usize = 12;
const GENERATED_NAME_ATTEMPTS: usize = 8;

/// The next state of an object.
pub(crate) enum Step {
    /// It is as it should be.
    Keep,
    Put {
        value: Value,
        old: Value,
        volatile: bool,
        taken: Taken,
    },
    /// Gone; the value is its last state.
    Remove {
        last: Value,
    },
}

pub(crate) enum Done {
    Kept(Arc<Object>),
    Put(Arc<Object>),
    Removed(Arc<Object>),
}

impl Done {
    pub(crate) fn object(&self) -> &Arc<Object> {
        match self {
            Self::Kept(o) | Self::Put(o) | Self::Removed(o) => o,
        }
    }
}

fn store_failed(error: &CommitError) -> StatusError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    StatusError::internal(text)
}

fn no_answer() -> CommitError {
    CommitError::Io("the store gave no answer".into())
}

/// Stores one write, and waits until the caches show it.
async fn commit_one(store: &dyn Store, caches: &Caches, write: Write) -> Result<u64, CommitError> {
    let revision = store.commit(vec![write]).await.pop().unwrap_or_else(|| Err(no_answer()))?;
    caches.reached(revision).await;
    Ok(revision)
}

/// The same for a write of what was taken for it. A client that goes away meanwhile does not stop it: what
/// is being stored must not look free.
async fn commit_taken(server: &Inner, write: Write, taken: Taken) -> Result<u64, CommitError> {
    if taken.is_empty() {
        return commit_one(&*server.store, &server.caches, write).await;
    }
    let (store, caches) = (Arc::clone(&server.store), Arc::clone(&server.caches));
    let task = tokio::spawn(async move {
        let outcome = commit_one(&*store, &caches, write).await;
        drop(taken);
        outcome
    });
    task.await.unwrap_or_else(|_| Err(no_answer()))
}

/// A state that was (or, in a dry run, would have been) stored.
fn made(stored: &Resource, key: &Arc<str>, revision: u64, value: &Value) -> Result<Arc<Object>, StatusError> {
    Object::from_stored(stored, Arc::clone(key), revision, to_stored(value))
        .map(Arc::new)
        .map_err(StatusError::internal)
}

/// Brings an object from its present state to the next, which `step` decides.
pub(crate) async fn modify(
    server: &Inner,
    stored: &'static Resource,
    row: &Resource,
    key: &str,
    dry_run: bool,
    mut step: impl FnMut(&Arc<Object>) -> Result<Step, StatusError>,
) -> Result<Done, StatusError> {
    let cache = server.caches.of(stored);
    let name = key.rsplit('/').next().unwrap_or_default();
    for _ in 0..ATTEMPTS {
        let Some(current) = cache.get(key) else {
            return Err(StatusError::not_found(row.group_resource(), name));
        };
        let (value, old, volatile, taken) = match step(&current)? {
            Step::Keep => return Ok(Done::Kept(current)),
            Step::Put { value, old, volatile, taken } => (Some(value), old, volatile, taken),
            Step::Remove { last } => (None, last, false, Taken::default()),
        };
        let object = match &value {
            Some(value) => made(stored, &current.key, current.revision, value)?,
            None => made(stored, &current.key, current.revision, &old)?,
        };
        if dry_run {
            return Ok(if value.is_some() { Done::Put(object) } else { Done::Removed(object) });
        }
        let write = Write {
            key: Arc::clone(&current.key),
            expect: Expect::Revision(current.revision),
            value: value.is_some().then(|| cache.seal(key, &object.body)),
            volatile,
        };
        match commit_taken(server, write, taken).await {
            Ok(revision) => {
                let object = Arc::new(object.at(revision));
                return Ok(if value.is_some() { Done::Put(object) } else { Done::Removed(object) });
            }
            Err(CommitError::Conflict { current, .. }) => {
                catch_up(server, current.map(|e| e.mod_revision)).await?;
            }
            Err(error) => return Err(store_failed(&error)),
        }
    }
    Err(StatusError::modified(row.group_resource(), name))
}

/// Waits until the cache knows what the store knew when it refused a write.
async fn catch_up(server: &Inner, revision: Option<u64>) -> Result<(), StatusError> {
    let revision = match revision {
        Some(revision) => revision,
        None => server.store.barrier().await.map_err(StatusError::internal)?,
    };
    server.caches.reached(revision).await;
    Ok(())
}

/// Creates an object from decoded input in the row's version.
pub(crate) async fn create(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    mut value: Value,
) -> Result<Arc<Object>, StatusError> {
    let stored = server.stored_row(row);
    let strategy = stored.strategy;
    let namespace = if row.namespaced { call.address.namespace.as_str() } else { "" };
    if row.namespaced && namespace.is_empty() {
        return Err(StatusError::bad_request("an empty namespace may not be set during creation"));
    }
    metadata::check_namespace(row, &value, namespace)?;
    if !metadata::text(&value, "resourceVersion").is_empty() {
        return Err(StatusError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if let Some(conversion) = &row.conversion {
        (conversion.to_stored)(&mut value);
    }
    skiff_api::defaults::apply(stored.group, stored.kind, &mut value);
    metadata::prepare_create(&mut value, namespace, stored.generation);
    if stored.status
        && let Value::Object(map) = &mut value
    {
        map.remove("status");
    }
    let prefix = metadata::text(&value, "generateName").to_owned();
    let generated = metadata::text(&value, "name").is_empty() && !prefix.is_empty();
    let mut base = value;
    let unnamed = stored.key(namespace, metadata::text(&base, "name"));
    let cx = Cx { server, who: &call.who, subresource: "", key: &unnamed, notes: &call.notes };
    admission::create(&cx, stored, row, namespace, &mut base).await?;
    for attempt in 1.. {
        // A name that was given is tried once.
        let mut value = if generated { base.clone() } else { std::mem::take(&mut base) };
        if generated {
            metadata::of_mut(&mut value).insert("name".into(), metadata::generate_name(&prefix).into());
        }
        let name = metadata::text(&value, "name").to_owned();
        let key: Arc<str> = stored.key(namespace, &name).into();
        let cx = Cx { server, who: &call.who, subresource: "", key: &key, notes: &call.notes };
        strategy.prepare_create(&cx, &mut value)?;
        let mut faults = metadata::validate_create(stored, strategy, &value);
        faults.extend(validation::create(stored, &value));
        faults.extend(strategy.validate(&cx, &value, None));
        if !faults.is_empty() {
            return Err(StatusError::invalid(row.group, row.kind, &name, &faults));
        }
        validation::warn(&cx, stored, &value);
        admission::validate(&cx, row, &value, None)?;
        if !name.is_empty() && server.caches.of(stored).get(&key).is_some() {
            if generated && attempt < GENERATED_NAME_ATTEMPTS {
                continue;
            }
            return Err(StatusError::already_exists(row.group_resource(), &name));
        }
        let taken = strategy.allocate(&cx, &mut value, None)?;
        let object = made(stored, &key, 0, &value)?;
        if call.dry_run {
            return Ok(object);
        }
        let write = Write {
            key: Arc::clone(&key),
            expect: Expect::Absent,
            value: Some(server.caches.of(stored).seal(&key, &object.body)),
            volatile: strategy.volatile(&value, None),
        };
        match commit_taken(server, write, taken).await {
            Ok(revision) => {
                return Ok(match server.caches.of(stored).get(&key) {
                    Some(cached) if cached.revision == revision => cached,
                    _ => Arc::new(object.at(revision)),
                });
            }
            Err(CommitError::Conflict { .. }) if generated && attempt < GENERATED_NAME_ATTEMPTS => {}
            Err(CommitError::Conflict { .. }) => {
                return Err(StatusError::already_exists(row.group_resource(), &name));
            }
            Err(error) => return Err(store_failed(&error)),
        }
    }
    unreachable!("the loop ends by returning")
}

/// The same for a PUT to a name that is free. What is said there of the object that was to be replaced can't
/// hold, but that whoever names a UID means that object; a version is passed over, as upstream does.
pub(crate) async fn create_by_update(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    mut value: Value,
) -> Result<Arc<Object>, StatusError> {
    check_uid(row, &call.address.name, &value, "")?;
    metadata::of_mut(&mut value).remove("resourceVersion");
    create(server, call, row, value).await
}

/// An object that is put at a name must bear it.
pub(crate) fn check_name(address: &Address, object: &Value) -> Result<(), StatusError> {
    let name = address.name.as_str();
    match metadata::text(object, "name") {
        "" => Err(StatusError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != name => Err(StatusError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// A UID in what is written says which object is meant.
fn check_uid(row: &Resource, name: &str, wanted: &Value, present: &str) -> Result<(), StatusError> {
    let uid = metadata::text(wanted, "uid");
    if uid.is_empty() || uid == present {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {present}");
    Err(StatusError::conflict(row.group_resource(), name, &why))
}

/// Replaces an object, or (with `patched`) what a patch makes of it.
///
/// `next` gives the wanted object in the row's version from the present one in the same version.
pub(crate) async fn update(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    next: impl Fn(Value) -> Result<Value, StatusError>,
) -> Result<Done, StatusError> {
    let stored = server.stored_row(row);
    let key = stored.key(&call.address.namespace_of(row), &call.address.name);
    let name = call.address.name.as_str();
    let of = row.group_resource();
    modify(server, stored, row, &key, call.dry_run, |current| {
        let old = current.value(stored);
        let mut wanted = next(crate::render::value(row, stored, current))?;
        check_name(&call.address, &wanted)?;
        metadata::check_namespace(row, &wanted, current.namespace())?;
        let asked = metadata::text(&wanted, "resourceVersion").to_owned();
        match asked.as_str() {
            "" if !stored.strategy.unconditional_update() => {
                let fault = skiff_api::status::Cause::invalid(
                    "metadata.resourceVersion",
                    "",
                    "must be specified for an update",
                );
                return Err(StatusError::invalid(row.group, row.kind, name, &[fault]));
            }
            "" | "0" => {}
            asked if *asked != current.revision.to_string() => return Err(StatusError::modified(of, name)),
            _ => {}
        }
        check_uid(row, name, &wanted, &current.uid)?;
        if let Some(conversion) = &row.conversion {
            (conversion.to_stored)(&mut wanted);
            wanted["kind"] = stored.kind.into();
            wanted["apiVersion"] = stored.api_version().into();
        }
        skiff_api::defaults::apply(stored.group, stored.kind, &mut wanted);
        let cx = Cx {
            server,
            who: &call.who,
            subresource: &call.address.subresource,
            key: &key,
            notes: &call.notes,
        };
        settle(&cx, stored, row, wanted, old)
    })
    .await
}

/// The step to `wanted`, after the rules that hold for every update.
pub(crate) fn settle(
    cx: &Cx<'_>,
    stored: &'static Resource,
    row: &Resource,
    mut wanted: Value,
    old: Value,
) -> Result<Step, StatusError> {
    let strategy = stored.strategy;
    metadata::prepare_update(&mut wanted, &old);
    if stored.status {
        match cx.subresource {
            "status" => only_status(stored, &mut wanted, &old),
            // A part of the status, which its strategy knows.
            "approval" => {}
            _ => keep_part(&mut wanted, &old, "status"),
        }
    }
    admission::update(cx, stored, row, &mut wanted, &old)?;
    strategy.prepare_update(cx, &mut wanted, &old)?;
    if stored.generation && cx.subresource != "status" {
        metadata::bump_generation(&mut wanted, &old);
    }
    let mut faults = metadata::validate_update(&wanted, &old);
    faults.extend(validation::update(stored, cx.subresource, &wanted, &old));
    faults.extend(strategy.validate(cx, &wanted, Some(&old)));
    if !faults.is_empty() {
        return Err(StatusError::invalid(row.group, row.kind, metadata::text(&old, "name"), &faults));
    }
    validation::warn(cx, stored, &wanted);
    admission::validate(cx, row, &wanted, Some(&old))?;
    let taken = strategy.allocate(cx, &mut wanted, Some(&old))?;
    if delete::is_finished(stored, &wanted, &old) {
        return Ok(Step::Remove { last: wanted });
    }
    if wanted == old {
        return Ok(Step::Keep);
    }
    let volatile = strategy.volatile(&wanted, Some(&old));
    Ok(Step::Put { value: wanted, old, volatile, taken })
}

fn keep_part(wanted: &mut Value, old: &Value, part: &str) {
    let Value::Object(map) = wanted else { return };
    match old.get(part) {
        Some(value) => map.insert(part.into(), value.clone()),
        None => map.remove(part),
    };
}

/// The old object with the new status (and, but for workloads, the new labels and annotations).
fn only_status(stored: &Resource, wanted: &mut Value, old: &Value) {
    let mut next = old.clone();
    let status = wanted.get("status").cloned();
    if let Value::Object(map) = &mut next {
        match status {
            Some(status) => map.insert("status".into(), status),
            None => map.remove("status"),
        };
    }
    let kept: &[&str] = if stored.group == "apps" { &["annotations"] } else { &["labels", "annotations"] };
    for field in kept {
        match wanted["metadata"].get(*field).cloned() {
            Some(value) => metadata::of_mut(&mut next).insert((*field).into(), value),
            None => metadata::of_mut(&mut next).remove(*field),
        };
    }
    for field in ["uid", "name"] {
        if let Some(value) = wanted["metadata"].get(field).cloned() {
            metadata::of_mut(&mut next).insert(field.into(), value);
        }
    }
    *wanted = next;
}
