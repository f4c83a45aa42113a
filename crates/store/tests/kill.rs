//! `kill -9` at any moment: nothing acknowledged is lost, and no revision comes twice.
//!
//! The test runs this same program again as a child that writes and prints each acknowledgement; it kills
//! the child after a random number of them, opens the store and compares. `SKIFF_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use skiff_store::{Expect, Limits, Revision, SqliteStore, Store, Write};

const WRITERS: u64 = 8;
const ROUNDS: usize = 12;
const PATH: &str = "SKIFF_STORE_KILL_PATH";

fn open(path: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(path, Limits::default()).unwrap())
}

/// The state of a writer's key after its step: every seventh deletes.
fn state_at(step: u64) -> Option<Bytes> {
    (step > 0 && !step.is_multiple_of(7)).then(|| Bytes::from(format!("{step} {}", "v".repeat(200))))
}

fn key_of(writer: u64) -> Arc<str> {
    format!("key-{writer}").into()
}

/// The child: writes until it is killed. Is nothing when run as a test by itself.
#[test]
fn child_that_writes() {
    let Some(path) = std::env::var_os(PATH).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async move {
        let store = open(&path);
        let snapshot = store.load().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let found = snapshot.entries.iter().find(|entry| entry.key == key_of(writer));
            let steps: Option<u64> = found.map(|entry| {
                let text = String::from_utf8_lossy(&entry.value);
                text.split(' ').next().unwrap().parse().unwrap()
            });
            // A key that does not live is as after a deletion.
            let mut step = steps.unwrap_or(7);
            let store = store.clone();
            writers.spawn(async move {
                loop {
                    step += 1;
                    let lasting = Write {
                        key: key_of(writer),
                        expect: Expect::Any,
                        value: state_at(step),
                        volatile: false,
                    };
                    let volatile = Write {
                        key: format!("lease-{writer}").into(),
                        expect: Expect::Any,
                        value: Some(Bytes::from_static(b"beat")),
                        volatile: true,
                    };
                    let mut results = store.commit(vec![lasting]).await;
                    let revision = results.remove(0).unwrap();
                    acknowledge(&format!("ack {writer} {step} {revision}"));
                    let beat = store.commit(vec![volatile]).await.remove(0).unwrap();
                    acknowledge(&format!("beat {beat}"));
                }
            });
        }
        writers.join_all().await;
    });
}

/// One line in one write, which a kill cannot tear; not captured by the test harness.
fn acknowledge(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes());
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");

    let mut seen: BTreeSet<Revision> = BTreeSet::new();
    let mut acknowledged_in_all = 0;
    for round in 0..ROUNDS {
        let highest_before = seen.last().copied().unwrap_or(0);
        let kill_after = random.random_range(1..400);
        let (steps, revisions) = run_and_kill(&path, kill_after);
        acknowledged_in_all += revisions.len();

        let store = open(&path);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let snapshot = runtime.block_on(store.load()).unwrap();
        for (writer, (step, revision)) in &steps {
            let entry = snapshot.entries.iter().find(|entry| entry.key == key_of(*writer));
            let found = entry.map(|entry| entry.value.clone());
            // One further write may have been under way and have become durable, unacknowledged.
            assert!(
                found == state_at(*step) || found == state_at(step + 1),
                "round {round}: writer {writer} was promised step {step} and finds {found:?}"
            );
            if let Some(entry) = entry {
                assert!(entry.mod_revision >= *revision, "round {round}: an older write has come back");
            }
        }
        for revision in revisions {
            assert!(revision > highest_before, "round {round}: revision {revision} was already given out");
            assert!(seen.insert(revision), "round {round}: revision {revision} was given out twice");
        }
        let highest = seen.last().copied().unwrap_or(0);
        assert!(snapshot.revision >= highest, "round {round}: the store has gone back");
        if round % 3 == 2 {
            // Now and then a life without a crash in between.
            let one =
                Write { key: "own".into(), expect: Expect::Any, value: Some(Bytes::new()), volatile: true };
            let own = runtime.block_on(store.commit(vec![one])).remove(0).unwrap();
            assert!(own > highest && seen.insert(own));
        }
    }
    assert!(acknowledged_in_all >= ROUNDS, "the child has written something in each round");
}

/// The last acknowledged step of each writer, with its revision, and all acknowledged revisions.
fn run_and_kill(path: &Path, kill_after: usize) -> (BTreeMap<u64, (u64, Revision)>, Vec<Revision>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes", "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut steps, mut revisions) = (BTreeMap::new(), Vec::new());
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ack", writer, step, revision] => {
                let revision = revision.parse().unwrap();
                steps.insert(writer.parse().unwrap(), (step.parse().unwrap(), revision));
                revisions.push(revision);
            }
            ["beat", revision] => revisions.push(revision.parse().unwrap()),
            _ => continue,
        }
        // What is in the pipe after the kill was acknowledged too: read on to its end.
        if revisions.len() == kill_after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(revisions.len() >= kill_after, "the child ended by itself after {} writes", revisions.len());
    (steps, revisions)
}
