//! Which file says where names of the outside are asked for.
//!
//! systemd-resolved has `/etc/resolv.conf` name itself, at 127.0.0.53: in a pod that is the pod's own
//! loopback, where nobody answers. The servers that it asks are in a file of its own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const USUAL: &str = "/etc/resolv.conf";

/// systemd-resolved.service(8): all servers that it knows, for programs that do not ask it.
const OF_SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";

/// The file that holds beyond this machine.
pub(crate) fn resolv_conf() -> PathBuf {
    choose(|path| fs::read_to_string(path).ok()).into()
}

fn choose(read: impl Fn(&Path) -> Option<String>) -> &'static str {
    let usual = read(Path::new(USUAL)).unwrap_or_default();
    let mut servers = usual
        .lines()
        .filter_map(|line| line.split_whitespace().skip_while(|word| *word != "nameserver").nth(1))
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .peekable();
    let own_alone = servers.peek().is_some() && servers.all(|server| server.is_loopback());
    if own_alone && read(Path::new(OF_SYSTEMD)).is_some() { OF_SYSTEMD } else { USUAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_only_this_machine_reaches_are_looked_behind() {
        let check = |usual: Option<&str>, of_systemd: Option<&str>, expected: &str| {
            let read = |path: &Path| {
                let text = if path == Path::new(USUAL) { usual } else { of_systemd };
                text.map(str::to_owned)
            };
            assert_eq!(choose(read), expected, "{usual:?} {of_systemd:?}");
        };
        let stub = "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        let behind = Some("nameserver 192.0.2.53\n");
        check(Some(stub), behind, OF_SYSTEMD);
        // It may learn of servers later.
        check(Some(stub), Some("# none yet\n"), OF_SYSTEMD);
        // dnsmasq, say.
        check(Some(stub), None, USUAL);
        check(Some("nameserver ::1\n"), behind, OF_SYSTEMD);
        check(Some("nameserver 127.0.0.53\nnameserver 192.0.2.1\n"), behind, USUAL);
        check(Some("nameserver 192.0.2.1\n"), behind, USUAL);
        check(Some("search example.org\n"), behind, USUAL);
        check(None, behind, USUAL);
    }
}
