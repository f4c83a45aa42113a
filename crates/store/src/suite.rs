//! What every store must do. Each implementation's tests call [`store_suite!`](crate::store_suite) with a
//! function that makes an empty store; each test here is one promise of the trait.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::{CommitError, Entry, Event, EventStream, Expect, Limits, Revision, Store, WatchError, Write};

/// The limits that the store under test must be made with, small enough to be exceeded.
pub const LIMITS: Limits = Limits { events_max: 512, bytes_max: 1 << 20, age_max: Duration::from_secs(3600) };

/// Makes a module of tests, one for each promise. `$make` is called as `make()` and returns a pair of an
/// empty `Arc<dyn Store>` with [`LIMITS`] and whatever must outlive it.
#[macro_export]
macro_rules! store_suite {
    ($module:ident, $make:path) => {
        mod $module {
            $crate::store_suite!(@ $make;
                revisions_grow_by_each_write
                a_write_happens_only_in_the_expected_state
                of_racing_writes_one_wins
                racing_increments_are_all_counted
                writes_of_one_commit_are_independent
                a_watch_replays_and_then_follows
                a_watch_tells_what_was_before
                concurrent_writers_leave_no_gap
                load_and_watch_make_one_story
                a_slow_watcher_is_told_and_costs_nothing
                an_idle_watcher_survives_compaction
                a_compacted_revision_is_refused
                a_future_revision_is_refused
                volatile_writes_are_seen_like_others
                a_watch_ends_with_the_store
            );
        }
    };
    (@ $make:path; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                use super::*;
                let (store, _kept) = $make();
                $crate::suite::$test(store).await;
            }
        )*
    };
}

/// The write of a text, for tests.
pub fn put(key: &str, value: &str) -> Write {
    Write {
        key: key.into(),
        expect: Expect::Any,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        volatile: false,
    }
}

fn delete(key: &str) -> Write {
    Write { key: key.into(), expect: Expect::Any, value: None, volatile: false }
}

fn expecting(expect: Expect, write: Write) -> Write {
    Write { expect, ..write }
}

/// Commits one write.
pub async fn commit(store: &Arc<dyn Store>, write: Write) -> Result<Revision, CommitError> {
    let mut results = store.commit(vec![write]).await;
    assert_eq!(results.len(), 1, "one result a write");
    results.remove(0)
}

async fn written(store: &Arc<dyn Store>, write: Write) -> Revision {
    commit(store, write).await.expect("an unconditional write succeeds")
}

async fn take(events: &mut EventStream, count: usize) -> Vec<Event> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = next.expect("an event within a minute").expect("the watch goes on");
        taken.push(event.expect("the watcher is quick enough"));
    }
    taken
}

fn is_quiet(events: &mut EventStream) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(events).poll_next_unpin(&mut context), Poll::Pending)
}

fn story(entry: &Option<Entry>) -> Option<String> {
    entry.as_ref().map(|entry| {
        let value = String::from_utf8_lossy(&entry.value);
        format!("{value} c{} m{}", entry.create_revision, entry.mod_revision)
    })
}

/// Applies an event as a watcher would.
fn follow(live: &mut BTreeMap<Arc<str>, Entry>, event: &Event) {
    match &event.entry {
        Some(entry) => live.insert(event.key.clone(), entry.clone()),
        None => live.remove(&event.key),
    };
}

pub async fn revisions_grow_by_each_write(store: Arc<dyn Store>) {
    assert_eq!(store.barrier().await.unwrap(), 0);
    let first = written(&store, put("a", "1")).await;
    let second = written(&store, put("b", "1")).await;
    let third = written(&store, delete("a")).await;
    assert_eq!([first, second, third], [1, 2, 3]);
    assert_eq!(store.barrier().await.unwrap(), 3);
    let snapshot = store.load().await.unwrap();
    assert_eq!(snapshot.revision, 3);
    let keys: Vec<&str> = snapshot.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["b"]);
}

pub async fn a_write_happens_only_in_the_expected_state(store: Arc<dyn Store>) {
    let refused = |result: Result<Revision, CommitError>| match result {
        Err(CommitError::Conflict { key, current }) => (key.to_string(), story(&current)),
        other => panic!("no conflict but {other:?}"),
    };
    let absent = ("a".to_owned(), None);
    assert_eq!(refused(commit(&store, expecting(Expect::Revision(1), put("a", "x"))).await), absent);
    assert_eq!(refused(commit(&store, delete("a")).await), absent);
    let made = commit(&store, expecting(Expect::Absent, put("a", "1"))).await.unwrap();
    let there = ("a".to_owned(), Some(format!("1 c{made} m{made}")));
    assert_eq!(refused(commit(&store, expecting(Expect::Absent, put("a", "x"))).await), there);
    assert_eq!(refused(commit(&store, expecting(Expect::Revision(made + 1), delete("a"))).await), there);
    let changed = commit(&store, expecting(Expect::Revision(made), put("a", "2"))).await.unwrap();
    let there = ("a".to_owned(), Some(format!("2 c{made} m{changed}")));
    assert_eq!(refused(commit(&store, expecting(Expect::Revision(made), delete("a"))).await), there);
    let deleted = commit(&store, expecting(Expect::Revision(changed), delete("a"))).await.unwrap();
    let again = commit(&store, expecting(Expect::Absent, put("a", "3"))).await.unwrap();
    assert_eq!([made, changed, deleted, again], [1, 2, 3, 4], "refused writes take no revision");
    assert_eq!(story(&store.load().await.unwrap().entries.pop()), Some("3 c4 m4".to_owned()));
}

