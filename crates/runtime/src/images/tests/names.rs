//! What an archive's images are called.

use serde_json::{Value, json};

use super::{Fixture, two_layers};

const OF_CONTAINERD: &str = "io.containerd.image.name";
const OF_OCI: &str = "org.opencontainers.image.ref.name";

/// An archive whose two indices are changed so; nothing takes one away.
fn archive(index: impl Fn(&mut Value), docker: Option<Value>) -> Vec<u8> {
    let bytes = two_layers("unused").oci();
    let mut changed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut document = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut document).unwrap();
        if name == "index.json" || name == "manifest.json" {
            let mut value: Value = serde_json::from_slice(&document).unwrap();
            match name.as_str() {
                "index.json" => index(&mut value),
                _ => match &docker {
                    Some(tags) => value[0]["RepoTags"] = tags.clone(),
                    None => continue,
                },
            }
            document = value.to_string().into_bytes();
        }
        let mut header = entry.header().clone();
        header.set_size(document.len() as u64);
        changed.append_data(&mut header, name, &document[..]).unwrap();
    }
    changed.into_inner().unwrap()
}

#[tokio::test]
async fn containerds_name_goes_before_ocis_and_that_before_dockers() {
    let library = |name: &str| format!("docker.io/library/{name}");
    for (annotations, docker, expected) in [
        (json!({OF_CONTAINERD: "a:1", OF_OCI: "b:1"}), Some(json!(["c:1"])), library("a:1")),
        (json!({OF_CONTAINERD: "", OF_OCI: "b:1"}), Some(json!(["c:1"])), library("b:1")),
        (json!({OF_OCI: "quay.io/x/b"}), None, "quay.io/x/b:latest".to_owned()),
        (json!({}), Some(json!(["c"])), library("c:latest")),
        (json!({OF_CONTAINERD: "localhost:5000/a:1"}), None, "localhost:5000/a:1".to_owned()),
    ] {
        let fixture = Fixture::new();
        let bytes = archive(|index| index["manifests"][0]["annotations"] = annotations.clone(), docker);
        let images = fixture.load(&bytes).await.expect("is loaded");
        assert_eq!(images.len(), 1, "{annotations}");
        assert_eq!(images[0].tags, [expected], "{annotations}");
    }
}

#[tokio::test]
async fn an_archive_without_a_name_is_refused_and_says_how_to_give_one() {
    for docker in [None, Some(Value::Null), Some(json!([]))] {
        let fixture = Fixture::new();
        let nameless = archive(|index| index["manifests"][0]["annotations"] = json!({}), docker);
        let refused = fixture.load(&nameless).await.expect_err("it has no name");
        assert!(refused.contains("name") && refused.contains(OF_OCI), "{refused}");
        assert_eq!((fixture.count("names"), fixture.store.list().unwrap().len()), (0, 0));
        fixture.swept(0, 0);
    }
}

#[tokio::test]
async fn the_names_of_an_archive_are_its_own_whatever_else_the_image_is_called() {
    let fixture = Fixture::new();
    let named = |name: &str| {
        let bytes = archive(|index| index["manifests"][0]["annotations"] = json!({OF_OCI: name}), None);
        fixture.file("archive", &bytes)
    };
    let digest = format!("quay.io/a/b@sha256:{}", "0".repeat(64));
    for (name, whole) in
        [("short:v9", "docker.io/library/short:v9"), (&digest, &digest), ("q/x:1", "docker.io/q/x:1")]
    {
        let loaded = fixture.store.load(&named(name)).await.expect("is loaded");
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, [whole]);
    }
    let loaded = fixture.store.load(&named("short:v9")).await.expect("is loaded again").remove(0);
    assert_eq!(loaded.image.tags.len(), 2, "{:?}", loaded.image.tags);
}

#[tokio::test]
async fn several_names_are_one_image() {
    let fixture = Fixture::new();
    let twice = archive(
        |index| {
            let first = index["manifests"][0].clone();
            let named = |name: &str| {
                let mut entry = first.clone();
                entry["annotations"] = json!({OF_CONTAINERD: name});
                entry
            };
            index["manifests"] = json!([named("one:1"), named("two:2")]);
        },
        None,
    );
    let images = fixture.load(&twice).await.expect("is loaded");
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].tags, ["docker.io/library/one:1", "docker.io/library/two:2"]);
}
