//! `skiff token`: the tokens that further nodes join with.
//!
//! A join token is `CA_HASH.ID.SECRET`: the hash pins the cluster, so that an agent trusts no server but the
//! right one, and the rest is a bootstrap token, a Secret of `kube-system` that ends by itself.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use skiff_client::{Client, DeleteOptions, ListParams, empty, now};

use crate::image::json;
use crate::output::{Output, Row, age, print};
use crate::{Clusters, Connection};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const JOINING: &str = "system:bootstrappers:skiff:default-node-token";
const CLUSTER: &str = "/skiff/v1/cluster";

/// Tokens that further nodes join the cluster with
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token, and print it
    Create(Create),
    /// List the tokens, without their secrets
    #[command(visible_alias = "ls")]
    List(List),
    /// Take tokens away
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    connection: Connection,
    /// How long it is good, as 30m, 24h or 7d; 0 is for ever
    #[arg(long, default_value = "24h", value_parser = seconds)]
    ttl: u32,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// Tokens, or their IDs
    #[arg(required = true)]
    tokens: Vec<String>,
}

pub(crate) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    match &args.action {
        Action::Create(args) => create(&args.connection.client(clusters)?, args).await,
        Action::List(args) => list(&args.connection.client(clusters)?, args).await,
        Action::Delete(args) => delete(&args.connection.client(clusters)?, &args.tokens).await,
    }
}

/// Seconds of a text such as `90s`, `30m`, `24h`, `7d` or `0`.
fn seconds(text: &str) -> Result<u32, String> {
    let fault = || format!("{text:?} is no time such as 30m, 24h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u32 = digits.parse().map_err(|_| fault())?;
    let unit = match &text[digits.len()..] {
        "" if number == 0 => 1,
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(fault()),
    };
    number.checked_mul(unit).ok_or_else(fault)
}

/// What the server tells of its cluster.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    ca_hash: Option<String>,
}

async fn create(client: &Client, args: &Create) -> anyhow::Result<()> {
    let request = http::Request::get(CLUSTER).body(empty()).context("cannot make a request")?;
    let answer = client.send(request).await.context("cannot ask for the cluster's authority")?;
    if !answer.status().is_success() {
        bail!("cannot ask for the cluster's authority: the server answered {}", answer.status());
    }
    let cluster: Cluster = json(answer.into_body()).await?;
    let pin = cluster.ca_hash.context("this server has no authority: nodes can't join it")?;
    let (id, secret) = (random(6), random(16));
    let end = (args.ttl > 0).then(|| now().as_second() + i64::from(args.ttl));
    client.create(&secret_of(&id, &secret, end, args.description.as_deref())).await?;
    println!("{pin}.{id}.{secret}");
    Ok(())
}

/// As upstream's tokens: lower-case letters and digits.
fn random(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

fn secret_of(id: &str, secret: &str, end: Option<i64>, description: Option<&str>) -> Secret {
    let end = end.and_then(|end| Timestamp::from_second(end).ok()).map(|end| end.to_string());
    let data = [
        ("token-id", Some(id)),
        ("token-secret", Some(secret)),
        ("expiration", end.as_deref()),
        ("usage-bootstrap-authentication", Some("true")),
        ("auth-extra-groups", Some(JOINING)),
        ("description", description),
    ];
    let present = data.into_iter().filter_map(|(key, value)| Some((key, value?)));
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(
            present.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).collect(),
        ),
        ..Secret::default()
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenRow {
    id: String,
    /// `None`: it does not end.
    ttl_seconds: Option<u64>,
    expires: Option<String>,
    description: String,
    groups: Vec<String>,
}

impl Row for TokenRow {
    const COLUMNS: &'static [&'static str] = &["ID", "TTL", "EXPIRES", "DESCRIPTION", "GROUPS"];

    fn cells(&self) -> Vec<String> {
        let none = || "<none>".to_owned();
        let ttl = match (&self.expires, self.ttl_seconds) {
            (None, _) => "<forever>".to_owned(),
            (Some(_), Some(0) | None) => "<expired>".to_owned(),
            (Some(_), Some(seconds)) => age(seconds),
        };
        let or_none = |text: &str| if text.is_empty() { none() } else { text.to_owned() };
        vec![
            self.id.clone(),
            ttl,
            self.expires.clone().unwrap_or_else(none),
            or_none(&self.description),
            or_none(&self.groups.join(",")),
        ]
    }
}

