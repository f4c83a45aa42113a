//! Links, IPv4 addresses and IPv4 routes of one network namespace.
//!
//! Every call is blocking and says what it did in its error. Deleting what is not there succeeds, adding
//! what is there already succeeds: callers state what they want.

mod addresses;
mod links;
mod neighbours;
mod table;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use super::{
    ACK, CREATE, DUMP, EXCLUSIVE, Family, Message, REPLACE, Socket, Writer, attribute, attributes, settled,
    text, was_interrupted,
};

pub use self::addresses::Address;
pub use self::links::{Link, PortState, VethEnd};
pub use self::neighbours::Neighbour;
pub use self::table::{Found, Route};

/// Routes that Skiff wrote carry this originator number, so that it can find them again
/// (rtnetlink(7), rtm_protocol; 88 is not assigned in linux/rtnetlink.h).
pub const ORIGIN: u8 = 88;
const ORIGIN_BOOT: u8 = 3;

#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct Error {
    pub action: String,
    #[source]
    pub source: io::Error,
}

impl Error {
    fn new(action: impl Into<String>, source: io::Error) -> Error {
        Error { action: action.into(), source }
    }

    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A connection to the kernel for one network namespace.
#[derive(Debug)]
pub struct Connection {
    pub(super) socket: Socket,
}

impl Connection {
    /// For the namespace of the calling thread.
    pub fn open() -> Result<Connection> {
        let socket = Socket::open(Family::Route, 0).map_err(|e| Error::new("open a netlink socket", e))?;
        Ok(Connection { socket })
    }

    /// For another namespace.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Connection> {
        let socket = Socket::open_in(netns, Family::Route)
            .map_err(|e| Error::new("open a netlink socket in a network namespace", e))?;
        Ok(Connection { socket })
    }

    /// What a fresh sandbox needs inside, in one request: loopback up, its address, and the default route.
    pub fn configure_sandbox(&self, link: &str, ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<()> {
        self.set_up("lo")?;
        let index = self
            .link(link)?
            .ok_or_else(|| Error::new(format!("find {link} in the sandbox"), io::ErrorKind::NotFound.into()))?
            .index;
        self.add_address(index, ip, prefix)?;
        let default = Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            via: Some(gateway),
            link: Some(index),
            source: None,
        };
        self.add_route(&default, ORIGIN_BOOT)
    }

    fn list<T>(&self, request: &Writer, read: impl Fn(Message<'_>) -> Option<T>) -> io::Result<Vec<T>> {
        let once = || {
            let mut all = Vec::new();
            self.socket.dump(request.as_bytes(), |message| all.extend(read(message))).map(|()| all)
        };
        settled(once, was_interrupted)
    }

    fn one(&self, request: &Writer, fine: &[i32], action: impl Fn() -> String) -> Result<()> {
        let results = self.socket.transact(request.as_bytes(), 1).map_err(|e| Error::new(action(), e))?;
        match results.first() {
            Some(0) => Ok(()),
            Some(error) if fine.contains(error) => Ok(()),
            Some(error) => Err(Error::new(action(), io::Error::from_raw_os_error(*error))),
            None => Err(Error::new(action(), io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::addresses::read_address;
    use super::links::read_link;
    use super::neighbours::read_probed;
    use super::table::{read_found, read_route};

    #[test]
    fn random_answers_never_panic() {
        crate::netlink::random::bodies(16, |body| {
            let _ = (read_link(body), read_address(body), read_route(body, None), read_found(body));
            let _ = read_probed(body, super::ORIGIN);
        });
    }
}
