//! Who asks: from what a connection and a request show to an [`Identity`].
//!
//! A caller in this process says who it is by an extension; a client by its certificate or by a bearer
//! token, in this order. Who shows nothing is anonymous; who shows something that is not good is nobody,
//! and is answered 401.

pub(crate) mod bearer;
mod bootstrap;
pub(crate) mod last_used;
mod objects;
pub(crate) mod own_token;
pub(crate) mod reviews;

use skiff_api::status::StatusError;

use crate::auth::Identity;
use crate::http_body::Request;
use crate::pki::Presented;
use crate::server::Inner;
use crate::tokens::Validated;

pub(crate) use objects::CachedObjects;

/// Whose request it is.
pub(crate) fn identity(server: &Inner, request: &Request) -> Result<Identity, StatusError> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return Ok(identity.clone());
    }
    let presented = request.extensions().get::<Presented>();
    if let Some(Presented::Good { identity, not_after }) = presented
        && server.config.clock.now() <= *not_after
    {
        return Ok(identity.clone());
    }
    match bearer::token(request.headers()) {
        Some(token) => of_token(server, &token, &[server.tokens.issuer()])
            .map(|validated| validated.identity)
            .map_err(|refusal| {
                tracing::debug!(%refusal, "a bearer token was refused");
                StatusError::unauthorized()
            }),
        None if presented.is_some() => Err(StatusError::unauthorized()),
        None => Ok(Identity::anonymous()),
    }
}

/// Bootstrap tokens name no audience: they are for this API alone.
fn of_bootstrap(server: &Inner, token: &str, audiences: &[&str]) -> Option<Validated> {
    let own = server.tokens.issuer();
    if !audiences.contains(&own) {
        return None;
    }
    let identity = bootstrap::identity(server, token)?;
    Some(Validated { identity, audiences: vec![own.to_owned()] })
}

/// Whose a bearer token is; the error is in upstream's words.
pub(crate) fn of_token(server: &Inner, token: &str, audiences: &[&str]) -> Result<Validated, String> {
    let now = server.config.clock.now();
    let objects = CachedObjects(server);
    match server.tokens.verify(token, audiences, now, &objects) {
        Ok(Some(validated)) => Ok(validated),
        Ok(None) => of_bootstrap(server, token, audiences).ok_or_else(|| "invalid bearer token".to_owned()),
        Err(invalid) => Err(format!("[invalid bearer token, {invalid}]")),
    }
}
