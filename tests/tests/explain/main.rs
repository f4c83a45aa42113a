//! Explanations, held against what is really so.

mod bound;
mod container;
mod elsewhere;
mod fields;
mod gone;
mod members;
mod names;
mod network;
mod output;
mod pending;
mod readme;
mod reasons;
mod silent;
mod truth;
mod ways;
