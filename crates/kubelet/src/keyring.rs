//! Which credentials are tried for an image: those of a pod's pull secrets whose place matches, by upstream's
//! rules (`credentialprovider.BasicDockerKeyring`). Plain functions; nothing here is ever logged.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use skiff_runtime::RegistryAuth;

/// Where clients of docker keep what is for its own registry.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials by the place that they are for: `HOST[:PORT][/PATH]`, a part of the host may be a pattern.
#[derive(Default)]
pub(crate) struct Keyring {
    places: BTreeMap<String, Vec<RegistryAuth>>,
}

/// A secret that can't be read; what is in it stays in it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("pull secret \"{name}\" can't be understood: {reason}")]
pub(crate) struct Malformed {
    name: String,
    reason: String,
}

/// One place of `~/.docker/config.json`. What is not read here, such as a mail address, has no meaning for pulls.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    /// Both of these, in base64.
    auth: String,
}

type Entries = BTreeMap<String, Entry>;

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerConfig {
    auths: Entries,
}

impl Keyring {
    /// Of the secrets of both types that have credentials; others have none.
    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Result<Keyring, Malformed> {
        let mut keyring = Keyring::default();
        for secret in secrets {
            let malformed =
                |reason: String| Malformed { name: secret.metadata.name.clone().unwrap_or_default(), reason };
            for (place, entry) in entries(secret).map_err(malformed)? {
                let auth = entry.credentials().map_err(malformed)?;
                keyring.places.entry(key(&place)).or_default().push(auth);
            }
        }
        Ok(keyring)
    }

    /// All that may open a repository (`docker.io/library/web`), those of the longest place first.
    pub(crate) fn of_repository(&self, repository: &str) -> Vec<RegistryAuth> {
        let matching = self.places.iter().rev().filter(|(place, _)| matches(place, repository));
        let found: Vec<RegistryAuth> = matching.flat_map(|(_, all)| all.iter().cloned()).collect();
        if found.is_empty() && is_of_default_registry(repository) {
            return self.places.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

impl Entry {
    fn credentials(self) -> Result<RegistryAuth, String> {
        if self.auth.is_empty() {
            return Ok(RegistryAuth { username: self.username, password: self.password });
        }
        let text = self.auth.trim();
        let engine = if text.ends_with('=') { STANDARD } else { STANDARD_NO_PAD };
        let bytes = engine.decode(text).map_err(|_| "an auth field is not base64".to_owned())?;
        let pair = String::from_utf8(bytes).ok();
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (username, password) =
            pair.ok_or("unable to parse auth field, must be formatted as base64(username:password)")?;
        Ok(RegistryAuth { username: username.into(), password: password.into() })
    }
}

fn entries(secret: &Secret) -> Result<Entries, String> {
    let bytes = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty())
    };
    // The words of the parser would quote what it stumbled over.
    let wrong = |error: serde_json::Error| {
        format!("no valid JSON of that form at line {} column {}", error.line(), error.column())
    };
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => match bytes(".dockerconfigjson") {
            Some(bytes) => {
                serde_json::from_slice(bytes).map(|config: DockerConfig| config.auths).map_err(wrong)
            }
            None => Ok(Entries::new()),
        },
        Some("kubernetes.io/dockercfg") => match bytes(".dockercfg") {
            Some(bytes) => serde_json::from_slice(bytes).map_err(wrong),
            None => Ok(Entries::new()),
        },
        _ => Ok(Entries::new()),
    }
}

