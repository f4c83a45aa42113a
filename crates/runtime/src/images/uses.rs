//! Who uses which image, and taking images away.
//!
//! A use is a file in the store, so that all who share the directory know of it: what one node's container
//! runs of, another node removes only by force. When an image was used last is the time of its names'
//! files: they are written when it is pulled and touched when a container lets go of it.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use super::content::{HoldRecord, NameRecord};
use super::digest::Digest;
use super::{ImageStore, collect, find};
use crate::types::{ImageDisk, ImageError, ImageUse, Removal};

impl ImageStore {
    /// Keeps the image's layers on disk, even if all its names are removed, until `holder` (a container's
    /// ID) is released. Also another process's removal respects it. `owner` is whose holder it is: see
    /// [`ImageStore::release_all_but`].
    pub async fn hold(&self, reference_or_id: &str, holder: &str, owner: &str) -> Result<(), ImageError> {
        let wanted = reference_or_id.to_owned();
        let (holder, owner) = (holder.to_owned(), owner.to_owned());
        self.blocking(move |store| {
            let _lock = store.content.lock_shared()?;
            // Held, so that a removal sees the use, or this the removal.
            let _names = store.content.lock_names_shared()?;
            let records = store.content.records()?;
            let found = find(&records, &wanted)?.ok_or_else(|| ImageError::NotPresent(wanted.clone()))?;
            let diff_ids = found.layers.iter().map(|layer| layer.diff_id.clone()).collect();
            let image = Some(found.config.clone());
            let record = HoldRecord { holder: holder.clone(), owner, image, diff_ids };
            store.content.put_hold(&holder, &record)
        })
        .await
    }

    /// Ends a [`ImageStore::hold`]; one that doesn't exist is no error.
    pub async fn release(&self, holder: &str) -> Result<(), ImageError> {
        let holder = holder.to_owned();
        self.blocking(move |store| store.let_go(&holder)).await
    }

    /// Ends the uses of an owner's holders that are not among these: left by one that was killed between
    /// taking hold of an image and having a container.
    pub fn release_all_but(&self, owner: &str, holders: &HashSet<String>) -> Result<(), ImageError> {
        for hold in self.content.holds()? {
            if !hold.holder.is_empty() && hold.owner == owner && !holders.contains(&hold.holder) {
                self.let_go(&hold.holder)?;
            }
        }
        Ok(())
    }

    /// All images, each with what decides whether it may go. A file or two of each is looked at.
    pub async fn uses(&self) -> Result<Vec<ImageUse>, ImageError> {
        self.blocking(|store| {
            let records = store.content.records()?;
            let holds = store.content.holds()?;
            let by_id: BTreeMap<&Digest, &NameRecord> =
                records.iter().map(|record| (&record.config, record)).collect();
            Ok(by_id.into_values().map(|record| store.image_use(record, &records, &holds)).collect())
        })
        .await
    }

    /// Takes all names from the image of a name or ID and deletes what no image and no
    /// [`ImageStore::hold`] needs any more. [`ImageError::NotPresent`] if there is none,
    /// [`ImageError::InUse`] if `removal` minds that.
    pub async fn remove(&self, reference_or_id: &str, removal: Removal) -> Result<(), ImageError> {
        let wanted = reference_or_id.to_owned();
        self.blocking(move |store| {
            let lock = store.content.lock_names()?;
            let records = store.content.records()?;
            let found = find(&records, &wanted)?.ok_or_else(|| ImageError::NotPresent(wanted.clone()))?;
            let used = store.image_use(found, &records, &store.content.holds()?);
            if !allows(removal, &used) {
                return Err(ImageError::InUse { reference: wanted, containers: used.containers });
            }
            for record in records.iter().filter(|record| record.config == found.config) {
                store.content.remove_record(&record.name)?;
            }
            drop(lock);
            store.content.mark_garbage()?;
            collect::collect(&store.content)
        })
        .await
    }

    /// The room on the disk that images are on.
    pub fn disk(&self) -> Result<ImageDisk, ImageError> {
        let path = self.dir();
        let found = nix::sys::statvfs::statvfs(path).map_err(|error| ImageError::Io {
            action: format!("measure the disk of {}", path.display()),
            source: error.into(),
        })?;
        let unit = found.fragment_size();
        Ok(ImageDisk {
            capacity_bytes: found.blocks() * unit,
            available_bytes: found.blocks_available() * unit,
            free_bytes: found.blocks_free() * unit,
            inodes: found.files(),
            inodes_free: found.files_free(),
        })
    }

    fn let_go(&self, holder: &str) -> Result<(), ImageError> {
        if let Some(hold) = self.content.hold(holder)? {
            let now = SystemTime::now();
            let records = self.content.records()?;
            for record in records.iter().filter(|record| is_of(&hold, record)) {
                self.content.touch_record(&record.name, now)?;
            }
        }
        if self.content.remove_hold(holder)? {
            self.content.mark_garbage()?;
            collect::collect(&self.content)?;
        }
        Ok(())
    }

    fn image_use(&self, record: &NameRecord, records: &[NameRecord], holds: &[HoldRecord]) -> ImageUse {
        let own: Vec<&NameRecord> = records.iter().filter(|other| other.config == record.config).collect();
        let used = own.iter().filter_map(|own| self.content.record_time(&own.name)).max();
        ImageUse {
            id: record.config.to_string(),
            names: own.iter().map(|own| own.name.clone()).collect(),
            size_bytes: record.size_bytes,
            pinned: own.iter().any(|own| own.loaded),
            containers: holds.iter().filter(|hold| is_of(hold, record)).count(),
            last_used: used.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Whether a use in that state stands in nobody's way.
fn allows(removal: Removal, used: &ImageUse) -> bool {
    match removal {
        Removal::Forced => true,
        Removal::Unused => used.containers == 0,
        Removal::UnusedSince(then) => used.containers == 0 && !used.pinned && used.last_used <= then,
    }
}

/// Older records name no image, but all its layers.
fn is_of(hold: &HoldRecord, record: &NameRecord) -> bool {
    match &hold.image {
        Some(image) => *image == record.config,
        None => hold.diff_ids.iter().eq(record.layers.iter().map(|layer| &layer.diff_id)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn used(containers: usize, pinned: bool, at: u64) -> ImageUse {
        ImageUse {
            id: "sha256:1".into(),
            names: Vec::new(),
            size_bytes: 1,
            pinned,
            containers,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
        }
    }

    #[test]
    fn what_is_used_goes_by_force_alone_and_what_was_loaded_by_order() {
        let since = Removal::UnusedSince(SystemTime::UNIX_EPOCH + Duration::from_secs(10));
        for (state, unused, old) in [
            (used(0, false, 10), true, true),
            (used(0, false, 11), true, false),
            (used(1, false, 10), false, false),
            (used(0, true, 10), true, false),
            (used(2, true, 10), false, false),
        ] {
            assert!(allows(Removal::Forced, &state));
            assert_eq!(allows(Removal::Unused, &state), unused, "{state:?}");
            assert_eq!(allows(since, &state), old, "{state:?}");
        }
    }
}
