//! Registries that mean harm: answers without an end, redirects, and those who want others' passwords.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{Fixture, check_two_layers, two_layers};
use crate::images::digest::Digest;
use crate::types::RegistryAuth;

/// `user1:pass1`.
const BASIC: &str = "Basic dXNlcjE6cGFzczE=";
/// Many times what is read of any document, so that whoever read it all would be seen to.
const ENDLESS_BYTES: usize = 256 << 20;

#[derive(Debug, Clone)]
struct Asked {
    target: String,
    authorization: Option<String>,
}

/// A server that answers until the test's process ends.
struct Server {
    host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Answer = dyn Fn(&str, &Asked, &mut TcpStream) -> io::Result<()> + Send + Sync;

impl Server {
    fn start(
        answer: impl Fn(&str, &Asked, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let server = Server { host: host.clone(), asked: asked.clone() };
        let answer: Arc<Answer> = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (host, asked, answer) = (host.clone(), asked.clone(), answer.clone());
                // Who goes away in between is no news.
                std::thread::spawn(move || {
                    let (request, mut stream) = read(stream)?;
                    asked.lock().unwrap().push(request.clone());
                    answer(&host, &request, &mut stream)
                });
            }
        });
        server
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: TcpStream) -> io::Result<(Asked, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let mut asked = Asked { target: String::new(), authorization: None };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            return Ok((asked, reader.into_inner()));
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                asked.authorization = Some(value.to_owned());
            }
            None => asked.target = line.split(' ').nth(1).unwrap_or_default().to_owned(),
            Some(_) => {}
        }
    }
}

fn say(stream: &mut TcpStream, status: &str, headers: &[String], body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len())?;
    for header in headers {
        write!(stream, "{header}\r\n")?;
    }
    write!(stream, "\r\n")?;
    stream.write_all(body)
}

/// In pieces of no told number.
fn say_without_end(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    let piece = vec![b'x'; 1 << 16];
    write!(stream, "HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for _ in 0..ENDLESS_BYTES / piece.len() {
        write!(stream, "{:x}\r\n", piece.len())?;
        stream.write_all(&piece)?;
        stream.write_all(b"\r\n")?;
    }
    stream.write_all(b"0\r\n\r\n")
}

fn sign_in(host: &str) -> String {
    format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"")
}

fn auth() -> Option<RegistryAuth> {
    Some(RegistryAuth { username: "user1".into(), password: "pass1".into() })
}

/// The manifest of an image, and all its parts by digest.
fn image() -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let (config, manifest, layers) = two_layers("-").documents();
    let blobs = layers.into_iter().chain([config]);
    let blobs = blobs.map(|blob| (Digest::of(&blob).to_string(), blob)).collect();
    (serde_json::to_vec(&manifest).unwrap(), blobs)
}

/// What a pull from there dies of, after the words that name the image.
async fn refused(server: &Server, auth: Option<RegistryAuth>) -> String {
    let fixture = Fixture::new();
    let name = format!("{}/app:v1", server.host);
    let said = fixture.store.pull(&name, auth).await.unwrap_err().to_string();
    for part in ["names", "layers", "blobs", "tmp"] {
        assert_eq!(fixture.count(part), 0, "{part}");
    }
    let of = [
        format!("failed to pull and unpack image \"{name}\": "),
        format!("failed to resolve reference \"{name}\": "),
    ];
    of.iter().fold(said, |said, prefix| said.strip_prefix(prefix).map(str::to_owned).unwrap_or(said))
}

#[tokio::test]
async fn a_manifest_without_an_end_is_read_to_the_bound() {
    let server = Server::start(|_, _, stream| say_without_end(stream, "200 OK"));
    assert_eq!(refused(&server, None).await, "the manifest has more bytes than 8388608, which are the most");
    // Where it tells its length, none of it is waited for.
    let server = Server::start(|_, _, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 700000000\r\n\r\n")?;
        // The end of the connection, which is the other's to make.
        io::copy(stream, &mut io::sink()).map(drop)
    });
    assert_eq!(refused(&server, None).await, "the manifest has 700000000 bytes; 8388608 are the most");
}

#[tokio::test]
async fn an_index_that_leads_to_an_endless_manifest_is_no_way_around() {
    let entry = format!("{{\"digest\":\"{}\"}}", Digest::of(b"x"));
    let index = format!("{{\"schemaVersion\":2,\"manifests\":[{entry}]}}");
    let server = Server::start(move |_, asked, stream| match asked.target.ends_with("/v1") {
        true => say(stream, "200 OK", &[], index.as_bytes()),
        false => say_without_end(stream, "200 OK"),
    });
    assert!(refused(&server, None).await.starts_with("the manifest has more bytes than"));
}

#[tokio::test]
async fn a_token_without_an_end_is_read_to_the_bound() {
    let server = Server::start(|host, asked, stream| match asked.target.starts_with("/token") {
        true => say_without_end(stream, "200 OK"),
        false => say(stream, "401 Unauthorized", &[sign_in(host)], b""),
    });
    let want = format!(
        "failed to authorize: the answer of http://{}/token has more than 1048576 bytes",
        server.host
    );
    assert_eq!(refused(&server, auth()).await, want);
    assert_eq!(refused(&server, None).await, want);
}

