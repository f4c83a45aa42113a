//! Names of services and pods, for pods: the cluster's DNS server.
//!
//! Every node runs one on the cluster's DNS address, so a pod asks its own node. [`Records`] holds what
//! names exist, kept true by the caches' changes; [`Zone::answer`] decides; the server moves packets.
//! Names outside the zone go to the configured forwarders, and where there are none they fail at once.
//!
//! This is no resolver: it follows no delegations and keeps no answers of others.

mod answer;
mod forward;
mod records;
mod server;
mod sources;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::{Cache, Change, Changes, Object, ObjectKey};
use tokio::net::{TcpListener, UdpSocket};
use tracing::info;

pub use answer::{Answer, Zone};
pub use forward::Forwarders;
use forward::Servers;
pub use records::Records;
use server::Shared;

/// Where and for what to answer.
#[derive(Debug, Clone)]
pub struct Config {
    /// Usually the cluster's DNS address and port 53; the address must exist.
    pub listen: SocketAddr,
    /// `cluster.local`
    pub zone: String,
    /// Who knows other names.
    pub forwarders: Forwarders,
}

/// What the zone's names come from. Somebody else runs the caches.
#[derive(Clone)]
pub struct Caches {
    pub services: Cache<Service>,
    pub slices: Cache<EndpointSlice>,
    /// All pods, if names such as `10-244-1-7.default.pod.cluster.local` shall exist only for addresses
    /// that pods have. Without, all well-formed ones do, as upstream's default is.
    pub pods: Option<Cache<Pod>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{zone:?} is no domain")]
    Zone {
        zone: String,
        #[source]
        source: hickory_proto::ProtoError,
    },
    #[error("cannot listen on {address} ({transport})")]
    Listen {
        address: SocketAddr,
        transport: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve DNS on {address}")]
    Serve {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A server that listens and doesn't answer yet.
pub struct Server {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
    shared: Arc<Shared>,
    caches: Caches,
}

impl Server {
    /// Binds both sockets.
    pub async fn bind(config: Config, caches: Caches) -> Result<Self, Error> {
        let zone =
            Zone::new(&config.zone).map_err(|source| Error::Zone { zone: config.zone.clone(), source })?;
        let listen = |transport| move |source| Error::Listen { address: config.listen, transport, source };
        let tcp = TcpListener::bind(config.listen).await.map_err(listen("TCP"))?;
        let address = tcp.local_addr().map_err(listen("TCP"))?;
        let udp = UdpSocket::bind(address).await.map_err(listen("UDP"))?;
        let records = Records::new(caches.pods.is_some());
        let shared = Arc::new(Shared::new(zone, Servers::new(address, config.forwarders), records));
        Ok(Server { address, udp, tcp, shared, caches })
    }

    /// Where it listens: the port that was chosen, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is done. Names of the zone get SERVFAIL until the caches are complete.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let Server { address, udp, tcp, shared, caches } = self;
        info!(%address, forwarders = ?shared.forwarders.now(), "serving DNS");
        // All of them are cancel-safe, as nothing outlives this function.
        tokio::select! {
            () = shutdown => Ok(()),
            never = follow(&shared, &caches) => match never {},
            source = server::serve(shared.clone(), udp, tcp) => Err(Error::Serve { address, source }),
        }
    }
}

/// [`Server::bind`] and [`Server::run`].
pub async fn run(
    config: Config,
    caches: Caches,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    Server::bind(config, caches).await?.run(shutdown).await
}

/// Keeps the records true, one change at a time.
async fn follow(shared: &Shared, caches: &Caches) -> Infallible {
    let (mut services, mut slices) = (caches.services.subscribe(), caches.slices.subscribe());
    let mut pods = caches.pods.as_ref().map(Cache::subscribe);
    caches.services.synced().await;
    caches.slices.synced().await;
    if let Some(pods) = &caches.pods {
        pods.synced().await;
    }
    {
        let mut records = shared.records.write();
        records.replace_services(caches.services.list().iter().map(|service| &**service));
        records.replace_slices(caches.slices.list().iter().map(|slice| &**slice));
        if let Some(pods) = &caches.pods {
            records.replace_pods(pods.list().iter().map(|pod| &**pod));
        }
    }
    shared.ready.store(true, Ordering::Release);
    loop {
        // `Changes::next` is cancel-safe.
        tokio::select! {
            change = services.next() => {
                let mut records = shared.records.write();
                match change {
                    Change::Applied { new, .. } => records.apply_service(&new),
                    Change::Deleted(old) => records.remove_service(&ObjectKey::of(&*old)),
                    Change::Resync => {
                        records.replace_services(caches.services.list().iter().map(|service| &**service));
                    }
                }
            }
            change = slices.next() => {
                let mut records = shared.records.write();
                match change {
                    Change::Applied { new, .. } => records.apply_slice(&new),
                    Change::Deleted(old) => records.remove_slice(&ObjectKey::of(&*old)),
                    Change::Resync => records.replace_slices(caches.slices.list().iter().map(|slice| &**slice)),
                }
            }
            change = next(&mut pods) => {
                let mut records = shared.records.write();
                match change {
                    Change::Applied { new, .. } => records.apply_pod(&new),
                    Change::Deleted(old) => records.remove_pod(&ObjectKey::of(&*old)),
                    Change::Resync => {
                        let list = caches.pods.as_ref().map(Cache::list).unwrap_or_default();
                        records.replace_pods(list.iter().map(|pod| &**pod));
                    }
                }
            }
        }
    }
}

/// The next change; never, where there is nothing to follow.
async fn next<K: Object>(changes: &mut Option<Changes<K>>) -> Change<K> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
