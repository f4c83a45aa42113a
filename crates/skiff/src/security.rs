//! The files that say what the control plane lets in, how it stores, and what it records: upstream's
//! formats, behind upstream's flags. And for how long it signs certificates.
//!
//! They are read once when a command starts, so that a fault is told to whoever typed it, and again by the
//! control plane's process whenever it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skiff_apiserver::at_rest::{AtRest, keys};
use skiff_apiserver::audit::{AuditConfig, LogConfig, Policy};
use skiff_pod_security::Configuration;

/// Flags of `skiff server` and `skiff up`; as a whole what the control plane's process is told of them.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default)]
#[group(id = "security")]
pub(crate) struct Args {
    /// Defaults and exemptions of Pod Security: an AdmissionConfiguration of Kubernetes
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
    /// How secrets and others are encrypted in the store: an EncryptionConfiguration of Kubernetes
    /// [default: secrets, by a key of the cluster's own]
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// Take over changes of that file while the cluster runs, within a minute
    #[arg(long, requires = "encryption_config")]
    encryption_provider_config_automatic_reload: bool,
    /// Make a new key of the cluster's own for secrets, and encrypt them anew with it
    #[arg(long, conflicts_with = "encryption_config")]
    #[serde(skip)]
    rotate_encryption_key: bool,
    /// Which requests are recorded, and how much of them: an audit Policy of Kubernetes
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// The file that requests are recorded in, one event a line; - is the control plane's own log
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Size in MiB at which the audit log is rotated; 0 is 100
    #[arg(long, value_name = "MIB", default_value_t = 0, requires = "audit_log_path")]
    audit_log_maxsize: u64,
    /// How many rotated audit logs are kept; 0 is all
    #[arg(long, value_name = "N", default_value_t = 0, requires = "audit_log_path")]
    audit_log_maxbackup: usize,
    /// How many days rotated audit logs are kept; 0 is for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0, requires = "audit_log_path")]
    audit_log_maxage: u64,
    /// For how long certificates are good that are signed for requests, those of nodes among them: hours,
    /// minutes and seconds, 1m at least [default: 8760h]
    #[arg(long, value_name = "DURATION", value_parser = life)]
    cluster_signing_duration: Option<Duration>,
}

/// Nodes ask for others when two tenths of the time are left, and whoever signs may be slow.
const LIFE_MIN: Duration = Duration::from_secs(60);

/// As Go writes durations: `8760h`, `1h30m`, `90s`.
fn life(text: &str) -> Result<Duration, String> {
    let seconds = || {
        let (mut rest, mut seconds) = (text, 0u64);
        while !rest.is_empty() {
            let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let unit = tail.chars().next().and_then(|unit| match unit {
                'h' => Some(3600u64),
                'm' => Some(60),
                's' => Some(1),
                _ => None,
            })?;
            seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
            rest = &tail[1..];
        }
        (!text.is_empty()).then_some(seconds)
    };
    let life = seconds()
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is no duration such as 8760h or 1h30m"))?;
    if life < LIFE_MIN {
        return Err("certificates have to be good for a minute at least".to_owned());
    }
    Ok(life)
}

/// What the files say.
pub(crate) struct Settings {
    pub(crate) pod_security: Configuration,
    pub(crate) at_rest: AtRest,
    pub(crate) audit: Option<AuditConfig>,
    pub(crate) certificate_life: Duration,
}

impl Args {
    /// With absolute paths, which mean the same to another process.
    pub(crate) fn absolute(&self) -> anyhow::Result<Self> {
        let absolute = |path: &Option<PathBuf>| {
            path.as_ref()
                .map(|path| std::path::absolute(path).with_context(|| path.display().to_string()))
                .transpose()
        };
        Ok(Self {
            admission_control_config_file: absolute(&self.admission_control_config_file)?,
            encryption_config: absolute(&self.encryption_config)?,
            audit_policy_file: absolute(&self.audit_policy_file)?,
            audit_log_path: match &self.audit_log_path {
                Some(path) if path == Path::new("-") => Some(path.clone()),
                path => absolute(path)?,
            },
            ..self.clone()
        })
    }

