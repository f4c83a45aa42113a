//! The file: its tables, how it is read when opened, and its transactions.
//!
//! `log` has one row a write, whose NULL value is a deletion; the last row of a key is its state. `meta`
//! has the end of the reserved block of revisions. Rows that a later one made dead are noted here, and
//! deleted by [`Disk::sweep`] once there are many, or some and nobody has written for long, oldest first: so a
//! deletion's own row never goes before the rows it buries. SQLite fills their pages again, which bounds the
//! file.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use tracing::debug;

use super::room::Room;
use crate::{Entry, Revision};

/// The form of the tables; kept in `user_version`.
const FORMAT: i64 = 1;

/// Dead rows and bytes that may lie in the file beside as much again as what lives.
const DEAD_ROWS_MIN: usize = 10_000;
const DEAD_BYTES_MIN: usize = 16 << 20;

/// Dead rows and bytes that lie in the file for good: to delete each as it comes would be a write for a write.
const QUIET_ROWS_MIN: usize = 1_000;
const QUIET_BYTES_MIN: usize = 1 << 20;

/// Pages in the write-ahead log from which on they are carried over into the file, and their size there.
const LOG_PAGES: u32 = 4096;
const LOG_PAGE_BYTES: u32 = 4096 + 24;

/// Rows deleted in one transaction, so that writes do not wait long behind it.
const SWEEP_ROWS: usize = 2_000;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the store {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot keep the store {path} from others' eyes")]
    Private {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read the store {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the store {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("the store {path} has format {found}, this program knows {FORMAT}")]
    Format { path: PathBuf, found: i64 },
    #[error("cannot start the store's writer")]
    Thread {
        #[source]
        source: std::io::Error,
    },
}

/// What the file held when it was opened.
pub(crate) struct Recovered {
    pub(crate) live: BTreeMap<Arc<str>, Entry>,
    /// No revision after this one has ever been given out.
    pub(crate) revision: Revision,
    pub(crate) reserved: Revision,
}

/// A row to append.
pub(crate) struct Row<'a> {
    pub(crate) revision: Revision,
    pub(crate) key: &'a Arc<str>,
    /// `None` deletes.
    pub(crate) entry: Option<&'a Entry>,
}

pub(crate) struct Disk {
    connection: Connection,
    /// The row that holds each key's state, and its size.
    rows: HashMap<Arc<str>, (Revision, usize)>,
    live_bytes: usize,
    dead: VecDeque<(Revision, usize)>,
    dead_bytes: usize,
    sweeping: bool,
    /// `None` once none could be made: commits then lengthen the log themselves.
    room: Option<Room>,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> Result<(Self, Recovered), OpenError> {
        keep_private(path).map_err(|source| OpenError::Private { path: path.to_owned(), source })?;
        let connection =
            Connection::open(path).map_err(|source| OpenError::Open { path: path.to_owned(), source })?;
        let found = prepare(&connection).map_err(|source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                OpenError::InUse { path: path.to_owned() }
            }
            _ => OpenError::Open { path: path.to_owned(), source },
        })?;
        if found != FORMAT {
            return Err(OpenError::Format { path: path.to_owned(), found });
        }
        let mut disk = Self {
            connection,
            rows: HashMap::new(),
            live_bytes: 0,
            dead: VecDeque::new(),
            dead_bytes: 0,
            sweeping: false,
            room: Some(Room::new(path, u64::from(LOG_PAGES) * u64::from(LOG_PAGE_BYTES))),
        };
        let recovered = disk.recover().map_err(|source| OpenError::Read { path: path.to_owned(), source })?;
        Ok((disk, recovered))
    }

    fn recover(&mut self) -> rusqlite::Result<Recovered> {
        let mut live = BTreeMap::new();
        let mut revision = 0;
        let mut appended = Vec::new();
        {
            let mut statement = self
                .connection
                .prepare("SELECT revision, key, create_revision, value FROM log ORDER BY revision")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                revision = row.get::<_, i64>(0)? as Revision;
                let key: Arc<str> = row.get_ref(1)?.as_str()?.into();
                let create_revision = row.get::<_, i64>(2)? as Revision;
                let value = row.get_ref(3)?.as_blob_or_null()?.map(Bytes::copy_from_slice);
                appended.push((revision, key.clone(), value.as_ref().map(Bytes::len)));
                match value {
                    Some(value) => {
                        let entry =
                            Entry { key: key.clone(), value, create_revision, mod_revision: revision };
                        live.insert(key, entry);
                    }
                    None => {
                        live.remove(&key);
                    }
                }
            }
        }
        for (revision, key, value_bytes) in appended {
            self.account(revision, &key, value_bytes);
        }
        let reserved = self
            .connection
            .query_row("SELECT value FROM meta WHERE name = 'reserved'", [], |row| row.get::<_, i64>(0))
            .optional()?
            .unwrap_or(0) as Revision;
        Ok(Recovered { live, revision: revision.max(reserved), reserved })
    }

    /// Appends rows in one durable transaction, and sets the end of the reserved block if given.
    pub(crate) fn append(&mut self, rows: &[Row<'_>], reserve: Option<Revision>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO log (revision, key, create_revision, value) VALUES (?1, ?2, ?3, ?4)",
            )?;
            for row in rows {
                let create_revision = row.entry.map_or(0, |entry| entry.create_revision);
                let value = row.entry.map(|entry| &entry.value[..]);
                insert.execute(params![row.revision as i64, &**row.key, create_revision as i64, value])?;
            }
            if let Some(reserved) = reserve {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('reserved', ?1)")?
                    .execute([reserved as i64])?;
            }
        }
        transaction.commit()?;
        for row in rows {
            self.account(row.revision, row.key, row.entry.map(|entry| entry.value.len()));
        }
        Ok(())
    }

    /// Makes room for further appends, when nobody waits for one.
    pub(crate) fn prepare_room(&mut self) {
        if let Some(room) = &mut self.room
            && let Err(error) = room.make()
        {
            debug!(%error, "the store's log is not lengthened ahead");
            self.room = None;
        }
    }

    /// Notes which row a new one makes dead.
    fn account(&mut self, revision: Revision, key: &Arc<str>, value_bytes: Option<usize>) {
        let bytes = key.len() + value_bytes.unwrap_or(0);
        let before = match value_bytes {
            Some(_) => self.rows.insert(key.clone(), (revision, bytes)),
            None => self.rows.remove(key),
        };
        if let Some((revision, bytes)) = before {
            self.live_bytes -= bytes;
            self.dead_bytes += bytes;
            self.dead.push_back((revision, bytes));
        }
        if value_bytes.is_some() {
            self.live_bytes += bytes;
        } else {
            self.dead_bytes += bytes;
            self.dead.push_back((revision, bytes));
        }
    }

    /// Whether dead rows want to be deleted now: from when there are many, until there are none.
    pub(crate) fn wants_sweep(&mut self) -> bool {
        if self.dead.is_empty() {
            self.sweeping = false;
        } else if self.dead.len() > DEAD_ROWS_MIN.max(self.rows.len())
            || self.dead_bytes > DEAD_BYTES_MIN.max(self.live_bytes)
        {
            self.sweeping = true;
        }
        self.sweeping
    }

    /// Whether there is so much that it is deleted when nobody writes.
    pub(crate) fn is_worth_a_sweep(&self) -> bool {
        self.dead.len() >= QUIET_ROWS_MIN || self.dead_bytes >= QUIET_BYTES_MIN
    }

    /// Has all dead rows deleted by and by.
    pub(crate) fn begin_sweep(&mut self) {
        self.sweeping = true;
    }

    /// Deletes some dead rows in one transaction.
    pub(crate) fn sweep(&mut self) -> rusqlite::Result<()> {
        let count = self.dead.len().min(SWEEP_ROWS);
        let transaction = self.connection.transaction()?;
        {
            let mut delete = transaction.prepare_cached("DELETE FROM log WHERE revision = ?1")?;
            for (revision, _) in self.dead.iter().take(count) {
                delete.execute([*revision as i64])?;
            }
        }
        transaction.commit()?;
        for (_, bytes) in self.dead.drain(..count) {
            self.dead_bytes -= bytes;
        }
        if self.dead.is_empty() {
            self.dead.shrink_to_fit();
        }
        Ok(())
    }
}

