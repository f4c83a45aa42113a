//! Image garbage collection: when the disk of images is too full, unused ones go, least recently used
//! first, until it is less full.
//!
//! Every five minutes, as upstream, the disk is measured; the images are only looked at when there is too
//! little room. What is in use by a container of any node that shares the images stays, and what was loaded
//! from an archive, since no registry brings it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_runtime::{ImageDisk, ImageError, ImageUse, Removal, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::events::{Kind, Recorder};
use crate::images::chain;

const EVERY: Duration = Duration::from_secs(300);
/// A disk that stays full is told of no more often, which is how long events are kept: a node where nothing
/// happens writes nothing.
const TOLD_EVERY: Duration = Duration::from_secs(3_600);

/// When images are collected, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// The share of the images' disk that is used at which collecting begins; 100: it never does.
    pub high_percent: u8,
    /// The share at which it ends.
    pub low_percent: u8,
    /// For how long an image has to have been unused.
    pub age_min: Duration,
}

impl Default for ImageGc {
    /// Upstream's.
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120) }
    }
}

impl ImageGc {
    /// Says what is wrong with the thresholds, in upstream's words.
    pub fn check(&self) -> Result<(), String> {
        let Self { high_percent: high, low_percent: low, .. } = *self;
        if high > 100 {
            return Err(format!(
                "imageGCHighThresholdPercent (--image-gc-high-threshold) {high} must be between 0 and 100, inclusive"
            ));
        }
        if low >= high {
            return Err(format!(
                "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than \
                 imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
            ));
        }
        Ok(())
    }
}

/// What a look at the disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Free {
        bytes: u64,
        used_percent: u64,
    },
    /// The disk has no size.
    Unknown,
}

fn need(disk: &ImageDisk, policy: &ImageGc) -> Need {
    if disk.capacity_bytes == 0 {
        return Need::Unknown;
    }
    let capacity = u128::from(disk.capacity_bytes);
    let available = u128::from(disk.available_bytes).min(capacity);
    let share = |part: u128| u64::try_from(part).unwrap_or(u64::MAX);
    let used_percent = 100 - share(available * 100 / capacity);
    if policy.high_percent >= 100 || used_percent < u64::from(policy.high_percent) {
        return Need::Nothing;
    }
    let wanted = capacity * u128::from(100 - policy.low_percent.min(100)) / 100;
    Need::Free { bytes: share(wanted.saturating_sub(available)), used_percent }
}

/// What may go, in the order in which it goes.
fn removable(mut images: Vec<ImageUse>, policy: &ImageGc, now: SystemTime) -> Vec<ImageUse> {
    images.retain(|image| {
        let unused_for = now.duration_since(image.last_used).unwrap_or_default();
        image.containers == 0 && !image.pinned && unused_for >= policy.age_min
    });
    images.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    images
}

/// Upstream's words for a disk that others than unused images fill.
fn shortage(disk: &ImageDisk, used_percent: u64, freed: u64) -> String {
    let gibibytes = disk.capacity_bytes as f64 / f64::from(1 << 30);
    format!(
        "Insufficient free disk space on the node's image filesystem ({used_percent}% of {gibibytes:.1} GiB used). \
         Failed to free sufficient space by deleting unused images (freed {freed} bytes). \
         Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    )
}

/// What kept a round from its aim.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    /// That of an event of its own.
    reason: Option<&'static str>,
    message: String,
}

/// What was told since images could be collected last.
#[derive(Debug, Default)]
struct Told {
    failures: u32,
    at: BTreeMap<&'static str, Instant>,
}

impl Told {
    /// The reasons of the events that another failure calls for. As upstream: one failure may have passing
    /// causes, two in a row are worth telling.
    fn reasons(&mut self, own: Option<&'static str>, now: Instant) -> Vec<&'static str> {
        self.failures = self.failures.saturating_add(1);
        let repeated = (self.failures > 1).then_some("ImageGCFailed");
        let mut reasons: Vec<&'static str> = own.into_iter().chain(repeated).collect();
        let at = &mut self.at;
        reasons.retain(|reason| {
            at.get(reason).is_none_or(|at| now.saturating_duration_since(*at) >= TOLD_EVERY)
        });
        at.extend(reasons.iter().map(|reason| (*reason, now)));
        reasons
    }
}

/// Collects for one node.
pub(crate) struct Collector {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) events: Recorder,
    pub(crate) node_name: String,
    pub(crate) policy: ImageGc,
    /// Told of when images are gone.
    pub(crate) images_changed: Arc<Notify>,
}

