//! Traffic control (`tc`) of one network namespace: the disciplines by which devices send, and whether filters
//! look at what passes. What a filter does is not read: it is another program's rule, or a program.

use std::io;

use super::route::Connection;
use super::{DUMP, Writer, attribute, settled, text, was_interrupted};

const GET_DISCIPLINE: u16 = 38;
const GET_FILTER: u16 = 46;
const TCA_KIND: u16 = 1;
/// Where filters are attached (linux/pkt_sched.h): to a device's own discipline, to what comes in, to what goes
/// out.
const ROOT: u32 = 0;
const CAME: u32 = 0xffff_fff2;
const LEAVES: u32 = 0xffff_fff3;

/// A discipline of a device, by the device's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discipline {
    pub link: u32,
    /// `fq_codel`, `tbf`, …
    pub kind: String,
}

impl Discipline {
    /// It is only a place for filters (`clsact`, `ingress`).
    pub fn holds_filters(&self) -> bool {
        matches!(self.kind.as_str(), "clsact" | "ingress")
    }

    /// It loses a packet only when more wait than there is room for, and in no other order than by turns.
    pub fn is_plain(&self) -> bool {
        const PLAIN: [&str; 14] = [
            "noqueue",
            "pfifo_fast",
            "pfifo",
            "bfifo",
            "pfifo_head_drop",
            "fq",
            "fq_codel",
            "fq_pie",
            "codel",
            "cake",
            "sfq",
            "mq",
            "mqprio",
            "multiq",
        ];
        PLAIN.contains(&self.kind.as_str())
    }
}

/// All devices' disciplines.
pub fn disciplines(kernel: &Connection) -> io::Result<Vec<Discipline>> {
    let mut request = Writer::new();
    request.message(GET_DISCIPLINE, DUMP, 1, &header(0, ROOT)).end();
    let once = || {
        let mut all = Vec::new();
        kernel.socket.dump(request.as_bytes(), |message| all.extend(read(message.body))).map(|()| all)
    };
    settled(once, was_interrupted)
}

/// Whether filters look at what comes in by the device, and at what goes out.
pub fn filtered(kernel: &Connection, link: u32) -> io::Result<(bool, bool)> {
    let any = |parent: u32| {
        let mut request = Writer::new();
        request.message(GET_FILTER, DUMP, 1, &header(link, parent)).end();
        let once = || {
            let mut found = false;
            kernel
                .socket
                .dump(request.as_bytes(), |message| found |= !message.body.is_empty())
                .map(|()| found)
        };
        settled(once, was_interrupted)
    };
    Ok((any(CAME)?, any(LEAVES)? || any(ROOT)?))
}

/// struct tcmsg: family, padding, device, handle, parent, information
fn header(link: u32, parent: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes
}

fn read(body: &[u8]) -> Option<Discipline> {
    let (header, rest) = body.split_at_checked(20)?;
    let link = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    Some(Discipline { link, kind: text(attribute(rest, TCA_KIND)?) })
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::netlink::route::VethEnd;

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(20, |body| drop(read(body)));
    }

    #[test]
    fn a_place_for_filters_is_no_filter() {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let kernel = Connection::open().unwrap();
            let end = |name| VethEnd { name, ..VethEnd::default() };
            kernel.add_veth(&end("near"), &end("far"), 1500).unwrap();
            let index = kernel.link("near").unwrap().unwrap().index;
            let of_near = || {
                let mut all = disciplines(&kernel).unwrap();
                all.retain(|own| own.link == index);
                all
            };
            assert!(of_near().iter().all(Discipline::is_plain), "{:?}", of_near());
            assert_eq!(filtered(&kernel, index).unwrap(), (false, false));
            // RTM_NEWQDISC with the handle ffff:0 below ffff:fff1 (TC_H_CLSACT).
            let mut body = header(index, 0xffff_fff1);
            body[8..12].copy_from_slice(&0xffff_0000u32.to_ne_bytes());
            let mut request = Writer::new();
            request.message(36, super::super::ACK | super::super::CREATE, 1, &body);
            request.string(TCA_KIND, "clsact").end();
            if kernel.socket.dump(request.as_bytes(), |_| {}).is_err() {
                // This kernel has no such place.
                return;
            }
            let place = of_near().into_iter().find(Discipline::holds_filters).expect("it is listed");
            assert!(!place.is_plain());
            assert_eq!(filtered(&kernel, index).unwrap(), (false, false), "nobody filters there yet");
        })
        .join()
        .unwrap();
    }
}
