//! A registry that sends clients to another place for a token, as the large ones do: a small one of the test's own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{Fixture, check_two_layers, two_layers};
use crate::images::digest::Digest;
use crate::images::manifest::MANIFEST;
use crate::types::RegistryAuth;

/// `user1:pass1`.
const BASIC: &str = "Basic dXNlcjE6cGFzczE=";
const TOKEN: &str = "a-token";

/// Serves one image under `app`, until the test's process ends.
struct Registry {
    host: String,
    /// The requests for tokens: query, and whether the password was right.
    asked: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Registry {
    fn start() -> Registry {
        let (config, manifest, layers) = two_layers("-").documents();
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut documents = BTreeMap::from([
            ("/v2/app/manifests/v1".to_owned(), manifest.clone()),
            (format!("/v2/app/manifests/{}", Digest::of(&manifest)), manifest),
        ]);
        for blob in layers.into_iter().chain([config]) {
            documents.insert(format!("/v2/app/blobs/{}", Digest::of(&blob)), blob.to_vec());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let registry = Registry { host: host.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who goes away in between is no news.
                let _ = answer(stream, &host, &documents, &asked);
            }
        });
        registry
    }
}

fn answer(
    stream: TcpStream,
    host: &str,
    documents: &BTreeMap<String, Vec<u8>>,
    asked: &Mutex<Vec<(String, bool)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let authorization = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    let stream = reader.get_mut();
    let mut say = |status: &str, headers: &str, body: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        )?;
        stream.write_all(body)
    };
    if let Some(query) = target.strip_prefix("/token?") {
        let right = authorization.as_deref() == Some(BASIC);
        asked.lock().unwrap().push((query.to_owned(), right));
        let token = format!("{{\"token\": \"{TOKEN}\"}}");
        return if right { say("200 OK", "", token.as_bytes()) } else { say("401 Unauthorized", "", b"no") };
    }
    if authorization.as_deref() != Some(&format!("Bearer {TOKEN}")) {
        let challenge =
            format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"\r\n");
        return say("401 Unauthorized", &challenge, b"");
    }
    match documents.get(&target) {
        Some(bytes) => say("200 OK", &format!("Content-Type: {MANIFEST}\r\n"), bytes),
        None => say("404 Not Found", "", b""),
    }
}

#[tokio::test]
async fn a_token_is_asked_for_where_the_registry_says_so() {
    let (registry, fixture) = (Registry::start(), Fixture::new());
    let name = format!("{}/app:v1", registry.host);
    let auth = |password: &str| RegistryAuth { username: "user1".into(), password: password.into() };
    for shut in [None, Some(auth("hunter2"))] {
        let said = fixture.store.pull(&name, shut).await.unwrap_err().to_string();
        assert!(!said.contains("hunter2"), "a password is in {said}");
    }
    assert_eq!(fixture.store.pull(&name, Some(auth("pass1"))).await.unwrap().image.tags, [name.as_str()]);
    check_two_layers(&fixture.store, &name).await;
    let asked = registry.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|(_, right)| *right).count(), 1, "{asked:?}");
    for (query, _) in asked {
        assert!(query.contains("service=test") && query.contains("repository"), "{query}");
    }
}
