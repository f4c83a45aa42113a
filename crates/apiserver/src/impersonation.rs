//! Acting as somebody else: `Impersonate-User` and its companions (`kubectl --as`).
//!
//! Who a connection belongs to must be allowed to impersonate each thing that is asked for; from then on
//! the request is the other's, in every respect. The rules are those of upstream's user impersonation.

use std::sync::Arc;

use http::HeaderMap;
use skiff_api::status::StatusError;

use crate::auth::{Attributes, Identity};
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
}

impl<'a> Wanted<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Option<Self>, StatusError> {
        let mut wanted = Self::default();
        for (name, value) in headers {
            let Some(what) = name.as_str().strip_prefix("impersonate-") else { continue };
            let value = value.to_str().map_err(|_| StatusError::bad_request(format!("{name} is no text")))?;
            match what {
                "user" => wanted.user = value,
                "uid" => wanted.uid = value,
                "group" => wanted.groups.push(value),
                // Identities carry no extra values yet: better refused than dropped.
                _ => return Err(StatusError::bad_request(format!("{name} is not supported"))),
            }
        }
        match wanted {
            Self { user: "", uid: "", ref groups } if groups.is_empty() => Ok(None),
            Self { user: "", .. } => {
                Err(StatusError::internal("groups or a UID are requested without impersonating a user"))
            }
            wanted => Ok(Some(wanted)),
        }
    }

    /// Namespace and name of the service account that is asked for.
    fn account(&self) -> Option<(&'a str, &'a str)> {
        self.user.strip_prefix(ACCOUNT)?.split_once(':')
    }

    /// What must be allowed.
    fn asked(&self) -> Vec<Attributes<'a>> {
        let on = |group, resource, namespace, name| Attributes {
            verb: "impersonate",
            group,
            resource,
            subresource: "",
            namespace,
            name,
            path: "",
        };
        let mut asked = vec![match self.account() {
            Some((namespace, name)) => on("", "serviceaccounts", namespace, name),
            None => on("", "users", "", self.user),
        }];
        asked.extend(self.groups.iter().map(|group| on("", "groups", "", group)));
        if !self.uid.is_empty() {
            asked.push(on("authentication.k8s.io", "uids", "", self.uid));
        }
        asked
    }

    fn identity(&self) -> Identity {
        let mut groups: Vec<String> = self.groups.iter().map(|&group| group.to_owned()).collect();
        if let (Some((namespace, _)), true) = (self.account(), groups.is_empty()) {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let known = match self.user {
            "system:anonymous" => "system:unauthenticated",
            _ => "system:authenticated",
        };
        if !groups.iter().any(|group| group == known) {
            groups.push(known.into());
        }
        Identity {
            user: self.user.into(),
            uid: self.uid.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            extra: Arc::default(),
        }
    }
}
