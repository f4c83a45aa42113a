//! Deletion: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::auth::Identity;
use crate::claims::Taken;
use crate::http_body::{Response, full};
use crate::object::Object;
use crate::resources::{DeleteMode, Resource};
use crate::server::{Call, Inner};
use crate::write::{Done, Step, modify};
use crate::{admission, cache, clock, metadata, render};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) dry_run: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    /// From a request's body (empty for none) and query.
    pub(crate) fn read(call: &Call, body: &[u8]) -> Result<Self, StatusError> {
        let mut options = if body.is_empty() {
            Self::default()
        } else {
            let value = crate::decode::options(&call.headers, body)?;
            serde_json::from_value(value).map_err(|e| StatusError::bad_request(e.to_string()))?
        };
        if let Some(seconds) = call.query.number("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(seconds);
        }
        if let Some(policy) = call.query.given("propagationPolicy") {
            options.propagation_policy = Some(policy.to_owned());
        }
        if let Some(orphan) = call.query.choice("orphanDependents") {
            options.orphan_dependents = Some(orphan);
        }
        options.check()?;
        Ok(options)
    }

    /// Refuses what nobody can mean, before anything is done.
    pub(crate) fn check(&self) -> Result<(), StatusError> {
        if let Some(other) = self.dry_run.iter().find(|one| *one != "All") {
            let fault = skiff_api::status::Cause::not_supported("dryRun", other.as_str(), &["All"]);
            return Err(StatusError::invalid("meta.k8s.io", "DeleteOptions", "", &[fault]));
        }
        let policy = self.propagation_policy.as_deref();
        if let Some(policy) = policy
            && !matches!(policy, "Orphan" | "Background" | "Foreground")
        {
            let fault = skiff_api::status::Cause::not_supported(
                "propagationPolicy",
                policy,
                &["Foreground", "Background", "Orphan", "nil"],
            );
            return Err(StatusError::invalid("meta.k8s.io", "DeleteOptions", "", &[fault]));
        }
        if policy.is_some() && self.orphan_dependents.is_some() {
            let fault = skiff_api::status::Cause::invalid(
                "propagationPolicy",
                policy.unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
            return Err(StatusError::invalid("meta.k8s.io", "DeleteOptions", "", &[fault]));
        }
        Ok(())
    }

    pub(crate) fn is_dry_run(&self, call: &Call) -> bool {
        call.dry_run || self.dry_run.iter().any(|d| d == "All")
    }

    /// The finalizer that dependents are to be handled with; `None` when the client did not say.
    fn propagation(&self) -> Option<Option<&'static str>> {
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Some(ORPHAN)),
            (Some("Foreground"), _) => Some(Some(FOREGROUND)),
            (Some(_), _) | (None, Some(false)) => Some(None),
            (None, None) => None,
        }
    }
}

/// What becomes of an object that is to be deleted.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Keep,
    Mark(Value),
    Remove,
}

