//! The controllers: each brings one part of the cluster to what its objects ask for.
//!
//! A controller is a module with a pure function from what is there to what is to be done, and one line in
//! the table of [`run`]. All read the same local copies; none keeps a list of its own.

mod account_tokens;
mod aggregation;
mod authority;
mod bootstrap_tokens;
mod caches;
mod certificate_approver;
mod certificate_cleaner;
mod certificate_signer;
mod certificates;
mod context;
mod control_plane;
mod daemon_sets;
mod deployments;
mod endpoints;
mod event_expiry;
mod expectations;
mod garbage;
mod namespaces;
mod node_cidrs;
mod node_lifecycle;
mod owners;
mod pod_garbage;
mod pods;
mod raw;
mod replica_sets;
mod root_ca;
mod run;
mod service_accounts;

#[cfg(test)]
mod testing;

pub use authority::{AccountToken, Authority, AuthorityError, SigningRequest};
pub use context::Clients;
pub use run::{Config, run};
