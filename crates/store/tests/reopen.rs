//! What a file remembers, what it must not grow to, and when it must not be written at all.

use std::path::Path;
use std::sync::Arc;

use skiff_store::suite::{commit, put};
use skiff_store::{Expect, Limits, OpenError, Revision, SqliteStore, Store, WatchError, Write};

fn open(directory: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&directory.join("store.db"), Limits::default()).unwrap())
}

fn volatile(key: &str, value: &str) -> Write {
    Write { volatile: true, ..put(key, value) }
}

fn delete(key: &str) -> Write {
    Write { key: key.into(), expect: Expect::Any, value: None, volatile: false }
}

async fn contents(store: &Arc<dyn Store>) -> Vec<(String, String, Revision, Revision)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let entries = store.load().await.unwrap().entries;
    entries.iter().map(|e| (e.key.to_string(), text(&e.value), e.create_revision, e.mod_revision)).collect()
}

/// Name, length and time of change of each file of the store.
fn footprint(directory: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let metadata = file.metadata().unwrap();
            (file.file_name().to_string_lossy().into_owned(), metadata.len(), metadata.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_reopened_store_has_everything_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for write in [put("a", "1"), put("b", "1"), put("a", "2"), delete("b"), put("c", "1")] {
        commit(&store, write).await.unwrap();
    }
    let before = contents(&store).await;
    drop(store);

    let store = open(directory.path());
    assert_eq!(contents(&store).await, before);
    assert_eq!(store.barrier().await.unwrap(), 5);
    assert!(matches!(store.watch(4).err(), Some(WatchError::Compacted { requested: 4, oldest: 5 })));
    assert!(store.watch(5).is_ok());
    assert_eq!(commit(&store, put("b", "2")).await.unwrap(), 6);
    let created = contents(&store).await.into_iter().find(|entry| entry.0 == "b");
    assert_eq!(created, Some(("b".into(), "2".into(), 6, 6)), "a deleted key begins anew");
}

#[tokio::test]
async fn an_orderly_end_keeps_volatile_writes_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    commit(&store, put("a", "1")).await.unwrap();
    commit(&store, volatile("a", "2")).await.unwrap();
    commit(&store, volatile("lease", "1")).await.unwrap();
    commit(&store, put("gone", "1")).await.unwrap();
    commit(&store, Write { volatile: true, ..delete("gone") }).await.unwrap();
    let before = contents(&store).await;
    let last = store.barrier().await.unwrap();
    drop(store);

    let store = open(directory.path());
    assert_eq!(contents(&store).await, before);
    let next = commit(&store, put("b", "1")).await.unwrap();
    assert!(next > last && next < last + 10, "an orderly end gives the reserved block back: {next}");
}

#[tokio::test]
async fn volatile_writes_touch_no_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    commit(&store, put("a", "1")).await.unwrap();
    commit(&store, volatile("lease", "0")).await.unwrap(); // reserves the block
    let before = footprint(directory.path());
    for value in 0..1000 {
        commit(&store, volatile("lease", &value.to_string())).await.unwrap();
    }
    store.load().await.unwrap();
    store.barrier().await.unwrap();
    store.compact(500).await.unwrap();
    assert_eq!(footprint(directory.path()), before);
    commit(&store, put("a", "2")).await.unwrap();
    assert_ne!(footprint(directory.path()), before, "a lasting write does");
}

#[tokio::test]
async fn the_file_stays_bounded_and_becomes_quiet() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let value = "x".repeat(64 << 10);
    commit(&store, put("kept", "always")).await.unwrap();
    for round in 0..80 {
        let writes = (0..16).map(|key| put(&format!("k{key}"), &format!("{round} {value}"))).collect();
        for result in store.commit(writes).await {
            result.unwrap();
        }
        if round % 10 == 9 {
            commit(&store, delete("k0")).await.unwrap();
        }
    }
    // 80 MiB have been written; 1 MiB lives.
    let bytes: u64 = footprint(directory.path()).iter().map(|(_, bytes, _)| bytes).sum();
    assert!(bytes < 80 << 20, "{bytes} bytes on disk");
    let before = contents(&store).await;
    drop(store);
    let store = open(directory.path());
    assert_eq!(contents(&store).await, before, "what was swept did not live");
    assert!(!contents(&store).await.iter().any(|entry| entry.0 == "k0"));
}

#[tokio::test]
async fn a_log_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let _first = SqliteStore::open(&path, Limits::default()).unwrap();
    let second = SqliteStore::open(&path, Limits::default()).err();
    assert!(matches!(second, Some(OpenError::InUse { .. })), "{second:?}");
}

#[test]
fn a_foreign_or_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    std::fs::write(&path, "this is no database, however long it may be".repeat(100)).unwrap();
    let refused = SqliteStore::open(&path, Limits::default()).err();
    assert!(matches!(refused, Some(OpenError::Open { .. })), "{refused:?}");

    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = SqliteStore::open(&path, Limits::default()).err();
    assert!(matches!(refused, Some(OpenError::Format { found: 99, .. })), "{refused:?}");
}
