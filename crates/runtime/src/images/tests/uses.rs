//! Who uses an image, as several nodes that share a store see it.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::{Fixture, two_layers};
use crate::images::{Config, ImageStore};
use crate::types::{Image, ImageError, ImageUse, Removal};

impl Fixture {
    /// As another node sees the store.
    fn elsewhere(&self) -> ImageStore {
        ImageStore::open(Config::new(self.store.dir())).unwrap()
    }

    /// An image as if a registry had given it, last used then.
    async fn pulled(&self, name: &str, at: SystemTime) -> Image {
        let image = self.load(&two_layers(name).env(&format!("NAME={name}")).oci()).await.unwrap().remove(0);
        let content = &self.store.content;
        for record in
            content.records().unwrap().into_iter().filter(|each| each.config.to_string() == image.id)
        {
            let record = super::super::content::NameRecord { loaded: false, ..record };
            content.put_record(&record).unwrap();
            content.touch_record(&record.name, at).unwrap();
        }
        image
    }

    async fn one_use(&self) -> ImageUse {
        let mut uses = self.elsewhere().uses().await.unwrap();
        assert_eq!(uses.len(), 1, "{uses:?}");
        uses.remove(0)
    }
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

#[tokio::test]
async fn every_node_sees_every_nodes_uses() {
    let fixture = Fixture::new();
    let image = fixture.pulled("app:v1", long_ago()).await;
    let free = fixture.one_use().await;
    assert_eq!((&free.id, free.containers, free.pinned), (&image.id, 0, false));
    assert_eq!(free.last_used, long_ago());
    assert!(free.names.contains(&"docker.io/library/app:v1".to_owned()), "{free:?}");

    fixture.store.hold("app:v1", "c1", "node-1").await.unwrap();
    fixture.elsewhere().hold(&image.id, "c2", "node-2").await.unwrap();
    assert_eq!(fixture.one_use().await.containers, 2);
    for removal in [Removal::Unused, Removal::UnusedSince(SystemTime::now())] {
        let refused = fixture.store.remove("app:v1", removal).await;
        assert!(matches!(refused, Err(ImageError::InUse { containers: 2, .. })), "{refused:?}");
    }
    let before = SystemTime::now() - Duration::from_secs(60);
    fixture.store.release("c1").await.unwrap();
    let left = fixture.one_use().await;
    assert_eq!(left.containers, 1);
    assert!(left.last_used > before, "being let go of is a use: {left:?}");
    fixture.store.release("c2").await.unwrap();
    let refused = fixture.store.remove(&image.id, Removal::UnusedSince(before)).await;
    assert!(
        matches!(refused, Err(ImageError::InUse { containers: 0, .. })),
        "it was used since: {refused:?}"
    );
    let last = fixture.one_use().await.last_used;
    fixture.store.remove(&image.id, Removal::UnusedSince(last)).await.unwrap();
    fixture.swept(0, 0);
}

#[tokio::test]
async fn what_was_loaded_is_pinned_by_any_of_its_names() {
    let fixture = Fixture::new();
    let image = fixture.load(&two_layers("app:v1").oci()).await.unwrap().remove(0);
    assert!(fixture.one_use().await.pinned);
    let refused = fixture.store.remove(&image.id, Removal::UnusedSince(SystemTime::now())).await;
    assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");
    // Who asks for it by name means it.
    fixture.store.remove("app:v1", Removal::Unused).await.unwrap();
}

#[tokio::test]
async fn a_killed_nodes_uses_end_and_others_do_not() {
    let fixture = Fixture::new();
    fixture.pulled("app:v1", long_ago()).await;
    for (holder, owner) in [("lives", "/a"), ("died", "/a"), ("other", "/b")] {
        fixture.store.hold("app:v1", holder, owner).await.unwrap();
    }
    fixture.elsewhere().release_all_but("/a", &HashSet::from(["lives".to_owned()])).unwrap();
    assert_eq!(fixture.one_use().await.containers, 2);
    fixture.elsewhere().release_all_but("/b", &HashSet::new()).unwrap();
    assert_eq!(fixture.one_use().await.containers, 1);
}

#[tokio::test]
async fn uses_from_before_they_named_their_image_count() {
    let fixture = Fixture::new();
    fixture.pulled("app:v1", long_ago()).await;
    fixture.store.hold("app:v1", "c1", "").await.unwrap();
    let hold = std::fs::read_dir(fixture.store.dir().join("holds")).unwrap().next().unwrap().unwrap().path();
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&hold).unwrap()).unwrap();
    let fields = record.as_object_mut().unwrap();
    fields.retain(|name, _| name == "diff_ids");
    std::fs::write(&hold, record.to_string()).unwrap();
    assert_eq!(fixture.one_use().await.containers, 1);
    fixture.elsewhere().release_all_but("", &HashSet::new()).unwrap();
    assert_eq!(fixture.one_use().await.containers, 1, "who holds is not known: it is not let go of");
}

#[tokio::test]
async fn a_disk_has_room() {
    let disk = Fixture::new().store.disk().unwrap();
    assert!(disk.capacity_bytes > 0 && disk.available_bytes <= disk.capacity_bytes, "{disk:?}");
    assert!(disk.inodes_free <= disk.inodes, "{disk:?}");
}
