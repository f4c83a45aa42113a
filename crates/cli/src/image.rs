//! `skiff image`: the images of the nodes. The work is done in the nodes, never in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use futures_util::TryStreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};
use skiff_client::{Body, BoxError, Client, ListParams, empty};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::output::{Output, Row, print};
use crate::{Clusters, Connection, refusal};

/// Load, pull, list, remove and save images on the nodes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load OCI or docker archives (tar, tar.gz, tar.zst)
    Load {
        #[command(flatten)]
        place: Place,
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Pull an image: from what is loaded, else from its registry
    Pull {
        #[command(flatten)]
        place: Place,
        image: String,
    },
    /// List images
    Ls {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Remove an image that no container uses
    Rm {
        #[command(flatten)]
        place: Place,
        /// Also if containers use it: they keep what they have, new ones find it no more
        #[arg(long)]
        force: bool,
        image: String,
    },
    /// Save an image as an OCI archive
    Save {
        #[command(flatten)]
        place: Place,
        image: String,
        #[arg(value_name = "ARCHIVE")]
        archive: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    connection: Connection,
    /// Only on this node
    #[arg(long)]
    node: Option<String>,
}

/// An image as a node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    id: String,
    tags: Vec<String>,
    #[serde(default)]
    digests: Vec<String>,
    size_bytes: u64,
}

/// An image of an archive as a node tells it.
#[derive(Debug, Deserialize)]
struct Loaded {
    /// Those that the archive gives it.
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageRow {
    image: String,
    id: String,
    size_bytes: u64,
    nodes: Vec<String>,
}

impl Row for ImageRow {
    const COLUMNS: &'static [&'static str] = &["IMAGE", "ID", "SIZE", "NODES"];

    fn cells(&self) -> Vec<String> {
        let id = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        vec![self.image.clone(), id.chars().take(12).collect(), size(self.size_bytes), self.nodes.join(",")]
    }
}

pub(crate) async fn run(args: &Args, clusters: &Clusters) -> anyhow::Result<()> {
    match &args.command {
        Command::Load { place, archives } => {
            // Before anything is said or sent.
            if let Some(missing) = archives.iter().find(|archive| !archive.is_file()) {
                bail!("{} is no file", missing.display());
            }
            let (client, nodes) = place.resolve(clusters).await?;
            for archive in archives {
                for node in &nodes {
                    eprintln!("Loading {} on {node}", archive.display());
                    load(&client, node, archive).await?.iter().for_each(|name| println!("{name}"));
                }
            }
        }
        Command::Pull { place, image } => {
            let (client, nodes) = place.resolve(clusters).await?;
            for node in &nodes {
                eprintln!("Pulling {image} on {node}");
                let query = format!("images?pull={}", encode(image));
                let pulled: Image = json(call(&client, Method::POST, node, &query, empty()).await?).await?;
                println!("{}", pulled.id);
            }
        }
        Command::Ls { place, output } => {
            let (client, nodes) = place.resolve(clusters).await?;
            let mut rows: BTreeMap<(String, String), ImageRow> = BTreeMap::new();
            for node in &nodes {
                let images: Vec<Image> =
                    json(call(&client, Method::GET, node, "images", empty()).await?).await?;
                for image in images {
                    let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
                    for name in names {
                        rows.entry((name.clone(), image.id.clone()))
                            .or_insert_with(|| ImageRow {
                                image: name.clone(),
                                id: image.id.clone(),
                                size_bytes: image.size_bytes,
                                nodes: Vec::new(),
                            })
                            .nodes
                            .push(node.clone());
                    }
                }
            }
            print(&rows.into_values().collect::<Vec<_>>(), output.format)?;
        }
        Command::Rm { place, force, image } => {
            let (client, nodes) = place.resolve(clusters).await?;
            let query = format!("images?ref={}&force={force}", encode(image));
            let mut missing = Vec::new();
            for node in &nodes {
                match ask(&client, Method::DELETE, node, &query, empty()).await? {
                    Ok(_) => {}
                    Err(refused) if refused.status == StatusCode::NOT_FOUND => missing.push(refused),
                    Err(refused) => return Err(anyhow!(refused.sentence)),
                }
            }
            // Nodes of one machine share their images: the first that is asked removes it for all.
            if missing.len() == nodes.len() {
                let first = missing.into_iter().next().context("the cluster has no node")?;
                return Err(anyhow!(first.sentence));
            }
        }
        Command::Save { place, image, archive } => {
            let (client, nodes) = place.resolve(clusters).await?;
            let node = nodes.first().context("the cluster has no node")?;
            let query = format!("images?save={}", encode(image));
            let mut body = call(&client, Method::POST, node, &query, empty()).await?;
            let context = || format!("cannot write {}", archive.display());
            let mut file = tokio::fs::File::create(archive).await.with_context(context)?;
            while let Some(frame) = body.frame().await {
                let frame = frame
                    .map_err(|_| anyhow!("the node stopped sending before the image's end: try again"))?;
                if let Ok(data) = frame.into_data() {
                    file.write_all(&data).await.with_context(context)?;
                }
            }
            file.sync_all().await.with_context(context)?;
        }
    }
    Ok(())
}

impl Place {
    /// The client and the nodes that are meant.
    async fn resolve(&self, clusters: &Clusters) -> anyhow::Result<(Client, Vec<String>)> {
        let client = self.connection.client(clusters)?;
        if let Some(node) = &self.node {
            return Ok((client, vec![node.clone()]));
        }
        let nodes = node_names(&client).await?;
        Ok((client, nodes))
    }
}

pub(crate) async fn node_names(client: &Client) -> anyhow::Result<Vec<String>> {
    let nodes = client.list::<Node>(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| anyhow!(refusal::of_error(&error)))?;
    Ok(nodes.items.iter().filter_map(|node| node.metadata.name.clone()).collect())
}

/// Sends an archive to a node and returns the names that it brought.
pub async fn load(client: &Client, node: &str, archive: &Path) -> anyhow::Result<Vec<String>> {
    let file =
        tokio::fs::File::open(archive).await.with_context(|| format!("cannot open {}", archive.display()))?;
    let frames =
        ReaderStream::with_capacity(file, 256 << 10).map_ok(http_body::Frame::data).map_err(BoxError::from);
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    let answer = call(client, Method::POST, node, "images", body)
        .await
        .with_context(|| format!("cannot load {}", archive.display()))?;
    let loaded: Vec<Loaded> = json(answer).await?;
    Ok(loaded.into_iter().flat_map(|image| image.names).collect())
}

/// A request to a node's agent, through the API server.
pub(crate) async fn call(
    client: &Client,
    method: Method,
    node: &str,
    path: &str,
    body: Body,
) -> anyhow::Result<Body> {
    ask(client, method, node, path, body).await?.map_err(|refused| anyhow!(refused.sentence))
}

/// An answer of a node other than success.
struct Refused {
    status: StatusCode,
    /// For a person.
    sentence: String,
}

async fn ask(
    client: &Client,
    method: Method,
    node: &str,
    path: &str,
    body: Body,
) -> anyhow::Result<Result<Body, Refused>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/v1/nodes/{node}/proxy/skiff/{path}"))
        .body(body)
        .context("cannot make the request")?;
    let response = client.send(request).await.map_err(|error| anyhow!(refusal::of_error(&error)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(Ok(response.into_body()));
    }
    let bytes = bytes(response.into_body()).await?;
    Ok(Err(Refused { status, sentence: refusal::of_answer(node, status, &bytes) }))
}

pub(crate) async fn json<T: serde::de::DeserializeOwned>(body: Body) -> anyhow::Result<T> {
    serde_json::from_slice(&bytes(body).await?).context("cannot decode the node's answer")
}

async fn bytes(body: Body) -> anyhow::Result<bytes::Bytes> {
    let collected = body
        .collect()
        .await
        .map_err(|_| anyhow!("the node stopped sending before its answer's end: try again"))?;
    Ok(collected.to_bytes())
}

/// A value of a query string.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Bytes as `docker images` shows them: powers of 1000, three digits.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 1000.0
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = next;
    }
    match value {
        value if unit == "B" || value >= 100.0 => format!("{value:.0}{unit}"),
        value if value >= 10.0 => format!("{value:.1}{unit}"),
        value => format!("{value:.2}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1_000, "1.00kB"), (12_345_678, "12.3MB"), (987_654_321, "988MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn references_survive_a_query() {
        assert_eq!(encode("docker.io/a/b:1@sha256:0"), "docker.io/a/b:1@sha256:0");
        assert_eq!(encode("a b&c"), "a%20b%26c");
    }
}
