//! The way out of a cluster, only with `--uplink`: the machine forwards and masquerades the node network.
//!
//! One nftables table a cluster on the machine, named after it, so that removing it removes all.

use anyhow::Context;
use skiff_sys::netlink::{ACK, APPEND, CREATE, Family, Socket, Writer};
use skiff_sys::nft::tables::{self, Table};

use super::record::{Record, own_network};
use super::sysctls::{self, FORWARDING};
use super::topology::set;

// linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 10 << 8;
const DELETE_TABLE: u16 = (10 << 8) | 2;
const NEW_CHAIN: u16 = (10 << 8) | 3;
const NEW_RULE: u16 = (10 << 8) | 6;
const IPV4: u8 = 2;
const POSTROUTING: u32 = 4;
const PRIORITY_SOURCE_NAT: i32 = 100;
const REGISTER: u32 = 1;

/// Whether the machine forwards packets, apart from what other clusters made it do.
pub(crate) fn forwards(others: &[Record]) -> bool {
    let network = own_network();
    match others.iter().find(|other| other.uplink && other.shares_network(network)) {
        Some(other) => other.forwarded_before,
        None => {
            std::fs::read_to_string(format!("/proc/sys/{FORWARDING}")).is_ok_and(|text| text.trim() == "1")
        }
    }
}

/// Lets the cluster out. The routers of the machine's own network are not asked.
pub(crate) fn open(record: &Record) -> anyhow::Result<()> {
    set(FORWARDING, "1")?;
    let table = table(&record.name);
    let mut batch = Batch::default();
    batch.add(NEW_TABLE, CREATE, |message| {
        message.string(1, &table);
    });
    batch.add(NEW_CHAIN, CREATE, |message| {
        message.string(1, &table).string(3, "postrouting");
        let hook = message.open(4);
        message.be32(1, POSTROUTING).be32(2, PRIORITY_SOURCE_NAT as u32);
        message.close(hook).string(7, "nat");
    });
    let (from, mask) = (record.ranges.node.address.octets(), record.ranges.node.mask().octets());
    let link = Record::machine_link(&record.name);
    batch.add(NEW_RULE, CREATE | APPEND, |message| {
        message.string(1, &table).string(2, "postrouting");
        let expressions = message.open(4);
        // ip saddr & mask == node network
        expression(message, "payload", |m| {
            m.be32(1, REGISTER).be32(2, 1).be32(3, 12).be32(4, 4);
        });
        expression(message, "bitwise", |m| {
            m.be32(1, REGISTER).be32(2, REGISTER).be32(3, 4);
            let data = m.open(4);
            m.attribute(1, &mask).close(data);
            let data = m.open(5);
            m.attribute(1, &[0; 4]).close(data);
        });
        expression(message, "cmp", |m| {
            m.be32(1, REGISTER).be32(2, 0);
            let data = m.open(3);
            m.attribute(1, &from).close(data);
        });
        // oifname != the link to the cluster
        expression(message, "meta", |m| {
            m.be32(1, REGISTER).be32(2, 7);
        });
        expression(message, "cmp", |m| {
            let mut name = [0u8; 16];
            name[..link.len()].copy_from_slice(link.as_bytes());
            m.be32(1, REGISTER).be32(2, 1);
            let data = m.open(3);
            m.attribute(1, &name).close(data);
        });
        expression(message, "masq", |_| {});
        message.close(expressions);
    });
    batch.commit().with_context(|| format!("cannot make the nftables table {table}"))
}

/// Takes the way out away. Succeeds where there is none.
pub(crate) fn close(name: &str) -> anyhow::Result<()> {
    let table = table(name);
    let is_it = |other: &Table| other.family == "ip" && other.name == table;
    if !tables::read().context("cannot tell which nftables tables there are")?.iter().any(is_it) {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.add(DELETE_TABLE, 0, |message| {
        message.string(1, &table);
    });
    batch.commit().with_context(|| format!("cannot remove the nftables table {table}"))
}

/// Lets the machine forward no longer, if it did not before and no other cluster needs it.
pub(crate) fn restore(record: &Record) -> anyhow::Result<()> {
    if record.forwarded_before || !is_last(record) {
        return Ok(());
    }
    match super::prove::stored(&record.data_dir.join("stock.json")) {
        // Not that of before another cluster with an uplink, which is down by now.
        Ok(before) if !before.sysctls.contains(&format!("{FORWARDING} = 1")) => {
            sysctls::restore(&before, &[FORWARDING])
        }
        _ => set(FORWARDING, "0"),
    }
}

/// Whether this cluster has a way out and no other does: whether the machine forwards is its to undo then.
pub(crate) fn is_last(record: &Record) -> bool {
    let others = Record::all().unwrap_or_default();
    let needs_it =
        |other: &Record| other.uplink && other.name != record.name && other.shares_network(record.network);
    record.uplink && !others.iter().any(needs_it)
}

fn table(name: &str) -> String {
    format!("skiff-uplink-{name}")
}

/// Messages that take effect together or not at all.
#[derive(Default)]
struct Batch {
    messages: Vec<Writer>,
}

impl Batch {
    fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) {
        let sequence = self.messages.len() as u32 + 1;
        let mut message = Writer::new();
        message.message(kind, flags | ACK, sequence, &[IPV4, 0, 0, 0]);
        fill(&mut message);
        message.end();
        self.messages.push(message);
    }

    fn commit(self) -> std::io::Result<()> {
        // The resource of a batch is the subsystem, nftables.
        let frame = |kind: u16| {
            let mut message = Writer::new();
            message.message(kind, 0, 0, &[0, 0, 0, 10]).end();
            message
        };
        let mut bytes = frame(BATCH_BEGIN).as_bytes().to_vec();
        self.messages.iter().for_each(|message| bytes.extend_from_slice(message.as_bytes()));
        bytes.extend_from_slice(frame(BATCH_END).as_bytes());
        let results = Socket::open(Family::Netfilter, 0)?.transact(&bytes, self.messages.len())?;
        match results.into_iter().find(|error| *error != 0) {
            Some(error) => Err(std::io::Error::from_raw_os_error(error)),
            None => Ok(()),
        }
    }
}

fn expression(message: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    let element = message.open(1);
    message.string(1, name);
    let data = message.open(2);
    fill(message);
    message.close(data).close(element);
}
