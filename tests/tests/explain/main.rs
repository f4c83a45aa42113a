//! Explanations, held against what is really so.

mod names;
mod pending;
mod readme;
mod silent;
mod truth;
