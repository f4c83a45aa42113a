//! An API server by itself, with a store in memory: to try clients against.
//!
//! `cargo run -p skiff-apiserver --example serve -- DIRECTORY [PORT]` keeps its certificates and an
//! administrator's kubeconfig in the directory, and serves on 127.0.0.1 until it is interrupted.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skiff_apiserver::{ApiServer, Config, pki};
use skiff_store::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: serve DIRECTORY [PORT]")?);
    let port = args.next().map_or(Ok(0), |p| p.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;

    let pki = Arc::new(pki::Pki::open(&dir)?);
    let defaults = Config::default();
    let config = Config {
        advertise: (Ipv4Addr::LOCALHOST, address.port()),
        agent_tls: Some(pki.agent_client_config()?),
        pki: Some(Arc::clone(&pki)),
        ..defaults
    };
    let service_ip = IpAddr::V4(config.service_cidr.nth(1));
    let tls = pki.server_tls(&pki::server_names(&[], service_ip, &config.cluster_domain))?;
    let server = ApiServer::build(config, Arc::new(MemoryStore::default())).await?;

    let admin = pki.admin()?;
    let encode = |text: &str| STANDARD.encode(text);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: skiff\n\
         clusters: [{{name: skiff, cluster: {{server: 'https://{address}', certificate-authority-data: {}}}}}]\n\
         users: [{{name: skiff, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n\
         contexts: [{{name: skiff, context: {{cluster: skiff, user: skiff}}}}]\n",
        encode(pki.ca()),
        encode(&admin.certificate),
        encode(&admin.key),
    );
    let path = dir.join("kubeconfig");
    std::fs::write(&path, kubeconfig)?;
    println!("export KUBECONFIG={}", path.display());

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    server.serve(vec![listener], tls, shutdown).await;
    Ok(())
}
