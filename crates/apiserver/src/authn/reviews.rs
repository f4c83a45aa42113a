//! Who is it: SelfSubjectReview of the request itself, TokenReview of a token that somebody was shown.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::auth::Identity;
use crate::http_body::{Request, Response, full};
use crate::request::Address;
use crate::server::{Inner, read_body};
use crate::{clock, decode, render};

const GROUP: &str = "authentication.k8s.io";
const VERSION: &str = "authentication.k8s.io/v1";

/// Gives the request back when the address is none of these reviews'.
pub(crate) async fn answer(
    server: &Inner,
    address: &Address,
    who: &Identity,
    request: Request,
) -> Result<Result<Response, Request>, StatusError> {
    let kind = match address.resource.as_str() {
        "selfsubjectreviews" => "SelfSubjectReview",
        "tokenreviews" => "TokenReview",
        _ => return Ok(Err(request)),
    };
    let whole = address.name.is_empty() && address.namespace.is_empty();
    if address.group != GROUP || address.version != "v1" || !whole {
        return Ok(Err(request));
    }
    if request.method() != Method::POST {
        return Err(StatusError::method_not_allowed());
    }
    render::negotiate(request.headers(), false)?;
    let (parts, body) = request.into_parts();
    let review = decode::any(&parts.headers, &read_body(body).await?, VERSION, kind)?;
    let answer = match kind {
        "TokenReview" => token_review(server, review)?,
        _ => json!({
            "kind": kind, "apiVersion": VERSION,
            "metadata": {"creationTimestamp": clock::rfc3339(clock::now())},
            "status": {"userInfo": user_info(who)},
        }),
    };
    Ok(Ok(render::json_response(StatusCode::CREATED, full(answer.to_string()))))
}

/// The identity as `authentication.k8s.io/v1` UserInfo.
pub(crate) fn user_info(who: &Identity) -> Value {
    let groups: Vec<&str> = who.groups.iter().map(|group| &**group).collect();
    let mut info = json!({"username": &*who.user, "groups": groups});
    if !who.uid.is_empty() {
        info["uid"] = (*who.uid).into();
    }
    if !who.extra.is_empty() {
        info["extra"] = json!(*who.extra);
    }
    info
}

fn token_review(server: &Inner, mut review: Value) -> Result<Value, StatusError> {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<&str> =
        review["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audiences = if audiences.is_empty() { vec![server.tokens.issuer()] } else { audiences };
    let status = match super::of_token(server, token, &audiences) {
        Ok(validated) => json!({
            "authenticated": true,
            "user": user_info(&validated.identity),
            "audiences": validated.audiences,
        }),
        Err(error) => json!({"user": {}, "error": error}),
    };
    review["kind"] = "TokenReview".into();
    review["apiVersion"] = VERSION.into();
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = status;
    Ok(review)
}
