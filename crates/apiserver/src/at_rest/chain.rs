//! How one resource's objects are stored: the first step writes, all of them read.

use std::sync::Arc;

use bytes::Bytes;

use super::cipher::Cipher;

/// What everything encrypted starts with.
const MARK: &[u8] = b"k8s:enc:";

pub(crate) enum Step {
    /// As it is.
    Identity,
    /// Encrypted, after a prefix that names provider and key, as `k8s:enc:aesgcm:v1:key1:`.
    Key { prefix: String, cipher: Cipher },
}

#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) steps: Vec<Arc<Step>>,
}

/// An object's bytes, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) plain: Bytes,
    /// Another step than the first has written it.
    pub(crate) stale: bool,
}

/// Why an object's bytes can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is not encrypted, and the encryption configuration has no identity provider")]
    Plain,
    #[error("it is encrypted as {0:?}, and the encryption configuration has no such key")]
    NoKey(String),
    #[error(
        "the key {0:?} of the encryption configuration does not fit: it is another key of that name, or what is stored is damaged"
    )]
    WrongKey(String),
}

impl Chain {
    /// Reads also what another one has written; none has written things as they are.
    pub(crate) fn reading_also(mut self, other: Option<&Chain>) -> Self {
        if self.steps.is_empty() {
            self.steps.push(Arc::new(Step::Identity));
        }
        match other {
            Some(other) => self.steps.extend(other.steps.iter().cloned()),
            None => self.steps.push(Arc::new(Step::Identity)),
        }
        self
    }

    /// The bytes to store; `key` is where.
    pub(crate) fn seal(&self, key: &str, plain: &Bytes) -> Bytes {
        match self.steps.first().map(Arc::as_ref) {
            None | Some(Step::Identity) => plain.clone(),
            Some(Step::Key { prefix, cipher }) => {
                let payload = cipher.seal(key.as_bytes(), plain);
                Bytes::from([prefix.as_bytes(), &payload].concat())
            }
        }
    }

    /// Reads what is stored at `key`.
    pub(crate) fn open(&self, key: &str, stored: Bytes) -> Result<Opened, Unreadable> {
        let encrypted = stored.starts_with(MARK);
        let mut wrong = None;
        for (at, step) in self.steps.iter().enumerate() {
            let stale = at != 0;
            match &**step {
                Step::Identity if encrypted => {}
                Step::Identity => return Ok(Opened { plain: stored, stale }),
                Step::Key { prefix, cipher } => {
                    let Some(payload) = stored.strip_prefix(prefix.as_bytes()) else { continue };
                    match cipher.open(key.as_bytes(), payload) {
                        Some(plain) => return Ok(Opened { plain: plain.into(), stale }),
                        None => wrong = Some(prefix.clone()),
                    }
                }
            }
        }
        Err(match wrong {
            Some(prefix) => Unreadable::WrongKey(prefix),
            None if encrypted => Unreadable::NoKey(named(&stored)),
            None => Unreadable::Plain,
        })
    }
}

/// The prefix of something encrypted: five parts, each with a colon.
fn named(stored: &[u8]) -> String {
    let end = stored
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b':')
        .nth(4)
        .map_or(MARK.len(), |(at, _)| at + 1);
    String::from_utf8_lossy(&stored[..end]).into_owned()
}