#[tokio::test]
async fn an_error_without_an_end_is_shown_by_its_beginning() {
    let server = Server::start(|_, _, stream| say_without_end(stream, "500 Internal Server Error"));
    let said = refused(&server, None).await;
    let want =
        format!("unexpected status from GET request to http://{}/v2/app/manifests/v1: 500: ", server.host);
    assert_eq!(said.strip_prefix(&want), Some("x".repeat(300).as_str()), "{said}");
    // Of a blob, and of who gives tokens.
    let (manifest, _) = image();
    let server = Server::start(move |_, asked, stream| match asked.target.contains("/manifests/") {
        true => say(stream, "200 OK", &[], &manifest),
        false => say_without_end(stream, "404 Not Found"),
    });
    let said = refused(&server, None).await;
    assert!(said.contains("failed to copy sha256:") && said.ends_with(": not found"), "{said}");
    for (status, want) in [("500 Broken", "/token: 500"), ("403 Forbidden", "/v1 answers 401 Unauthorized")] {
        let server = Server::start(move |host, asked, stream| match asked.target.starts_with("/token") {
            true => say_without_end(stream, status),
            false => say(stream, "401 Unauthorized", &[sign_in(host)], b""),
        });
        let said = refused(&server, None).await;
        assert!(said.ends_with(want), "{said}");
    }
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    let server = Server::start(|_, asked, stream| {
        say(stream, "307 Temporary Redirect", &[format!("Location: {}x", asked.target)], b"")
    });
    let said = refused(&server, None).await;
    assert!(said.starts_with("failed to do request: Get \"http://"), "{said}");
    assert!(said.ends_with("\": too many redirects"), "{said}");
    assert_eq!(server.asked().len(), 11);
}

#[tokio::test]
async fn where_a_redirect_leads_to_another_host_nobody_is_let_in_by_what_the_registry_takes() {
    let (manifest, blobs) = image();
    let elsewhere = Server::start(move |_, asked, stream| match asked.target.split_once("/far/") {
        Some((_, digest)) => say(stream, "200 OK", &[], &blobs[digest]),
        None => say(stream, "404 Not Found", &[], b""),
    });
    let far = elsewhere.host.clone();
    let registry = Server::start(move |host, asked, stream| {
        let see = |place: String| [format!("Location: {place}")];
        let known = asked.authorization.as_deref() == Some("Bearer a-token");
        if asked.target.starts_with("/token?") {
            return say(stream, "200 OK", &[], b"{\"access_token\": \"a-token\"}");
        }
        match (known, asked.target.rsplit_once('/')) {
            (true, Some(("/v2/app/manifests", _))) => say(stream, "200 OK", &[], &manifest),
            (true, Some(("/v2/app/blobs", digest))) => {
                say(stream, "302 Found", &see(format!("../near/{digest}")), b"")
            }
            // The same host is still to know who asks.
            (true, Some(("/v2/app/near", digest))) => {
                say(stream, "302 Found", &see(format!("http://user:word@{far}/far/{digest}")), b"")
            }
            _ => say(stream, "401 Unauthorized", &[sign_in(host)], b""),
        }
    });
    let fixture = Fixture::new();
    let name = format!("{}/app:v1", registry.host);
    fixture.store.pull(&name, auth()).await.unwrap();
    check_two_layers(&fixture.store, &name).await;
    let there = elsewhere.asked();
    assert_eq!(there.len(), 3, "{there:?}");
    assert!(there.iter().all(|asked| asked.authorization.is_none()), "{there:?}");
    let tokens =
        registry.asked().into_iter().filter(|asked| asked.target.starts_with("/token")).collect::<Vec<_>>();
    assert_eq!(tokens.len(), 1, "one for all parts");
    assert_eq!(tokens[0].authorization.as_deref(), Some(BASIC));
}

#[tokio::test]
async fn who_is_redirected_to_asks_for_a_password_in_vain() {
    let thief = Server::start(|host, _, stream| {
        let challenges = [sign_in(host), "WWW-Authenticate: Basic realm=\"registry\"".into()];
        say(stream, "401 Unauthorized", &challenges, b"")
    });
    let place = thief.host.clone();
    let registry = Server::start(move |_, asked, stream| match &asked.authorization {
        None => say(stream, "401 Unauthorized", &["WWW-Authenticate: Basic realm=\"x\"".into()], b""),
        Some(_) => say(stream, "302 Found", &[format!("Location: http://{place}/v1?signed")], b""),
    });
    let said = refused(&registry, auth()).await;
    assert!(said.starts_with("pull access denied") && said.contains(&thief.host), "{said}");
    assert!(!said.contains("signed"), "{said}");
    let shown = registry.asked().into_iter().map(|asked| asked.authorization).collect::<Vec<_>>();
    assert_eq!(shown, [None, Some(BASIC.to_owned())]);
    let there = thief.asked();
    assert!(there.len() == 1 && there[0].authorization.is_none(), "{there:?}");
}

#[tokio::test]
async fn a_token_that_ends_within_a_pull_is_asked_for_anew() {
    let (manifest, blobs) = image();
    let given = Mutex::new(0);
    let registry = Server::start(move |host, asked, stream| {
        let first = asked.authorization.as_deref() == Some("Bearer 1");
        if asked.target.starts_with("/token?") {
            let mut given = given.lock().unwrap();
            *given += 1;
            return say(stream, "200 OK", &[], format!("{{\"token\": \"{given}\"}}").as_bytes());
        }
        match asked.target.strip_prefix("/v2/app/blobs/") {
            None if first => say(stream, "200 OK", &[], &manifest),
            Some(digest) if !first && asked.authorization.is_some() => {
                say(stream, "200 OK", &[], &blobs[digest])
            }
            _ => say(stream, "401 Unauthorized", &[sign_in(host)], b""),
        }
    });
    let fixture = Fixture::new();
    let name = format!("{}/app:v1", registry.host);
    fixture.store.pull(&name, None).await.unwrap();
    check_two_layers(&fixture.store, &name).await;
}
