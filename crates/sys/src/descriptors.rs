//! How many files this process may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Has this process use as many descriptors as it may: the soft limit is the usual 1,024 in many a place, which is
/// for programs that call select(2), and the hard one far above. Gives what holds then, also for programs that are
/// started from here on and do nothing about it.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// What holds for this process.
pub fn max() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const ALONE: &str = "SKIFF_TEST_RAISES_ITS_DESCRIPTORS";

    /// Runs itself once more, as limits are the whole process's.
    #[test]
    fn a_low_soft_limit_becomes_the_hard_one() {
        if std::env::var_os(ALONE).is_some() {
            setrlimit(Resource::RLIMIT_NOFILE, 64, 128).expect("lower ones are always allowed");
            assert_eq!(max().expect("readable"), 64);
            assert_eq!(raise().expect("allowed"), 128);
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (128, 128));
            assert_eq!(raise().expect("nothing to do"), 128);
            return;
        }
        let mut again = Command::new(std::env::current_exe().expect("a path"));
        again.args(["descriptors::tests::a_low_soft_limit_becomes_the_hard_one", "--exact", "--nocapture"]);
        let ran = again.env(ALONE, "1").stdin(Stdio::null()).output().expect("it starts");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
}
