//! The bootstrap token of the join token that `skiff server` makes: its Secret is made once, and when that has
//! ended or was deleted, the token goes from the server's disk. Machines that come later bring one of
//! `skiff token create`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::resources::find;
use crate::server::Inner;
use crate::{clock, seed, write};

const NAMESPACE: &str = "kube-system";

/// The group whose members may ask for a node's certificate, and have it approved.
pub(super) const JOINING: &str = "system:bootstrappers:skiff:default-node-token";

/// How often is looked whether the token has ended, while there is one: clocks jump, and Secrets are deleted.
const LOOK: Duration = Duration::from_secs(60);

/// Makes the Secret of the join token, if it is a new one.
pub(crate) async fn publish(server: &Inner) -> Result<(), StatusError> {
    let Some(pki) = &server.config.pki else { return Ok(()) };
    let Some(token) = pki.join_token().filter(|token| !token.published) else { return Ok(()) };
    let secrets = find("", "secrets").expect("secrets are in the table");
    let name = format!("bootstrap-token-{}", token.id);
    // One that was started and killed right then made it and could not say so.
    if server.caches.of(secrets).get(&secrets.key(NAMESPACE, &name)).is_none() {
        let call = seed::call(server, secrets, NAMESPACE, "");
        let wanted = object(&name, &token.id, &token.secret, token.ends);
        write::create(server, &call, secrets, wanted).await?;
    }
    if let Err(error) = pki.join_token_is_published() {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "cannot note that the join token is in use"
        );
    }
    Ok(())
}

/// Takes the join token from the disk once it is of no use. Ends then, since no other comes while this server
/// runs.
pub(crate) async fn sweep(server: Arc<Inner>) {
    loop {
        if let Some(pki) = server.config.pki.as_ref().filter(|_| !is_of_use(&server)) {
            match pki.forget_join_token() {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the join token has ended and is left"
                    );
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = server.stopping() => return,
        }
    }
}

/// Whether the join token is good and has its Secret.
fn is_of_use(server: &Inner) -> bool {
    let Some(token) = server.config.pki.as_ref().and_then(|pki| pki.join_token()) else { return false };
    let secrets = find("", "secrets").expect("secrets are in the table");
    let key = secrets.key(NAMESPACE, &format!("bootstrap-token-{}", token.id));
    server.caches.of(secrets).get(&key).is_some_and(|secret| !secret.deleting)
}

fn object(name: &str, id: &str, secret: &str, end: i64) -> Value {
    let data = [
        ("token-id", id),
        ("token-secret", secret),
        ("expiration", &clock::rfc3339(end)),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", JOINING),
        ("description", "Made by `skiff server` as it started."),
    ];
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(ByteString(value.as_bytes().to_vec()))))
        .collect();
    json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token", "data": data})
}
