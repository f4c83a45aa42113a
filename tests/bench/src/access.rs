//! What it costs to ask whether a user may: the same request for an administrator, who needs no role, and
//! for a user whom one of 1,000 bindings allows it, both impersonated on one connection each.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;
use crate::stats::{Bar, Figure};
use crate::wire::{Target, Wire};

const BINDINGS: usize = 1_000;
const REQUESTS: usize = 20_000;

pub(crate) async fn measure(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let target = cluster.target()?;
    let mut wire = target.connect().await?;
    let map = json!({"metadata": {"name": "asked"}}).to_string();
    let maps = "/api/v1/namespaces/default/configmaps";
    wire.call("POST", maps, "application/json", &map).await?;
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    for index in 0..BINDINGS {
        wire.call("POST", path, "application/json", &binding(index, &format!("user-{index}"))).await?;
    }
    let mut figures = vec![extra(&target, maps, "user-500", "of one of 1,000 bindings").await?];
    for index in BINDINGS..2 * BINDINGS {
        wire.call("POST", path, "application/json", &binding(index, "busy")).await?;
    }
    figures.push(extra(&target, maps, "busy", "of a user of 1,000 bindings").await?);
    Ok(figures)
}

/// The last binding of a user is the one that allows to read config maps; the others name another role.
fn binding(index: usize, user: &str) -> String {
    let allows = user != "busy" || index == 2 * BINDINGS - 1;
    let role = if allows { "view" } else { "system:node-proxier" };
    json!({
        "metadata": {"name": format!("binding-{index}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
    .to_string()
}

/// By how much the median request of `user` takes longer than an administrator's.
async fn extra(target: &Target, maps: &str, user: &str, what: &str) -> anyhow::Result<Figure> {
    let path = format!("{maps}/asked");
    let masters = "impersonate-user: somebody\r\nimpersonate-group: system:masters\r\n";
    let mut master = target.clone().with_headers(masters).connect().await?;
    let mut bound = target.clone().with_headers(&format!("impersonate-user: {user}\r\n")).connect().await?;
    let (mut without, mut with) = (Vec::with_capacity(REQUESTS), Vec::with_capacity(REQUESTS));
    // In turns, so that whatever else the machine does meets both alike.
    for _ in 0..REQUESTS {
        without.push(timed(&mut master, &path).await?);
        with.push(timed(&mut bound, &path).await?);
    }
    let (without, with) = (median(without), median(with));
    let cost = with.saturating_sub(without).as_secs_f64() * 1e6;
    let text = format!(
        "p50 {cost:.1} µs ({:.1} µs a request, {:.1} µs an administrator's)",
        with.as_secs_f64() * 1e6,
        without.as_secs_f64() * 1e6
    );
    Ok(Figure::new(format!("authorization {what}"), text).bar(cost, Bar::AtMost(20.0), "µs (p50)"))
}

async fn timed(wire: &mut Wire, path: &str) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    wire.call("GET", path, "", "").await?;
    Ok(begin.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
