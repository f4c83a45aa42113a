//! `/containerLogs`: a container's log as plain text, followed to the container's end if asked.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use skiff_client::{Body, BoxError};
use skiff_runtime::{Container, ContainerId, ContainerState};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{Answer, Query, Refusal, history, internal};
use crate::labels;
use crate::log_place;
use crate::logs::{self, Filter, Options};
use crate::node_context::Context;
use crate::observed::is_over;

/// How often a followed log is looked at, while somebody follows it.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
const CHUNK: usize = 32 << 10;

pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    name: &str,
    query: &Query,
) -> Answer {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let options = options(query).map_err(bad)?;
    let containers = history(context, namespace, pod, name).await?;
    let ran: Vec<&Container> =
        containers.iter().filter(|container| container.state != ContainerState::Created).collect();
    let waits_for = waiting(context, namespace, pod, name);
    let chosen = if query.is("previous") {
        previous(&ran, waits_for.is_some()).ok_or_else(|| {
            bad(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"))
        })?
    } else {
        ran.first().copied().ok_or_else(|| {
            let why = waits_for.unwrap_or_else(|| "ContainerCreating".into());
            bad(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {why}"))
        })?
    };
    let path = chosen.log_path.clone().ok_or_else(|| bad("the container has no log".into()))?;
    let files = logs::files(&path);
    let (index, offset) = match options.tail {
        Some(lines) if !files.is_empty() => logs::tail_start(&files, lines).map_err(internal)?,
        _ => (0, 0),
    };
    let mut reader = Reader {
        context: context.clone(),
        id: chosen.id.clone(),
        follow: query.is("follow"),
        old: files.into_iter().skip(index).filter(|file| *file != path).collect(),
        path,
        file: None,
        offset,
        filter: Filter::new(options),
        is_last: false,
        over: false,
    };
    reader.old.reverse();
    let frames = stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await.transpose()?;
        Some((chunk.map(|bytes| Frame::data(Bytes::from(bytes))).map_err(BoxError::from), reader))
    });
    let body: Body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let mut response = Response::new(body);
    let value = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    Ok(response)
}

/// The run before the one that a container's status is about: of one that waits to run again that is the
/// newest, otherwise the one before the newest. `ran` has the newest first.
fn previous<'a>(ran: &[&'a Container], waits: bool) -> Option<&'a Container> {
    let newest = ran.first()?;
    let at = usize::from(!(waits && is_over(newest)));
    ran.get(at).copied().filter(|container| is_over(container))
}

/// What a container waits for, as its status says.
fn waiting(context: &Context, namespace: &str, pod: &str, name: &str) -> Option<String> {
    let pod = context.pods.get(&skiff_client::ObjectKey::new(namespace, pod));
    let pod = pod?;
    let status = pod.status.as_ref()?;
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let own = all.find(|status| status.name == name)?;
    let reason = own.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    let words = match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        reason => reason,
    };
    Some(words.to_owned())
}

fn options(query: &Query) -> Result<Options, String> {
    let number = |name: &str| match query.get(name) {
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("invalid {name}: {text:?}")),
        None => Ok(None),
    };
    let mut since = None;
    if let Some(seconds) = number("sinceSeconds")? {
        let at = SystemTime::now().checked_sub(Duration::from_secs(seconds));
        since = at.map(crate::time::timestamp);
    }
    if let Some(text) = query.get("sinceTime") {
        since = Some(text.parse().map_err(|_| format!("invalid sinceTime: {text:?}"))?);
    }
    Ok(Options {
        tail: number("tailLines")?,
        since,
        timestamps: query.is("timestamps"),
        limit_bytes: number("limitBytes")?,
        stream: query.get("stream").filter(|stream| *stream != "All").map(str::to_owned),
    })
}

/// Reads the rotated files, then the written one, then what is added to it.
struct Reader {
    context: Arc<Context>,
    id: ContainerId,
    follow: bool,
    /// The oldest last.
    old: Vec<PathBuf>,
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    filter: Filter,
    /// The open file is the one that is written.
    is_last: bool,
    /// The container has ended: one more read to the end is all.
    over: bool,
}

impl Reader {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            if self.filter.is_full() {
                return Ok(None);
            }
            let Some(file) = &mut self.file else {
                if !self.open().await? {
                    return Ok(None);
                }
                continue;
            };
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk).await?;
            if read > 0 {
                let out = self.filter.feed(&chunk[..read]);
                if !out.is_empty() {
                    return Ok(Some(out));
                }
                continue;
            }
            if !self.is_last {
                self.file = None;
                continue;
            }
            if self.rotated().await? {
                self.file = None;
                continue;
            }
            if !self.follow || self.over {
                return Ok(None);
            }
            self.over = !self.runs().await;
            if !self.over {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
        }
    }

    async fn open(&mut self) -> std::io::Result<bool> {
        let path = self.old.pop();
        self.is_last = path.is_none();
        let mut file = match log_place::open(path.as_ref().unwrap_or(&self.path)) {
            Ok(file) => File::from_std(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.is_last => return Ok(false),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(std::mem::take(&mut self.offset))).await?;
        self.file = Some(file);
        Ok(true)
    }

    /// Whether the name means another file by now.
    async fn rotated(&self) -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Some(file) = &self.file else { return Ok(false) };
        let own = file.metadata().await?.ino();
        Ok(tokio::fs::symlink_metadata(&self.path).await.is_ok_and(|named| named.ino() != own))
    }

    async fn runs(&self) -> bool {
        let containers = self.context.runtime.list_containers().await.unwrap_or_default();
        containers.iter().any(|container| {
            container.id == self.id
                && container.state == ContainerState::Running
                && !labels::uid(&container.labels).is_empty()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::container;

    #[test]
    fn the_previous_run_is_the_one_before_what_the_status_tells() {
        let check = |runs: &[&str], waits: bool, expected: Option<&str>| {
            let runs: Vec<Container> = runs.iter().map(|text| container(text)).collect();
            let found = previous(&runs.iter().collect::<Vec<_>>(), waits);
            assert_eq!(found.map(|found| found.id.0.as_str()), expected);
        };
        check(&["c:1:run", "c:0:1:9"], false, Some("c0"));
        check(&["c:1:0:1", "c:0:1:9"], false, Some("c0"));
        check(&["c:1:1:1", "c:0:1:9"], true, Some("c1"));
        check(&["c:0:1:1"], true, Some("c0"));
        check(&["c:0:0:1"], false, None);
        check(&["c:0:run"], false, None);
        check(&[], true, None);
    }
}
