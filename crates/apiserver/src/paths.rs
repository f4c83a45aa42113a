//! Paths that are no resources: health, version, discovery.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::auth::Attributes;
use crate::http_body::{Request, Response, full};
use crate::request::Query;
use crate::server::{Inner, authorize, enter, identity};
use crate::{audit, clock, discovery, health, metrics, openapi, render, tokens};

/// How long the certificates of the cluster are good.
const CERTIFICATES: &str = "/skiff/v1/certificates";

/// What an agent must know of its cluster.
const CLUSTER: &str = "/skiff/v1/cluster";

pub(crate) async fn answer(server: &Arc<Inner>, request: Request) -> Result<Response, StatusError> {
    let path = request.uri().path().to_owned();
    let who = identity(&request);
    let verb = request.method().as_str().to_ascii_lowercase();
    let what = Attributes { verb: &verb, path: &path, ..Attributes::default() };
    let _slot = enter(server, &request, &who)?;
    audit::note_decision(server, &request, &who, &what);
    authorize(server, &who, &what)?;
    // Whether the server is well, it says to whatever method.
    if let Some(answer) = health::answer(server, &path, request.uri().query()).await {
        return Ok(answer);
    }
    let method = request.method().clone();
    let answer = found(server, request, &path).await?;
    let takes = match method {
        Method::GET => true,
        Method::HEAD => is_page(&path),
        _ => false,
    };
    match answer.status() == StatusCode::NOT_FOUND || takes {
        true => Ok(answer),
        false => Err(StatusError::method_not_allowed()),
    }
}

/// Upstream's discovery is of resources, which are asked for by GET alone; the rest are pages.
fn is_page(path: &str) -> bool {
    let first = path.trim_matches('/').split('/').next().unwrap_or_default();
    matches!(first, "" | "metrics" | "openapi" | "skiff")
}

/// The answer to a GET.
async fn found(server: &Arc<Inner>, request: Request, path: &str) -> Result<Response, StatusError> {
    match path.trim_end_matches('/') {
        "/version" => Ok(version(server)),
        "/metrics" => {
            const MEDIA_TYPE: HeaderValue = HeaderValue::from_static(metrics::MEDIA_TYPE);
            Ok(render::own(StatusCode::OK, MEDIA_TYPE, full(metrics::text(server))))
        }
        CERTIFICATES => Ok(certificates(server)),
        CLUSTER => Ok(cluster(server)),
        tokens::discovery::CONFIGURATION | tokens::discovery::KEYS => {
            Ok(tokens::discovery::answer(server, path).unwrap_or_else(render::page_not_found))
        }
        path if path.starts_with("/openapi/") => {
            let query = Query::parse(request.uri().query());
            let headers = request.into_parts().0.headers;
            let answer = openapi::answer(&server.openapi, path, headers, query).await?;
            Ok(answer.unwrap_or_else(render::page_not_found))
        }
        path => Ok(discovery::answer(server, path, &request)?.unwrap_or_else(render::page_not_found)),
    }
}

/// How long the cluster's certificates are good, for who shall renew the authority, or wonders.
fn certificates(server: &Inner) -> Response {
    let now = server.config.clock.now();
    let lives = server.config.pki.as_ref().map(|pki| pki.lives()).unwrap_or_default();
    let certificates: Vec<Value> = lives
        .iter()
        .map(|life| {
            json!({
                "name": life.name,
                "notBefore": clock::rfc3339(life.not_before),
                "notAfter": clock::rfc3339(life.not_after),
                "daysLeft": (life.not_after - now).div_euclid(86_400),
            })
        })
        .collect();
    render::json_response(StatusCode::OK, full(json!({"certificates": certificates}).to_string()))
}

fn cluster(server: &Inner) -> Response {
    let config = &server.config;
    let body = json!({
        "ca": config.pki.as_ref().map(|pki| pki.ca()),
        "caHash": config.pki.as_ref().map(|pki| pki.ca_hash()),
        "clusterCIDR": config.cluster_cidr.to_string(),
        "serviceCIDR": config.service_cidr.to_string(),
        "clusterDNS": config.cluster_dns.to_string(),
        "clusterDomain": config.cluster_domain,
    });
    render::json_response(StatusCode::OK, full(body.to_string()))
}

fn version(server: &Inner) -> Response {
    let git_version = &server.config.version;
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let body = json!({
        "major": numbers.next().unwrap_or_default(),
        "minor": numbers.next().unwrap_or_default(),
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    });
    render::json_response(StatusCode::OK, full(body.to_string()))
}
