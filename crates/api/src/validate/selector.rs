//! Label selectors wherever they stand in an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::cursor::At;
use crate::selector::{Fault, FaultKind, label_selector_faults};
use crate::status::Cause;

/// The faults of one; none where none is given.
pub(super) fn check(place: &At<'_>, faults: &mut Vec<Cause>) {
    if !place.is_there() {
        return;
    }
    match LabelSelector::deserialize(place.value) {
        Ok(selector) => {
            faults.extend(label_selector_faults(&selector, &place.path).into_iter().map(cause));
        }
        Err(error) => {
            faults.push(Cause::invalid(place.path.clone(), place.value.clone(), error.to_string()));
        }
    }
}

pub(super) fn cause(fault: Fault) -> Cause {
    match fault.kind {
        FaultKind::Required => Cause::required(fault.field, fault.detail),
        FaultKind::Forbidden => Cause::forbidden(fault.field, fault.detail),
        FaultKind::Invalid(value) => Cause::invalid(fault.field, value, fault.detail),
    }
}
