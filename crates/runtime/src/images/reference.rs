//! Image references, normalised as docker and containerd do: `alpine` is `docker.io/library/alpine:latest`.
//!
//! The grammar is that of <https://github.com/distribution/reference>. A reference with both a tag and a
//! digest means the digest; the tag is dropped, as the Container Runtime Interface of containerd does.

use std::fmt;

use super::digest::Digest;
use crate::types::ImageError;

const NAME_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A complete reference: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub registry: String,
    pub repository: String,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Reference, ImageError> {
        let fail =
            |reason: &str| ImageError::InvalidName { reference: text.to_owned(), reason: reason.to_owned() };
        const FORMAT: &str = "invalid reference format";
        if text.is_empty() {
            return Err(fail(FORMAT));
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(fail("invalid repository name, cannot specify 64-byte hexadecimal strings"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).ok_or_else(|| fail(FORMAT))?)),
            None => (text, None),
        };
        // A colon after the last slash separates the tag; one before it belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail(FORMAT));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if !is_domain(registry) {
            return Err(fail(FORMAT));
        }
        if !repository.split('/').all(is_component) {
            let lower = repository.to_ascii_lowercase();
            let reason = match lower != repository && lower.split('/').all(is_component) {
                true => "invalid reference format: repository name must be lowercase",
                false => FORMAT,
            };
            return Err(fail(reason));
        }
        if repository.len() > NAME_LENGTH_MAX {
            return Err(fail("repository name must not be more than 255 characters"));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, Some(tag)) => Version::Tag(tag.to_owned()),
            (None, None) => Version::Tag("latest".to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, version })
    }

    /// The same repository at a digest.
    pub(crate) fn at(&self, digest: &Digest) -> Reference {
        Reference { version: Version::Digest(digest.clone()), ..self.clone() }
    }
}

/// The place of an image without tag and digest: `docker.io/library/alpine`.
pub fn repository(reference: &str) -> Option<String> {
    let name = Reference::parse(reference).ok()?;
    Some(format!("{}/{}", name.registry, name.repository))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// Whether the first component of a name is a registry rather than a part of docker.io's path.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => return is_port(port),
                None => return after.is_empty(),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        let hex = "a".repeat(64);
        let table = [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/app:x", "127.0.0.1:5000/app:x"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("host:5000", "docker.io/library/host:5000"),
            ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
        ];
        for (given, want) in table {
            assert_eq!(Reference::parse(given).unwrap().to_string(), want, "{given}");
        }
        let digest = format!("alpine@sha256:{hex}");
        assert_eq!(Reference::parse(&digest).unwrap().to_string(), format!("docker.io/library/{digest}"));
        let both = format!("alpine:3@sha256:{hex}");
        assert_eq!(Reference::parse(&both).unwrap().to_string(), format!("docker.io/library/{digest}"));
    }

    #[test]
    fn refuses_what_is_no_reference() {
        let long = format!("a:{}", "t".repeat(129));
        let hex = "a".repeat(64);
        for bad in [
            "",
            ":",
            "a:",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a:-t",
            &long,
            "a@sha256:12",
            "a@",
            "a@x",
            "ho st:50/a",
            "localhost:port/a",
            "a:b:c",
            "../a",
            "a/../b",
            "[::g]/a",
            "é",
            "a\n",
            &hex,
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was taken");
        }
        let said = Reference::parse("UPPER").unwrap_err().to_string();
        assert_eq!(
            said,
            "couldn't parse image name \"UPPER\": invalid reference format: repository name must be lowercase"
        );
        let said = Reference::parse("a b").unwrap_err().to_string();
        assert_eq!(said, "couldn't parse image name \"a b\": invalid reference format");
    }

    #[test]
    fn random_texts_are_refused_or_stay_what_they_are() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let hex = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let parts = [
            "a",
            "b0",
            "A",
            "localhost",
            "docker.io",
            "index.",
            ".",
            "/",
            ":",
            "@",
            "-",
            "_",
            "80",
            "[::1]",
            "é",
            &hex,
        ];
        let mut taken = 0;
        for _ in 0..50_000 {
            let text: String =
                (0..random.random_range(0..8)).map(|_| parts[random.random_range(0..parts.len())]).collect();
            if let Ok(reference) = Reference::parse(&text) {
                taken += 1;
                let full = reference.to_string();
                assert_eq!(Reference::parse(&full).unwrap(), reference, "{text} is {full}");
            }
        }
        assert!(taken > 100, "only {taken} were references");
    }
}