    /// Finds faults in the files that flags name, before anything is made.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.pod_security()?;
        self.encryption()?;
        self.audit()?;
        Ok(())
    }

    /// Does what is to be done once, before the control plane's process starts.
    pub(crate) fn prepare(&self, pki_dir: &Path) -> anyhow::Result<()> {
        if self.rotate_encryption_key {
            keys::rotate(pki_dir).context("--rotate-encryption-key")?;
        }
        self.settings(pki_dir).map(drop)
    }

    /// Reads the files. The cluster's own key is made if it is needed and there is none.
    pub(crate) fn settings(&self, pki_dir: &Path) -> anyhow::Result<Settings> {
        const OWN: &str = "cannot use the cluster's own encryption key";
        let at_rest = match self.encryption()? {
            None => {
                let own = keys::open_or_make(pki_dir).context(OWN)?;
                AtRest::read(&own).with_context(|| keys::key_file(pki_dir).display().to_string())?
            }
            // What the cluster's own key has encrypted before can still be read.
            Some(at_rest) => match keys::open(pki_dir).context(OWN)? {
                Some(own) => at_rest.reading_also(&own).context(OWN)?,
                None => at_rest,
            },
        };
        Ok(Settings {
            pod_security: self.pod_security()?,
            at_rest,
            audit: self.audit()?,
            certificate_life: self
                .cluster_signing_duration
                .unwrap_or(skiff_controllers::Config::default().certificate_life),
        })
    }

    /// Looks for changes of the encryption configuration, where that was asked for.
    pub(crate) fn reload(&self, pki_dir: &Path) -> Option<Reload> {
        let path =
            self.encryption_config.clone().filter(|_| self.encryption_provider_config_automatic_reload)?;
        let seen = fs::read(&path).unwrap_or_default();
        Some(Reload { args: self.clone(), pki_dir: pki_dir.to_owned(), path, seen })
    }

    fn pod_security(&self) -> anyhow::Result<Configuration> {
        let Some(path) = &self.admission_control_config_file else { return Ok(Configuration::default()) };
        pod_security(path).with_context(|| format!("--admission-control-config-file {}", path.display()))
    }

    fn audit(&self) -> anyhow::Result<Option<AuditConfig>> {
        let (Some(policy), Some(log)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(None);
        };
        let read = || Ok::<_, anyhow::Error>(Policy::read(&read_yaml(policy)?)?);
        Ok(Some(AuditConfig {
            policy: read().with_context(|| format!("--audit-policy-file {}", policy.display()))?,
            log: LogConfig {
                path: log.clone(),
                max_size_mib: self.audit_log_maxsize,
                max_backups: self.audit_log_maxbackup,
                max_age_days: self.audit_log_maxage,
            },
        }))
    }

    fn encryption(&self) -> anyhow::Result<Option<AtRest>> {
        let Some(path) = &self.encryption_config else { return Ok(None) };
        let read = || Ok::<_, anyhow::Error>(AtRest::read(&read_yaml(path)?)?);
        read().map(Some).with_context(|| format!("--encryption-config {}", path.display()))
    }
}

/// How often an encryption configuration is looked at that is to be reloaded, as upstream's.
pub(crate) const RELOAD: Duration = Duration::from_secs(60);

/// What an encryption configuration's file said last.
pub(crate) struct Reload {
    args: Args,
    pki_dir: PathBuf,
    path: PathBuf,
    seen: Vec<u8>,
}

impl Reload {
    /// What the file says, if it says something else than before. A fault in it is told once.
    pub(crate) fn look(&mut self) -> anyhow::Result<Option<AtRest>> {
        let present = fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        if present == self.seen {
            return Ok(None);
        }
        self.seen = present;
        self.args.settings(&self.pki_dir).map(|settings| Some(settings.at_rest))
    }
}

fn read_yaml(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))
}

/// Upstream's file that gives admission plugins their configurations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AdmissionConfiguration {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    /// A file, looked for beside the one that names it.
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Option<Value>,
}

