//! Acting as somebody else: `Impersonate-User` and its companions (`kubectl --as`).
//!
//! Who a connection belongs to must be allowed to impersonate each thing that is asked for; from then on
//! the request is the other's, in every respect. The rules are those of upstream's user impersonation.

use std::sync::Arc;

use http::HeaderMap;
use skiff_api::status::StatusError;

use crate::auth::{Attributes, Extra, Identity};
use crate::request::decode_percent;
use crate::server::{Inner, authorize};

const ACCOUNT: &str = "system:serviceaccount:";

/// Whose request it is.
pub(crate) fn identity(inner: &Inner, headers: &HeaderMap, who: Identity) -> Result<Identity, StatusError> {
    let Some(wanted) = Wanted::read(headers)? else { return Ok(who) };
    for what in wanted.asked() {
        authorize(inner, &who, &what)?;
    }
    Ok(wanted.identity())
}

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted<'a> {
    user: &'a str,
    uid: &'a str,
    groups: Vec<&'a str>,
    extra: Vec<(String, &'a str)>,
}

impl<'a> Wanted<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Option<Self>, StatusError> {
        let mut wanted = Self::default();
        // Of what stands once, the first counts, as for upstream.
        let (mut user, mut uid) = (None, None);
        for (name, value) in headers {
            let Some(what) = name.as_str().strip_prefix("impersonate-") else { continue };
            let value = value.to_str().map_err(|_| StatusError::bad_request(format!("{name} is no text")))?;
            match what {
                "user" => wanted.user = *user.get_or_insert(value),
                "uid" => wanted.uid = *uid.get_or_insert(value),
                "group" => wanted.groups.push(value),
                other => match other.strip_prefix("extra-") {
                    // A key may hold what a header's name can't.
                    Some(key) => wanted.extra.push((decode_percent(key).into_owned(), value)),
                    // Better refused than dropped.
                    None => return Err(StatusError::bad_request(format!("{name} is not supported"))),
                },
            }
        }
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        match wanted.kinds_without_user().as_slice() {
            [] => Ok(None),
            kinds => {
                let why = format!("requested {} without impersonating a user", kinds.join(", "));
                Err(StatusError::internal(why))
            }
        }
    }

    fn kinds_without_user(&self) -> Vec<&'static str> {
        let given = [
            (!self.uid.is_empty(), "a UID"),
            (!self.groups.is_empty(), "groups"),
            (!self.extra.is_empty(), "extra values"),
        ];
        given.into_iter().filter_map(|(is_given, what)| is_given.then_some(what)).collect()
    }

    /// Namespace and name of the service account that is asked for.
    fn account(&self) -> Option<(&'a str, &'a str)> {
        self.user.strip_prefix(ACCOUNT)?.split_once(':')
    }

    /// What must be allowed.
    fn asked(&self) -> Vec<Attributes<'_>> {
        let on = |group, resource, namespace, name| Attributes {
            verb: "impersonate",
            group,
            resource,
            namespace,
            name,
            ..Attributes::default()
        };
        let mut asked = vec![match self.account() {
            Some((namespace, name)) => on("", "serviceaccounts", namespace, name),
            None => on("", "users", "", self.user),
        }];
        asked.extend(self.groups.iter().map(|group| on("", "groups", "", group)));
        if !self.uid.is_empty() {
            asked.push(on("authentication.k8s.io", "uids", "", self.uid));
        }
        asked.extend(self.extra.iter().map(|(key, value)| Attributes {
            subresource: key,
            ..on("authentication.k8s.io", "userextras", "", value)
        }));
        asked
    }

    fn identity(&self) -> Identity {
        let mut groups: Vec<String> = self.groups.iter().map(|&group| group.to_owned()).collect();
        if let (Some((namespace, _)), true) = (self.account(), groups.is_empty()) {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let said = groups
            .iter()
            .any(|group| matches!(group.as_str(), "system:authenticated" | "system:unauthenticated"));
        if !said {
            let known = match self.user {
                "system:anonymous" => "system:unauthenticated",
                _ => "system:authenticated",
            };
            groups.push(known.into());
        }
        let mut extra = Extra::new();
        for (key, value) in &self.extra {
            extra.entry(key.clone()).or_default().push((*value).to_owned());
        }
        Identity {
            user: self.user.into(),
            uid: self.uid.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            extra: Arc::new(extra),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().expect("a value")))
            .collect()
    }

    fn asked(pairs: &[(&'static str, &str)]) -> Vec<String> {
        let headers = headers(pairs);
        let wanted = Wanted::read(&headers).expect("readable").expect("somebody");
        wanted
            .asked()
            .iter()
            .map(|a| {
                format!("{} {}/{}/{} {}/{}", a.verb, a.group, a.resource, a.subresource, a.namespace, a.name)
            })
            .collect()
    }

    #[test]
    fn each_thing_asked_for_is_asked_about() {
        assert_eq!(
            asked(&[
                ("impersonate-user", "jane"),
                ("impersonate-uid", "u-1"),
                ("impersonate-group", "dev"),
                ("impersonate-extra-example.com%2fscopes", "view"),
            ]),
            [
                "impersonate /users/ /jane",
                "impersonate /groups/ /dev",
                "impersonate authentication.k8s.io/uids/ /u-1",
                "impersonate authentication.k8s.io/userextras/example.com/scopes /view",
            ]
        );
        assert_eq!(
            asked(&[("impersonate-user", "system:serviceaccount:n:a")]),
            ["impersonate /serviceaccounts/ n/a"]
        );
    }

    #[test]
    fn the_other_has_groups_and_extra_values() {
        let map = headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-extra-scopes", "view"),
            ("impersonate-extra-scopes", "edit"),
        ]);
        let who = Wanted::read(&map).expect("readable").expect("somebody").identity();
        assert_eq!(who.extra["scopes"], ["view", "edit"]);
        assert!(who.in_group("system:authenticated"));
        let map = headers(&[("impersonate-user", "system:anonymous")]);
        let who = Wanted::read(&map).expect("readable").expect("somebody").identity();
        assert_eq!(&*who.groups, [Arc::from("system:unauthenticated")]);
    }

    #[test]
    fn of_two_users_the_first_is_meant() {
        let asked_for = |pairs: &[(&'static str, &str)]| {
            let map = headers(pairs);
            Wanted::read(&map)
                .expect("readable")
                .map(|wanted| (wanted.user.to_owned(), wanted.uid.to_owned()))
        };
        let pairs = [
            ("impersonate-user", "jane"),
            ("impersonate-user", "root"),
            ("impersonate-uid", "1"),
            ("impersonate-uid", "0"),
        ];
        assert_eq!(asked_for(&pairs), Some(("jane".to_owned(), "1".to_owned())));
        // An empty one counts, too.
        assert_eq!(asked_for(&[("impersonate-user", ""), ("impersonate-user", "root")]), None);
    }

    #[test]
    fn nothing_goes_without_a_user() {
        for name in ["impersonate-group", "impersonate-uid", "impersonate-extra-scopes"] {
            let error = Wanted::read(&headers(&[(name, "x")])).expect_err("refused");
            assert_eq!(error.code(), 500, "{name}");
        }
        assert_eq!(Wanted::read(&headers(&[])).expect("readable"), None);
    }
}
