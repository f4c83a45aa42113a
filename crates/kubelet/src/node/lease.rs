//! The node's lease: a small object that is renewed so often that whoever watches it knows that the node lives.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use skiff_client::{Error, Patch};
use tracing::debug;

use super::{NodeAgent, RETRY_MAX, RETRY_MIN};
use crate::images::chain;
use crate::time::api_micro_time;

const LEASE_EVERY: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;

impl NodeAgent {
    /// Renews the node's lease: what the control plane takes for a sign of life.
    pub(crate) async fn keep_lease(&self) {
        let mut ticks = tokio::time::interval(LEASE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut pause = RETRY_MIN;
            // A renewal that failed is tried again long before the next is due.
            while let Err(error) = self.renew_lease().await {
                debug!(error = %chain(&error), "cannot renew the node's lease, retrying");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    async fn renew_lease(&self) -> Result<(), Error> {
        const NAMESPACE: &str = "kube-node-lease";
        let name = &self.config.node_name;
        let now = api_micro_time(SystemTime::now());
        let patch = Patch::Merge(json!({"spec": {
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
        }}));
        match self.client.patch::<Lease>(NAMESPACE, name, None, &patch).await {
            Err(error) if error.is_not_found() => {}
            result => return result.map(drop),
        }
        let owner = self.client.find::<Node>("", name).await?.and_then(|node| {
            Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.metadata.uid.clone()?,
                ..OwnerReference::default()
            }])
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                owner_references: owner,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        self.client.create(&lease).await.map(drop)
    }
}
