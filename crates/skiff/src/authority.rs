//! The cluster's keys, for the controllers to have things signed with: the keys themselves stay in the
//! server's authority.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use skiff_apiserver::ApiServer;
use skiff_apiserver::pki::{Grant, Pki};
use skiff_controllers::{AccountToken, Authority, AuthorityError, SigningRequest};

pub(crate) struct ServerAuthority {
    pub(crate) pki: Arc<Pki>,
    pub(crate) server: ApiServer,
}

impl fmt::Debug for ServerAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerAuthority")
    }
}

impl Authority for ServerAuthority {
    fn sign(&self, request: &SigningRequest) -> Result<String, AuthorityError> {
        let grant = Grant {
            not_before: request.not_before,
            not_after: request.not_after,
            usages: request.usages.clone(),
        };
        self.pki.sign_request(&request.request, &grant).map_err(|error| AuthorityError(error.into()))
    }

    fn node_addresses(&self, node: &str) -> Vec<IpAddr> {
        self.pki.node_addresses(node)
    }

    fn node_has_ended(&self, node: &str) -> bool {
        self.pki.node_has_ended(node)
    }

    fn account_token(&self, of: &AccountToken) -> Result<String, AuthorityError> {
        self.server
            .account_token(&of.namespace, (&of.account, &of.account_uid), &of.secret)
            .map_err(|error| AuthorityError(error.into()))
    }
}
