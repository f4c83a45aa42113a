//! Questions a user asks about themselves: may I.

use http::{Method, StatusCode};
use serde_json::json;
use skiff_api::status::StatusError;

use crate::auth::{Attributes, Identity};
use crate::decode;
use crate::http_body::{Request, Response, full};
use crate::render;
use crate::request::Address;
use crate::server::{Inner, read_body};

pub(crate) async fn answer(
    server: &Inner,
    address: &Address,
    who: &Identity,
    request: Request,
) -> Result<Option<Response>, StatusError> {
    let known = matches!(
        (address.group.as_str(), address.version.as_str(), address.resource.as_str()),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
    );
    if !known || !address.name.is_empty() || !address.namespace.is_empty() {
        return Ok(None);
    }
    if request.method() != Method::POST {
        return Err(StatusError::method_not_allowed());
    }
    render::negotiate(request.headers(), false)?;
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let answer = {
        let mut review =
            decode::any(&parts.headers, &body, "authorization.k8s.io/v1", "SelfSubjectAccessReview")?;
        let of = |field: &str| review["spec"]["resourceAttributes"][field].as_str().unwrap_or_default();
        let path = review["spec"]["nonResourceAttributes"]["path"].as_str().unwrap_or_default();
        let verb = match path {
            "" => of("verb"),
            _ => review["spec"]["nonResourceAttributes"]["verb"].as_str().unwrap_or_default(),
        };
        let what = Attributes {
            verb,
            group: of("group"),
            resource: of("resource"),
            subresource: of("subresource"),
            namespace: of("namespace"),
            name: of("name"),
            path,
        };
        let allowed = server.authorizer.allowed(who, &what);
        review["kind"] = "SelfSubjectAccessReview".into();
        review["apiVersion"] = "authorization.k8s.io/v1".into();
        review["status"] = json!({"allowed": allowed});
        review
    };
    Ok(Some(render::json_response(StatusCode::CREATED, full(answer.to_string()))))
}
