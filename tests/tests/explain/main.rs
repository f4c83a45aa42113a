//! Explanations, held against what is really so.

mod names;
mod pending;
mod truth;