async fn list(client: &Client, args: &List) -> anyhow::Result<()> {
    let params = ListParams {
        namespace: Some(NAMESPACE.to_owned()),
        field_selector: Some(format!("type={TYPE}")),
        ..ListParams::default()
    };
    let secrets = client.list::<Secret>(&params).await?;
    let at = now().as_second();
    let rows: Vec<TokenRow> =
        secrets.items.iter().filter_map(|secret| row(secret.data.as_ref()?, at)).collect();
    print(&rows, args.output.format)
}

fn row(data: &BTreeMap<String, ByteString>, now: i64) -> Option<TokenRow> {
    let text = |key: &str| data.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok());
    let expires = text("expiration");
    let end = expires.as_ref().and_then(|text| text.parse::<Timestamp>().ok());
    Some(TokenRow {
        id: text("token-id")?,
        ttl_seconds: expires
            .as_ref()
            .map(|_| end.and_then(|end| u64::try_from(end.as_second() - now).ok()).unwrap_or(0)),
        expires,
        description: text("description").unwrap_or_default(),
        groups: text("auth-extra-groups")
            .unwrap_or_default()
            .split(',')
            .filter(|group| !group.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

async fn delete(client: &Client, tokens: &[String]) -> anyhow::Result<()> {
    // All are understood before the first one goes.
    let ids = tokens.iter().map(|token| id_of(token)).collect::<anyhow::Result<Vec<_>>>()?;
    for id in ids {
        let name = format!("{PREFIX}{id}");
        match client.delete::<Secret>(NAMESPACE, &name, &DeleteOptions::default()).await {
            Err(error) if error.is_not_found() => bail!("there is no token {id:?}"),
            Err(error) => return Err(error).with_context(|| format!("cannot delete the token {id:?}")),
            Ok(()) => println!("token {id:?} deleted"),
        }
    }
    Ok(())
}

/// The ID in an ID, a bootstrap token or a join token.
fn id_of(token: &str) -> anyhow::Result<&str> {
    let parts: Vec<&str> = token.split('.').collect();
    let id = match parts.as_slice() {
        [id] | [id, _] | [_, id, _] => *id,
        _ => "",
    };
    let plain = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if id.len() != 6 || !plain {
        // Not shown: it may be a secret.
        bail!("this is neither a token nor the ID of one");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(seconds("0"), Ok(0));
        for bad in ["", "h", "24", "1w", "-1h", "99999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_listed_as_it_was_made() {
        let secret = secret_of("abcdef", "0123456789abcdef", Some(3600), Some("for a rack"));
        let row = row(secret.data.as_ref().expect("data"), 600).expect("a row");
        assert_eq!(row.cells(), ["abcdef", "50m", "1970-01-01T01:00:00Z", "for a rack", JOINING]);
        let forever = secret_of("abcdef", "0123456789abcdef", None, None);
        let row = super::row(forever.data.as_ref().expect("data"), 600).expect("a row");
        assert_eq!(row.cells()[1..4], ["<forever>", "<none>", "<none>"]);
    }

    #[test]
    fn tokens_are_named_in_any_form() {
        for token in ["abcdef", "abcdef.0123456789abcdef", "00ff.abcdef.0123456789abcdef"] {
            assert_eq!(id_of(token).expect("an ID"), "abcdef");
        }
        for bad in ["", "a", "ABCDEF", "a.b.c.d", "00ff.abcdeg-.x"] {
            assert!(id_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn random_texts_are_of_the_alphabet() {
        let text = random(16);
        assert!(text.len() == 16 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }
}
