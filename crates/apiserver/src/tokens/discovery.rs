//! OpenID Connect discovery: who the issuer of tokens is, and its public keys, so that others than this
//! server can verify tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Value, json};

use crate::http_body::{Response, full};
use crate::render;
use crate::server::Inner;

pub(crate) const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub(crate) const KEYS: &str = "/openid/v1/jwks";

pub(crate) fn answer(server: &Inner, path: &str) -> Option<Response> {
    let (body, content_type) = match path {
        CONFIGURATION => (configuration(server), "application/json"),
        KEYS => (keys(server), "application/jwk-set+json"),
        _ => return None,
    };
    let body = full(body.to_string());
    let mut response = render::with_type(StatusCode::OK, HeaderValue::from_static(content_type), body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Some(response)
}

fn configuration(server: &Inner) -> Value {
    let (ip, port) = server.config.advertise;
    json!({
        "issuer": server.tokens.issuer(),
        "jwks_uri": format!("https://{ip}:{port}{KEYS}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn keys(server: &Inner) -> Value {
    let ring = server.tokens.keys().refreshed();
    let keys: Vec<Value> = ring
        .public()
        .map(|(kid, point)| {
            // An uncompressed point: a byte 4, then both coordinates.
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({
                "use": "sig", "kty": "EC", "kid": kid, "crv": "P-256", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            })
        })
        .collect();
    json!({"keys": keys})
}
