//! Levels, versions, and the policy that a namespace's labels ask for.

use std::fmt;
use std::str::FromStr;

use skiff_api::status::Cause;

/// How strict a policy is, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// The Kubernetes version whose rules are meant. One that is newer than the newest rules means these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `v1.N`.
    V1(u32),
    Latest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V1(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let minor = text.strip_prefix("v1.").filter(|minor| {
            minor.bytes().all(|byte| byte.is_ascii_digit()) && (*minor == "0" || !minor.starts_with('0'))
        });
        minor.and_then(|minor| minor.parse().ok()).map(Self::V1).ok_or("must be \"latest\" or \"v1.x\"")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What becomes of a pod that a level does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Audit,
    Warn,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Enforce, Self::Audit, Self::Warn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }

    pub(crate) fn level_label(self) -> &'static str {
        match self {
            Self::Enforce => "pod-security.kubernetes.io/enforce",
            Self::Audit => "pod-security.kubernetes.io/audit",
            Self::Warn => "pod-security.kubernetes.io/warn",
        }
    }

    pub(crate) fn version_label(self) -> &'static str {
        match self {
            Self::Enforce => "pod-security.kubernetes.io/enforce-version",
            Self::Audit => "pod-security.kubernetes.io/audit-version",
            Self::Warn => "pod-security.kubernetes.io/warn-version",
        }
    }
}

/// What holds in one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Self {
        let nothing = LevelVersion { level: Level::Privileged, version: Version::Latest };
        Self { enforce: nothing, audit: nothing, warn: nothing }
    }
}

impl Policy {
    /// The policy of a namespace with these labels, and the faults in them.
    ///
    /// There is always a policy: a level that can't be read enforces the strictest, and warns of and
    /// records nothing; a version that can't be read is the latest.
    pub fn of_labels<'l>(label: impl Fn(&str) -> Option<&'l str>, defaults: Self) -> (Self, Vec<Cause>) {
        let mut policy = defaults;
        let mut faults = Vec::new();
        for mode in Mode::ALL {
            let held = policy.of_mut(mode);
            if let Some(text) = label(mode.level_label()) {
                held.level = text.parse().unwrap_or_else(|why| {
                    faults.push(fault(mode.level_label(), text, why));
                    if mode == Mode::Enforce { Level::Restricted } else { Level::Privileged }
                });
            }
            if let Some(text) = label(mode.version_label()) {
                held.version = text.parse().unwrap_or_else(|why| {
                    faults.push(fault(mode.version_label(), text, why));
                    Version::Latest
                });
            }
        }
        // Who enforces a level wants to hear of templates whose pods it would refuse.
        let asked = label(Mode::Enforce.level_label()).is_some_and(|text| text.parse::<Level>().is_ok());
        if asked && label(Mode::Warn.level_label()).is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label(Mode::Warn.version_label()).is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, faults)
    }

    pub fn of(&self, mode: Mode) -> LevelVersion {
        match mode {
            Mode::Enforce => self.enforce,
            Mode::Audit => self.audit,
            Mode::Warn => self.warn,
        }
    }

    pub(crate) fn of_mut(&mut self, mode: Mode) -> &mut LevelVersion {
        match mode {
            Mode::Enforce => &mut self.enforce,
            Mode::Audit => &mut self.audit,
            Mode::Warn => &mut self.warn,
        }
    }

    /// Whether every mode lets everything in.
    pub(crate) fn is_privileged(&self) -> bool {
        Mode::ALL.iter().all(|mode| self.of(*mode).level == Level::Privileged)
    }

    /// Whether both ask for the same: versions don't matter where everything is allowed.
    pub(crate) fn is_equivalent(&self, other: &Self) -> bool {
        Mode::ALL.iter().all(|mode| {
            let (a, b) = (self.of(*mode), other.of(*mode));
            a == b || (a.level == Level::Privileged && b.level == Level::Privileged)
        })
    }
}

fn fault(label: &str, text: &str, why: &str) -> Cause {
    Cause::invalid(format!("metadata.labels[{label}]"), text, why)
}
