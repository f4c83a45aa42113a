//! Skiff's own questions to a node: what its runtime runs, and its images.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use skiff_client::{Body, BoxError};
use skiff_runtime::{ContainerState, ImageError, Removal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Answer, Query, Refusal, internal, json, text};
use crate::labels;
use crate::node_context::Context;

/// One process group of the node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    pod: String,
    /// `pause` for the sandbox.
    name: String,
    id: String,
    image: String,
    state: &'static str,
    pid: u32,
    age_seconds: u64,
}

pub(super) async fn ps(context: &Arc<Context>) -> Answer {
    let age = |at: SystemTime| SystemTime::now().duration_since(at).unwrap_or_default().as_secs();
    let sandboxes = context.runtime.list_sandboxes().await.map_err(internal)?;
    let containers = context.runtime.list_containers().await.map_err(internal)?;
    let label = |labels: &std::collections::BTreeMap<String, String>, name: &str| {
        labels.get(name).cloned().unwrap_or_default()
    };
    let mut rows = Vec::new();
    for sandbox in sandboxes {
        let own = &sandbox.config.labels;
        rows.push(Row {
            namespace: label(own, labels::POD_NAMESPACE),
            pod: label(own, labels::POD_NAME),
            name: "pause".into(),
            id: sandbox.id.0.clone(),
            image: String::new(),
            state: if sandbox.ready { "Running" } else { "Exited" },
            pid: sandbox.pid,
            age_seconds: age(sandbox.created_at),
        });
        for container in containers.iter().filter(|container| container.sandbox == sandbox.id) {
            rows.push(Row {
                namespace: label(&container.labels, labels::POD_NAMESPACE),
                pod: label(&container.labels, labels::POD_NAME),
                name: labels::container_name(container).to_owned(),
                id: container.id.0.clone(),
                image: container.image.clone(),
                state: match container.state {
                    ContainerState::Created => "Created",
                    ContainerState::Running => "Running",
                    ContainerState::Exited => "Exited",
                    ContainerState::Unknown => "Unknown",
                },
                pid: container.pid,
                age_seconds: age(container.started_at.unwrap_or(container.created_at)),
            });
        }
    }
    json(&rows)
}

pub(super) async fn images(context: &Arc<Context>, query: &Query, request: Request<Incoming>) -> Answer {
    let runtime = &context.runtime;
    let failed = |error: ImageError| {
        let code = match error {
            ImageError::NotPresent(_) => StatusCode::NOT_FOUND,
            ImageError::InUse { .. } => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(code, crate::images::chain(&error))
    };
    match *request.method() {
        Method::GET if query.get("save").is_none() => json(&runtime.list_images().await.map_err(failed)?),
        Method::DELETE => {
            let reference = query.get("ref").unwrap_or_default();
            let removal = match query.get("force") {
                Some("true") => Removal::Forced,
                _ => Removal::Unused,
            };
            runtime.remove_image(reference, removal).await.map_err(failed)?;
            Ok(text(""))
        }
        // Who may merely look is given no image: it may be one that a registry keeps to some.
        Method::POST if query.get("save").is_some() => {
            save(context, query.get("save").unwrap_or_default()).await
        }
        Method::POST => match query.get("pull") {
            Some(reference) => json(&runtime.pull_image(reference, None).await.map_err(failed)?.image),
            None => load(context, request.into_body()).await,
        },
        _ => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed".into())),
    }
}

/// An archive on its way in or out, removed when it is dropped.
struct Archive(std::path::PathBuf);

impl Archive {
    fn new(context: &Context) -> Result<Self, Refusal> {
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let dir = context.config.data_dir.join("archives");
        skiff_runtime::private::make_dir(&dir).map_err(internal)?;
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Self(dir.join(format!("{}-{serial}.tar", std::process::id()))))
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // It may never have been written.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn load(context: &Arc<Context>, mut body: Incoming) -> Answer {
    let archive = Archive::new(context)?;
    let file = skiff_runtime::private::create(&archive.0).map_err(internal)?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal(StatusCode::BAD_REQUEST, crate::images::chain(&error)))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await.map_err(internal)?;
        }
    }
    file.flush().await.map_err(internal)?;
    drop(file);
    // What is wrong with an archive is its sender's to know.
    let loaded = context.runtime.load_image(&archive.0).await.map_err(|error| {
        let path = archive.0.display().to_string();
        let message = crate::images::chain(&error).replace(&path, "the archive");
        Refusal(StatusCode::BAD_REQUEST, message)
    })?;
    json(&loaded)
}

async fn save(context: &Arc<Context>, reference: &str) -> Answer {
    let archive = Archive::new(context)?;
    context
        .runtime
        .save_image(reference, &archive.0)
        .await
        .map_err(|error| Refusal(StatusCode::NOT_FOUND, crate::images::chain(&error)))?;
    let file = tokio::fs::File::open(&archive.0).await.map_err(internal)?;
    let frames = stream::unfold((file, archive), |(mut file, archive)| async move {
        let mut chunk = vec![0; 256 << 10];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok(Frame::data(Bytes::from(chunk))), (file, archive)))
            }
            Err(error) => Some((Err(BoxError::from(error)), (file, archive))),
        }
    });
    let body: Body = BodyExt::boxed_unsync(StreamBody::new(frames));
    Ok(Response::new(body))
}