impl Collector {
    pub(crate) async fn run(self) {
        if self.policy.high_percent >= 100 {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Told::default();
        loop {
            ticks.tick().await;
            let Err(trouble) = self.round(SystemTime::now()).await else {
                told = Told::default();
                continue;
            };
            for reason in told.reasons(trouble.reason, Instant::now()) {
                warn!(reason, error = trouble.message, "images cannot be collected");
                self.tell(reason, trouble.message.clone());
            }
        }
    }

    /// One look, and what it calls for.
    async fn round(&self, now: SystemTime) -> Result<(), Trouble> {
        let failed = |error: ImageError| Trouble { reason: None, message: chain(&error) };
        let disk = self.runtime.image_disk().await.map_err(failed)?;
        let (wanted, used_percent) = match need(&disk, &self.policy) {
            Need::Nothing => return Ok(()),
            Need::Free { bytes, used_percent } => (bytes, used_percent),
            Need::Unknown => {
                let message = "invalid capacity 0 on image filesystem".to_owned();
                return Err(Trouble { reason: Some("InvalidDiskCapacity"), message });
            }
        };
        debug!(used_percent, wanted, "the disk of images is too full, unused ones go");
        let uses = self.runtime.image_uses().await.map_err(failed)?;
        let (mut listed, mut freed, mut errors) = (0, 0, Vec::new());
        for image in removable(uses, &self.policy, now) {
            if freed >= wanted {
                break;
            }
            match self.runtime.remove_image(&image.id, Removal::UnusedSince(image.last_used)).await {
                Ok(()) => info!(image = image.id, names = ?image.names, "removed an unused image"),
                // Somebody was faster: to use it, or to remove it.
                Err(ImageError::InUse { .. } | ImageError::NotPresent(_)) => continue,
                Err(error) => {
                    errors.push(chain(&error));
                    continue;
                }
            }
            listed += image.size_bytes;
            let left = self.runtime.image_disk().await.map_err(failed)?;
            // The list has the packed size, of which others may need parts; some disks free with a delay.
            freed = listed.max(left.available_bytes.saturating_sub(disk.available_bytes));
        }
        if listed > 0 {
            self.images_changed.notify_one();
        }
        if !errors.is_empty() {
            let errors = errors.join(", ");
            let message = format!(
                "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {errors}"
            );
            return Err(Trouble { reason: None, message });
        }
        if freed < wanted {
            let message = shortage(&disk, used_percent, freed);
            return Err(Trouble { reason: Some("FreeDiskSpaceFailed"), message });
        }
        Ok(())
    }

    fn tell(&self, reason: &str, message: String) {
        let metadata = ObjectMeta { name: Some(self.node_name.clone()), ..ObjectMeta::default() };
        let node = Node { metadata, ..Node::default() };
        self.events.node(&node, Kind::Warning, reason, message);
    }
}

#[cfg(test)]
mod tests {
    use skiff_client::Client;

    use super::*;
    use crate::fakes::{FakeApi, FakeRuntime};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn image(id: &str, last_used: u64) -> ImageUse {
        ImageUse {
            id: id.into(),
            names: vec![format!("docker.io/library/{id}:1")],
            size_bytes: 10,
            pinned: false,
            containers: 0,
            last_used: at(last_used),
        }
    }

    fn disk(capacity_bytes: u64, available_bytes: u64) -> ImageDisk {
        ImageDisk { capacity_bytes, available_bytes, ..ImageDisk::default() }
    }

    #[test]
    fn collecting_begins_at_the_high_threshold_and_aims_at_the_low_one() {
        let policy = ImageGc::default();
        for (capacity, available, expected) in [
            (1_000, 1_000, Need::Nothing),
            (1_000, 160, Need::Nothing),
            // A percentage is rounded up, as upstream's: 84.1 % count as 85.
            (1_000, 159, Need::Free { bytes: 41, used_percent: 85 }),
            (1_000, 150, Need::Free { bytes: 50, used_percent: 85 }),
            (1_000, 0, Need::Free { bytes: 200, used_percent: 100 }),
            (1_000, 2_000, Need::Nothing),
            (0, 0, Need::Unknown),
            (u64::MAX, 0, Need::Free { bytes: u64::MAX / 5, used_percent: 100 }),
        ] {
            assert_eq!(need(&disk(capacity, available), &policy), expected, "{available} of {capacity}");
        }
        let never = ImageGc { high_percent: 100, ..policy };
        assert_eq!(need(&disk(1_000, 0), &never), Need::Nothing);
    }

    #[test]
    fn what_goes_is_unused_old_and_not_loaded_and_the_least_recently_used_first() {
        let used = ImageUse { containers: 1, ..image("used", 1) };
        let loaded = ImageUse { pinned: true, ..image("loaded", 1) };
        let images = vec![
            image("late", 300),
            used,
            image("early", 100),
            loaded,
            image("fresh", 881),
            image("just old enough", 880),
            image("b", 200),
            image("a", 200),
            image("of the future", 2_000),
        ];
        let gone = removable(images, &ImageGc::default(), at(1_000));
        let ids: Vec<&str> = gone.iter().map(|image| image.id.as_str()).collect();
        assert_eq!(ids, ["early", "a", "b", "late", "just old enough"]);
    }

