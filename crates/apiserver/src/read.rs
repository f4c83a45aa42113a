//! Get and list, from the cache.

use std::sync::Arc;

use http::StatusCode;
use skiff_api::status::{Cause, StatusError};
use skiff_api::typed::{self, AnyObject};

use crate::cache::{StorageCache, View, in_namespace, range_of};
use crate::continue_token::Token;
use crate::http_body::{Response, lazy};
use crate::object::Object;
use crate::render;
use crate::resources::Resource;
use crate::select::Selection;
use crate::server::{Call, Inner};

/// How long a read waits for a revision that this server has not reached yet.
const FUTURE_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

pub(crate) async fn get(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
) -> Result<Response, StatusError> {
    let stored = server.stored_row(row);
    let key = stored.key(&call.address.namespace_of(row), &call.address.name);
    if let Some(revision) = parse_version(call.query.given("resourceVersion"))? {
        wait_for(server, revision).await?;
    }
    match server.caches.of(stored).get(&key) {
        Some(object) => server.object_response(call, row, StatusCode::OK, &object),
        None => Err(StatusError::not_found(row.group_resource(), &call.address.name)),
    }
}

pub(crate) fn parse_version(text: Option<&str>) -> Result<Option<u64>, StatusError> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(revision) => Ok(Some(revision)),
        Err(_) => Err(StatusError::bad_request(format!(
            "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))),
    }
}

/// Waits a little until the cache is at `revision`; 504 when it is not to be had.
pub(crate) async fn wait_for(server: &Inner, revision: u64) -> Result<(), StatusError> {
    if server.caches.applied() >= revision {
        return Ok(());
    }
    match tokio::time::timeout(FUTURE_WAIT, server.caches.reached(revision)).await {
        Ok(()) => Ok(()),
        Err(_) => Err(StatusError::too_large_resource_version(revision, server.caches.applied())),
    }
}

/// What a list asks for, beside its selectors.
struct Page {
    view: View,
    /// Where in the listed range to begin.
    from: Option<String>,
    /// 0: all.
    limit: usize,
}

/// Finds the state that a list is of, by the rules of `resourceVersion`, its match, and `continue`.
async fn page(server: &Inner, call: &Call, cache: &StorageCache) -> Result<Page, StatusError> {
    let query = &call.query;
    let limit = query.number("limit")?.unwrap_or(0).max(0) as usize;
    let version = query.given("resourceVersion");
    let revision = parse_version(version)?;
    let matching = query.given("resourceVersionMatch");
    let invalid = |fault: Cause| StatusError::invalid("meta.k8s.io", "ListOptions", "", &[fault]);
    if let Some(given) = matching {
        if revision.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
        }
        if query.given("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            return Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
        }
        if !matches!(given, "Exact" | "NotOlderThan") {
            let fault = Cause::not_supported("resourceVersionMatch", given, &["Exact", "NotOlderThan", ""]);
            return Err(invalid(fault));
        }
        if given == "Exact" && revision == Some(0) {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(invalid(Cause::forbidden("resourceVersionMatch", why)));
        }
    }
    if let Some(token) = query.given("continue") {
        let token = Token::decode(token)?;
        if revision.is_some_and(|r| r != 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(StatusError::bad_request(why));
        }
        let view = match u64::try_from(token.revision) {
            Err(_) => cache.view(server.caches.applied()),
            Ok(revision) => match cache.at(revision) {
                Some(view) => view,
                None => return Err(StatusError::continue_expired(token.of_now().encode())),
            },
        };
        return Ok(Page { view, from: Some(token.start), limit });
    }
    if let Some(revision) = revision {
        wait_for(server, revision).await?;
    }
    let present = cache.view(server.caches.applied());
    let exact =
        matching == Some("Exact") || (matching.is_none() && limit > 0 && revision.is_some_and(|r| r > 0));
    let view = match revision {
        Some(revision) if exact && revision != present.revision => {
            cache.at(revision).ok_or_else(|| StatusError::too_old(revision, present.revision))?
        }
        _ => present,
    };
    // Any version will do: upstream answers from its cache, which knows no pages.
    let limit = if revision == Some(0) && matching != Some("Exact") { 0 } else { limit };
    Ok(Page { view, from: None, limit })
}

pub(crate) async fn list(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
) -> Result<Response, StatusError> {
    let stored = server.stored_row(row);
    let cache = server.caches.of(stored);
    let renderer = server.renderer(call, row)?;
    let selection = Selection::parse(row, &call.query)?;
    let namespace = call.address.namespace_of(row);
    let Page { view, from, limit } = page(server, call, cache).await?;

    let mut matching = in_namespace(&view.objects, stored, &namespace, from.as_deref())
        .filter(|o| selection.matches(o))
        .cloned();
    let mut items: Vec<Arc<Object>> = match limit {
        0 => matching.by_ref().collect(),
        limit => matching.by_ref().take(limit).collect(),
    };
    let remaining = if limit > 0 && items.len() == limit { matching.count() } else { 0 };
    let token = (remaining > 0).then(|| {
        cache.keep_for_pages(&view);
        let last = items.last().map(|o| o.key.as_ref()).unwrap_or_default();
        let listed = last.strip_prefix(range_of(stored, &namespace).as_str()).unwrap_or_default();
        Token::after(view.revision, listed).encode()
    });
    let remaining = selection.is_everything().then_some(remaining);
    let revision = view.revision;

    if call.wanted && renderer.is_plain() && token.is_none() {
        let typed: Option<Vec<AnyObject>> = items.iter().map(|o| o.typed(stored)).collect();
        if let Some(typed) = typed {
            let items = std::mem::take(&mut items);
            let body = lazy(move || renderer.list(&items, revision, None, None));
            let mut response = render::json_response(StatusCode::OK, body);
            response
                .extensions_mut()
                .insert(typed::List { items: Arc::new(typed), resource_version: revision.to_string() });
            return Ok(response);
        }
    }
    let json = renderer.list(&items, revision, token.as_deref(), remaining);
    Ok(render::respond(StatusCode::OK, json, renderer.accepted.yaml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_none_is_named() {
        let refused = |text| parse_version(Some(text)).map_err(|e| (e.code(), e.message().to_owned()));
        let words =
            |text| format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
        for text in ["foo", "-1", "1.5"] {
            assert_eq!(refused(text), Err((400, words(text))));
        }
        assert_eq!(refused("7"), Ok(Some(7)));
    }
}
