//! Whether the kernel has what pods need, said before anything is made, with what to do about it.
//!
//! What is needed is asked for, so that the kernel loads its modules: what a stock kernel has is then there
//! before the machine's stock is taken, and nothing comes by and by.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use skiff_sys::modules::{self, Need};

const SYSCTL: &str = "/proc/sys/kernel";

/// What is known of how this kernel gets its modules.
#[derive(Debug, Clone, Default)]
struct Loading {
    /// As `uname -r` says.
    release: String,
    /// There are modules of this kernel on the disk.
    has_modules: bool,
    /// Nobody may load any before the machine is started again.
    forbidden: bool,
    /// The program that the kernel loads modules by, and whether it is there; none where it is told not to.
    loader: Option<(String, bool)>,
}

/// An error that names what is missing and how to get it.
pub(crate) fn check() -> anyhow::Result<()> {
    let missing =
        modules::missing().context("cannot try what the kernel has: root with all capabilities is needed")?;
    match complaint(&missing, &Loading::read()) {
        Some(complaint) => bail!("{complaint}"),
        None => Ok(()),
    }
}

impl Loading {
    fn read() -> Self {
        let read = |name: &str| fs::read_to_string(Path::new(SYSCTL).join(name)).unwrap_or_default();
        let release = read("osrelease").trim().to_owned();
        let loader = read("modprobe").trim().to_owned();
        Self {
            has_modules: Path::new("/lib/modules").join(&release).is_dir(),
            forbidden: read("modules_disabled").trim() == "1",
            loader: (!loader.is_empty()).then(|| (loader.clone(), Path::new(&loader).exists())),
            release,
        }
    }
}

fn complaint(missing: &[Need], loading: &Loading) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let mut purposes: Vec<&str> = missing.iter().map(|need| need.purpose).collect();
    purposes.dedup();
    let names = missing.iter().map(|need| need.module).collect::<Vec<_>>().join(" ");
    let release = &loading.release;
    let cure = match loading {
        Loading { forbidden: true, .. } => {
            "and loads no modules until the machine is started again (kernel.modules_disabled is 1): name them \
             in /etc/modules-load.d/skiff.conf, a line each, and restart it"
                .to_owned()
        }
        Loading { has_modules: false, .. } => format!(
            "and there are no modules of it in /lib/modules/{release}: install them, or restart the machine if \
             its kernel was replaced since it started"
        ),
        Loading { loader: Some((loader, false)), .. } => {
            format!("and {loader}, by which it loads modules, is not there: install kmod, or load them yourself")
        }
        _ => format!("load them: modprobe -a {names}"),
    };
    Some(format!("this kernel ({release}) lacks {}, that is {names}: {cure}", purposes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do_about_it() {
        let missing = [
            Need { module: "overlay", purpose: "the file systems of containers" },
            Need { module: "bridge", purpose: "the links of pods" },
            Need { module: "veth", purpose: "the links of pods" },
        ];
        let usual = Loading {
            release: "6.1.0-9-amd64".into(),
            has_modules: true,
            forbidden: false,
            loader: Some(("/sbin/modprobe".into(), true)),
        };
        assert_eq!(complaint(&[], &usual), None);
        let begin = "this kernel (6.1.0-9-amd64) lacks the file systems of containers, the links of pods, that \
                     is overlay bridge veth: ";
        let check = |loading: &Loading, expected: &str| {
            assert_eq!(complaint(&missing, loading), Some(format!("{begin}{expected}")));
        };
        check(&usual, "load them: modprobe -a overlay bridge veth");
        check(&Loading { loader: None, ..usual.clone() }, "load them: modprobe -a overlay bridge veth");
        check(
            &Loading { loader: Some(("/sbin/modprobe".into(), false)), ..usual.clone() },
            "and /sbin/modprobe, by which it loads modules, is not there: install kmod, or load them yourself",
        );
        check(
            &Loading { has_modules: false, ..usual.clone() },
            "and there are no modules of it in /lib/modules/6.1.0-9-amd64: install them, or restart the machine \
             if its kernel was replaced since it started",
        );
        check(
            &Loading { forbidden: true, has_modules: false, ..usual },
            "and loads no modules until the machine is started again (kernel.modules_disabled is 1): name them \
             in /etc/modules-load.d/skiff.conf, a line each, and restart it",
        );
    }
}
