//! The way of a request: who asks and what for, whether they may, and which handler answers.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use skiff_api::status::StatusError;
use skiff_api::typed;
use skiff_explain::start::Phase;
use skiff_streams::places::Place;
use tokio::time::Instant;
use tracing::warn;

use crate::auth::{Attributes, Identity, owner};
use crate::delete::DeleteOptions;
use crate::http_body::{Body, Request, Response};
use crate::limits::guarded::InFlight;
use crate::limits::lasting;
use crate::request::{Address, Query, verb};
use crate::resources::Resource;
use crate::serve::Peer;
use crate::server::{Call, Inner, authorize, enter, identity, is_lasting, read_body};
use crate::{
    audit, authn, decode, delete, discovery, encoding, explain, impersonation, metrics, paths, pretty, read,
    render, subresources, watch, write,
};

/// Whoever shows no credential is in it.
const NOBODYS: &str = "system:unauthenticated";
/// After which who found no room may try again.
const RETRY_AFTER_S: i32 = 1;
/// How often a PUT looks again when the object comes and goes under it.
const PUT_ATTEMPTS: usize = 4;

pub(crate) async fn answer(inner: Arc<Inner>, request: Request) -> Response {
    let begun = Instant::now();
    let packs = request.extensions().get::<Peer>().is_some()
        && request.method() == http::Method::GET
        && encoding::takes_gzip(request.headers());
    let in_flight = request.extensions().get::<InFlight>().cloned();
    let address = Address::parse(request.uri().path());
    let query = Query::parse(request.uri().query());
    let path = request.uri().path();
    let (labels, indents) = match &address {
        Some(address) => {
            let dry_run = query.given("dryRun").is_some();
            let verb = verb(request.method(), address, &query);
            let indents = !is_lasting(address, verb) && pretty::is_asked(&query, request.headers());
            (metrics::Labels::of_resource(verb, address, dry_run), indents)
        }
        None => {
            let indents = pretty::is_page(path)
                || (pretty::is_object(path) && pretty::is_asked(&query, request.headers()));
            (metrics::Labels::of_path(request.method(), path), indents)
        }
    };
    let response = dispatch(Arc::clone(&inner), address, query, request).await;
    inner.requests.ended(labels, response.status().as_u16(), begun.elapsed());
    let response =
        if indents { pretty::indented(response, &inner.packer, in_flight.clone()).await } else { response };
    if packs { inner.packer.compressed(response, in_flight).await } else { response }
}

async fn dispatch(
    inner: Arc<Inner>,
    address: Option<Address>,
    query: Query,
    mut request: Request,
) -> Response {
    let who = authn::identity(&inner, &request).and_then(|who| {
        known(&request, &who)?;
        Ok(who)
    });
    let recorded = match &inner.audit {
        Some(audit) => audit.begin(&mut request, who.as_ref().ok()).await,
        None => None,
    };
    let who = who.and_then(|real| {
        let who = impersonation::identity(&inner, request.headers(), real.clone())?;
        if let Some(recorded) = recorded.as_ref().filter(|_| who != real) {
            recorded.impersonated(&who);
        }
        Ok(who)
    });
    let is_secret = address.as_ref().is_some_and(|address| address.resource == "secrets");
    let result = match who {
        Err(refused) => Err(refused),
        Ok(who) => {
            request.extensions_mut().insert(who);
            match address {
                Some(address) => resource(inner, address, query, request).await,
                None => paths::answer(&inner, request).await,
            }
        }
    };
    let failure = recorded.as_ref().and_then(|_| result.as_ref().err().map(|error| error.0.clone()));
    let response = result.unwrap_or_else(|error| {
        if error.code() >= 500 && error.code() != 504 {
            warn!(code = error.code(), error = said(&error, is_secret), "a request failed");
        }
        render::error(&error)
    });
    match recorded {
        Some(recorded) => recorded.finish(response, failure.as_deref()).await,
        None => response,
    }
}

/// What is said of a Secret may quote it.
fn said(error: &StatusError, is_secret: bool) -> String {
    if is_secret { error.reason().to_owned() } else { error.to_string() }
}

