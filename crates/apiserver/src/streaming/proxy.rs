//! `nodes/NAME/proxy/…`, `pods/NAME/proxy/…`, `services/NAME/proxy/…`: any request, handed to the node's agent
//! or to the pod, with upgrades of any kind.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use skiff_api::status::StatusError;
use tracing::debug;

use super::agent::Agent;
use super::{backend, spawn};
use crate::authn::bearer;
use crate::http_body::{Request, Response, empty};
use crate::limits::lasting;
use crate::resources::Resource;
use crate::server::{Call, Inner};

/// Headers of one connection, and what only this server may see.
const KEPT_BACK: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// How headers begin that say as whom a caller acts, which is judged here alone.
const IMPERSONATE: &str = "impersonate-";

pub(super) async fn answer(
    server: &Arc<Inner>,
    call: &Call,
    row: &'static Resource,
    request: Request,
) -> Result<Response, StatusError> {
    let namespaced = row.storage != "nodes";
    if namespaced && let Some(to) = with_slash(request.method(), request.uri()) {
        return Ok(moved(&to));
    }
    let is_upgrade = skiff_streams::upgrade::is_upgrade(request.headers());
    let (mut parts, body) = request.into_parts();
    let path = path_below(&parts.uri, namespaced);
    let headers = kept(&parts.headers, is_upgrade);
    let mut ask = http::Request::new(if is_upgrade { empty() } else { body });
    *ask.method_mut() = parts.method.clone();
    *ask.uri_mut() = path.parse().map_err(|error| StatusError::bad_request(format!("{path:?}: {error}")))?;
    *ask.headers_mut() = headers;

    let mut response = match namespaced {
        true => backend::send(backend::of(server, call, row)?, ask).await?,
        false => Agent::of(server, &call.address.name)?.send(ask).await?,
    };
    let mut answer = http::Response::new(());
    *answer.status_mut() = response.status();
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = kept(response.headers(), switches);
    if !switches {
        return Ok(answer.map(|()| response.into_body().map_err(Into::into).boxed_unsync()));
    }

    let there = hyper::upgrade::on(&mut response);
    let Some(here) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
        return Err(StatusError::bad_request("this connection cannot be upgraded"));
    };
    let held = parts.extensions.remove::<lasting::Place>();
    spawn(server, "proxy", async move {
        let _held = held;
        let (Ok(here), Ok(there)) = tokio::join!(here, there) else {
            debug!("a proxied stream ended before its upgrade");
            return Ok(());
        };
        let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
        tokio::io::copy_bidirectional(&mut here, &mut there).await.map(|_| ())
    });
    Ok(answer.map(|()| empty()))
}

/// What follows `…/NAME/proxy`, as it was sent, with the query.
fn path_below(uri: &Uri, namespaced: bool) -> String {
    let before = if namespaced { 8 } else { 6 };
    let path = uri.path().splitn(before + 1, '/').nth(before).unwrap_or_default();
    match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    }
}

/// Pages refer to others beside them, so that the root of a pod's pages must end with a slash.
fn with_slash(method: &Method, uri: &Uri) -> Option<String> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if !reads || !uri.path().ends_with("/proxy") || uri.path().split('/').count() != 8 {
        return None;
    }
    Some(match uri.query() {
        Some(query) => format!("{}/?{query}", uri.path()),
        None => format!("{}/", uri.path()),
    })
}

fn moved(to: &str) -> Response {
    let mut response = http::Response::new(empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(to) = header::HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

fn kept(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut kept = headers.clone();
    for name in KEPT_BACK {
        let is_upgrade = name == header::CONNECTION || name == header::UPGRADE;
        if !(upgrades && is_upgrade) {
            kept.remove(name);
        }
    }
    bearer::hide(&mut kept);
    let impersonating: Vec<HeaderName> =
        kept.keys().filter(|name| name.as_str().starts_with(IMPERSONATE)).cloned().collect();
    impersonating.iter().for_each(|name| {
        kept.remove(name);
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_gets_the_path_as_it_was_sent() {
        let check = |uri: &str, expected: &str| {
            let namespaced = uri.contains("/namespaces/");
            assert_eq!(path_below(&uri.parse().expect("a URI"), namespaced), expected, "{uri}");
        };
        check("/api/v1/namespaces/n/pods/p:80/proxy/a/b?c=d", "/a/b?c=d");
        check("/api/v1/namespaces/n/services/s/proxy/", "/");
        check("/api/v1/nodes/n/proxy/skiff/ps?all=1", "/skiff/ps?all=1");
        check("/api/v1/nodes/n/proxy/a%2Fb/", "/a%2Fb/");
        check("/api/v1/nodes/n/proxy/", "/");
        check("/api/v1/nodes/n/proxy", "/");
    }

    #[test]
    fn the_root_of_a_pods_pages_ends_with_a_slash() {
        let check = |method: Method, uri: &str| with_slash(&method, &uri.parse().expect("a URI"));
        let root = "/api/v1/namespaces/n/pods/p/proxy";
        assert_eq!(check(Method::GET, root), Some(format!("{root}/")));
        assert_eq!(check(Method::GET, &format!("{root}?a=b")), Some(format!("{root}/?a=b")));
        assert_eq!(check(Method::POST, root), None);
        assert_eq!(check(Method::GET, &format!("{root}/")), None);
        assert_eq!(check(Method::GET, &format!("{root}/x/proxy")), None);
    }

    #[test]
    fn tokens_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("authorization", "Bearer x"), ("connection", "upgrade"), ("upgrade", "x"), ("accept", "*/*")]
        {
            headers.insert(HeaderName::from_static(name), value.parse().expect("a value"));
        }
        let names = |upgrades| {
            let mut names: Vec<String> = kept(&headers, upgrades).keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(false), ["accept"]);
        assert_eq!(names(true), ["accept", "connection", "upgrade"]);
    }
}
