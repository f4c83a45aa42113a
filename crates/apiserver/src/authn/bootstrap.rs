//! Bootstrap tokens: `ID.SECRET`, kept in Secrets `kube-system/bootstrap-token-ID`. They are good for
//! getting better credentials, and not much else.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use skiff_api::certificates::BOOTSTRAP_NODE;

use crate::auth::{Extra, Identity};
use crate::clock;
use crate::resources::find;
use crate::server::Inner;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const GROUP_TAIL_MAX: usize = 256;

/// Whose token it is, if it is one of these and good.
pub(super) fn identity(server: &Inner, token: &str) -> Option<Identity> {
    let (id, secret) = parts(token)?;
    if let Some(node) = server.config.pki.as_ref().and_then(|pki| pki.node_of_token(id, secret, same)) {
        return Some(of_node(id, node));
    }
    let secrets = find("", "secrets").expect("secrets are in the table");
    let key = secrets.key(NAMESPACE, &format!("bootstrap-token-{id}"));
    let object = server.caches.of(secrets).get(&key)?;
    if object.deleting {
        return None;
    }
    let kept = object.typed(secrets)?.downcast::<Secret>().ok()?;
    if kept.type_.as_deref() != Some(TYPE) {
        return None;
    }
    judged(kept.data.as_ref()?, id, secret, server.config.clock.now())
}

/// The user of a token that the authority made for one node: its requests are for that one alone.
fn of_node(id: &str, node: String) -> Identity {
    let extra = Extra::from([(BOOTSTRAP_NODE.to_owned(), vec![node])]);
    Identity {
        extra: Arc::new(extra),
        ..Identity::new(&format!("system:bootstrap:{id}"), &[GROUP, super::own_token::JOINING])
    }
}

/// Six characters, a dot, and sixteen.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn judged(data: &BTreeMap<String, ByteString>, id: &str, secret: &str, now: i64) -> Option<Identity> {
    let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
    if !same(text("token-secret")?.as_bytes(), secret.as_bytes()) || text("token-id") != Some(id) {
        return None;
    }
    // A time that can't be read is over.
    if data.contains_key("expiration")
        && text("expiration").and_then(clock::parse).is_none_or(|end| end <= now)
    {
        return None;
    }
    if text("usage-bootstrap-authentication") != Some("true") {
        return None;
    }
    let mut groups = vec![GROUP];
    for group in text("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        if !is_bootstrappers(group) {
            tracing::warn!(token = id, group, "a bootstrap token names a group that it may not");
            return None;
        }
        groups.push(group);
    }
    Some(Identity::new(&format!("system:bootstrap:{id}"), &groups))
}

/// Whether a group is one that bootstrap tokens may put their users in.
fn is_bootstrappers(group: &str) -> bool {
    let Some(tail) = group.strip_prefix("system:bootstrappers:") else { return false };
    let last = tail.bytes().next_back();
    (1..=GROUP_TAIL_MAX).contains(&tail.len())
        && last.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b':' | b'-'))
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
        ("expiration", "1970-01-01T01:00:00Z"),
        ("auth-extra-groups", "system:bootstrappers:skiff:default-node-token"),
    ];

    fn check(changes: &[(&str, Option<&str>)], now: i64) -> Option<Identity> {
        let mut data: BTreeMap<String, ByteString> = GOOD
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        for (key, value) in changes {
            match value {
                Some(value) => data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec())),
                None => data.remove(*key),
            };
        }
        judged(&data, "abcdef", "0123456789abcdef", now)
    }

    #[test]
    fn a_good_token_is_a_bootstrappers() {
        let who = check(&[], 3599).expect("good");
        assert_eq!(&*who.user, "system:bootstrap:abcdef");
        let groups: Vec<&str> = who.groups.iter().map(|group| &**group).collect();
        assert_eq!(
            groups,
            ["system:bootstrappers", "system:bootstrappers:skiff:default-node-token", "system:authenticated"]
        );
        assert!(check(&[("expiration", None)], i64::MAX).is_some(), "one without an end");
        assert!(check(&[("auth-extra-groups", None)], 0).is_some());
    }

    #[test]
    fn a_token_must_be_whole_meant_for_this_and_not_over() {
        assert_eq!(check(&[], 3600), None);
        for (key, value) in [
            ("expiration", Some("tomorrow")),
            ("usage-bootstrap-authentication", None),
            ("usage-bootstrap-authentication", Some("false")),
            ("token-secret", Some("0123456789abcdeg")),
            ("token-secret", Some("0123456789abcde")),
            ("token-secret", None),
            ("token-id", Some("abcdeg")),
            ("auth-extra-groups", Some("system:masters")),
            ("auth-extra-groups", Some("system:bootstrappers:")),
            ("auth-extra-groups", Some("system:bootstrappers:a,system:masters")),
        ] {
            assert_eq!(check(&[(key, value)], 0), None, "{key} {value:?}");
        }
    }

    #[test]
    fn tokens_have_one_form() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in [
            "",
            "abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcdeF",
            "a.b.c",
            "ABCDEF.0123456789abcdef",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