/// The connection is no stranger's from the first good credential on.
fn known(request: &Request, who: &Identity) -> Result<(), StatusError> {
    let Some(place) = request.extensions().get::<Place>().filter(|_| !who.in_group(NOBODYS)) else {
        return Ok(());
    };
    place.known(owner(who)).map_err(|_| {
        StatusError::too_many_requests("Too many connections, please try again later.", RETRY_AFTER_S)
    })
}

async fn resource(
    inner: Arc<Inner>,
    address: Address,
    query: Query,
    mut request: Request,
) -> Result<Response, StatusError> {
    let verb = verb(request.method(), &address, &query);
    let who = identity(&request);
    let field_selector = query.given("fieldSelector").unwrap_or_default();
    let selected = address.selected_name(verb, field_selector);
    let attributes = Attributes {
        verb,
        group: &address.group,
        resource: &address.resource,
        subresource: &address.subresource,
        namespace: &address.namespace,
        name: selected.as_deref().unwrap_or(&address.name),
        field_selector,
        path: "",
    };
    // That of a request from the network is held until its answer has been taken.
    let _slot = match is_lasting(&address, verb) {
        true => None,
        false => {
            let slot = enter(&inner, &request, &who)?;
            match request.extensions().get::<InFlight>() {
                Some(held) => held.set(slot).err(),
                None => Some(slot),
            }
        }
    };
    audit::note_decision(&inner, &request, &who, &attributes);
    if explain::serves(&address) {
        return explain::answer(&inner, &who, &address, &attributes, request.method(), &query).await;
    }
    authorize(&inner, &who, &attributes)?;
    // A stream may be asked for by GET, and does something to the pod all the same.
    let is_stream = subresources::is_stream(&address)
        || (subresources::is_node_proxy(&address) && skiff_streams::upgrade::is_upgrade(request.headers()));
    if is_stream && verb == "get" {
        authorize(&inner, &who, &Attributes { verb: "create", ..attributes })?;
    }
    let lasting = match verb {
        // These have no connection to anybody else.
        "watch" => None,
        _ if is_lasting(&address, verb) => begin_lasting(&inner, &who, &mut request)?,
        _ => None,
    };
    let request = audit::keep_body(request, &address, verb).await?;
    let answer = served(inner, address, query, who, verb, request).await?;
    Ok(match lasting {
        Some(place) => place.until_answered(answer),
        None => answer,
    })
}

/// A place among what lasts, which goes with the request also where its connection becomes a stream.
fn begin_lasting(
    inner: &Inner,
    who: &Identity,
    request: &mut Request,
) -> Result<Option<lasting::Place>, StatusError> {
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let place = inner.lasting.begin(who, source)?;
    if let Some(place) = &place {
        request.extensions_mut().insert(place.clone());
    }
    Ok(place)
}

/// What was let in and may be asked.
async fn served(
    inner: Arc<Inner>,
    address: Address,
    query: Query,
    who: Identity,
    verb: &'static str,
    request: Request,
) -> Result<Response, StatusError> {
    let Some(row) = address.row() else {
        // What is not stored can't be watched.
        let answer = match address.watch {
            true => None,
            false => subresources::unlisted(&inner, &address, &who, request).await?,
        };
        return match answer {
            Some(answer) => Ok(answer),
            None if discovery::serves(&address.group, &address.version) => {
                Err(StatusError::no_such_resource())
            }
            None => Ok(render::page_not_found()),
        };
    };
    if !address.fits(row) {
        return Err(StatusError::no_such_resource());
    }
    // A proxy hands on whatever method it is.
    let served = match address.watch {
        true => request.method() == http::Method::GET,
        false => address.subresource == "proxy" || is_served(request.method()),
    };
    if !served {
        return Err(StatusError::method_not_allowed());
    }
    let dry_run = query.dry_run()?;
    if verb == "patch" && !address.name.is_empty() {
        decode::patch_format(request.headers())?;
    }
    let (parts, body) = request.into_parts();
    let source = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    let open = if verb == "watch" { inner.watches.open(&who, source)? } else { None };
    let call = Call {
        who,
        wanted: parts.extensions.get::<typed::Wanted>().is_some(),
        headers: parts.headers.clone(),
        address,
        validation: decode::field_validation(&query)?,
        notes: audit::notes(&parts.extensions),
        query,
        dry_run,
    };
    call.warn(row.deprecated.map(str::to_owned).into_iter().collect());
    let notes = Arc::clone(&call.notes);
    let answer = notes.put_on(resource_call(inner, call, row, verb, parts, body).await?);
    Ok(match open {
        Some(open) => open.until_answered(answer),
        None => answer,
    })
}