fn pod_security(path: &Path) -> anyhow::Result<Configuration> {
    let document = AdmissionConfiguration::deserialize(read_yaml(path)?)?;
    if document.kind != "AdmissionConfiguration" || document.api_version != "apiserver.config.k8s.io/v1" {
        bail!(
            "no kind {:?} is registered for version {:?}: expected AdmissionConfiguration of \
             apiserver.config.k8s.io/v1",
            document.kind,
            document.api_version
        );
    }
    let mut found = None;
    for (at, plugin) in document.plugins.into_iter().enumerate() {
        let field = format!("plugins[{at}]");
        if plugin.name != "PodSecurity" {
            bail!("{field}.name: Unsupported value: {:?}: supported values: \"PodSecurity\"", plugin.name);
        }
        if found.is_some() {
            bail!("{field}.name: Duplicate value: {:?}", plugin.name);
        }
        let configuration = match (plugin.configuration, plugin.path.as_str()) {
            (Some(_), path) if !path.is_empty() => {
                bail!("{field}.path: Forbidden: may not be set together with a configuration")
            }
            (Some(configuration), _) => configuration,
            (None, "") => bail!("{field}.configuration: Required value"),
            (None, named) => read_yaml(&path.parent().unwrap_or(Path::new("")).join(named))
                .context(format!("{field}.path"))?,
        };
        found = Some(Configuration::read(&configuration).with_context(|| format!("{field}.configuration"))?);
    }
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What reading these files says; the first one is named by the flag.
    fn read(files: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("it is written");
        }
        let path = Some(dir.path().join(files[0].0));
        let args = match files[0].1 {
            text if text.contains("EncryptionConfiguration") => {
                Args { encryption_config: path, ..Args::default() }
            }
            text if text.contains("audit.k8s.io") => {
                Args { audit_policy_file: path.clone(), audit_log_path: path, ..Args::default() }
            }
            _ => Args { admission_control_config_file: path, ..Args::default() },
        };
        args.settings(&dir.path().join("pki")).map_err(|error| format!("{error:#}"))
    }

    const ADMISSION: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
    const PODS: &str = "apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration";

    #[test]
    fn pod_security_is_configured_in_place_or_in_a_file_beside() {
        let inline = format!(
            "{ADMISSION}plugins: [{{name: PodSecurity, configuration: {{{PODS}, defaults: {{enforce: baseline}}}}}}]"
        );
        let settings = read(&[("a.yaml", &inline)]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.pod_security.defaults.enforce.to_string(), "baseline:latest");
        let beside = format!("{ADMISSION}plugins: [{{name: PodSecurity, path: pods.yaml}}]");
        let pods = format!("{{{PODS}, exemptions: {{usernames: [jane]}}}}");
        let settings =
            read(&[("a.yaml", &beside), ("pods.yaml", &pods)]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.pod_security.exemptions.usernames, ["jane"]);
    }

    #[test]
    fn certificates_are_good_for_what_the_flag_says() {
        assert_eq!(life("8760h"), Ok(Duration::from_secs(8760 * 3600)));
        assert_eq!(life("1h30m5s"), Ok(Duration::from_secs(5405)));
        for wrong in
            ["", "h", "60", "1d", "1h30", "-1h", "59s", "99999999999999999999h", "9999999999999999999h", "1é"]
        {
            assert!(life(wrong).is_err(), "{wrong}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let of = |args: Args| args.settings(&dir.path().join("pki")).expect("no fault").certificate_life;
        assert_eq!(of(Args::default()), Duration::from_secs(365 * 86_400));
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(of(Args { cluster_signing_duration: hour, ..Args::default() }), Duration::from_secs(3600));
    }

    #[test]
    fn a_changed_encryption_configuration_is_taken_over_and_a_faulty_one_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.yaml");
        let write = |provider: &str| {
            let text = format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], providers: [{provider}]}}]"
            );
            fs::write(&path, text).expect("it is written");
        };
        write("{identity: {}}");
        let mut args = Args { encryption_config: Some(path.clone()), ..Args::default() };
        let pki = dir.path().join("pki");
        assert!(args.reload(&pki).is_none(), "it was not asked for");
        args.encryption_provider_config_automatic_reload = true;
        let mut reload = args.reload(&pki).expect("it was asked for");
        assert!(reload.look().expect("no fault").is_none());
        write("{aesgcm: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}}");
        assert!(reload.look().expect("no fault").is_some());
        assert!(reload.look().expect("no fault").is_none());
        write("{aesgcm: {}}");
        let fault = format!("{:#}", reload.look().expect_err("a fault"));
        assert!(fault.contains("--encryption-config") && fault.contains("keys"), "{fault}");
        assert!(reload.look().expect("it was told").is_none());
    }

    #[test]
    fn faults_name_the_flag_the_file_and_the_field() {
        let check = |text: &str, parts: &[&str]| {
            let error = read(&[("a.yaml", text)]).err().expect("a fault");
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        };
        let plugin = |text: &str| format!("{ADMISSION}plugins: [{{{text}}}]");
        check(
            &plugin("name: EventRateLimit"),
            &[
                "--admission-control-config-file",
                "a.yaml",
                "plugins[0].name: Unsupported value: \"EventRateLimit\"",
            ],
        );
        check(&plugin("name: PodSecurity"), &["plugins[0].configuration: Required value"]);
        check(&plugin("name: PodSecurity, path: none.yaml"), &["plugins[0].path: cannot read", "none.yaml"]);
        check(
            &plugin(&format!("name: PodSecurity, configuration: {{{PODS}, defaults: {{warn: strict}}}}")),
            &["plugins[0].configuration: defaults.warn: Invalid value: \"strict\""],
        );
        check("kind: AdmissionConfiguration", &["missing field `apiVersion`"]);
        check(": :", &["is no YAML"]);
        check(
            "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: All}]}",
            &["--audit-policy-file", "rules[0].level: Unsupported value: \"All\""],
        );
        let keys = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}}]}]";
        check(
            keys,
            &[
                "--encryption-config",
                "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]",
            ],
        );
    }
}
