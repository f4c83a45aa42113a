//! Fills Secrets that are made to hold a token of a service account, and deletes those whose account is
//! gone. Such tokens have no end; the projected ones are better, and these are made only on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions;
use skiff_client::{Cache, DeleteOptions, Error, ObjectKey, Requeue, WorkQueue, work};
use tracing::error;

use crate::authority::AccountToken;
use crate::context::{Context, feed};
use crate::owners::{is_deleting, name, namespace, uid};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// After the authority failed, which it has no reason to.
const AGAIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::<ObjectKey>::default();
    let reconciler = context.clone();
    let caches = context.caches.clone();
    let of_secret = |secret: &Secret| match is_token(secret) {
        true => vec![ObjectKey::of(secret)],
        false => Vec::new(),
    };
    let secrets = caches.secrets.clone();
    let of_account = move |account: &ServiceAccount| of_account(&secrets, account);
    let secrets = caches.secrets.clone();
    let all =
        move || secrets.list().iter().filter(|one| is_token(one)).map(|one| ObjectKey::of(&**one)).collect();
    tokio::join!(
        feed(caches.secrets.clone(), queue.clone(), of_secret, all.clone()),
        feed(caches.service_accounts.clone(), queue.clone(), of_account, all),
        work("account-tokens", queue, context.config.workers, move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        }),
    );
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).map_or("", String::as_str)
}

fn of_account(secrets: &Cache<Secret>, account: &ServiceAccount) -> Vec<ObjectKey> {
    let of =
        |secret: &Arc<Secret>| is_token(secret) && annotation(secret, ACCOUNT) == name(&account.metadata);
    let all = secrets.list_namespace(namespace(&account.metadata));
    all.iter().filter(|secret| of(secret)).map(|secret| ObjectKey::of(&**secret)).collect()
}

/// What is to be done about a Secret.
#[derive(Debug, PartialEq)]
enum Step {
    Leave,
    Delete,
    /// What the Secret lacks, and whether a token is among it.
    Fill {
        annotations: BTreeMap<String, String>,
        data: BTreeMap<String, ByteString>,
        token: bool,
    },
}

fn step(secret: &Secret, account: Option<&ServiceAccount>, ca: &str) -> Step {
    if is_deleting(&secret.metadata) || annotation(secret, ACCOUNT).is_empty() {
        return Step::Leave;
    }
    let Some(account) = account else { return Step::Delete };
    let known = annotation(secret, ACCOUNT_UID);
    if !known.is_empty() && known != uid(&account.metadata) {
        // It was another account of this name that it is of.
        return Step::Delete;
    }
    let present = secret.data.as_ref();
    let mut data = BTreeMap::new();
    for (key, value) in [("ca.crt", ca), ("namespace", namespace(&secret.metadata))] {
        let value = ByteString(value.as_bytes().to_vec());
        if present.and_then(|data| data.get(key)) != Some(&value) {
            data.insert(key.to_owned(), value);
        }
    }
    let token = present.and_then(|data| data.get("token")).is_none_or(|token| token.0.is_empty());
    let mut annotations = BTreeMap::new();
    if known.is_empty() {
        annotations.insert(ACCOUNT_UID.to_owned(), uid(&account.metadata).to_owned());
    }
    if data.is_empty() && annotations.is_empty() && !token {
        return Step::Leave;
    }
    Step::Fill { annotations, data, token }
}

async fn reconcile(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    let Some(secret) = context.caches.secrets.get(key).filter(|secret| is_token(secret)) else {
        return Ok(Requeue::Never);
    };
    let Some(authority) = &context.config.authority else { return Ok(Requeue::Never) };
    let account_name = annotation(&secret, ACCOUNT);
    let mut account = context.caches.service_accounts.get(&ObjectKey::new(&*key.namespace, account_name));
    if account.is_none() && !account_name.is_empty() {
        // What is deleted for good is looked for where it would be, not only in the local copy.
        account = context.client.find::<ServiceAccount>(&key.namespace, account_name).await?;
    }
    match step(&secret, account.as_deref(), &context.config.ca_pem) {
        Step::Leave => {}
        Step::Delete => {
            let options = DeleteOptions {
                preconditions: Some(Preconditions {
                    uid: secret.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            };
            match context.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Step::Fill { annotations, mut data, token } => {
            if token {
                let wanted = AccountToken {
                    namespace: key.namespace.clone(),
                    account: account_name.to_owned(),
                    account_uid: account
                        .as_ref()
                        .map(|one| uid(&one.metadata).to_owned())
                        .unwrap_or_default(),
                    secret: key.name.clone(),
                };
                match authority.account_token(&wanted) {
                    Ok(token) => drop(data.insert("token".to_owned(), ByteString(token.into_bytes()))),
                    Err(error) => {
                        error!(secret = %key, error = &error as &dyn std::error::Error, "cannot sign a token");
                        return Ok(Requeue::After(AGAIN));
                    }
                }
            }
            let mut filled = (*secret).clone();
            filled.metadata.annotations.get_or_insert_default().extend(annotations);
            filled.data.get_or_insert_default().extend(data);
            context.client.update(&filled).await?;
        }
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(annotations: Value, data: Value) -> Secret {
        let secret = json!({"metadata": {"name": "s", "namespace": "n", "annotations": annotations},
            "type": TYPE, "data": data});
        serde_json::from_value(secret).expect("a secret")
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": uid}}))
            .expect("valid")
    }

    #[test]
    fn a_secret_gets_what_it_lacks() {
        let bytes = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
        let new = secret(json!({ACCOUNT: "a"}), Value::Null);
        let Step::Fill { annotations, data, token } = step(&new, Some(&account("u")), "CA") else {
            panic!("it is to be filled");
        };
        assert_eq!(annotations[ACCOUNT_UID], "u");
        assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "namespace"]);
        assert!(token);
        let whole = secret(
            json!({ACCOUNT: "a", ACCOUNT_UID: "u"}),
            json!({"ca.crt": bytes("CA"), "namespace": bytes("n"), "token": bytes("t")}),
        );
        assert_eq!(step(&whole, Some(&account("u")), "CA"), Step::Leave);
        assert!(matches!(step(&whole, Some(&account("u")), "another CA"), Step::Fill { token: false, .. }));
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        let whole = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "u"}), json!({}));
        assert_eq!(step(&whole, None, "CA"), Step::Delete);
        assert_eq!(step(&whole, Some(&account("another")), "CA"), Step::Delete);
        assert_eq!(step(&secret(json!({}), json!({})), None, "CA"), Step::Leave);
    }
}
