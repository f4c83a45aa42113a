//! AppArmor, where the kernel has it: which profile a container's programs run under.
//!
//! [`decide`] is the plain function from what the kernel says to that; its words are containerd's, which end in
//! a pod's status. The runtime's own profile is loaded into the kernel when the first container needs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::types::{AppArmor, Error};

/// As the kernel names the runtime's own profile.
const DEFAULT: &str = "skiff-default";
const DEFAULT_TEXT: &str = include_str!("apparmor.profile");

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Takes a profile's name out.
const REMOVE: &str = "/sys/kernel/security/apparmor/.remove";
/// The program that turns a profile's text into what the kernel takes.
const PARSERS: [&str; 3] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// Whether this kernel enforces profiles at all.
pub fn is_enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// What about this machine matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    enabled: bool,
    /// Names of profiles; `None` where the kernel's list can't be read, as inside most containers.
    loaded: Option<Vec<String>>,
    parser: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Unconfined,
    /// It is loaded.
    Confined(String),
    /// The runtime's own, once that program has loaded it.
    Default(PathBuf),
}

/// The profile for a container's programs, loaded; none where they run unconfined.
pub(crate) fn profile(wanted: &AppArmor, privileged: bool, dir: &Path) -> Result<Option<String>, Error> {
    match decide(&Facts::read(), wanted, privileged).map_err(Error::Invalid)? {
        Decision::Unconfined => Ok(None),
        Decision::Confined(name) => Ok(Some(name)),
        Decision::Default(parser) => {
            load(&parser, dir)
                .map_err(|source| Error::Io { action: format!("load the profile {DEFAULT}"), source })?;
            Ok(Some(DEFAULT.to_owned()))
        }
    }
}

/// Takes the runtime's own profile out of the kernel, if the runtime with this data directory put it there and
/// no process is under it any more.
pub fn unload(data_dir: &Path) -> io::Result<()> {
    let file = data_dir.join("apparmor").join(DEFAULT);
    if !file.exists() {
        return Ok(());
    }
    match left(&fs::read_to_string(LOADED).unwrap_or_default(), confined()) {
        Left::Used => return Ok(()),
        Left::Idle => fs::write(REMOVE, DEFAULT)?,
        Left::Gone => {}
    }
    fs::remove_file(file)
}

/// What there is left of the runtime's own profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Gone,
    Idle,
    /// Processes are under it, of another runtime.
    Used,
}

fn left(loaded: &str, mut confined: impl Iterator<Item = String>) -> Left {
    let has = |list: &str| names(list).iter().any(|name| name == DEFAULT);
    match has(loaded) {
        false => Left::Gone,
        true if confined.any(|label| has(&label)) => Left::Used,
        true => Left::Idle,
    }
}

/// What each process is under, in the form of the kernel's list.
fn confined() -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| {
        let read = |file| fs::read_to_string(process.path().join(file));
        // Kernels before 5.8 have it where all security modules share one file.
        read("attr/apparmor/current").or_else(|_| read("attr/current")).ok()
    })
}

fn decide(facts: &Facts, wanted: &AppArmor, privileged: bool) -> Result<Decision, String> {
    let refuse = |why: &str| {
        Err(format!("failed to get container spec opts: failed to generate apparmor spec opts: {why}"))
    };
    let is_loaded = |name: &str| facts.loaded.iter().flatten().any(|loaded| loaded == name);
    match wanted {
        AppArmor::Unconfined => Ok(Decision::Unconfined),
        AppArmor::Unspecified if privileged || !facts.enabled => Ok(Decision::Unconfined),
        _ if !facts.enabled => refuse("AppArmor is not enabled on the host"),
        AppArmor::Profile(name) if is_loaded(name) => Ok(Decision::Confined(name.clone())),
        AppArmor::Profile(name) => refuse(&format!("apparmor profile not found {name}")),
        _ if is_loaded(DEFAULT) => Ok(Decision::Confined(DEFAULT.to_owned())),
        wanted => match (&facts.parser, &facts.loaded) {
            (Some(parser), Some(_)) => Ok(Decision::Default(parser.clone())),
            // Nobody asked for it.
            _ if *wanted == AppArmor::Unspecified => Ok(Decision::Unconfined),
            (None, _) => refuse("apparmor is not supported: this node has no apparmor_parser"),
            (_, None) => refuse(&format!("apparmor is not supported: {LOADED} can't be read on this node")),
        },
    }
}

impl Facts {
    fn read() -> Facts {
        if !is_enabled() {
            return Facts::default();
        }
        Facts {
            enabled: true,
            loaded: fs::read_to_string(LOADED).ok().map(|text| names(&text)),
            parser: PARSERS.map(PathBuf::from).into_iter().find(|path| path.is_file()),
        }
    }
}

/// Each line is a name, which may have blanks, and a mode in parentheses.
fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name.to_owned()).collect()
}

