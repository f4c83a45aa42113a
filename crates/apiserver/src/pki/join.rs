//! The join token that `skiff server` makes for the machines that are to join soon.
//!
//! It is a file until it ends, a day after it was made, and its end is written beside it. The server makes a
//! bootstrap token's Secret of it once: so it is good no longer than it was made for, however often the server
//! is started, and one whose Secret an administrator has deleted stays gone.

use std::fs;
use std::io;

use super::{DAY_S, Pki, PkiError, random, read, write_private};

/// What is known of it besides its text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Made {
    /// The public part of the token.
    id: String,
    /// Unix seconds.
    ends: i64,
    /// Whether there is, or was, a Secret of it.
    #[serde(default)]
    published: bool,
}

/// A join token in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    pub(crate) id: String,
    pub(crate) secret: String,
    /// Unix seconds.
    pub(crate) ends: i64,
    pub(crate) published: bool,
}

impl Pki {
    /// `SHA256_OF_CA.ID.SECRET`: pins the authority, and buys agents their certificates for a day. One that is
    /// good yet stays as it is. A server that runs already does not know a new one.
    pub fn make_join_token(&self) -> Result<String, PkiError> {
        if let Some(present) = self.join_token() {
            return Ok(self.text_of(&present.id, &present.secret));
        }
        let (id, secret) = (random(6), random(16));
        let ends = self.clock.now() + DAY_S;
        let text = self.text_of(&id, &secret);
        write_private(&self.join_token_path(), &text)?;
        self.nodes.set_join(Some(Made { id, ends, published: false }))?;
        Ok(text)
    }

    /// The one that is good yet. Without a word about its end, as an earlier version left it, it has ended.
    pub(crate) fn join_token(&self) -> Option<JoinToken> {
        let text = read(&self.join_token_path()).ok()?;
        let mut parts = text.trim().split('.');
        let (pin, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let made = self.nodes.join().filter(|made| made.id == id && self.clock.now() < made.ends)?;
        (pin == self.ca_hash && parts.next().is_none()).then(|| JoinToken {
            id: id.to_owned(),
            secret: secret.to_owned(),
            ends: made.ends,
            published: made.published,
        })
    }

    /// There is a Secret of the join token now.
    pub(crate) fn join_token_is_published(&self) -> Result<(), PkiError> {
        match self.nodes.join() {
            Some(made) => self.nodes.set_join(Some(Made { published: true, ..made })),
            None => Ok(()),
        }
    }

    /// Takes the join token from the disk: it is of no use any more.
    pub(crate) fn forget_join_token(&self) -> Result<(), PkiError> {
        let path = self.join_token_path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PkiError::Write { path, source });
            }
            _ => {}
        }
        match self.nodes.join() {
            Some(_) => self.nodes.set_join(None),
            None => Ok(()),
        }
    }

    fn join_token_path(&self) -> std::path::PathBuf {
        self.dir.join("join-token")
    }

    fn text_of(&self, id: &str, secret: &str) -> String {
        format!("{}.{id}.{secret}", self.ca_hash)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_join_token_is_the_same_until_it_ends_and_another_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let time = Arc::new(AtomicI64::new(1_800_000_000));
        let open = || {
            let time = Arc::clone(&time);
            let clock = Clock::new(move || time.load(Ordering::SeqCst));
            Pki::open_by(dir.path(), clock).expect("an authority")
        };
        let path = dir.path().join("join-token");
        assert_eq!(open().join_token(), None, "nobody asked for one");
        assert!(!path.exists());
        // What an earlier version left has no end.
        fs::write(&path, format!("{}.abcdef.0123456789abcdef", open().ca_hash())).expect("it is written");
        assert_eq!(open().join_token(), None);
        let first = open().make_join_token().expect("it is written");
        assert!(!first.contains("abcdef.0123456789abcdef"), "{first}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), first);
        let made = open().join_token().expect("it is good");
        assert_eq!(first, format!("{}.{}.{}", open().ca_hash(), made.id, made.secret));
        assert_eq!((made.ends, made.published), (1_800_000_000 + DAY_S, false));
        time.fetch_add(DAY_S - 1, Ordering::SeqCst);
        assert_eq!(open().make_join_token().expect("it is read"), first, "a restart makes it no longer");
        open().join_token_is_published().expect("it is written");
        assert!(open().join_token().expect("it is good").published);
        time.fetch_add(1, Ordering::SeqCst);
        assert_eq!(open().join_token(), None, "it has ended");
        let second = open().make_join_token().expect("it is written");
        assert_ne!(first, second);
        assert!(!open().join_token().expect("it is good").published);
        open().forget_join_token().expect("it can be removed");
        open().forget_join_token().expect("nothing is left");
        assert!(!path.exists() && open().join_token().is_none());
    }
}
