//! A server on a socket of its own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use skiff_apiserver::{ApiServer, Config, pki};
use skiff_store::MemoryStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

/// Serves by the certificates of the configuration's authority, on whatever port is free.
pub(crate) async fn listen(config: Config) -> Listening {
    let pki = Arc::clone(config.pki.as_ref().expect("an authority"));
    let service = IpAddr::V4(config.service_cidr.nth(1));
    let tls = pki.server_tls(&pki::server_names(&[], service, &config.cluster_domain)).expect("TLS");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = ApiServer::build(config, Arc::new(MemoryStore::default())).await.expect("builds");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let serving = tokio::spawn(async move { server.serve(vec![listener], tls, stop).await });
    Listening { address, shutdown, serving }
}