/// Decides a deletion. `now` in Unix seconds.
pub(crate) fn next(stored: &Resource, old: &Value, options: &DeleteOptions, now: i64) -> Next {
    let deleting = metadata::is_deleting(old);
    let before: Vec<String> = metadata::finalizers(old).into_iter().map(String::from).collect();
    let mut finalizers = before.clone();
    if let Some(wanted) = options.propagation() {
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        finalizers.extend(wanted.map(String::from));
    }
    let mode = stored.strategy.delete_mode(old, options.grace_period_seconds);
    let grace = match mode {
        // No longer than until the last date that can be written.
        DeleteMode::Graceful { seconds } => clock::later(now, seconds) - now,
        DeleteMode::Now | DeleteMode::Mark => 0,
    };
    let pending = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let mut new = old.clone();
    if finalizers != before {
        metadata::set_finalizers(&mut new, finalizers.clone());
    }
    let holds = !finalizers.is_empty() || mode == DeleteMode::Mark;
    if grace == 0 && !holds {
        return Next::Remove;
    }
    let (at, grace) = if !deleting {
        (now + grace, grace)
    } else if pending > grace && (options.grace_period_seconds.is_some() || grace == 0) {
        let set = clock::parse(metadata::text(old, "deletionTimestamp")).unwrap_or(now);
        (clock::later(set.saturating_sub(pending), grace), grace)
    } else {
        return if new == *old { Next::Keep } else { Next::Mark(new) };
    };
    if !deleting && stored.generation {
        metadata::increment_generation(&mut new, old);
    }
    let meta = metadata::of_mut(&mut new);
    meta.insert("deletionTimestamp".into(), clock::rfc3339(at).into());
    if mode == DeleteMode::Mark {
        stored.strategy.marked(&mut new);
    } else {
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    Next::Mark(new)
}

/// Whether an update has taken the last thing that kept a deleted object.
pub(crate) fn is_finished(stored: &Resource, new: &Value, old: &Value) -> bool {
    stored.strategy.is_finished(new, old)
}

async fn delete_one(
    server: &Inner,
    who: &Identity,
    row: &'static Resource,
    key: &str,
    options: &DeleteOptions,
    dry_run: bool,
) -> Result<Done, StatusError> {
    let stored = server.stored_row(row);
    modify(server, stored, row, key, dry_run, |current| {
        check_preconditions(current, row, options)?;
        let old = current.value(stored);
        admission::delete(server, who, row, &old)?;
        Ok(match next(stored, &old, options, clock::now()) {
            Next::Keep => Step::Keep,
            Next::Mark(value) => Step::Put { value, old, volatile: false, taken: Taken::default() },
            Next::Remove => Step::Remove { last: old },
        })
    })
    .await
}

pub(crate) fn check_preconditions(
    current: &Object,
    row: &Resource,
    options: &DeleteOptions,
) -> Result<(), StatusError> {
    let Some(wanted) = &options.preconditions else { return Ok(()) };
    if let Some(uid) = &wanted.uid
        && **uid != *current.uid
    {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", current.uid);
        return Err(StatusError::conflict(row.group_resource(), current.name(), &why));
    }
    if let Some(version) = &wanted.resource_version
        && *version != current.revision.to_string()
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object \
             meta: {}",
            current.revision
        );
        return Err(StatusError::conflict(row.group_resource(), current.name(), &why));
    }
    Ok(())
}

/// DELETE of one object.
pub(crate) async fn one(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    options: &DeleteOptions,
) -> Result<Response, StatusError> {
    let name = call.address.name.as_str();
    let key = server.stored_row(row).key(&call.address.namespace_of(row), name);
    let done = delete_one(server, &call.who, row, &key, options, options.is_dry_run(call)).await?;
    let object = match &done {
        Done::Removed(last) if !row.strategy.returns_deleted() => {
            let of = row.group_resource();
            let mut details = json!({"name": name, "kind": of.resource, "uid": &*last.uid});
            if !of.group.is_empty() {
                details["group"] = of.group.into();
            }
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": details,
            });
            return Ok(render::json_response(StatusCode::OK, full(status.to_string())));
        }
        done => done.object(),
    };
    let accepted = !matches!(done, Done::Removed(_)) && options.orphan_dependents == Some(false);
    let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
    server.object_response(call, row, code, object)
}