pub async fn of_racing_writes_one_wins(store: Arc<dyn Store>) {
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..16 {
        let store = store.clone();
        racers.spawn(async move {
            commit(&store, expecting(Expect::Absent, put("prize", &racer.to_string()))).await.is_ok()
        });
    }
    let winners = racers.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
    assert_eq!(store.barrier().await.unwrap(), 1);
}

pub async fn racing_increments_are_all_counted(store: Arc<dyn Store>) {
    let made = written(&store, put("count", "0")).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        racers.spawn(async move {
            let (mut count, mut revision) = (0, made);
            let mut done = 0;
            while done < 20 {
                let next = put("count", &(count + 1).to_string());
                match commit(&store, expecting(Expect::Revision(revision), next)).await {
                    Ok(written) => {
                        (count, revision) = (count + 1, written);
                        done += 1;
                    }
                    Err(CommitError::Conflict { current: Some(current), .. }) => {
                        count = String::from_utf8_lossy(&current.value).parse().unwrap();
                        revision = current.mod_revision;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    racers.join_all().await;
    let snapshot = store.load().await.unwrap();
    assert_eq!(story(&snapshot.entries.into_iter().next()), Some("160 c1 m161".to_owned()));
}

pub async fn writes_of_one_commit_are_independent(store: Arc<dyn Store>) {
    let results = store
        .commit(vec![
            expecting(Expect::Absent, put("a", "1")),
            expecting(Expect::Absent, put("a", "2")),
            expecting(Expect::Revision(1), put("a", "3")),
            delete("b"),
            put("b", "4"),
        ])
        .await;
    let told: Vec<Option<Revision>> = results.into_iter().map(Result::ok).collect();
    assert_eq!(told, [Some(1), None, Some(2), None, Some(3)]);
    assert!(store.commit(Vec::new()).await.is_empty());
    assert_eq!(store.barrier().await.unwrap(), 3);
}

pub async fn a_watch_replays_and_then_follows(store: Arc<dyn Store>) {
    for value in 0..10 {
        written(&store, put("a", &value.to_string())).await;
    }
    let mut events = store.watch(4).unwrap();
    let replayed: Vec<Revision> = take(&mut events, 6).await.iter().map(|event| event.revision).collect();
    assert_eq!(replayed, [5, 6, 7, 8, 9, 10]);
    assert!(is_quiet(&mut events), "nothing more has been written");
    written(&store, put("b", "live")).await;
    let live = take(&mut events, 1).await;
    assert_eq!((live[0].revision, &*live[0].key), (11, "b"));
    let mut now = store.watch(11).unwrap();
    assert!(is_quiet(&mut now), "the present has no past");
}

pub async fn a_watch_tells_what_was_before(store: Arc<dyn Store>) {
    let mut events = store.watch(0).unwrap();
    for write in [put("a", "1"), put("a", "2"), delete("a"), put("a", "3")] {
        written(&store, write).await;
    }
    let told: Vec<_> = take(&mut events, 4)
        .await
        .iter()
        .map(|event| (story(&event.previous), story(&event.entry)))
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        told,
        [
            (None, text("1 c1 m1")),
            (text("1 c1 m1"), text("2 c1 m2")),
            (text("2 c1 m2"), None),
            (None, text("3 c4 m4")),
        ]
    );
}

pub async fn concurrent_writers_leave_no_gap(store: Arc<dyn Store>) {
    let mut early = store.watch(0).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for value in 0..50 {
                revisions.push(written(&store, put(&format!("k{writer}"), &value.to_string())).await);
            }
            assert!(revisions.is_sorted(), "one writer's revisions grow");
            revisions
        });
    }
    let events = take(&mut early, 400).await;
    let mut given: Vec<Revision> = writers.join_all().await.into_iter().flatten().collect();
    given.sort_unstable();
    let all: Vec<Revision> = (1..=400).collect();
    assert_eq!(given, all);
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), all);
    let late = take(&mut store.watch(0).unwrap(), 400).await;
    let plain = |events: &[Event]| -> Vec<_> {
        events.iter().map(|event| (event.revision, event.key.clone(), story(&event.entry))).collect()
    };
    assert_eq!(plain(&events), plain(&late), "early and late watchers are told the same");
}

