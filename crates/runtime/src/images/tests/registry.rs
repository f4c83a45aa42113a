//! Pulls from a real registry: Debian's `docker-registry`, on loopback.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, RequestBuilder, Response, Url};
use tempfile::TempDir;

use super::{Fixture, check_two_layers, two_layers};
use crate::images::build::Builder;
use crate::images::manifest::{INDEX, own_architecture};
use crate::images::{Config, ImageStore};
use crate::types::RegistryAuth;

const PASSWORDS: &str = "user1:$2y$05$abcdefghijklmnopqrstuu5mgrGG5HIqhtVXkz32HTDr8Qq1PG0X2\n";

struct Registry {
    process: Child,
    dir: TempDir,
    /// `127.0.0.1:PORT`.
    host: String,
    with_password: bool,
}

impl Registry {
    fn start(with_password: bool) -> Self {
        Registry::start_with(TempDir::new().unwrap(), "127.0.0.1", "", with_password)
    }

    /// With more settings of its part `http`.
    fn start_with(dir: TempDir, address: &str, http: &str, with_password: bool) -> Self {
        let path = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: \"{address}:0\"{http}}}\n"
        );
        if with_password {
            std::fs::write(dir.path().join("htpasswd"), PASSWORDS).unwrap();
            config += &format!("auth: {{htpasswd: {{realm: test, path: {path}/htpasswd}}}}\n");
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs the program docker-registry: apt-get install docker-registry");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        let host = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry ended: {said}");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', '\n', ',']).next().unwrap().to_owned();
            }
            said += &line;
        };
        // Its log must be read on, or it blocks when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry { process, dir, host, with_password }
    }

    /// Pushes an image and returns its manifest.
    async fn push(&self, repository: &str, tag: &str, image: &Builder) -> Vec<u8> {
        let (config, manifest, layers) = image.documents();
        for blob in layers.into_iter().chain([config]) {
            let digest = crate::images::digest::Digest::of(&blob).to_string();
            let uploads = self.url(&format!("{repository}/blobs/uploads/"));
            let begun = self.send(client().post(uploads.clone())).await;
            let mut upload = uploads.join(begun.headers()[LOCATION].to_str().unwrap()).unwrap();
            upload.query_pairs_mut().append_pair("digest", &digest);
            self.send(client().put(upload).body(blob)).await;
        }
        let bytes = serde_json::to_vec(&manifest).unwrap();
        self.push_document(repository, tag, bytes.clone(), crate::images::manifest::MANIFEST).await;
        bytes
    }

    async fn push_document(&self, repository: &str, tag: &str, bytes: Vec<u8>, media_type: &str) {
        let manifest = self.url(&format!("{repository}/manifests/{tag}"));
        self.send(client().put(manifest).header(CONTENT_TYPE, media_type).body(bytes)).await;
    }

    async fn send(&self, request: RequestBuilder) -> Response {
        let request = match self.with_password {
            true => request.basic_auth("user1", Some("pass1")),
            false => request,
        };
        request.send().await.unwrap().error_for_status().unwrap()
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}/v2/{path}", self.host)).unwrap()
    }
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_pull_brings_the_image_and_a_second_one_sees_a_moved_tag() {
    let (registry, fixture) = (Registry::start(false), Fixture::new());
    registry.push("a/app", "v1", &two_layers("-").gzip()).await;
    let name = format!("{}/a/app:v1", registry.host);
    let pulls = (0..4).map(|_| fixture.store.pull(&name, None));
    let mut images: Vec<_> =
        futures_util::future::join_all(pulls).await.into_iter().map(|pulled| pulled.unwrap().image).collect();
    images.dedup();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].tags, std::slice::from_ref(&name));
    assert!(fixture.store.is_given_to(&name, &[]).unwrap());
    assert!(images[0].digests[0].starts_with(&format!("{}/a/app@sha256:", registry.host)));
    check_two_layers(&fixture.store, &name).await;
    assert_eq!((fixture.count("layers"), fixture.count("blobs"), fixture.count("tmp")), (2, 4, 0));
    // By digest, from the registry again.
    assert_eq!(fixture.store.pull(&images[0].digests[0], None).await.unwrap().image.id, images[0].id);

    registry.push("a/app", "v1", &two_layers("-").cmd(["other"])).await;
    let asked = std::time::SystemTime::now();
    let moved = fixture.store.pull(&name, None).await.unwrap();
    let (began, ended) = moved.unpacking.unwrap();
    assert!(asked <= began && began <= ended, "its parts are fetched before they are unpacked");
    let moved = moved.image;
    assert_ne!(moved.id, images[0].id);
    assert_eq!(fixture.store.get(&name).unwrap().unwrap(), moved);

    let said = fixture.store.pull(&format!("{}/a/nope", registry.host), None).await.unwrap_err().to_string();
    let name = format!("{}/a/nope:latest", registry.host);
    assert!(
        said.starts_with(&format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
        )),
        "{said}"
    );
}