    #[test]
    fn thresholds_that_make_no_sense_are_named() {
        let policy = |high_percent, low_percent| ImageGc { high_percent, low_percent, ..ImageGc::default() };
        assert_eq!(policy(85, 80).check(), Ok(()));
        assert_eq!(policy(100, 0).check(), Ok(()));
        assert!(policy(101, 80).check().is_err_and(|error| error.contains("--image-gc-high-threshold")));
        assert_eq!(
            policy(80, 80).check().expect_err("is refused"),
            "imageGCLowThresholdPercent (--image-gc-low-threshold) 80 must be less than \
             imageGCHighThresholdPercent (--image-gc-high-threshold) 80"
        );
    }

    /// A node whose disk of 1000 bytes has so many left, and these images.
    fn collector(available: u64, images: Vec<ImageUse>) -> (Collector, Arc<FakeRuntime>, FakeApi) {
        let (runtime, api) = (Arc::new(FakeRuntime::default()), FakeApi::default());
        runtime.have_images(disk(1_000, available), images);
        let (events, writer) = crate::events::channel(Client::new(api.clone()), "node".into());
        tokio::spawn(writer.run());
        let collector = Collector {
            runtime: runtime.clone(),
            events,
            node_name: "node".into(),
            policy: ImageGc::default(),
            images_changed: Arc::default(),
        };
        (collector, runtime, api)
    }

    #[tokio::test]
    async fn no_more_goes_than_is_needed() {
        let images = || vec![image("d", 4), image("c", 3), image("b", 2), image("a", 1)];
        for (available, gone) in
            [(500, &[][..]), (150, &["a", "b", "c", "d"]), (180, &[]), (159, &["a", "b", "c", "d"])]
        {
            let (collector, runtime, _) = collector(available, images());
            let _ = collector.round(at(1_000)).await;
            assert_eq!(runtime.removed_images(), gone, "{available}");
        }
        let policy = ImageGc { high_percent: 85, low_percent: 84, ..ImageGc::default() };
        let (collector, runtime, _) = collector(145, images());
        let collector = Collector { policy, ..collector };
        assert_eq!(collector.round(at(1_000)).await, Ok(()));
        assert_eq!(runtime.removed_images(), ["a", "b"], "15 bytes are needed, and each frees 10");
    }

    #[tokio::test]
    async fn what_comes_into_use_meanwhile_stays() {
        let (collector, runtime, _) = collector(150, vec![image("taken", 1), image("b", 2)]);
        runtime.use_images(BTreeMap::from([("taken".to_owned(), 1)]));
        let _ = collector.round(at(1_000)).await;
        assert_eq!(runtime.removed_images(), ["b"]);
    }

    #[test]
    fn trouble_that_lasts_is_told_by_the_hour() {
        let (mut told, start) = (Told::default(), Instant::now());
        let mut fail = |own, minutes: u64| told.reasons(own, start + Duration::from_secs(60 * minutes));
        let full = Some("FreeDiskSpaceFailed");
        assert_eq!(fail(full, 0), ["FreeDiskSpaceFailed"]);
        assert_eq!(fail(full, 5), ["ImageGCFailed"]);
        assert_eq!(fail(full, 10), [""; 0]);
        assert_eq!(fail(Some("InvalidDiskCapacity"), 15), ["InvalidDiskCapacity"]);
        assert_eq!(fail(full, 59), [""; 0]);
        assert_eq!(fail(full, 60), ["FreeDiskSpaceFailed"]);
        assert_eq!(fail(None, 65), ["ImageGCFailed"]);
        assert_eq!(Told::default().reasons(None, start), [""; 0], "one failure may be chance");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stays_full_is_told_of() {
        let (collector, _, api) = collector(100, vec![image("a", 1)]);
        tokio::spawn(collector.run());
        let told = |reason: &str| {
            let events = api.all("/events/");
            let found = events.iter().find(|event| event["reason"] == reason);
            found.map(|event| (event["involvedObject"]["name"].clone(), event["message"].clone()))
        };
        let wait = async {
            while told("ImageGCFailed").is_none() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3_600), wait).await.expect("it is told");
        let (about, message) = told("FreeDiskSpaceFailed").expect("it is told first");
        assert_eq!(about, "node");
        let message = message.as_str().unwrap_or_default().to_owned();
        assert!(
            message.starts_with(
                "Insufficient free disk space on the node's image filesystem (90% of 0.0 GiB used). Failed to \
                 free sufficient space by deleting unused images (freed "
            ),
            "{message}"
        );
    }

    #[test]
    fn a_shortage_is_told_in_upstreams_words() {
        assert_eq!(
            shortage(&disk(123_154_530_304, 0), 88, 385_820_817),
            "Insufficient free disk space on the node's image filesystem (88% of 114.7 GiB used). Failed to free \
             sufficient space by deleting unused images (freed 385820817 bytes). Investigate disk usage, as it \
             could be used by active images, logs, volumes, or other data."
        );
    }
}
