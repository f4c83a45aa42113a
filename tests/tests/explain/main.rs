//! Explanations, held against what is really so.

mod bound;
mod members;
mod names;
mod network;
mod pending;
mod readme;
mod silent;
mod truth;