#[tokio::test]
async fn an_index_gives_the_image_of_this_machine() {
    let (registry, fixture) = (Registry::start(false), Fixture::new());
    let own = registry.push("app", "own", &two_layers("-")).await;
    let other = registry.push("app", "other", &two_layers("-").cmd(["other"])).await;
    let entry = |bytes: &[u8], architecture: &str| {
        serde_json::json!({
            "mediaType": crate::images::manifest::MANIFEST, "size": bytes.len(),
            "digest": crate::images::digest::Digest::of(bytes),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let index = |entries| serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let both =
        index(vec![entry(&other, "riscv64"), entry(&own, own_architecture())]).to_string().into_bytes();
    let target = crate::images::digest::Digest::of(&both);
    registry.push_document("app", "both", both, INDEX).await;
    let image = fixture.store.pull(&format!("{}/app:both", registry.host), None).await.unwrap().image;
    assert_eq!(image.cmd, ["-c", "id"]);
    assert_eq!(image.digests, [format!("{}/app@{target}", registry.host)]);
    let foreign = index(vec![entry(&other, "riscv64")]).to_string().into_bytes();
    registry.push_document("app", "foreign", foreign, INDEX).await;
    let said =
        fixture.store.pull(&format!("{}/app:foreign", registry.host), None).await.unwrap_err().to_string();
    assert!(said.contains("no match for platform in manifest"), "{said}");
}

#[tokio::test]
async fn a_private_image_needs_its_password() {
    let (registry, fixture) = (Registry::start(true), Fixture::new());
    registry.push("app", "v1", &two_layers("-")).await;
    let name = format!("{}/app:v1", registry.host);
    let auth = |password: &str| RegistryAuth { username: "user1".into(), password: password.into() };
    let said = fixture.store.pull(&name, None).await.unwrap_err().to_string();
    assert!(said.contains("401") || said.contains("authoriz"), "{said}");
    let said = fixture.store.pull(&name, Some(auth("wrong"))).await.unwrap_err().to_string();
    assert!(!said.contains("wrong"), "a password is in {said}");
    let image = fixture.store.pull(&name, Some(auth("pass1"))).await.unwrap().image;
    assert_eq!(image.tags, [name.as_str()]);
    // It is there, and the registry's to give all the same.
    for reference in [&name, &image.digests[0], &image.id] {
        let given = |credentials: &[RegistryAuth]| fixture.store.is_given_to(reference, credentials).unwrap();
        assert!(given(&[auth("wrong"), auth("pass1")]), "{reference}");
        assert!(!given(&[]) && !given(&[auth("wrong")]), "{reference}");
    }
    assert!(!fixture.store.is_given_to("absent", &[]).unwrap());
    // Whoever has the archive needs no registry.
    let archive = fixture.dir.path().join("saved");
    fixture.store.save(&name, &archive).await.unwrap();
    fixture.store.load(&archive).await.unwrap();
    assert!(fixture.store.is_given_to(&name, &[]).unwrap());
}

/// An address of this machine that no name and no rule calls loopback: it is asked with TLS.
#[tokio::test]
async fn a_registry_is_trusted_by_its_authority() {
    let proxies = crate::images::lookup::PROXIES;
    if proxies.iter().any(|variable| std::env::var_os(variable).is_some()) {
        // A proxy has another 0.0.0.0: this test, in a process that knows of none.
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "images::tests::registry::a_registry_is_trusted_by_its_authority"]);
        for variable in proxies {
            again.env_remove(variable);
        }
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let dir = TempDir::new().unwrap();
    let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let own = rcgen::CertificateParams::new(vec!["0.0.0.0".to_owned()]).unwrap();
    let files = ["own.pem", "own.key", "other.pem"].map(|name| dir.path().join(name));
    std::fs::write(&files[0], own.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    std::fs::write(&files[2], own.self_signed(&other).unwrap().pem()).unwrap();
    let tls = format!(", tls: {{certificate: {}, key: {}}}", files[0].display(), files[1].display());
    let registry = Registry::start_with(dir, "0.0.0.0", &tls, false);
    let port = registry.host.rsplit_once(':').unwrap().1;
    let name = format!("0.0.0.0:{port}/app:v1");
    for (trusted, want) in [(&files[0], "not found"), (&files[2], "certificate")] {
        let dir = TempDir::new().unwrap();
        let mut config = Config::new(dir.path());
        config.ca_certificates.push(trusted.clone());
        let said = ImageStore::open(config).unwrap().pull(&name, None).await.unwrap_err().to_string();
        assert!(said.contains(want), "{said}");
    }
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_has_the_last_word() {
    let registry = Registry::start(false);
    registry.push("library/app", "v1", &two_layers("-")).await;
    let dir = TempDir::new().unwrap();
    let mut config = Config::new(dir.path());
    let dead = unused_port();
    config.http_registries.push(format!("127.0.0.1:{dead}"));
    let origin = format!("127.0.0.1:{dead}");
    config.mirrors.insert(origin.clone(), vec![registry.host.clone()]);
    let store = ImageStore::open(config).unwrap();
    let image = store.pull(&format!("{origin}/library/app:v1"), None).await.unwrap().image;
    assert_eq!(image.tags, [format!("{origin}/library/app:v1")]);
    let said = store.pull(&format!("{origin}/library/nope:v1"), None).await.unwrap_err().to_string();
    assert!(said.contains("failed to do request") && said.contains(&origin), "{said}");
}

#[tokio::test]
async fn a_blob_with_another_content_is_refused_and_leaves_nothing() {
    let (registry, fixture) = (Registry::start(false), Fixture::new());
    registry.push("app", "v1", &two_layers("-")).await;
    let changed = change_blobs(&registry.dir.path().join("data"));
    assert_eq!(changed, 1);
    let said = fixture.store.pull(&format!("{}/app:v1", registry.host), None).await.unwrap_err().to_string();
    assert!(said.contains("failed to copy sha256:"), "{said}");
    assert!(fixture.store.list().unwrap().is_empty());
    for part in ["names", "layers", "blobs", "tmp"] {
        assert_eq!(fixture.count(part), 0, "{part}");
    }
}

/// Changes a byte of the layer that has the greeting, and tells how many it found.
fn change_blobs(dir: &Path) -> usize {
    let mut changed = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            changed += change_blobs(&path);
        } else if let Ok(mut bytes) = std::fs::read(&path)
            && let Some(at) = bytes.windows(5).position(|window| window == b"hello")
        {
            bytes[at] = b'j';
            std::fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    changed
}

fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
