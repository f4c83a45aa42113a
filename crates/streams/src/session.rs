//! What the two ends of a remote command see, whatever protocol lies between them.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What one pipe holds before its writer waits.
pub const PIPE_BYTES: usize = 64 << 10;

/// The longest status that is read, and the longest text of a size.
const STATUS_BYTES_MAX: u64 = 64 << 10;
const SIZE_BYTES_MAX: usize = 1024;

/// Which streams a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A terminal: its output is all on stdout, and its size changes.
    pub tty: bool,
}

impl Wants {
    /// With a terminal there is no stderr of its own, also where the caller asked for one.
    pub fn has_stderr(&self) -> bool {
        self.stderr && !self.tty
    }
}

/// The end of who runs the command. Dropping a writer ends its stream.
pub struct Session {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    pub resize: Option<Resizes>,
    pub exit: Exit,
}

/// The end of who asked for the command.
pub struct Remote {
    /// Shut it down (or drop it) to give the command the end of its input.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// Takes [`Size::to_json`].
    pub resize: Option<Writer>,
    pub(crate) status: Reader,
}

impl Remote {
    /// How the command ended. Read the output before, or at the same time.
    pub async fn outcome(&mut self) -> Outcome {
        read_outcome(&mut self.status).await
    }
}

async fn read_outcome(status: &mut Reader) -> Outcome {
    let mut text = Vec::new();
    match status.take(STATUS_BYTES_MAX).read_to_end(&mut text).await {
        Ok(0) => Outcome::Failed("the connection was lost before the command ended".into()),
        Ok(_) => Outcome::from_json(&text),
        Err(error) => Outcome::Failed(format!("cannot read how the command ended: {error}")),
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// It ran, and ended with a code that is not 0.
    ExitCode(i32),
    /// It could not be run, or was lost sight of.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
struct Status {
    #[serde(default)]
    metadata: Empty,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
}

#[derive(Default, Serialize, Deserialize)]
struct Empty {}

#[derive(Default, Serialize, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Default, Serialize, Deserialize)]
struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Outcome {
    /// The `metav1.Status` that clients expect on the error stream since `v4.channel.k8s.io`.
    pub fn to_json(&self) -> Vec<u8> {
        let failure = |message: String, reason: &str, cause: Cause, code| Status {
            metadata: Empty {},
            status: "Failure".into(),
            message,
            reason: reason.into(),
            details: Some(Details { causes: vec![cause] }),
            code,
        };
        let status = match self {
            Self::Success => Status {
                metadata: Empty {},
                status: "Success".into(),
                message: String::new(),
                reason: String::new(),
                details: None,
                code: None,
            },
            Self::ExitCode(code) => failure(
                self.to_text(),
                "NonZeroExitCode",
                Cause { reason: "ExitCode".into(), message: code.to_string() },
                None,
            ),
            Self::Failed(message) => failure(
                format!("Internal error occurred: {message}"),
                "InternalError",
                Cause { reason: String::new(), message: message.clone() },
                Some(500),
            ),
        };
        serde_json::to_vec(&status).expect("a status is plain text and numbers")
    }

    /// Reads what [`to_json`](Self::to_json) and its like elsewhere write.
    pub fn from_json(json: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(json) else {
            return Self::Failed(String::from_utf8_lossy(json).into_owned());
        };
        if status.status == "Success" {
            return Self::Success;
        }
        let causes = status.details.unwrap_or_default().causes;
        let code = causes.iter().find(|cause| cause.reason == "ExitCode").map(|cause| cause.message.parse());
        match (code, causes.into_iter().next()) {
            (Some(Ok(code)), _) => Self::ExitCode(code),
            (_, Some(cause)) if status.reason == "InternalError" => Self::Failed(cause.message),
            _ => Self::Failed(status.message),
        }
    }

    /// What protocols before `v4.channel.k8s.io` say on the error stream; nothing of a success.
    pub fn to_text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(message) => message.clone(),
        }
    }
}

/// Where the end of a command is reported, once.
pub struct Exit {
    pub(crate) pipe: Writer,
    /// Whether the protocol wants JSON, or plain text of failures only.
    pub(crate) json: bool,
}

impl Exit {
    /// Reports the end. Drop the session's writers before: output is told first.
    pub async fn send(mut self, outcome: &Outcome) {
        let told = if self.json { outcome.to_json() } else { outcome.to_text().into_bytes() };
        // If the caller has gone away there is nobody left to tell.
        if self.pipe.write_all(&told).await.is_ok() {
            let _ = self.pipe.shutdown().await;
        }
    }
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}

impl Size {
    pub fn to_json(self) -> Vec<u8> {
        format!("{{\"Width\":{},\"Height\":{}}}\n", self.width, self.height).into_bytes()
    }
}

/// The sizes of the caller's terminal: one at the beginning, then at each change.
pub struct Resizes {
    pipe: Reader,
    /// What has come of the next size.
    partial: Vec<u8>,
}

impl Resizes {
    pub fn new(pipe: Reader) -> Self {
        Self { pipe, partial: Vec::new() }
    }

    /// The next size; `None` after the last. What is not a size is passed over. Cancel safe.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'}') {
                let text: Vec<u8> = self.partial.drain(..=end).collect();
                if let Ok(size) = serde_json::from_slice(&text) {
                    return Some(size);
                }
            }
            if self.partial.len() > SIZE_BYTES_MAX {
                self.partial.clear();
            }
            let mut chunk = [0; 256];
            match self.pipe.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.partial.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

/// Joins a caller's session to the remote command that answers it, until the command ends. Input that has
/// not been taken by then is dropped.
pub async fn relay(session: Session, remote: Remote) -> Outcome {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let Remote { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize: to_resize, mut status } =
        remote;
    let input = async {
        tokio::join!(copy(stdin, to_stdin), copy_sizes(resize, to_resize));
        // The end of the input is not the end of the command.
        std::future::pending::<()>().await
    };
    let output = async {
        let (outcome, (), ()) =
            tokio::join!(read_outcome(&mut status), copy(from_stdout, stdout), copy(from_stderr, stderr));
        outcome
    };
    let outcome = tokio::select! {
        outcome = output => outcome,
        () = input => unreachable!("the input's future never ends"),
    };
    exit.send(&outcome).await;
    outcome
}

/// Copies a stream to its end. A broken end is an end: what matters is told by the status.
async fn copy(from: Option<Reader>, to: Option<Writer>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    }
}

async fn copy_sizes(from: Option<Resizes>, to: Option<Writer>) {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        while let Some(size) = from.next().await {
            if to.write_all(&size.to_json()).await.is_err() {
                return;
            }
        }
        // Held open: the end of sizes means nothing.
        std::future::pending::<()>().await
    }
}