/// Makes the file, or tightens it and its log: what is stored is nobody else's to read, and the logs that
/// SQLite makes get the mode of the file.
pub(super) fn keep_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match fs::metadata(&name) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(&name, fs::Permissions::from_mode(0o600))?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
impl Disk {
    /// Has the file be full from so many pages on.
    pub(crate) fn limit_pages(&self, pages: u32) {
        // SQLite answers what is in force.
        self.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    /// Rows in the file, and how many of them are known to be dead.
    pub(crate) fn count(&self) -> (usize, usize) {
        let rows = self.connection.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0));
        (rows.unwrap() as usize, self.dead.len())
    }

    pub(crate) fn break_tables(&self) {
        self.connection.execute_batch("DROP TABLE log").unwrap();
    }
}

/// Sets the connection up, makes the tables in an empty file, and tells the file's format.
fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    // A predecessor may be about to end.
    connection.busy_timeout(Duration::from_millis(500))?;
    // Exclusive before WAL: no other process can open the log, and no shared memory file is needed.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 32 << 20)?;
    connection.pragma_update(None, "cache_size", -2048)?;
    let version = |connection: &Connection| connection.pragma_query_value(None, "user_version", |r| r.get(0));
    let found: i64 = version(connection)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if found == 0 && tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE log (
                 revision INTEGER PRIMARY KEY,
                 key TEXT NOT NULL,
                 create_revision INTEGER NOT NULL,
                 value BLOB
             );
             CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             PRAGMA user_version = {FORMAT};
             COMMIT;"
        ))?;
    }
    version(connection)
}
