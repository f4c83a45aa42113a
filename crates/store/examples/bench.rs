//! Writes per second of the file store by 1, 16 and 128 concurrent callers, each write waited for.
//!
//! `cargo run --release -p skiff-store --example bench [DIRECTORY]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use skiff_store::{Expect, Limits, SqliteStore, Store, Write};

const VALUE_BYTES: usize = 3_700;
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for writers in [1, 16, 128] {
        let place = tempfile::tempdir_in(&directory).expect("a directory");
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&place.path().join("bench.db"), Limits::default()).expect("a store"));
        let done = Arc::new(AtomicU64::new(0));
        let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
        let started = Instant::now();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..writers {
                let (store, done, value) = (store.clone(), done.clone(), value.clone());
                tasks.spawn(async move {
                    let mut count = 0;
                    while started.elapsed() < TIME {
                        let key = format!("pods/default/w{writer}-{}", count % 100).into();
                        let write =
                            Write { key, expect: Expect::Any, value: Some(value.clone()), volatile: false };
                        store.commit(vec![write]).await.remove(0).expect("a write");
                        count += 1;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            tasks.join_all().await;
        });
        let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        drop(store);
        let bytes: u64 = std::fs::read_dir(place.path())
            .expect("the directory")
            .filter_map(|file| file.ok()?.metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        println!("{writers:>4} writers: {rate:>8.0} writes/s, file {} MiB", bytes >> 20);
    }
}
