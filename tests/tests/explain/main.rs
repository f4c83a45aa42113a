//! Explanations, held against what is really so.

mod bound;
mod members;
mod names;
mod network;
mod pending;
mod readme;
mod reasons;
mod silent;
mod truth;
mod ways;
