//! `nodes/NAME/proxy/…`: any request, handed to the node's agent, with upgrades of any kind.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use skiff_api::status::StatusError;
use tracing::debug;

use super::agent::Agent;
use super::spawn;
use crate::http_body::{Request, Response, empty};
use crate::server::{Call, Inner};

/// Headers of one connection, and what only this server may see.
const KEPT_BACK: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::AUTHORIZATION,
];

pub(super) async fn answer(
    server: &Arc<Inner>,
    call: &Call,
    request: Request,
) -> Result<Response, StatusError> {
    let agent = Agent::of(server, &call.address.name)?;
    let is_upgrade = skiff_streams::upgrade::is_upgrade(request.headers());
    let (mut parts, body) = request.into_parts();
    let path = agent_path(&parts.uri);
    let headers = kept(&parts.headers, is_upgrade);
    let mut ask = http::Request::new(if is_upgrade { empty() } else { body });
    *ask.method_mut() = parts.method.clone();
    *ask.uri_mut() = path.parse().map_err(|error| StatusError::bad_request(format!("{path:?}: {error}")))?;
    *ask.headers_mut() = headers;

    let mut response = agent.send(ask).await?;
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
    spawn(server, "node proxy", async move {
        let (Ok(here), Ok(there)) = tokio::join!(here, there) else {
            debug!("a proxied stream ended before its upgrade");
            return Ok(());
        };
        let (mut here, mut there) = (TokioIo::new(here), TokioIo::new(there));
        tokio::io::copy_bidirectional(&mut here, &mut there).await.map(|_| ())
    });
    Ok(answer.map(|()| empty()))
}

/// What follows `…/nodes/NAME/proxy`, as it was sent, with the query.
fn agent_path(uri: &Uri) -> String {
    let path = uri.path().splitn(7, '/').nth(6).unwrap_or_default();
    match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    }
}

fn kept(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut kept = headers.clone();
    for name in KEPT_BACK {
        let is_upgrade = name == header::CONNECTION || name == header::UPGRADE;
        if !(upgrades && is_upgrade) {
            kept.remove(name);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_gets_the_path_as_it_was_sent() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(agent_path(&uri.parse().expect("a URI")), expected, "{uri}");
        };
        check("/api/v1/nodes/n/proxy/skiff/ps?all=1", "/skiff/ps?all=1");
        check("/api/v1/nodes/n/proxy/a%2Fb/", "/a%2Fb/");
        check("/api/v1/nodes/n/proxy/", "/");
        check("/api/v1/nodes/n/proxy", "/");
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
