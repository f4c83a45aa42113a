//! What `skiff server` and `skiff agent` write down of a real machine before they change it, for `skiff reset`.
//!
//! The stock lies in the data directory; a note under `/run` says where that is. A note is of one boot: what
//! was there before the machine started anew says nothing about what is there now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use skiff_runtime::facts;

use crate::config;
use crate::in_use::{self, InUse};
use crate::up::MARKER;
use crate::up::record::write_private;
use crate::up::stock::Stock;

/// Where notes are: one file a role.
pub(crate) const NOTES: &str = "/run/skiff-machine";

/// Below the data directory.
const STOCK: &str = "stock.json";

/// What a data directory of an earlier version may hold, which wrote no marker.
const KNOWN: [&str; 6] = ["server.json", "agent.json", "membership.json", "pki", "images", "logs"];

/// That this machine is a server or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// `server` or `agent`.
    pub(crate) role: String,
    pub(crate) data_dir: PathBuf,
    /// The command that a user started, by PID and start time.
    pub(crate) process: (u32, String),
    boot: String,
    /// Nanoseconds since 1970, when the stock was taken.
    pub(crate) since: u128,
}

impl Note {
    pub(crate) fn stock_path(&self) -> PathBuf {
        self.data_dir.join(STOCK)
    }

    /// Whether the command that a user started runs. It takes its processes along when it ends.
    fn is_alive(&self) -> bool {
        let (pid, started) = &self.process;
        let ended = |state: char| matches!(state, 'Z' | 'X');
        facts::stat(*pid).is_some_and(|now| now.start_ticks.to_string() == *started && !ended(now.state))
    }

    fn path(&self) -> PathBuf {
        Path::new(NOTES).join(format!("{}.json", self.role))
    }
}

/// What [`begin`] did, to be undone where nothing came of it.
pub(crate) struct Begun {
    note: Note,
    is_new: bool,
    in_use: InUse,
}

/// Takes the data directory, and notes that this machine becomes a server or an agent, and what it was before,
/// unless it is one already.
pub(crate) fn begin(role: &str, data_dir: &Path) -> anyhow::Result<Begun> {
    let data_dir = std::path::absolute(data_dir).context("--data-dir")?;
    let present = notes()?.into_iter().find(|note| note.role == role);
    if let Some(other) = present.as_ref().filter(|note| note.data_dir != data_dir) {
        bail!(
            "this machine is {role} with its data in {}: run `skiff reset` first, or name that as --data-dir",
            other.data_dir.display()
        );
    }
    check(&data_dir)?;
    let pid = std::process::id();
    let process = (pid, crate::up::stock::start_time(pid));
    let stock = present.is_none().then(|| Stock::take(std::slice::from_ref(&data_dir)));
    let in_use = match present.as_ref().is_some_and(|before| !before.is_alive()) {
        true => in_use::inherit(&data_dir)?,
        false => in_use::take(&data_dir)?,
    };
    let (note, is_new) = match present {
        Some(present) => (Note { process, ..present }, false),
        None => {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let since = since.unwrap_or_default().as_nanos();
            let note = Note { role: role.to_owned(), data_dir, process, boot: boot()?, since };
            write_private(&note.data_dir.join(MARKER), b"")?;
            config::write(&note.stock_path(), &stock)?;
            (note, true)
        }
    };
    config::write(&note.path(), &note)?;
    Ok(Begun { note, is_new, in_use })
}

impl Begun {
    pub(crate) fn in_use(&self) -> &InUse {
        &self.in_use
    }

    /// Nothing came of it: what was written goes again, and the data directory if it holds nothing else.
    pub(crate) fn undo(self) {
        if !self.is_new {
            return;
        }
        // It is harmless if any of it stays: `skiff reset` takes it.
        let _ = fs::remove_file(self.note.path());
        let _ = fs::remove_dir(NOTES);
        let _ = fs::remove_file(self.note.stock_path());
        let left = fs::read_dir(&self.note.data_dir).into_iter().flatten().flatten();
        if left.into_iter().all(|entry| entry.file_name().to_string_lossy().starts_with(MARKER)) {
            let _ = fs::remove_dir_all(&self.note.data_dir);
        }
    }
}

/// The notes of this boot.
pub(crate) fn notes() -> anyhow::Result<Vec<Note>> {
    let entries = match fs::read_dir(NOTES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {NOTES}")),
    };
    let boot = boot()?;
    let mut notes = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|own| own != "json") {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let note: Note = serde_json::from_slice(&bytes)
            .with_context(|| format!("the note {} is damaged: remove it", path.display()))?;
        if note.boot == boot {
            notes.push(note);
        }
    }
    notes.sort_by_key(|note| note.since);
    Ok(notes)
}

/// Refuses a directory that holds somebody else's files.
pub(crate) fn check(data_dir: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", data_dir.display())),
    };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let ours = |name: &String| name.starts_with(MARKER) || KNOWN.contains(&name.as_str());
    if !names.is_empty() && !names.iter().any(ours) {
        bail!("--data-dir {} holds something else: name a new or empty directory", data_dir.display());
    }
    Ok(())
}

fn boot() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_others_are_refused() {
        let dir = std::env::temp_dir().join(format!("skiff-machine-{}", std::process::id()));
        check(&dir).expect("it is not there yet");
        fs::create_dir_all(&dir).expect("a directory");
        check(&dir).expect("it is empty");
        fs::write(dir.join("letters"), "").expect("a file");
        let error = check(&dir).expect_err("it is somebody's").to_string();
        assert!(error.contains("--data-dir") && error.contains("holds something else"), "{error}");
        fs::write(dir.join(MARKER), "").expect("a file");
        check(&dir).expect("it is ours");
        fs::remove_dir_all(&dir).expect("it is there");
    }
}
