//! `skiff node ls`.

use k8s_openapi::api::core::v1::Node;
use serde::Serialize;
use skiff_client::ListParams;

use crate::output::{Format, Row, print};
use crate::{Clusters, Connection};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    name: String,
    ready: bool,
    address: String,
    pod_cidr: String,
}

impl Row for NodeRow {
    const COLUMNS: &'static [&'static str] = &["NAME", "READY", "ADDRESS", "POD-CIDR"];

    fn cells(&self) -> Vec<String> {
        let ready = if self.ready { "yes" } else { "no" };
        vec![self.name.clone(), ready.to_owned(), self.address.clone(), self.pod_cidr.clone()]
    }
}

pub(crate) async fn list(connection: &Connection, format: Format, clusters: &Clusters) -> anyhow::Result<()> {
    let nodes = connection.client(clusters)?.list::<Node>(&ListParams::default()).await?;
    let rows: Vec<NodeRow> = nodes.items.iter().map(|node| row(node)).collect();
    print(&rows, format)
}

fn row(node: &Node) -> NodeRow {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP");
    NodeRow {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        address: internal.map(|address| address.address.clone()).unwrap_or_default(),
        pod_cidr: node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default(),
    }
}
