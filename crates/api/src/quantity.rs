//! Resource quantities such as `500m`, `1Gi` or `12e3`: exact decimal arithmetic and the canonical text
//! that the API stores.
//!
//! A value is held in billionths as an `i128`, which is what the API can express: finer values are rounded
//! away from zero when read, and greater ones than 2^63-1 are capped, as the Quantity reference documents.
//! Equality and order look at the number only, so `1` equals `1000m`.

mod text;

use std::cmp::Ordering;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

pub use text::{ParseError, canonical};

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
const NANOS_MAX: i128 = (i64::MAX as i128) * NANOS_PER_UNIT;

/// The family of suffixes a quantity was written with; kept so that sums print like their parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`, `E-3`
    DecimalExponent,
}

/// A number of bytes, CPUs or other resource units.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Whole units.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS_PER_UNIT, format }
    }

    /// Thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * NANOS_PER_MILLI, format: Format::DecimalSi }.capped()
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        divide_away_from_zero(self.nanos, NANOS_PER_UNIT)
    }

    /// Thousandths, rounded away from zero; saturates where an `i64` ends.
    pub fn milli_value(self) -> i64 {
        divide_away_from_zero(self.nanos, NANOS_PER_MILLI)
    }

    /// Billionths, exact.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// A whole number of units (`1500m` isn't).
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    /// The API object that holds this quantity.
    pub fn to_text(self) -> Text {
        Text(self.to_string())
    }

    fn capped(mut self) -> Self {
        self.nanos = self.nanos.clamp(-NANOS_MAX, NANOS_MAX);
        self
    }
}

/// The value of an optional API quantity; what is absent or unreadable counts as zero. For objects that
/// passed validation, where an unreadable one can't occur.
pub fn of(text: Option<&Text>) -> Quantity {
    text.and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

impl TryFrom<&Text> for Quantity {
    type Error = ParseError;

    fn try_from(text: &Text) -> Result<Self, ParseError> {
        text.0.parse()
    }
}

impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Self {
        quantity.to_text()
    }
}

fn divide_away_from_zero(nanos: i128, unit: i128) -> i64 {
    let quotient = nanos / unit + if nanos % unit == 0 { 0 } else { nanos.signum() };
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// A sum takes its left side's format, or the right one's when the left is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos + other.nanos, format }.capped()
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests;
