//! Exec and attach.

use std::sync::Arc;

use skiff_api::status::StatusError;
use skiff_streams::{command, relay};
use tracing::debug;

use super::agent::{Agent, refusal};
use super::{query, spawn_upgraded, switching, target, upgrade_error};
use crate::http_body::{Request, Response};
use crate::resources::Resource;
use crate::server::{Call, Inner};

pub(super) async fn answer(
    server: &Arc<Inner>,
    call: &Call,
    row: &'static Resource,
    is_exec: bool,
    request: Request,
) -> Result<Response, StatusError> {
    let pod = target::pod(server, call, row)?;
    let wants = query::wants(&call.query)?;
    if is_exec && call.query.all("command").next().is_none() {
        return Err(StatusError::bad_request("you must specify at least one command for the container"));
    }
    let container = target::container(&pod, call.query.given("container"))?;
    let node = target::assigned_node(&pod)?;
    let front = command::negotiate(&call.headers).map_err(|error| upgrade_error(&error))?;

    let agent = Agent::of(server, node)?;
    let kind = if is_exec { "exec" } else { "attach" };
    let names = [call.address.namespace.as_str(), call.address.name.as_str(), container.as_str()];
    let ask = agent.request(&query::command_path(kind, names, wants, &call.query))?;
    let dialed = match command::dial(agent.connect().await?, ask).await {
        Ok(dialed) => dialed,
        Err(error) => return refusal(error),
    };

    let response = switching(front.response());
    spawn_upgraded(server, "command", request, async move |io| {
        let relaying = |session| async move {
            let outcome = dialed.run(wants, |remote| relay(session, remote)).await;
            debug!(?outcome, "a remote command ended");
        };
        command::serve(io, &front, wants, relaying).await
    });
    Ok(response)
}
