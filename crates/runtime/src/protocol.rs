//! What the agent and a shim say to each other: frames of JSON over a unix socket, open files beside them.
//!
//! A frame is its length (four bytes, little endian) and that much JSON. A shim outlives the agent that
//! started it and may be older than the one that talks to it, so a request carries the version it speaks,
//! and fields are only ever added. One request goes out on a connection; an attachment lives as long as its
//! connection does, and so does a command, unless it is to survive: then a second request ends it.

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{UserRange, Weakness};

pub(crate) const VERSION: u32 = 1;
const FRAME_MAX: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) version: u32,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first one, on the socket that a shim finds as its standard input.
    Boot(Boot),
    Create(Create),
    Start {
        id: String,
    },
    Signal {
        id: String,
        signal: i32,
    },
    /// Files: standard input, output and error of the command; with a terminal none.
    Exec(Exec),
    /// On the connection of a command: it ends. A shim that doesn't know this hangs up, which is the same.
    Kill,
    /// Files: where output and error go. Answered with the container's input, if asked for.
    Attach {
        id: String,
        stdin: bool,
    },
    ReopenLog {
        id: String,
    },
    /// The container has ended and its directory goes away.
    Forget {
        id: String,
    },
    /// Answered with [`Reply::Status`] at once and again at every change.
    Watch,
    /// Ends `pause` and, when all children are gone, the shim.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Boot {
    pub(crate) id: String,
    /// The sandbox's durable directory.
    pub(crate) dir: PathBuf,
    /// Its directory of socket and mount points.
    pub(crate) run: PathBuf,
    pub(crate) pause_root: PathBuf,
    pub(crate) cgroup_mount: PathBuf,
    /// Of `pause`, as [`skiff_sys::cgroup::Group::join_files`] names them.
    pub(crate) join: Vec<PathBuf>,
    /// `None`: the node's own.
    pub(crate) hostname: Option<String>,
    pub(crate) own_net: bool,
    pub(crate) own_ipc: bool,
    pub(crate) shared_pid: bool,
    pub(crate) sysctls: Vec<(String, String)>,
    /// `None`: users are the node's own.
    #[serde(default)]
    pub(crate) users: Option<UserRange>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: String,
    /// Its durable directory, with a link to its specification.
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    pub(crate) pid: PidSpace,
    #[serde(default)]
    pub(crate) weakness: Weakness,
}

/// Which PID namespace a container runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PidSpace {
    Own,
    /// That of `pause`.
    Sandbox,
    Node,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) command: Vec<String>,
    pub(crate) tty: bool,
    /// Which of the files there are.
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// It goes on without its connection.
    #[serde(default)]
    pub(crate) survives: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    /// With a terminal, its master comes along.
    Running {
        pid: u32,
    },
    Exited {
        code: i32,
    },
    Failed(Failure),
    Status(Status),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What a shell would answer: 126, 127, or 128.
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// All a shim knows, small enough to be sent whole at every change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// 0: it is gone.
    pub(crate) pause_pid: u32,
    pub(crate) containers: Vec<(String, Progress)>,
}

/// How far a container has come; what its `state.json` holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// 0 unless it runs.
    pub(crate) pid: u32,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) finished_at: Option<SystemTime>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// Something the platform itself could not do.
    pub(crate) fn doing(action: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure::new(128, format!("cannot {action}: {error}"))
    }
}

pub(crate) fn send<T: Serialize>(socket: &UnixStream, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    skiff_sys::fdpass::send(socket, &frame(message)?, fds)
}

pub(crate) fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    // A command may be as long as whoever asks for it likes.
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes, more than {FRAME_MAX}")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// `None` at the end of the stream. Reads not a byte more than the frame.
pub(crate) fn receive<T: DeserializeOwned>(mut socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let (got, fds) = skiff_sys::fdpass::receive(socket, &mut length)?;
    if got == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut length[got..])?;
    let mut bytes = vec![0; frame_length(length)?];
    socket.read_exact(&mut bytes)?;
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

pub(crate) fn frame_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > FRAME_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other_on_one_stream() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, &Reply::Running { pid: 7 }, &[]).unwrap();
        send(&here, &Reply::Exited { code: 3 }, &[]).unwrap();
        drop(here);
        assert_eq!(receive::<Reply>(&there).unwrap().unwrap().0, Reply::Running { pid: 7 });
        assert_eq!(receive::<Reply>(&there).unwrap().unwrap().0, Reply::Exited { code: 3 });
        assert!(receive::<Reply>(&there).unwrap().is_none());
    }

    #[test]
    fn a_length_out_of_bounds_is_refused() {
        assert!(frame_length(u32::MAX.to_le_bytes()).is_err());
        let (here, _there) = UnixStream::pair().unwrap();
        let message = "x".repeat(FRAME_MAX);
        assert!(send(&here, &Reply::Failed(Failure::new(1, message)), &[]).is_err());
    }

    /// Bytes as a peer would read them, to their end.
    fn read_all<T: DeserializeOwned>(bytes: &[u8]) -> (Vec<T>, io::Result<()>) {
        let (here, there) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || {
            // The reader hangs up at the first fault.
            let _ = io::Write::write_all(&mut &here, &bytes);
        });
        let mut messages = Vec::new();
        let end = loop {
            match receive(&there) {
                Ok(Some((message, _))) => messages.push(message),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(there);
        writer.join().unwrap();
        (messages, end)
    }

    #[test]
    fn random_bytes_are_refused_and_cut_streams_end() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let length = random.random_range(1..64);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
            if random.random() {
                // A length that is believed, before what is no message.
                let body = u32::try_from(length).unwrap().to_le_bytes();
                bytes = [&body[..], &bytes].concat();
            }
            let (calls, end) = read_all::<Call>(&bytes);
            assert!(calls.is_empty() && end.is_err(), "{bytes:?}");

            let replies = [Reply::Running { pid: random.random() }, Reply::Exited { code: random.random() }];
            let whole: Vec<u8> = replies.iter().flat_map(|reply| frame(reply).unwrap()).collect();
            let cut = random.random_range(0..=whole.len());
            let (read, end) = read_all::<Reply>(&whole[..cut]);
            assert!(replies.starts_with(&read), "{read:?} of {replies:?}");
            let at_a_border = cut == whole.len() || cut == 0 || cut == frame(&replies[0]).unwrap().len();
            assert_eq!(end.is_ok(), at_a_border, "cut at {cut} of {}", whole.len());

            let mut changed = whole.clone();
            changed[random.random_range(0..whole.len())] = random.random();
            // Whatever comes of it, it comes to an end.
            let (read, _) = read_all::<Reply>(&changed);
            assert!(read.len() <= replies.len());
        }
    }
}
