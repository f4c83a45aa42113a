//! Attaching too late: a container of one user (`kubectl run -i`) that has ended before its user came is
//! told from its log, as if they had been there.

use std::path::PathBuf;

use skiff_runtime::Container;
use skiff_streams::{Outcome, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::log_place;
use crate::logs::{self, Filter, Options};

const CHUNK: usize = 32 << 10;

/// Tells all that the container has said. How it ended is in the pod's status.
pub(super) async fn tell(session: Session, ended: Container) {
    let files = ended.log_path.as_deref().map(logs::files).unwrap_or_default();
    let Session { stdout, stderr, exit, .. } = session;
    let mut told = Ok(());
    for (name, stream) in [("stdout", stdout), ("stderr", stderr)] {
        let Some(mut stream) = stream else { continue };
        let stream_told = copy(&files, name, &mut stream).await;
        told = told.and(stream_told);
        // A client that doesn't read any more is no fault.
        let _ = stream.shutdown().await;
    }
    let outcome = match told {
        Err(error) => Outcome::Failed(format!("cannot read the container's log: {error}")),
        Ok(()) => Outcome::Success,
    };
    exit.send(&outcome).await;
}

async fn copy(
    files: &[PathBuf],
    name: &str,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut filter = Filter::new(Options { stream: Some(name.to_owned()), ..Options::default() });
    let mut chunk = vec![0; CHUNK];
    for path in files {
        let mut file = tokio::fs::File::from_std(log_place::open(path)?);
        loop {
            let read = file.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            let text = filter.feed(&chunk[..read]);
            if to.write_all(&text).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
