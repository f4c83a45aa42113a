//! Who a container's program runs as, by the image's own `/etc/passwd` and `/etc/group`.

use crate::protocol::Failure;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Sorted, the primary one included.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Who is asked for.
pub(super) struct Wanted<'a> {
    /// `name`, `uid`, either with `:group`, or empty for root.
    pub(super) user: &'a str,
    /// Outweighs what the files say.
    pub(super) gid: Option<u32>,
    pub(super) supplemental: &'a [u32],
    /// The file's word on further groups of the user doesn't count.
    pub(super) strict: bool,
}

pub(super) fn resolve(wanted: &Wanted<'_>, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let Wanted { user, gid, supplemental, strict } = *wanted;
    let (user, named_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A number is that user, also where the image, or a file that the pod puts there, calls another one by it:
    // what was judged as not root must not become root.
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        let is_it = number.map_or(name == user, |number| number == uid);
        is_it.then_some((name, uid, gid, home))
    });
    let uid = match (&entry, number) {
        (Some((_, uid, _, _)), _) => *uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(Failure::new(
                128,
                format!("unable to find user {user}: no matching entries in passwd file"),
            ));
        }
    };
    let groups_of_file = || {
        group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members] = fields[..] else { return None };
            Some((name, gid.parse::<u32>().ok()?, members))
        })
    };
    let from_name = match named_group {
        None => None,
        Some(wanted) => Some(match wanted.parse() {
            Ok(number) => number,
            Err(_) => groups_of_file().find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid).ok_or_else(
                || {
                    let why = format!("unable to find group {wanted}: no matching entries in group file");
                    Failure::new(128, why)
                },
            )?,
        }),
    };
    let gid = gid.or(from_name).or(entry.map(|(_, _, gid, _)| gid)).unwrap_or(0);
    let mut groups = supplemental.to_vec();
    groups.push(gid);
    if let Some((name, ..)) = entry.filter(|_| !strict) {
        let member = |members: &str| members.split(',').any(|member| member == name);
        groups.extend(groups_of_file().filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|(_, _, _, home)| home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\nbroken\n1000:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nlogs:x:4:web,other\n34:x:0:\nwww:x:34:\n";

    fn who(user: &str, gid: Option<u32>, supplemental: &[u32]) -> String {
        asked(&Wanted { user, gid, supplemental, strict: false })
    }

    fn asked(wanted: &Wanted<'_>) -> String {
        match resolve(wanted, PASSWD, GROUP) {
            Ok(id) => format!("{}:{} {:?} {}", id.uid, id.gid, id.groups, id.home),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn groups_of_the_file_do_not_count_where_asking_is_strict() {
        let strict = |user, supplemental| asked(&Wanted { user, gid: None, supplemental, strict: true });
        assert_eq!(strict("web", &[2000]), "33:34 [34, 2000] /srv");
        assert_eq!(strict("web:logs", &[]), "33:4 [4] /srv");
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(who("", None, &[]), "0:0 [0] /root");
        assert_eq!(who("web", None, &[]), "33:34 [4, 34] /srv");
        assert_eq!(who("33", None, &[2000]), "33:34 [4, 34, 2000] /srv");
        assert_eq!(who("web:logs", None, &[]), "33:4 [4] /srv");
        assert_eq!(who("web:logs", Some(99), &[]), "33:99 [4, 99] /srv");
        assert_eq!(who("5:6", None, &[]), "5:6 [6] /");
        assert_eq!(who("1000", None, &[]), "1000:0 [0] /", "whom the file calls 1000 is another one");
        assert_eq!(who("7", None, &[]), "7:7 [7] /seven");
        assert_eq!(who("5:34", None, &[]), "5:34 [34] /", "a group called 34 is another one");
        assert_eq!(who("12345", None, &[]), "12345:0 [0] /");
        assert_eq!(
            who("nobody", None, &[]),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(who("0:crew", None, &[]), "unable to find group crew: no matching entries in group file");
    }

    /// The files are the image's own, so whoever makes the image writes them.
    #[test]
    fn random_files_name_somebody_or_nobody() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let parts =
            ["web", "0", "33", "4294967295", "4294967296", "-1", ":", "::", "x", "\n", ",", "é", "/srv", ""];
        let mut text = |longest: usize| -> String {
            let count = random.random_range(0..longest);
            (0..count).map(|_| parts[random.random_range(0..parts.len())]).collect()
        };
        for _ in 0..20_000 {
            let (user, passwd, group) = (text(4), text(30), text(30));
            let wanted = Wanted { user: &user, gid: None, supplemental: &[7], strict: false };
            let Ok(found) = resolve(&wanted, &passwd, &group) else { continue };
            assert!(found.groups.contains(&found.gid) && found.groups.contains(&7), "{user:?} {passwd:?}");
            assert!(found.groups.is_sorted() && !found.home.is_empty(), "{user:?} {passwd:?}");
            // Who is asked for by number is that one and nobody else, whatever the files say.
            if let Ok(number) = user.split(':').next().unwrap_or_default().parse::<u32>() {
                assert_eq!(found.uid, number, "{user:?} {passwd:?}");
            }
        }
    }
}
