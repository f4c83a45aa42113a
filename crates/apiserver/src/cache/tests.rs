//! States of the past, and the ring of events with its bounds.

use serde_json::json;

use super::*;
use crate::object::to_stored;
use crate::resources;

fn entry(key: &Arc<str>, revision: u64, label: &str) -> Entry {
    let value = to_stored(&json!({"metadata": {"name": "x", "labels": {"l": label}}}));
    Entry { key: Arc::clone(key), value, create_revision: 1, mod_revision: revision }
}

/// `a` made at 11, changed at 12, deleted at 14; `b` made at 13.
fn cache() -> StorageCache {
    let maps = resources::find("", "configmaps").expect("in the table");
    let cache = StorageCache::new(maps, 10, None);
    let (a, b): (Arc<str>, Arc<str>) = ("/configmaps/n/a".into(), "/configmaps/n/b".into());
    cache.apply(11, &a, Some(entry(&a, 11, "1"))).expect("readable");
    cache.apply(12, &a, Some(entry(&a, 12, "2"))).expect("readable");
    cache.apply(13, &b, Some(entry(&b, 13, "1"))).expect("readable");
    cache.apply(14, &a, None).expect("readable");
    cache
}

fn state(cache: &StorageCache, revision: u64) -> Option<Vec<(String, u64)>> {
    let view = cache.at(revision)?;
    Some(view.objects.values().map(|o| (o.name().to_owned(), o.revision)).collect())
}

#[test]
fn past_states_are_had_by_undoing_events() {
    let cache = cache();
    let own =
        |list: &[(&str, u64)]| Some(list.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect::<Vec<_>>());
    assert_eq!(state(&cache, 14), own(&[("b", 13)]));
    assert_eq!(state(&cache, 13), own(&[("a", 12), ("b", 13)]));
    assert_eq!(state(&cache, 11), own(&[("a", 11)]));
    assert_eq!(state(&cache, 10), own(&[]));
    assert_eq!(state(&cache, 9), None);
}

fn put(cache: &StorageCache, revision: u64, bytes: usize) {
    let key: Arc<str> = "/configmaps/n/a".into();
    cache.apply(revision, &key, Some(entry(&key, revision, &"x".repeat(bytes)))).expect("readable");
}

#[tokio::test(start_paused = true)]
async fn the_ring_is_bounded_by_bytes_and_who_is_behind_is_told_so() {
    let cache = cache();
    let position = cache.position_after(14).expect("in the ring");
    let bytes = 1 << 20;
    for revision in 15..115 {
        put(&cache, revision, bytes);
    }
    let held = cache.state.read().ring_bytes;
    assert!((RING_BYTES_MAX / 2..=RING_BYTES_MAX).contains(&held), "{held}");
    assert!(matches!(cache.events_from(position, 10), Err(Behind { oldest }) if oldest > 80));
    // The last event is there, however large it is.
    put(&cache, 115, RING_BYTES_MAX);
    let position = cache.position_after(114).expect("in the ring");
    assert_eq!(cache.events_from(position, 10).expect("in the ring").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_burst_took_is_given_back_while_nothing_is_written() {
    let cache = cache();
    for revision in 15..65 {
        put(&cache, revision, 900_000);
    }
    for revision in 65..8000 {
        put(&cache, revision, 1);
    }
    cache.trim();
    assert!(cache.state.read().ring.len() > 7000, "they may be asked for yet");
    tokio::time::advance(RING_AGE + Duration::from_secs(1)).await;
    cache.trim();
    let state = cache.state.read();
    assert!(state.ring.len() <= RING_MIN && state.ring_bytes <= RING_BYTES_MIN, "{}", state.ring_bytes);
    assert!(state.ring.capacity() <= 4 * RING_MIN);
    drop(state);
    assert_eq!(cache.position_after(15), Err(Behind { oldest: 7999 - RING_MIN as u64 }));
}

#[test]
fn a_watcher_goes_on_where_it_says_or_is_told_that_it_is_late() {
    let cache = cache();
    assert_eq!(cache.position_after(9), Err(Behind { oldest: 10 }));
    let position = cache.position_after(12).expect("in the ring");
    let events = cache.events_from(position, 10).expect("in the ring");
    assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [13, 14]);
}

#[test]
fn a_selector_sees_entering_changing_and_leaving() {
    let cache = cache();
    let events = cache.events_from(0, 10).expect("in the ring");
    let seen = |label: &str| {
        events
            .iter()
            .map(|e| e.seen_by(|o| o.labels["l"] == label).map(|(kind, o)| (kind, o.revision)))
            .collect::<Vec<_>>()
    };
    use EventType::{Added, Deleted};
    assert_eq!(seen("1"), [Some((Added, 11)), Some((Deleted, 12)), Some((Added, 13)), None]);
    assert_eq!(seen("2"), [None, Some((Added, 12)), None, Some((Deleted, 14))]);
}
