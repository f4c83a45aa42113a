//! Paths of the node that hostPath volumes made, and a subPath in one.
//!
//! They are the user's data and stay when their pod goes, and when the node does. So that a proof of what is
//! left can tell them, they are written down: each before it is made, and once more with what tells it from
//! another that has its name later. Lines of JSON, durable; what is gone again leaves the file when it is long.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skiff_runtime::private;

const FILE: &str = "made-paths.jsonl";

/// How long the file gets before what is gone again is left out of it.
const BYTES_MAX: u64 = 256 << 10;

/// A path that was made for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadePath {
    pub path: PathBuf,
    /// The pod, `NAMESPACE/NAME`.
    #[serde(rename = "for")]
    pub whose: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// About to be made: if the agent died then, nobody knows whether it was.
    Begun,
    Made(Identity),
    /// It was not made after all.
    Not,
}

/// What no other file has at the same time; with its birth, where the file system has that, at no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born_ns: Option<u64>,
}

impl Identity {
    pub(crate) fn of(found: &fs::Metadata) -> Self {
        let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Self { device: found.dev(), inode: found.ino(), born_ns }
    }
}

impl MadePath {
    /// Whether it is there still, and no other in its place.
    pub fn is_there(&self) -> bool {
        let found = fs::symlink_metadata(&self.path);
        match self.state {
            State::Begun => found.is_ok(),
            State::Made(identity) => found.is_ok_and(|found| Identity::of(&found) == identity),
            State::Not => false,
        }
    }
}

/// All that were made for pods of the agent that has its data there, in the order of their paths.
pub fn made_paths(data_dir: &Path) -> Vec<MadePath> {
    let text = fs::read_to_string(data_dir.join(FILE)).unwrap_or_default();
    parse(&text)
}

/// The last word on each path. A line that was cut off by a loss of power tells nothing.
fn parse(text: &str) -> Vec<MadePath> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<MadePath>(line).ok());
    let mut last = BTreeMap::new();
    for line in lines {
        last.insert(line.path.clone(), line);
    }
    last.into_values().filter(|own| own.state != State::Not).collect()
}

/// Where an agent writes them down.
#[derive(Debug)]
pub(crate) struct MadePaths {
    file: PathBuf,
    writing: Mutex<()>,
}

impl MadePaths {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { file: data_dir.join(FILE), writing: Mutex::default() }
    }

    /// Has a path made, and writes it down. What nobody could write down is not made.
    pub(crate) fn make(
        &self,
        path: &Path,
        whose: &str,
        make: impl FnOnce() -> io::Result<Identity>,
    ) -> io::Result<()> {
        let line = |state| MadePath { path: path.to_owned(), whose: whose.to_owned(), state };
        self.append(&line(State::Begun))?;
        match make() {
            Ok(identity) => self.append(&line(State::Made(identity))),
            Err(error) => {
                self.append(&line(State::Not))?;
                Err(error)
            }
        }
    }

    fn append(&self, line: &MadePath) -> io::Result<()> {
        let _writing = self.writing.lock();
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut options = fs::OpenOptions::new();
        let found = options.append(true).open(&self.file);
        let mut file = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = private::create(&self.file)?;
                self.file.parent().map(fs::File::open).transpose()?.map_or(Ok(()), |dir| dir.sync_all())?;
                file
            }
            found => found?,
        };
        let before = file.metadata()?.len();
        if before > BYTES_MAX {
            file = self.shortened()?;
        }
        // A line that a loss of power cut off before must not take this one with it.
        if before > 0 {
            bytes.insert(0, b'\n');
        }
        file.write_all(&bytes)?;
        file.sync_data()
    }

    /// The file anew, with what is there still.
    fn shortened(&self) -> io::Result<fs::File> {
        let text = fs::read_to_string(&self.file)?;
        let beside = self.file.with_extension("new");
        let mut file = private::create(&beside)?;
        for own in parse(&text).into_iter().filter(|own| own.state == State::Begun || own.is_there()) {
            let mut line = serde_json::to_vec(&own)?;
            line.push(b'\n');
            file.write_all(&line)?;
        }
        file.sync_all()?;
        fs::rename(&beside, &self.file)?;
        self.file.parent().map(fs::File::open).transpose()?.map_or(Ok(()), |dir| dir.sync_all())?;
        Ok(file)
    }
}

