//! The suite against both stores of this crate.

use std::sync::Arc;

use skiff_store::suite::LIMITS;
use skiff_store::{MemoryStore, SqliteStore, Store, store_suite};

fn memory() -> (Arc<dyn Store>, ()) {
    (Arc::new(MemoryStore::new(LIMITS)), ())
}

fn sqlite() -> (Arc<dyn Store>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("store.db"), LIMITS).unwrap();
    (Arc::new(store), directory)
}

store_suite!(memory_store, super::memory);
store_suite!(sqlite_store, super::sqlite);
