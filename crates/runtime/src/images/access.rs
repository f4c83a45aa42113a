//! Whose an image is that is there: a registry may have given it to some and not to others, and that it lies on
//! this machine makes it nobody else's.
//!
//! What was pulled without credentials, or loaded, is everybody's. Else its names keep a fingerprint of each
//! credentials that a registry has taken for it. Whoever has others has to ask the registry.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::types::RegistryAuth;

/// Older records don't say, and are everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Access {
    #[default]
    Everybody,
    Holders(Vec<Holder>),
}

/// Credentials, from which they can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    salt: String,
    hash: Digest,
}

impl Access {
    /// What a pull with these credentials shows.
    pub(crate) fn of(auth: Option<&RegistryAuth>) -> Access {
        match auth {
            None => Access::Everybody,
            Some(auth) => Access::Holders(vec![Holder::of(auth, uuid::Uuid::new_v4().to_string())]),
        }
    }

    /// Of the same image, known before and shown now.
    pub(crate) fn with(self, later: Access, auth: Option<&RegistryAuth>) -> Access {
        match (self, later) {
            (Access::Holders(mut before), Access::Holders(later)) => {
                if !auth.is_some_and(|auth| before.iter().any(|holder| holder.is(auth))) {
                    before.extend(later);
                }
                Access::Holders(before)
            }
            _ => Access::Everybody,
        }
    }

    pub(crate) fn is_given_to(&self, credentials: &[RegistryAuth]) -> bool {
        match self {
            Access::Everybody => true,
            Access::Holders(holders) => {
                holders.iter().any(|holder| credentials.iter().any(|auth| holder.is(auth)))
            }
        }
    }
}

impl Holder {
    fn of(auth: &RegistryAuth, salt: String) -> Holder {
        let RegistryAuth { username, password } = auth;
        let hash = Digest::of(format!("{salt}\0{username}\0{password}").as_bytes());
        Holder { salt, hash }
    }

    fn is(&self, auth: &RegistryAuth) -> bool {
        Holder::of(auth, self.salt.clone()).hash == self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(username: &str, password: &str) -> RegistryAuth {
        RegistryAuth { username: username.into(), password: password.into() }
    }

    #[test]
    fn who_opened_it_may_have_it_and_nobody_else() {
        let (own, other) = (auth("me", "secret"), auth("you", "secret"));
        let pulled = Access::of(Some(&own));
        for (credentials, given) in [
            (vec![], false),
            (vec![own.clone()], true),
            (vec![other.clone()], false),
            (vec![auth("me", "other")], false),
            (vec![other.clone(), own.clone()], true),
        ] {
            assert_eq!(pulled.is_given_to(&credentials), given);
            assert!(Access::Everybody.is_given_to(&credentials));
        }
        assert!(!serde_json::to_string(&pulled).unwrap().contains("secret"));
        let again = pulled.clone().with(Access::of(Some(&own)), Some(&own));
        assert_eq!(again, pulled, "nobody is kept twice");
        let both = pulled.clone().with(Access::of(Some(&other)), Some(&other));
        assert!(both.is_given_to(&[own]) && both.is_given_to(std::slice::from_ref(&other)));
        for public in
            [pulled.clone().with(Access::of(None), None), Access::Everybody.with(pulled, Some(&other))]
        {
            assert_eq!(public, Access::Everybody, "it was given to nobody in particular once");
        }
    }
}
