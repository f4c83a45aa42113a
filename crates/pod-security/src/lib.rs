//! The Pod Security Standards of Kubernetes 1.36, as pure functions.
//!
//! A [`Policy`] is read off a namespace's labels; [`evaluate`] holds a pod against one level in one
//! version of it and words what is wrong as upstream's admission does; [`admit`] is the whole decision of
//! that admission for a pod or a pod template, [`existing_pods`] its answer to a changed label. The checks
//! are one table, [`CHECKS`], one file each. Nothing here does I/O or knows an API server.
//!
//! Pods are looked at as JSON in normal form (the schema's types, absent fields absent), since that is
//! what an admission has at hand; a typed pod serialises to it.
//!
//! ```
//! use skiff_pod_security::{Level, Pod, Version, standing};
//!
//! let pod = serde_json::json!({"spec": {"hostPID": true, "containers": [{"name": "main"}]}});
//! let standing = standing(&Pod::of(&pod), Version::Latest);
//! assert_eq!(standing.meets, Level::Privileged);
//! assert_eq!(standing.kept_from_next.details(), "host namespaces (hostPID=true)");
//! ```

mod admission;
mod checks;
mod configuration;
mod evaluate;
mod namespace;
mod pod;
mod policy;
mod wording;

pub use admission::{Outcome, Subject, admit, is_significant_update, pod_of};
pub use checks::{CHECKS, Check, Revision};
pub use configuration::{Configuration, ConfigurationError, Exemptions};
pub use evaluate::{Finding, NEWEST, Standing, Verdict, evaluate, standing};
pub use namespace::{PODS_MAX, exempt_namespace_warning, existing_pods, must_look_at_pods};
pub use pod::Pod;
pub use policy::{Level, LevelVersion, Mode, Policy, Version};
