//! Skiff's questions about the platform itself: its processes on this node, and what they logged.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;
use skiff_client::{Body, BoxError};

use super::{Answer, Refusal, internal, json};
use crate::node_context::Context;
use crate::platform::{self, Logs, Process};

/// How often followed logs are looked at, while somebody follows them.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Status {
    version: String,
    processes: Vec<Process>,
}

pub(super) async fn status(context: &Context) -> Answer {
    // Proportional set sizes make the kernel walk page tables.
    let processes = tokio::task::spawn_blocking(platform::of_this_node).await.map_err(internal)?;
    json(&Status { version: context.config.version.clone(), processes })
}

pub(super) async fn logs(context: &Context, follow: bool) -> Answer {
    let missing = || {
        let node = &context.config.node_name;
        let message = format!(
            "the agent of {node} logs to its standard error: look where its service manager keeps that"
        );
        Refusal(StatusCode::NOT_FOUND, message)
    };
    let dir = context.config.platform_logs.as_deref().filter(|dir| dir.is_dir()).ok_or_else(missing)?;
    let chunks = stream::unfold(Some((Logs::new(dir), true)), move |state| async move {
        let (mut logs, mut first) = state?;
        loop {
            if !first {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
            first = false;
            let read = tokio::task::spawn_blocking(move || (logs.more(), logs)).await;
            let (added, back) = match read {
                Ok(read) => read,
                Err(error) => return Some((Err(BoxError::from(error)), None)),
            };
            logs = back;
            return match added {
                Err(error) => Some((Err(error.into()), None)),
                Ok(text) if text.is_empty() && follow => continue,
                Ok(text) => {
                    let next = follow.then_some((logs, false));
                    Some((Ok(Frame::data(Bytes::from(text))), next))
                }
            };
        }
    });
    let body: Body = BodyExt::boxed_unsync(StreamBody::new(chunks));
    let mut response = Response::new(body);
    let value = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    Ok(response)
}