/// A place as images are compared with it: without a scheme, and without the API's version that docker adds.
fn key(place: &str) -> String {
    let bare = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let (host, path) = split_path(bare);
    let path = match path {
        "/v1/" | "/v2/" => "",
        path if path.starts_with("/v1/") || path.starts_with("/v2/") => &path[3..],
        path => path,
    };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

fn split_path(place: &str) -> (&str, &str) {
    place.split_at(place.find('/').unwrap_or(place.len()))
}

/// Each part of the host by itself, so that a pattern stands for one part; the port as it is; and the path as
/// the beginning of the image's.
fn matches(place: &str, repository: &str) -> bool {
    let ((place, path), (host, image)) = (split_path(place), split_path(repository));
    let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
    let parts = |host: &str| -> Vec<String> {
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        host.split('.').map(str::to_owned).collect()
    };
    let (patterns, names) = (parts(place), parts(host));
    port(place) == port(host)
        && image.starts_with(path)
        && patterns.len() == names.len()
        && patterns.iter().zip(&names).all(|(pattern, name)| is_like(pattern.as_bytes(), name.as_bytes()))
}

/// `*` is any text, `?` any letter. Where a letter does not fit, only the last `*` takes one more: what those
/// before it took is the least already, and trying all of them would take time without end for some patterns.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut own) = (0, 0);
    // Behind the last `*`, and how far it reaches.
    let mut star = None;
    while own < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, own));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[own] => (at, own) = (at + 1, own + 1),
            _ => {
                let Some((behind, taken)) = star else { return false };
                star = Some((behind, taken + 1));
                (at, own) = (behind, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

fn is_of_default_registry(repository: &str) -> bool {
    ["docker.io", DEFAULT_REGISTRY].contains(&split_path(repository).0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(kind: &str, content: &str) -> Secret {
        let key = kind.replace("kubernetes.io/", ".");
        let data = json!({key: STANDARD.encode(content)});
        serde_json::from_value(json!({"metadata": {"name": "s"}, "type": kind, "data": data}))
            .expect("a secret")
    }

    fn config(auths: Value) -> Secret {
        secret("kubernetes.io/dockerconfigjson", &json!({"auths": auths}).to_string())
    }

    fn users(keyring: &Keyring, repository: &str) -> String {
        let found = keyring.of_repository(repository);
        found.iter().map(|auth| auth.username.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn credentials_are_for_their_place_the_longest_first() {
        let user = |name: &str| json!({"username": name, "password": "p"});
        let one = config(json!({
            "quay.io": user("host"),
            "quay.io/team": user("team"),
            "https://quay.io/team/app": user("app"),
            "https://index.docker.io/v1/": user("docker"),
            "*.example.org": user("wild"),
            "r?.example.com:5000": user("port"),
            "http://old.example.net/v2/path": user("old"),
            "localhost:5000": user("local"),
        }));
        let two = secret("kubernetes.io/dockercfg", &json!({"quay.io": user("second")}).to_string());
        let keyring = Keyring::of([&one, &two]).unwrap_or_else(|error| panic!("{error}"));
        for (repository, expected) in [
            ("quay.io/team/app", "app team host second"),
            ("quay.io/team/other", "team host second"),
            // The beginning of the path is enough, as upstream has it.
            ("quay.io/teammate/app", "team host second"),
            ("quay.io/other", "host second"),
            ("quay.io:443/other", ""),
            ("docker.io/library/web", "docker"),
            ("a.example.org/web", "wild"),
            ("a.b.example.org/web", ""),
            ("example.org/web", ""),
            ("r1.example.com:5000/web", "port"),
            ("r12.example.com:5000/web", ""),
            ("r1.example.com/web", ""),
            ("old.example.net/path/web", "old"),
            ("old.example.net/web", ""),
            ("localhost:5000/web", "local"),
            ("elsewhere.net/web", ""),
        ] {
            assert_eq!(users(&keyring, repository), expected, "{repository}");
        }
    }

    #[test]
    fn what_names_dockers_own_registry_outweighs_its_default() {
        let user = |name: &str| json!({"username": name, "password": "p"});
        let both = config(json!({"index.docker.io": user("default"), "docker.io/library": user("own")}));
        let keyring = Keyring::of([&both]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(users(&keyring, "docker.io/library/web"), "own");
        assert_eq!(users(&keyring, "docker.io/team/web"), "default");
    }

    #[test]
    fn an_auth_field_outweighs_the_plain_ones() {
        for auth in ["bWU6YTpi", "bWU6YTpi=", "bWU6YTpiYw==", "bWU6YTpiYw"] {
            let entry = json!({"username": "x", "password": "y", "auth": auth, "email": "e"});
            let Ok(keyring) = Keyring::of([&config(json!({"quay.io": entry}))]) else {
                assert_eq!(auth, "bWU6YTpi=", "only that is wrongly padded");
                continue;
            };
            let found = &keyring.of_repository("quay.io/a")[0];
            assert_eq!((&*found.username, found.password.starts_with("a:b")), ("me", true), "{auth}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_named_and_not_told() {
        let said = |secret: Secret| Keyring::of([&secret]).err().map(|error| error.to_string());
        let broken = secret("kubernetes.io/dockerconfigjson", "{\"auths\": {\"q\": hunter2}}");
        assert_eq!(
            said(broken).as_deref(),
            Some("pull secret \"s\" can't be understood: no valid JSON of that form at line 1 column 17")
        );
        assert_eq!(
            said(config(json!({"quay.io": {"auth": STANDARD.encode("hunter2")}}))).as_deref(),
            Some(
                "pull secret \"s\" can't be understood: unable to parse auth field, must be formatted as base64(username:password)"
            )
        );
        let other = secret("Opaque", "x");
        assert_eq!(said(other), None);
        assert_eq!(said(secret("kubernetes.io/dockercfg", "")), None);
        assert_eq!(said(config(json!({}))), None);
    }

    #[test]
    fn a_pattern_is_matched_in_bounded_time() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("*", "", true),
            ("**", "abc", true),
            ("?", "", false),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("*a?c", "aabcabc", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(is_like(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        // Trying each star's every reach would take longer than anybody lives.
        let (pattern, name) = ("*a".repeat(1_000) + "b", "a".repeat(10_000));
        assert!(!is_like(pattern.as_bytes(), name.as_bytes()));
    }

    /// Whoever may write a secret may write anything into it; nothing of it is told.
    #[test]
    fn spoiled_secrets_are_refused_without_a_word_of_theirs() {
        use rand::{RngExt, SeedableRng};
        let seed =
            std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed"));
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let good = br#"{"auths":{"https://a.example:5000/v1/x":{"auth":"aHVzaDpodXNo"},"*.b.example":{"username":"hush","password":"hush"}}}"#;
        let (mut read, mut refused) = (0, 0);
        for _ in 0..5_000 {
            let mut text = good.to_vec();
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..text.len());
                match random.random_range(0..3) {
                    0 => text[at] = random.random(),
                    1 => text.insert(at, b"/:*.\"{}=[]"[random.random_range(0..10)]),
                    _ => drop(text.remove(at)),
                }
            }
            let mut secret =
                Secret { type_: Some("kubernetes.io/dockerconfigjson".into()), ..Secret::default() };
            let data = k8s_openapi::ByteString(text);
            secret.data = Some(BTreeMap::from([(".dockerconfigjson".to_owned(), data)]));
            match Keyring::of([&secret]) {
                Ok(keyring) => {
                    read += 1;
                    for repository in ["a.example:5000/x/y", "c.b.example/z", "docker.io/library/web", ""] {
                        let _ = keyring.of_repository(repository);
                    }
                }
                Err(error) => {
                    refused += 1;
                    let said = error.to_string();
                    assert!(!said.contains("hush") && !said.contains("aHVz"), "{said}");
                }
            }
        }
        assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
    }
}
