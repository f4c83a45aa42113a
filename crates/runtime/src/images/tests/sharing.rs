//! Several processes, one directory.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Fixture, check_two_layers, two_layers};
use crate::images::{Config, ImageStore};
use crate::types::Removal;

const DIRECTORY: &str = "SKIFF_TEST_IMAGE_STORE";

/// What each of the processes does: load, remove and hold, in a different order by its number.
#[tokio::test]
#[ignore = "run as a process of its own by the test below"]
async fn one_of_several_processes() {
    let dir = std::env::var(DIRECTORY).expect("set by the test that runs this one");
    let store = ImageStore::open(Config::new(Path::new(&dir).join("images"))).unwrap();
    for round in 0..4 {
        let images = store.load(&Path::new(&dir).join("archive")).await.unwrap();
        assert_eq!(images[0].names[0], "docker.io/library/app:v1");
        let holder = format!("{}-{round}", std::process::id());
        match store.hold("app:v1", &holder, "node").await {
            Ok(()) => {
                // Another process may have removed the name, but not what is held.
                if let Ok(layers) = store.layers("app:v1").await {
                    assert!(layers[1].join("greeting").exists());
                }
                store.release(&holder).await.unwrap();
            }
            Err(crate::types::ImageError::NotPresent(_)) => {}
            Err(error) => panic!("{error}"),
        }
        match store.remove("app:v1", Removal::Forced).await {
            Ok(()) | Err(crate::types::ImageError::NotPresent(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn processes_load_and_remove_at_once_and_leave_no_garbage() {
    let fixture = Fixture::new();
    fixture.file("archive", &two_layers("app:v1").gzip().oci());
    let test = "images::tests::sharing::one_of_several_processes";
    let children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--ignored", "--nocapture"])
                .env(DIRECTORY, fixture.dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    fixture.store.load(&fixture.dir.path().join("archive")).await.unwrap();
    check_two_layers(&fixture.store, "app:v1").await;
    fixture.store.remove("app:v1", Removal::Forced).await.unwrap();
    for part in ["names", "layers", "blobs", "holds", "tmp"] {
        assert_eq!(fixture.count(part), 0, "{part}");
    }
}

#[tokio::test]
async fn tasks_of_one_process_share_the_work() {
    let fixture = Fixture::new();
    let path = fixture.file("archive", &two_layers("app:v1").oci());
    let loads = (0..8).map(|_| fixture.store.load(&path));
    for images in futures_util::future::join_all(loads).await {
        assert_eq!(images.unwrap().len(), 1);
    }
    check_two_layers(&fixture.store, "app:v1").await;
    assert_eq!((fixture.count("layers"), fixture.count("blobs"), fixture.count("tmp")), (2, 4, 0));
}

#[test]
fn what_a_killed_process_left_is_cleared_at_start() {
    let fixture = Fixture::new();
    let dir = fixture.store.dir();
    std::fs::create_dir_all(dir.join("tmp/half/of/a/layer")).unwrap();
    std::fs::write(dir.join("tmp/half-a-blob"), "x").unwrap();
    std::fs::write(dir.join("blobs").join("0".repeat(64)), "nobody's").unwrap();
    ImageStore::open(Config::new(dir)).unwrap();
    assert_eq!((fixture.count("tmp"), fixture.count("blobs")), (0, 0));
}