/// DELETE of a collection: all that match, each by itself; the answer lists them.
pub(crate) async fn collection(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
    options: &DeleteOptions,
) -> Result<Response, StatusError> {
    let stored = server.stored_row(row);
    let selection = crate::select::Selection::parse(row, &call.query)?;
    let namespace = call.address.namespace_of(row);
    let view = server.caches.of(stored).view(server.caches.applied());
    let matching: Vec<Arc<Object>> = cache::in_namespace(&view.objects, stored, &namespace, None)
        .filter(|o| selection.matches(o))
        .cloned()
        .collect();
    let mut deleted = Vec::with_capacity(matching.len());
    for object in matching {
        match delete_one(server, &call.who, row, &object.key, options, options.is_dry_run(call)).await {
            Ok(done) => deleted.push(Arc::clone(done.object())),
            // Somebody else was faster, which is as good.
            Err(error) if error.reason() == "NotFound" => {}
            Err(error) => return Err(error),
        }
    }
    let renderer = server.renderer(call, row)?;
    let json = renderer.list(&deleted, server.caches.applied(), None, None);
    Ok(render::respond(StatusCode::OK, json, renderer.accepted.yaml))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::find;

    fn pod(extra: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
        });
        json_patch::merge(&mut pod, &extra);
        pod
    }

    fn decide(object: &Value, options: Value) -> Next {
        let options = serde_json::from_value(options).expect("options");
        next(find("", "pods").expect("pods"), object, &options, 1_000_000_000)
    }

    fn marked(next: Next) -> (String, Value, Value) {
        let Next::Mark(v) = next else { panic!("{next:?}") };
        let m = &v["metadata"];
        (
            metadata::text(&v, "deletionTimestamp").to_owned(),
            m["deletionGracePeriodSeconds"].clone(),
            m["generation"].clone(),
        )
    }

    #[test]
    fn a_bound_pod_gets_its_grace() {
        let (at, grace, generation) = marked(decide(&pod(json!({})), json!({})));
        assert_eq!((at.as_str(), grace, generation), ("2001-09-09T01:47:10Z", json!(30), json!(2)));
        let (_, grace, _) = marked(decide(&pod(json!({})), json!({"gracePeriodSeconds": 5})));
        assert_eq!(grace, json!(5));
    }

    #[test]
    fn an_unbound_or_finished_pod_goes_at_once() {
        assert_eq!(decide(&pod(json!({"spec": {"nodeName": null}})), json!({})), Next::Remove);
        assert_eq!(decide(&pod(json!({"status": {"phase": "Failed"}})), json!({})), Next::Remove);
        assert_eq!(decide(&pod(json!({})), json!({"gracePeriodSeconds": 0})), Next::Remove);
    }

    #[test]
    fn grace_can_only_be_shortened() {
        let deleting = pod(json!({"metadata": {
            "deletionTimestamp": "2001-09-09T01:47:10Z", "deletionGracePeriodSeconds": 30}}));
        assert_eq!(decide(&deleting, json!({})), Next::Keep);
        assert_eq!(decide(&deleting, json!({"gracePeriodSeconds": 60})), Next::Keep);
        let (at, grace, generation) = marked(decide(&deleting, json!({"gracePeriodSeconds": 10})));
        assert_eq!((at.as_str(), grace, generation), ("2001-09-09T01:46:50Z", json!(10), json!(1)));
        assert_eq!(decide(&deleting, json!({"gracePeriodSeconds": 0})), Next::Remove);
    }

    #[test]
    fn a_grace_beyond_all_dates_ends_with_the_last() {
        for seconds in [300_000_000_000, i64::MAX] {
            let asked = decide(&pod(json!({})), json!({"gracePeriodSeconds": seconds}));
            let said = pod(json!({"spec": {"terminationGracePeriodSeconds": seconds}}));
            for decided in [asked, decide(&said, json!({}))] {
                let Next::Mark(deleting) = &decided else { panic!("{decided:?}") };
                let shortened = decide(deleting, json!({"gracePeriodSeconds": 10}));
                let (at, grace, _) = marked(decided);
                assert_eq!(at, "9999-12-30T22:00:00Z");
                assert_eq!(grace, json!(252_402_207_200_i64), "until then");
                let (at, grace, _) = marked(shortened);
                assert_eq!((at.as_str(), grace), ("2001-09-09T01:46:50Z", json!(10)));
            }
        }
        // As an earlier version may have stored it.
        let dateless =
            pod(json!({"metadata": {"deletionTimestamp": "", "deletionGracePeriodSeconds": i64::MAX}}));
        let (at, grace, _) = marked(decide(&dateless, json!({"gracePeriodSeconds": 10})));
        assert!(clock::parse(&at).is_some(), "{at}");
        assert_eq!(grace, json!(10));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let held = pod(json!({"metadata": {"finalizers": ["example.com/x"]}}));
        let (_, grace, _) = marked(decide(&held, json!({"gracePeriodSeconds": 0})));
        assert_eq!(grace, json!(0));
        let Next::Mark(v) = decide(&pod(json!({})), json!({"propagationPolicy": "Foreground"})) else {
            panic!("not marked")
        };
        assert_eq!(metadata::finalizers(&v), [FOREGROUND]);
    }
}
