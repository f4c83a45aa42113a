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

use super::followed::{Follow, Followed};
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
    followed: &Followed,
    [namespace, pod, name]: [&str; 3],
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
    let follows = query.is("follow");
    let follow = follows.then(|| followed.begin(&chosen.id)).transpose()?;
    let path = chosen.log_path.clone().ok_or_else(|| bad("the container has no log".into()))?;
    let files = logs::files(&path);
    let (index, offset) = match options.tail {
        Some(lines) if !files.is_empty() => logs::tail_start(&files, lines).map_err(internal)?,
        _ => (0, 0),
    };
    let old = files.into_iter().skip(index).filter(|file| *file != path).rev().collect();
    let reader = Reader {
        context: context.clone(),
        id: chosen.id.clone(),
        files: Files::new(old, path, offset, Filter::new(options), follows),
        over: false,
        _follow: follow,
    };
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

/// Reads a log's files, and asks whether the container runs when there is nothing more to read.
struct Reader {
    context: Arc<Context>,
    id: ContainerId,
    files: Files,
    /// The container has ended: one more read to the end is all.
    over: bool,
    _follow: Option<Follow>,
}

/// The rotated files, then the written one, then what is added to it.
struct Files {
    follow: bool,
    /// The oldest last.
    old: Vec<PathBuf>,
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    filter: Filter,
    /// The open file is the one that is written.
    is_last: bool,
    /// Bytes of the written file that are still to be read, where what is added later is not asked for: who
    /// writes faster than this reads would be read for ever.
    rest: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    Bytes(Vec<u8>),
    /// Nothing more for now.
    Nothing,
    End,
}

impl Reader {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        loop {
            match self.files.next().await? {
                Read::Bytes(bytes) => return Ok(Some(bytes)),
                Read::End => return Ok(None),
                Read::Nothing if self.over => return Ok(None),
                Read::Nothing => {}
            }
            self.over = !self.runs().await;
            if !self.over {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
        }
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

impl Files {
    fn new(old: Vec<PathBuf>, path: PathBuf, offset: u64, filter: Filter, follow: bool) -> Self {
        Self { follow, old, path, file: None, offset, filter, is_last: false, rest: None }
    }

    async fn next(&mut self) -> std::io::Result<Read> {
        loop {
            if self.filter.is_full() {
                return Ok(Read::End);
            }
            let Some(file) = &mut self.file else {
                if !self.open().await? {
                    return Ok(Read::End);
                }
                continue;
            };
            let size = self.rest.map_or(CHUNK, |rest| usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK));
            let mut chunk = vec![0; size];
            let read = file.read(&mut chunk).await?;
            self.rest = self.rest.map(|rest| rest.saturating_sub(read as u64));
            if read > 0 {
                let out = self.filter.feed(&chunk[..read]);
                if !out.is_empty() {
                    return Ok(Read::Bytes(out));
                }
                continue;
            }
            if !self.is_last {
                self.file = None;
                continue;
            }
            if !self.follow {
                return Ok(Read::End);
            }
            if self.rotated().await? {
                self.file = None;
                continue;
            }
            return Ok(Read::Nothing);
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
        let offset = std::mem::take(&mut self.offset);
        file.seek(SeekFrom::Start(offset)).await?;
        if self.is_last && !self.follow {
            self.rest = Some(file.metadata().await?.len().saturating_sub(offset));
        }
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

    /// A container's log in a directory of its own, which goes with it.
    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("skiff-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            Self(dir)
        }

        fn path(&self) -> PathBuf {
            self.0.join("0.log")
        }

        fn write(&self, lines: usize) {
            use std::io::Write;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(self.path());
            let text = "2026-01-01T00:00:00.000000000Z stdout F twelve bytes\n".repeat(lines);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("it is written");
        }

        fn files(&self, follow: bool) -> Files {
            let options = options(&Query::parse("")).expect("none");
            Files::new(Vec::new(), self.path(), 0, Filter::new(options), follow)
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn what_is_written_meanwhile_is_read_by_those_who_follow_alone() {
        for rotates in [false, true] {
            let log = Log::new(if rotates { "rotates" } else { "grows" });
            log.write(5_000);
            let mut files = log.files(false);
            let mut lines = 0;
            while let Read::Bytes(bytes) = files.next().await.expect("it can be read") {
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                if rotates {
                    std::fs::rename(log.path(), log.0.join("0.log.old")).expect("it is there");
                }
                log.write(1_000);
                assert!(lines <= 5_000, "{lines}");
            }
            assert_eq!(lines, 5_000);
        }
        let log = Log::new("followed");
        log.write(1);
        let mut files = log.files(true);
        assert_eq!(files.next().await.expect("read"), Read::Bytes(b"twelve bytes\n".to_vec()));
        assert_eq!(files.next().await.expect("read"), Read::Nothing);
        log.write(1);
        assert_eq!(files.next().await.expect("read"), Read::Bytes(b"twelve bytes\n".to_vec()));
        std::fs::rename(log.path(), log.0.join("0.log.old")).expect("it is there");
        log.write(2);
        assert_eq!(files.next().await.expect("read"), Read::Bytes(b"twelve bytes\n".repeat(2)));
    }
}
