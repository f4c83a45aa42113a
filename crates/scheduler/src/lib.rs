//! Gives every pod a node.
//!
//! [`schedule`] decides about one pod on a [`Snapshot`] of nodes and pods and touches nothing. [`run`] keeps
//! the snapshot current from watches, takes pods from its queue, binds them, and says why one can't be
//! placed, in the words that `kubectl describe` users know.

mod decide;
mod explain;
mod filter;
mod fit_error;
mod neighbours;
mod preempt;
mod queue;
mod resources;
mod run;
mod score;
mod snapshot;
mod state;
mod verdicts;
mod wake;
mod writes;

#[cfg(test)]
mod testing;

pub use decide::{Choice, NodeVerdict, schedule};
pub use explain::Questions;
pub use filter::Refusal;
pub use fit_error::FitError;
pub use run::{Config, run};
pub use snapshot::{NodeInfo, PodInfo, Snapshot};
pub use verdicts::{Verdict, Verdicts};