fn is_served(method: &http::Method) -> bool {
    use http::Method;

    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method)
}

async fn resource_call(
    inner: Arc<Inner>,
    call: Call,
    row: &'static Resource,
    verb: &'static str,
    parts: http::request::Parts,
    body: Body,
) -> Result<Response, StatusError> {
    if !call.address.subresource.is_empty() {
        let request = http::Request::from_parts(parts, body);
        return subresources::answer(inner, call, row, verb, request).await;
    }
    if !row.verbs.contains(&verb) {
        return Err(StatusError::method_not_allowed());
    }
    match verb {
        "get" => read::get(&inner, &call, row).await,
        "list" if row.namespaced || call.address.namespace.is_empty() => read::list(&inner, &call, row).await,
        "watch" => watch::watch(&inner, &call, row).await,
        "create" if row.namespaced && call.address.namespace.is_empty() => {
            Err(StatusError::method_not_allowed())
        }
        "create" if call.address.name.is_empty() => {
            let value = decode::object(&call, row, &read_body(body).await?)?;
            let began = SystemTime::now();
            let object = write::create(&inner, &call, row, value).await?;
            if row.storage == "pods" {
                inner.config.starts.mark(&object.uid, Phase::Write, began, SystemTime::now());
            }
            inner.object_response(&call, row, StatusCode::CREATED, &object)
        }
        "update" if !call.address.name.is_empty() => {
            let value = decode::object(&call, row, &read_body(body).await?)?;
            put(&inner, &call, row, value).await
        }
        "patch" if !call.address.name.is_empty() => {
            let patch = read_body(body).await?;
            let wanted = decode::kind_of(row);
            let done =
                write::update(&inner, &call, row, |present| decode::patched(&call, &wanted, &patch, present))
                    .await?;
            inner.object_response(&call, row, StatusCode::OK, done.object())
        }
        "delete" => {
            let options = DeleteOptions::read(&call, &read_body(body).await?)?;
            delete::one(&inner, &call, row, &options).await
        }
        "deletecollection" => {
            let options = DeleteOptions::read(&call, &read_body(body).await?)?;
            delete::collection(&inner, &call, row, &options).await
        }
        _ => Err(StatusError::method_not_allowed()),
    }
}

/// PUT: replaces, or for kinds that allow it creates.
async fn put(
    inner: &Inner,
    call: &Call,
    row: &'static Resource,
    value: serde_json::Value,
) -> Result<Response, StatusError> {
    let address = &call.address;
    write::check_name(address, &value)?;
    for _ in 0..PUT_ATTEMPTS {
        match write::update(inner, call, row, |_| Ok(value.clone())).await {
            Ok(done) => return inner.object_response(call, row, StatusCode::OK, done.object()),
            Err(error) if error.reason() == "NotFound" && row.strategy.creates_on_update() => {}
            Err(error) => return Err(error),
        }
        let create = Attributes {
            verb: "create",
            group: &address.group,
            resource: &address.resource,
            namespace: &address.namespace,
            name: &address.name,
            ..Attributes::default()
        };
        authorize(inner, &call.who, &create)?;
        match write::create_by_update(inner, call, row, value.clone()).await {
            Ok(object) => return inner.object_response(call, row, StatusCode::CREATED, &object),
            // Somebody else's creation came between: this is an update after all.
            Err(error) if error.reason() == "AlreadyExists" => {}
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::modified(row.group_resource(), &address.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_secret_the_servers_log_has_the_reason_alone() {
        let error = StatusError::internal("unknown patch type 'x' in map: map[pw:hunter2]");
        assert!(said(&error, false).contains("hunter2"));
        assert_eq!(said(&error, true), "InternalError");
    }
}
