//! A network that gives out addresses and knows one taken port.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use skiff_network::{Attachment, HostPort, HostPortConflict, Network, Route};

use super::Gate;

/// Gives out addresses in order. Port 9999 of the node is taken by process 7.
#[derive(Default)]
pub(crate) struct FakeNetwork {
    attached: Mutex<BTreeMap<String, Attachment>>,
    pub(crate) ports: Mutex<BTreeMap<String, Vec<HostPort>>>,
    gate: Arc<Gate>,
}

impl FakeNetwork {
    /// What its changes pass.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

fn conflict(port: &HostPort) -> Option<HostPortConflict> {
    (port.host_port == 9999).then(|| HostPortConflict { port: *port, pid: 7, command: "nginx".into() })
}

#[async_trait]
impl Network for FakeNetwork {
    async fn attach(&self, sandbox: &str, _: &Path) -> Result<Attachment, skiff_network::Error> {
        self.gate.pass().await;
        let attachment = {
            let mut attached = self.attached.lock();
            let next = u8::try_from(attached.len() + 2).expect("few sandboxes");
            let attachment = Attachment {
                sandbox: sandbox.into(),
                ip: Ipv4Addr::new(10, 244, 0, next),
                host_link: format!("veth{next}"),
            };
            attached.entry(sandbox.into()).or_insert(attachment).clone()
        };
        self.gate.pass().await;
        Ok(attachment)
    }

    async fn detach(&self, sandbox: &str) -> Result<(), skiff_network::Error> {
        self.gate.pass().await;
        self.attached.lock().remove(sandbox);
        self.ports.lock().remove(sandbox);
        self.gate.pass().await;
        Ok(())
    }

    async fn set_host_ports(
        &self,
        sandbox: &str,
        ports: &[HostPort],
    ) -> Result<Vec<HostPortConflict>, skiff_network::Error> {
        self.gate.pass().await;
        self.ports.lock().insert(sandbox.into(), ports.to_vec());
        self.gate.pass().await;
        Ok(ports.iter().filter_map(conflict).collect())
    }

    async fn attachments(&self) -> Result<Vec<Attachment>, skiff_network::Error> {
        Ok(self.attached.lock().values().cloned().collect())
    }

    async fn set_routes(&self, _: &[Route]) -> Result<(), skiff_network::Error> {
        Ok(())
    }

    async fn listener(&self, port: &HostPort) -> Result<Option<HostPortConflict>, skiff_network::Error> {
        Ok(conflict(port))
    }

    async fn walk(
        &self,
        _: skiff_network::walk::Asked,
    ) -> Result<Vec<skiff_network::walk::Way>, skiff_network::Error> {
        Ok(Vec::new())
    }

    async fn approaches(
        &self,
        asked: skiff_network::walk::Approaches,
    ) -> Result<Vec<Result<Vec<skiff_network::walk::Way>, skiff_network::Error>>, skiff_network::Error> {
        Ok(asked.packets.iter().map(|_| Ok(Vec::new())).collect())
    }
}
