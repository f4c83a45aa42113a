//! Logs of a container: the agent's answer, streamed.

use http::StatusCode;
use http::header::HeaderValue;
use http_body_util::BodyExt;
use skiff_api::status::StatusError;

use super::agent::{Agent, failure};
use super::{query, target};
use crate::http_body::{Response, empty};
use crate::render;
use crate::resources::Resource;
use crate::server::{Call, Inner};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

pub(super) async fn answer(
    server: &Inner,
    call: &Call,
    row: &'static Resource,
) -> Result<Response, StatusError> {
    let pod = target::pod(server, call, row)?;
    let container = target::container(&pod, call.query.given("container"))?;
    let names = [call.address.namespace.as_str(), call.address.name.as_str(), container.as_str()];
    let path = query::log_path(names, &call.query)?;
    let Some(node) = target::node(&pod) else {
        // A pod that has never run has said nothing.
        return Ok(render::with_type(StatusCode::OK, TEXT, empty()));
    };
    let agent = Agent::of(server, node)?;
    let response = agent.send(agent.request(&path)?.map(|()| empty())).await?;
    if !response.status().is_success() {
        return Err(failure(response).await);
    }
    let body = response.into_body().map_err(Into::into).boxed_unsync();
    Ok(render::with_type(StatusCode::OK, TEXT, body))
}