pub async fn load_and_watch_make_one_story(store: Arc<dyn Store>) {
    let writing = store.clone();
    let writer = tokio::spawn(async move {
        for value in 0..400_u32 {
            let key = format!("k{}", value % 7);
            let write = if value % 5 == 4 { delete(&key) } else { put(&key, &value.to_string()) };
            // A deletion may find nothing: that is not what is tested here.
            let _ = commit(&writing, write).await;
        }
    });
    let snapshot = store.load().await.unwrap();
    let mut events = store.watch(snapshot.revision).unwrap();
    writer.await.unwrap();
    let end = store.load().await.unwrap();
    let mut live: BTreeMap<Arc<str>, Entry> =
        snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let missing = (end.revision - snapshot.revision) as usize;
    for event in take(&mut events, missing).await {
        follow(&mut live, &event);
    }
    assert_eq!(live.into_values().collect::<Vec<_>>(), end.entries);
}

pub async fn a_slow_watcher_is_told_and_costs_nothing(store: Arc<dyn Store>) {
    let mut slow = store.watch(0).unwrap();
    written(&store, put("a", "first")).await;
    assert_eq!(take(&mut slow, 1).await[0].revision, 1);
    let many = 2 * LIMITS.events_max as u64;
    for value in 0..many {
        written(&store, put("a", &value.to_string())).await;
    }
    let mut last = 1;
    let told = loop {
        match slow.next().await {
            Some(Ok(event)) => {
                assert_eq!(event.revision, last + 1, "what is told has no gap");
                last = event.revision;
                assert!(last <= 1 + 256, "a slow watcher holds a bounded number of events");
            }
            Some(Err(error)) => break error,
            None => panic!("the watch ended without telling why"),
        }
    };
    assert!(
        matches!(told, WatchError::Compacted { requested, oldest } if requested == last && oldest > last)
    );
    assert!(slow.next().await.is_none());
    let oldest = store.load().await.unwrap().compacted;
    assert_eq!(oldest, 1 + many - LIMITS.events_max as u64);
    let kept = take(&mut store.watch(oldest).unwrap(), LIMITS.events_max).await;
    assert_eq!(kept.last().map(|event| event.revision), Some(1 + many));

    let big = "x".repeat(LIMITS.bytes_max / 4);
    for _ in 0..8 {
        written(&store, put("big", &big)).await;
    }
    let snapshot = store.load().await.unwrap();
    assert!(snapshot.revision - snapshot.compacted < 4, "history is bounded in bytes too");
}

pub async fn an_idle_watcher_survives_compaction(store: Arc<dyn Store>) {
    let mut events = store.watch(0).unwrap();
    written(&store, put("a", "1")).await;
    written(&store, put("a", "2")).await;
    take(&mut events, 2).await;
    assert!(is_quiet(&mut events));
    store.compact(2).await.unwrap();
    let now = written(&store, put("a", "3")).await;
    assert_eq!(take(&mut events, 1).await[0].revision, now);
}

pub async fn a_compacted_revision_is_refused(store: Arc<dyn Store>) {
    for value in 0..10 {
        written(&store, put("a", &value.to_string())).await;
    }
    store.compact(6).await.unwrap();
    let refused = store.watch(5).err();
    assert!(matches!(refused, Some(WatchError::Compacted { requested: 5, oldest: 6 })), "{refused:?}");
    let kept: Vec<Revision> =
        take(&mut store.watch(6).unwrap(), 4).await.iter().map(|event| event.revision).collect();
    assert_eq!(kept, [7, 8, 9, 10]);
    store.compact(1_000_000).await.unwrap();
    let snapshot = store.load().await.unwrap();
    assert_eq!((snapshot.revision, snapshot.compacted, snapshot.entries.len()), (10, 10, 1));
    store.compact(3).await.unwrap();
    assert_eq!(store.load().await.unwrap().compacted, 10, "what is forgotten stays forgotten");
}

pub async fn a_future_revision_is_refused(store: Arc<dyn Store>) {
    written(&store, put("a", "1")).await;
    let refused = store.watch(2).err();
    assert!(matches!(refused, Some(WatchError::Future { requested: 2, current: 1 })), "{refused:?}");
}

pub async fn volatile_writes_are_seen_like_others(store: Arc<dyn Store>) {
    let mut events = store.watch(0).unwrap();
    let lasting = written(&store, put("a", "1")).await;
    let volatile = written(&store, Write { volatile: true, ..put("a", "2") }).await;
    let after = commit(&store, expecting(Expect::Revision(volatile), put("a", "3"))).await.unwrap();
    assert_eq!([lasting, volatile, after], [1, 2, 3]);
    let told: Vec<_> = take(&mut events, 3).await.iter().map(|event| story(&event.entry)).collect();
    assert_eq!(told, ["1 c1 m1", "2 c1 m2", "3 c1 m3"].map(|text| Some(text.to_owned())));
}

pub async fn a_watch_ends_with_the_store(store: Arc<dyn Store>) {
    let mut events = store.watch(0).unwrap();
    written(&store, put("a", "1")).await;
    drop(store);
    assert_eq!(take(&mut events, 1).await[0].revision, 1, "what was written is told first");
    assert!(events.next().await.is_none());
}
