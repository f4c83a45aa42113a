//! The bootstrap token that a server keeps for the nodes of its own machine: its file is read by the agent
//! beside it, and its Secret made anew at each start, for a day. Nodes that come later bring one of
//! `skiff token create`.

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use skiff_api::status::StatusError;

use crate::resources::find;
use crate::server::Inner;
use crate::{clock, seed, write};

const NAMESPACE: &str = "kube-system";
const DAY_S: i64 = 86_400;

/// The group whose members may ask for a node's certificate, and have it approved.
pub(super) const JOINING: &str = "system:bootstrappers:skiff:default-node-token";

/// Makes the Secret of the authority's own token good for another day.
pub(crate) async fn keep(server: &Inner) -> Result<(), StatusError> {
    let Some((id, secret)) = server.config.pki.as_ref().and_then(|pki| pki.own_bootstrap_token()) else {
        return Ok(());
    };
    let secrets = find("", "secrets").expect("secrets are in the table");
    let name = format!("bootstrap-token-{id}");
    let wanted = object(&name, id, secret, server.config.clock.now() + DAY_S);
    if server.caches.of(secrets).get(&secrets.key(NAMESPACE, &name)).is_none() {
        let call = seed::call(server, secrets, NAMESPACE, "");
        return write::create(server, &call, secrets, wanted).await.map(drop);
    }
    let call = seed::call(server, secrets, NAMESPACE, &name);
    let data = wanted["data"].clone();
    let next = |mut present: Value| {
        present["data"] = data.clone();
        Ok(present)
    };
    write::update(server, &call, secrets, next).await.map(drop)
}

fn object(name: &str, id: &str, secret: &str, end: i64) -> Value {
    let data = [
        ("token-id", id),
        ("token-secret", secret),
        ("expiration", &clock::rfc3339(end)),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", JOINING),
        ("description", "The server's own, for the nodes of its machine."),
    ];
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(ByteString(value.as_bytes().to_vec()))))
        .collect();
    json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token", "data": data})
}
