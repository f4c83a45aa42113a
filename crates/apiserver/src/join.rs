//! How a further node comes in: its agent shows the join token and a request for certificates, and gets
//! them with what it must know of the cluster.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use skiff_api::status::StatusError;

use crate::http_body::{Request, Response, full};
use crate::names;
use crate::render;
use crate::server::{Inner, read_body};

pub const PATH: &str = "/skiff/v1/join";

/// The body of a `POST` to [`PATH`]; the token goes into `Authorization: Bearer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    pub node_name: String,
    /// Addresses that the agent's own port 10250 is reached at.
    pub ips: Vec<IpAddr>,
    /// A certificate signing request, PEM; only its key matters.
    pub csr: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinResponse {
    /// All PEM.
    pub ca: String,
    pub client_certificate: String,
    pub serving_certificate: String,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: String,
    pub cluster_domain: String,
}

pub(crate) async fn answer(server: &Arc<Inner>, request: Request) -> Response {
    match join(server, request).await {
        Ok(answer) => {
            let json = serde_json::to_vec(&answer).expect("strings can be written to memory");
            render::json_response(StatusCode::CREATED, full(json))
        }
        Err(error) => render::error(&error),
    }
}

async fn join(server: &Inner, request: Request) -> Result<JoinResponse, StatusError> {
    if request.method() != Method::POST {
        return Err(StatusError::method_not_allowed());
    }
    let Some(pki) = &server.config.pki else {
        return Err(StatusError::unavailable("this server signs no certificates"));
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = given.strip_prefix("Bearer ").unwrap_or_default().trim();
    if !same(token.as_bytes(), pki.join_token().as_bytes()) && !crate::authn::may_join(server, token) {
        return Err(StatusError::unauthorized());
    }
    let body = read_body(request.into_body()).await?;
    let wanted: JoinRequest =
        serde_json::from_slice(&body).map_err(|e| StatusError::bad_request(e.to_string()))?;
    if let Some(fault) = names::subdomain(&wanted.node_name) {
        return Err(StatusError::bad_request(format!("nodeName {:?}: {fault}", wanted.node_name)));
    }
    let (client_certificate, serving_certificate) = pki
        .sign_node(&wanted.node_name, &wanted.ips, &wanted.csr)
        .map_err(|e| StatusError::bad_request(format!("cannot sign the node's request: {e}")))?;
    tracing::info!(node = wanted.node_name, "a node has joined");
    let config = &server.config;
    Ok(JoinResponse {
        ca: pki.ca().to_owned(),
        client_certificate,
        serving_certificate,
        cluster_cidr: config.cluster_cidr.to_string(),
        service_cidr: config.service_cidr.to_string(),
        cluster_dns: config.cluster_dns.to_string(),
        cluster_domain: config.cluster_domain.clone(),
    })
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
