//! The `kube` crate: a watcher and a reflector keep up through a connection that is cut.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use skiff_tests::{Cluster, PATIENCE};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to the server that can be cut: open connections end and new ones are dropped.
struct Way {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("it is bound");
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut state = state.clone();
                if !*state.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    // Either half may be dropped at any time: that is what the test is about.
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}

async fn config(cluster: &Cluster) -> Config {
    let file = Kubeconfig::read_from(&cluster.kubeconfig).expect("kube reads the kubeconfig");
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("kube understands it")
}

fn map(name: &str) -> ConfigMap {
    let labels = BTreeMap::from([("watched".to_owned(), "yes".to_owned())]);
    let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

fn names(store: &Store<ConfigMap>) -> Vec<String> {
    let mut names: Vec<String> =
        store.state().iter().filter_map(|object| object.metadata.name.clone()).collect();
    names.sort();
    names
}

async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("did not happen: {what}"))
}

/// Takes events, and errors, until it holds.
async fn until<T>(events: &mut (impl Stream<Item = T> + Unpin), mut holds: impl FnMut(&T) -> bool) {
    while let Some(event) = events.next().await {
        if holds(&event) {
            return;
        }
    }
    panic!("the watcher ended");
}

async fn keeps_up(name: &str, how: watcher::Config) {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::shared();
    let namespace = cluster.namespace(name);
    let direct = config(&cluster).await;
    let port = direct.cluster_url.port_u16().expect("a port");
    let way = Way::to(([127, 0, 0, 1], port).into()).await;
    let mut cuttable = direct.clone();
    cuttable.cluster_url = format!("https://{}", way.address).parse().expect("a URL");
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(direct).expect("a client"), &namespace.name);
    let watched = Api::namespaced(Client::try_from(cuttable).expect("a client"), &namespace.name);

    maps.create(&PostParams::default(), &map("before")).await.expect("creates");
    let (store, writer) = reflector::store();
    let events = watcher(watched, how.labels("watched=yes")).default_backoff();
    let mut events = pin!(reflector::reflector(writer, events));
    in_time("the first list", until(&mut events, |_| names(&store) == ["before"])).await;
    maps.create(&PostParams::default(), &map("live")).await.expect("creates");
    in_time("an event", until(&mut events, |_| names(&store) == ["before", "live"])).await;

    way.open.send_replace(false);
    in_time("the cut is noticed", until(&mut events, Result::is_err)).await;
    maps.create(&PostParams::default(), &map("missed")).await.expect("creates");
    maps.delete("before", &DeleteParams::default()).await.expect("deletes");
    way.open.send_replace(true);
    in_time("what was missed", until(&mut events, |_| names(&store) == ["live", "missed"])).await;
}

#[tokio::test]
async fn a_reflector_survives_a_cut_by_list_and_watch() {
    keeps_up("kube-list", watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn a_reflector_survives_a_cut_by_a_streamed_list() {
    keeps_up("kube-stream", watcher::Config::default().streaming_lists()).await;
}
