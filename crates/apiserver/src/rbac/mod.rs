//! Role-based access control: roles, bindings, the decision over them, the policy that a cluster starts
//! with, and the guard that nobody grants what they do not have.

pub(crate) mod bootstrap;
pub(crate) mod escalation;
pub(crate) mod index;
pub(crate) mod policy;
mod reconcile;
pub(crate) mod reviews;
pub(crate) mod rule;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// `false` on a role or binding of the platform keeps its next starts from completing it.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
