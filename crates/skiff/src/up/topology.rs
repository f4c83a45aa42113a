//! The links between the machine and the nodes of `skiff up`.
//!
//! One router namespace holds a bridge, the node network. Every node has its `eth0` on it, and so has the
//! machine, by a veth pair; the router sends each node's pod range to its node. Removing the router's
//! namespace and the machine's link removes all of it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use skiff_network::Cidr;
use skiff_runtime::private;
use skiff_sys::netlink::in_netns;
use skiff_sys::netlink::route::{Connection, ORIGIN, Route, VethEnd};

use super::record::Record;

const BRIDGE: &str = "br0";

/// Who made the machine's route to the pods: not the agent that the machine itself may run, which removes
/// what it does not know of its own.
const MACHINE_ORIGIN: u8 = ORIGIN + 1;

/// Makes a network namespace and keeps it by a bind mount at `path`.
fn make_netns(path: &Path) -> anyhow::Result<File> {
    let context = || format!("cannot make the network namespace {}", path.display());
    if let Some(dir) = path.parent() {
        private::make_dir(dir).with_context(context)?;
    }
    File::create(path).with_context(context)?;
    // A thread of its own, since a thread that unshared does not come back.
    let made = std::thread::scope(|scope| {
        let unshared = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        unshared.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    made.with_context(context)?;
    File::open(path).with_context(context)
}

/// Makes router, links, addresses and routes of a cluster.
pub(crate) fn make(record: &Record) -> anyhow::Result<()> {
    let ranges = &record.ranges;
    let prefix = ranges.node.prefix;
    let router = make_netns(&Record::netns(&record.name, "router"))?;
    in_netns(router.as_fd(), || {
        set("net/ipv4/ip_forward", "1")?;
        // Nodes and machine share a link, so the router would tell each to go straight: they know.
        set("net/ipv4/conf/all/send_redirects", "0")?;
        set("net/ipv4/conf/default/send_redirects", "0")
    })
    .context("cannot enter the router's network")??;
    let in_router = Connection::open_in(router.as_fd())?;
    in_router.set_up("lo")?;
    in_router.add_bridge(BRIDGE, hardware_address(ranges.router()), 0)?;
    let bridge = in_router.link(BRIDGE)?.context("the router's bridge is gone")?.index;
    in_router.add_address(bridge, ranges.router(), prefix)?;
    for (index, node) in record.nodes.iter().enumerate() {
        let netns = make_netns(&Record::netns(&record.name, &node.name))?;
        let port = format!("node{}", index + 1);
        let near = VethEnd { name: &port, bridge: Some(bridge), ..VethEnd::default() };
        let mac = Some(hardware_address(node.ip));
        let far = VethEnd { name: "eth0", netns: Some(netns.as_fd()), mac, bridge: None };
        in_router.add_veth(&near, &far, 0)?;
        let in_node = Connection::open_in(netns.as_fd())?;
        in_node.configure_sandbox("eth0", node.ip, prefix, ranges.router())?;
        in_router.add_route(&route(node.pods, Some(node.ip), None), ORIGIN)?;
    }
    let machine = Connection::open()?;
    let link = Record::machine_link(&record.name);
    // The machine's end is made from the router's side, born in the machine's namespace.
    let own =
        File::open("/proc/thread-self/ns/net").context("cannot open the machine's network namespace")?;
    let near = VethEnd { name: "machine", bridge: Some(bridge), ..VethEnd::default() };
    let far = VethEnd {
        name: &link,
        netns: Some(own.as_fd()),
        mac: Some(hardware_address(ranges.machine())),
        bridge: None,
    };
    in_router.add_veth(&near, &far, 0)?;
    let index = machine.link(&link)?.context("the machine's link is gone")?.index;
    machine.add_address(index, ranges.machine(), prefix)?;
    machine.add_route(&route(ranges.pod, Some(ranges.router()), Some(index)), MACHINE_ORIGIN)?;
    if record.uplink {
        in_router
            .add_route(&route(Cidr::new(Ipv4Addr::UNSPECIFIED, 0), Some(ranges.machine()), None), ORIGIN)?;
        super::uplink::open(record)?;
    }
    Ok(())
}

/// Removes what [`make`] made in the machine's own network; name spaces are unmounted by the caller.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    super::uplink::close(name)?;
    Connection::open()?.delete_link(&Record::machine_link(name))?;
    Ok(())
}

fn route(range: Cidr, via: Option<Ipv4Addr>, link: Option<u32>) -> Route {
    Route { destination: range.address, prefix: range.prefix, via, link, source: None }
}

/// Locally administered and derived from the address, so that a restarted cluster keeps its neighbours'
/// tables true.
fn hardware_address(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x5f, a, b, c, d]
}

/// Sets a kernel parameter of the calling thread's network namespace.
pub(crate) fn set(parameter: &str, value: &str) -> anyhow::Result<()> {
    let path = PathBuf::from("/proc/sys").join(parameter);
    fs::write(&path, value).with_context(|| format!("cannot set {} to {value}", path.display()))
}
