//! Kubernetes objects as plain data: types, schema table, quantity, selectors, patches, defaults,
//! validation, table rows, protobuf. No I/O, no async runtime, no clock.
//!
//! Typed objects come from `k8s-openapi`; what Go's API machinery derives by reflection (protobuf
//! numbers, list keys, patch strategies) is in [`schema`].

pub mod certificates;
pub mod codec;
pub mod defaults;
pub mod json;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod sysctl;
pub mod tables;
pub mod typed;
pub mod validate;