fn load(parser: &Path, dir: &Path) -> io::Result<()> {
    let file = dir.join(DEFAULT);
    fs::create_dir_all(dir)?;
    fs::write(&file, DEFAULT_TEXT)?;
    let output = Command::new(parser).args(["--skip-cache", "--replace"]).arg(&file).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {}: {said}", parser.display(), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_goes_when_nobody_is_under_it() {
        let check = |loaded: &str, confined: &[&str], expected: Left| {
            assert_eq!(
                left(loaded, confined.iter().map(|label| (*label).to_owned())),
                expected,
                "{loaded:?}"
            );
        };
        let loaded = "/usr/bin/man (enforce)\nskiff-default (enforce)\n";
        check(loaded, &["unconfined\n", "/usr/bin/man (enforce)\n"], Left::Idle);
        check(loaded, &["unconfined\n", "skiff-default (enforce)\n"], Left::Used);
        check("skiff-default-2 (enforce)\n", &["skiff-default (enforce)\n"], Left::Gone);
        check("", &[], Left::Gone);
    }

    #[test]
    fn a_profile_that_another_runtime_loaded_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("skiff-apparmor-{}", std::process::id()));
        unload(&dir).expect("this one has loaded none");
    }

    #[test]
    fn a_kernel_and_a_field_decide() {
        let parser = || Some(PathBuf::from(PARSERS[0]));
        let loaded = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let none = Facts::default();
        let whole = Facts { enabled: true, loaded: loaded(&["mine"]), parser: parser() };
        let warm = Facts { loaded: loaded(&["mine", DEFAULT]), parser: None, ..whole.clone() };
        let without_parser = Facts { parser: None, ..whole.clone() };
        let without_list = Facts { loaded: None, ..whole.clone() };
        let local = |name: &str| AppArmor::Profile(name.to_owned());
        let words =
            |facts: &Facts, wanted: &AppArmor, privileged: bool| match decide(facts, wanted, privileged) {
                Ok(Decision::Unconfined) => "unconfined".to_owned(),
                Ok(Decision::Confined(name)) => format!("confined by {name}"),
                Ok(Decision::Default(parser)) => format!("loaded by {}", parser.display()),
                Err(why) => {
                    let prefix = "failed to get container spec opts: failed to generate apparmor spec opts: ";
                    why.strip_prefix(prefix).expect("containerd's words").to_owned()
                }
            };
        let (unset, open, default) = (AppArmor::Unspecified, AppArmor::Unconfined, AppArmor::RuntimeDefault);
        let disabled = "AppArmor is not enabled on the host";
        let no_parser = "apparmor is not supported: this node has no apparmor_parser";
        let no_list =
            "apparmor is not supported: /sys/kernel/security/apparmor/profiles can't be read on this node";
        let load = "loaded by /sbin/apparmor_parser";
        let own = "confined by skiff-default";
        for (facts, wanted, privileged, expected) in [
            (&none, &unset, false, "unconfined"),
            (&none, &open, false, "unconfined"),
            (&none, &default, false, disabled),
            (&none, &local("mine"), true, disabled),
            (&whole, &unset, false, load),
            (&whole, &unset, true, "unconfined"),
            (&whole, &open, false, "unconfined"),
            (&whole, &default, false, load),
            (&whole, &default, true, load),
            (&whole, &local("mine"), false, "confined by mine"),
            (&whole, &local("mine"), true, "confined by mine"),
            (&whole, &local("other"), false, "apparmor profile not found other"),
            (&warm, &unset, false, own),
            (&warm, &unset, true, "unconfined"),
            (&warm, &default, false, own),
            (&without_parser, &unset, false, "unconfined"),
            (&without_parser, &default, false, no_parser),
            (&without_parser, &local("mine"), false, "confined by mine"),
            (&without_list, &unset, false, "unconfined"),
            (&without_list, &default, false, no_list),
            (&without_list, &local("mine"), false, "apparmor profile not found mine"),
        ] {
            assert_eq!(words(facts, wanted, privileged), expected, "{facts:?} {wanted:?} {privileged}");
        }
    }

    #[test]
    fn the_kernels_list_has_names_and_modes() {
        let list = "skiff-default (enforce)\n/usr/bin/man (complain)\na name (of mine) (enforce)\n";
        assert_eq!(names(list), [DEFAULT, "/usr/bin/man", "a name (of mine)"]);
        assert!(DEFAULT_TEXT.contains(&format!("profile {DEFAULT} ")));
    }

    #[test]
    fn the_profile_is_handed_to_the_program_and_its_complaint_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(Path::new("/bin/true"), dir.path()).is_ok());
        assert_eq!(fs::read_to_string(dir.path().join(DEFAULT)).unwrap(), DEFAULT_TEXT);
        // `ls` knows neither flag.
        let said = load(Path::new("/bin/ls"), dir.path()).unwrap_err().to_string();
        assert!(said.starts_with("/bin/ls: exit status: 2: ") && said.contains("--skip-cache"), "{said}");
    }
}