/// As [`MadePaths::make`], for one pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct For<'a> {
    pub(crate) made: &'a MadePaths,
    /// `NAMESPACE/NAME`.
    pub(crate) whose: &'a str,
}

impl For<'_> {
    pub(crate) fn make(&self, path: &Path, make: impl FnOnce() -> io::Result<Identity>) -> io::Result<()> {
        self.made.make(path, self.whose, make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_at(path: &Path) -> io::Result<Identity> {
        fs::create_dir(path)?;
        Ok(Identity::of(&fs::symlink_metadata(path)?))
    }

    fn there(data_dir: &Path) -> Vec<(String, String)> {
        let all = made_paths(data_dir).into_iter().filter(MadePath::is_there);
        let name = |own: &MadePath| own.path.file_name().expect("a name").to_string_lossy().into_owned();
        all.map(|own| (name(&own), own.whose)).collect()
    }

    #[test]
    fn what_is_there_still_and_no_other_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let made = MadePaths::new(dir.path());
        assert_eq!(there(dir.path()), [], "nothing was written down yet");
        for name in ["stays", "goes", "another"] {
            made.make(&path(name), "n/p", || dir_at(&path(name))).expect("it is made");
        }
        fs::create_dir(path("others")).expect("makes");
        made.make(&path("others"), "n/p", || dir_at(&path("others"))).expect_err("it is there");
        fs::remove_dir(path("goes")).expect("it is there");
        // Held while the next is made, so that its number is not given again.
        fs::rename(path("another"), path("moved")).expect("moves");
        fs::create_dir(path("another")).expect("makes");
        assert_eq!(there(dir.path()), [("stays".to_owned(), "n/p".to_owned())]);
        // Made again, it is told again, for whom it was made last.
        made.make(&path("goes"), "n/q", || dir_at(&path("goes"))).expect("it is made");
        let both = [("goes".to_owned(), "n/q".to_owned()), ("stays".to_owned(), "n/p".to_owned())];
        assert_eq!(there(dir.path()), both);
    }

    #[test]
    fn whose_making_was_cut_short_is_told_if_it_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("d");
        let made = MadePaths::new(dir.path());
        made.append(&MadePath { path: path.clone(), whose: "n/p".into(), state: State::Begun })
            .expect("it is");
        assert_eq!(there(dir.path()), []);
        fs::create_dir(&path).expect("makes");
        // And a line of which a part was written alone.
        let file = dir.path().join(FILE);
        let text = fs::read_to_string(&file).expect("it is there");
        fs::write(&file, format!("{text}{{\"path\": \"/cut")).expect("writes");
        assert_eq!(there(dir.path()), [("d".to_owned(), "n/p".to_owned())]);
        let next = dir.path().join("next");
        made.make(&next, "n/q", || dir_at(&next)).expect("it is made");
        assert_eq!(there(dir.path()).len(), 2);
    }

    #[test]
    fn a_file_that_is_long_forgets_what_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = MadePaths::new(dir.path());
        let stays = dir.path().join("stays");
        made.make(&stays, "n/p", || dir_at(&stays)).expect("it is made");
        let file = dir.path().join(FILE);
        let gone = |name: u64| MadePath {
            path: dir.path().join(format!("gone-{name}")),
            whose: "n/p".into(),
            state: State::Made(Identity { device: 1, inode: name, born_ns: None }),
        };
        let mut text = fs::read_to_string(&file).expect("it is there");
        let mut name = 0;
        while u64::try_from(text.len()).expect("short") <= BYTES_MAX {
            name += 1;
            text += &(serde_json::to_string(&gone(name)).expect("JSON") + "\n");
        }
        fs::write(&file, text).expect("writes");
        let next = dir.path().join("next");
        made.make(&next, "n/q", || dir_at(&next)).expect("it is made");
        assert!(fs::metadata(&file).expect("it is there").len() < 4_096);
        assert_eq!(there(dir.path()).len(), 2);
        assert_eq!(made_paths(dir.path()).len(), 2, "what is gone is not kept");
    }

    #[test]
    fn what_can_not_be_written_down_is_not_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = MadePaths::new(&dir.path().join("absent"));
        let path = dir.path().join("d");
        made.make(&path, "n/p", || dir_at(&path)).expect_err("there is no place for it");
        assert!(!path.exists());
    }
}
