//! Events are forgotten an hour after they happened last.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use skiff_client::{DeleteOptions, ListParams, now};
use tracing::{debug, warn};

use crate::context::Context;
use crate::owners::{name, namespace};

/// How much longer than told an event may stay.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Lists from time to time instead of following: events are many, and nobody waits for their end.
pub(crate) async fn run(context: Context) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let events = match context.client.list::<Event>(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot list events to expire");
                continue;
            }
        };
        let at = now();
        for event in events.iter().filter(|event| is_over(event, context.config.event_ttl, at)) {
            let (namespace, name) = (namespace(&event.metadata), name(&event.metadata));
            let deleted = context.client.delete::<Event>(namespace, name, &DeleteOptions::default()).await;
            if let Err(error) = deleted
                && !error.is_not_found()
            {
                debug!(name, error = &error as &dyn std::error::Error, "cannot delete an expired event");
            }
        }
    }
}

fn is_over(event: &Event, ttl: Duration, now: Timestamp) -> bool {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let times = [
        series.map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let Some(last) = times.into_iter().flatten().max() else { return false };
    now.as_second() - last.as_second() >= i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_time_counts() {
        let over = |mut event: serde_json::Value| {
            event["involvedObject"] = json!({});
            let event: Event = serde_json::from_value(event).unwrap();
            is_over(&event, Duration::from_secs(3600), Timestamp::from_second(7200).unwrap())
        };
        let old = "1970-01-01T00:59:00Z";
        assert!(over(json!({"metadata": {}, "lastTimestamp": "1970-01-01T01:00:00Z"})));
        assert!(!over(
            json!({"metadata": {"creationTimestamp": old}, "lastTimestamp": "1970-01-01T01:00:01Z"})
        ));
        assert!(over(json!({"metadata": {"creationTimestamp": old}})));
        assert!(!over(json!({"metadata": {"creationTimestamp": old}, "eventTime": old,
            "series": {"lastObservedTime": "1970-01-01T01:30:00.000000Z"}})));
        assert!(!over(json!({"metadata": {}})), "of unknown age");
    }
}
