//! Resource quantities such as `500m`, `1Gi` or `12e3`: exact decimal arithmetic and the canonical text
//! that the API stores.
//!
//! A value is held in billionths as an `i128`, which is what the API can express: finer values are rounded
//! away from zero when read, and greater ones than 2^63-1 are capped, as the Quantity reference documents.
//! Equality and order look at the number only, so `1` equals `1000m`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

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

/// Why a text is no quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
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

/// Canonical form of a quantity's text: `1000m` becomes `1`.
pub fn canonical(text: &str) -> Result<String, ParseError> {
    Ok(text.parse::<Quantity>()?.to_string())
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = Parts::split(text)?;
        let (scale, format) = scale(parts.suffix).ok_or(ParseError::Suffix)?;
        if parts.whole.is_empty() && parts.fraction.is_empty() {
            return Err(ParseError::Number);
        }
        let magnitude = nanos(parts.whole, parts.fraction, scale);
        let nanos = if parts.negative { -magnitude } else { magnitude };
        // Upstream shows fractions below one in decimal, where binary suffixes would need rounding.
        let format = match format {
            Format::BinarySi if nanos > 0 && nanos < NANOS_PER_UNIT => Format::DecimalSi,
            other => other,
        };
        Ok(Self { nanos, format })
    }
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

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let (whole, rest) = split_while(rest, |byte| byte.is_ascii_digit());
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_while(rest, |byte| byte.is_ascii_digit()),
            None => ("", rest),
        };
        let (_, tail) = split_while(suffix, |byte| b"eEinumkKMGTP".contains(&byte));
        let digits = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if digits.bytes().any(|byte| !byte.is_ascii_digit()) {
            return Err(ParseError::Format);
        }
        Ok(Self { negative, whole, fraction, suffix })
    }
}

fn split_while(text: &str, keep: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !keep(byte)).unwrap_or(text.len());
    text.split_at(end)
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i64),
    Two(u32),
}

const DECIMAL: [(&str, i64); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Ten(*exponent), Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((Scale::Two(*exponent), Format::BinarySi));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Scale::Ten(exponent), Format::DecimalExponent))
}

/// `whole.fraction × scale` in billionths, rounded up and capped. Works digit by digit, so that neither a
/// long text nor a huge exponent can overflow.
fn nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let (ten, factor) = match scale {
        Scale::Ten(exponent) => (exponent.clamp(-10_000, 10_000), 1_i128),
        Scale::Two(exponent) => (0, 1_i128 << exponent),
    };
    // The digit at place p (0 = ones) counts 10^(p + ten + 9) billionths, times `factor`.
    let places = (0..whole.len() as i64).rev().chain((1..=fraction.len() as i64).map(|place| -place));
    let mut total = 0_i128;
    let mut lost = Lost::default();
    for (place, digit) in places.zip(whole.bytes().chain(fraction.bytes())) {
        let digit = i128::from(digit - b'0');
        let power = place + ten + 9;
        if digit == 0 {
            continue;
        }
        if power >= 0 {
            let unit = u32::try_from(power).ok().and_then(|power| 10_i128.checked_pow(power));
            let term =
                unit.and_then(|unit| unit.checked_mul(digit)).and_then(|term| term.checked_mul(factor));
            total = term.and_then(|term| total.checked_add(term)).unwrap_or(NANOS_MAX).min(NANOS_MAX);
        } else {
            lost.add(digit, power, factor);
        }
    }
    total.saturating_add(lost.rounded_up()).min(NANOS_MAX)
}

/// What lies below a billionth before a binary factor is applied: kept to 18 further digits, then rounded.
#[derive(Default)]
struct Lost {
    atto_of_nano: i128,
    dust: bool,
}

const LOST_DIGITS: i64 = 18;

impl Lost {
    fn add(&mut self, digit: i128, power: i64, factor: i128) {
        match u32::try_from(power + LOST_DIGITS) {
            // digit × 10^17 × 2^60 is below 2^127, and so is the geometric sum of all digits.
            Ok(power) => {
                self.atto_of_nano = self.atto_of_nano.saturating_add(digit * 10_i128.pow(power) * factor);
            }
            Err(_) => self.dust = true,
        }
    }

    fn rounded_up(&self) -> i128 {
        let unit = 10_i128.pow(LOST_DIGITS as u32);
        let (whole, rest) = (self.atto_of_nano / unit, self.atto_of_nano % unit);
        whole + i128::from(rest > 0 || self.dust)
    }
}

fn divide_away_from_zero(nanos: i128, unit: i128) -> i64 {
    let quotient = nanos / unit + if nanos % unit == 0 { 0 } else { nanos.signum() };
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let binary =
            self.format == Format::BinarySi && self.is_whole() && self.nanos.abs() >= 1024 * NANOS_PER_UNIT;
        if binary {
            let mut number = self.nanos / NANOS_PER_UNIT;
            let mut step = 0;
            while number % 1024 == 0 && step < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            let suffix = if step == 0 { "" } else { BINARY[step - 1].0 };
            return write!(out, "{number}{suffix}");
        }
        let mut number = self.nanos;
        let mut exponent = -9_i64;
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(out, "{number}e{exponent}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(name, _)| name);
                write!(out, "{number}{suffix}")
            }
        }
    }
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
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn prints_the_canonical_text() {
        for (text, canonical) in [
            ("0", "0"),
            ("0m", "0"),
            ("0Gi", "0"),
            ("-0", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("+3", "3"),
            ("-1.5", "-1500m"),
            ("0100", "100"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            (".001Ki", "1024m"),
            ("1Ki", "1Ki"),
            ("1023", "1023"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("100000k", "100M"),
            ("1E", "1E"),
            ("8Ei", "9223372036854775807"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e4", "120e3"),
            ("1e-3", "1e-3"),
            ("1.1e3", "1100"),
            ("100e18", "9223372036854775807"),
            ("1e999999999", "9223372036854775807"),
            ("0e999999999", "0"),
            ("1e-999999999", "1e-9"),
            ("-1e-999999999", "-1e-9"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("-1.1n", "-2n"),
            ("1n", "1n"),
            ("1000n", "1u"),
            ("999999999999999999999", "9223372036854775807"),
            ("-999999999999999999999", "-9223372036854775807"),
            ("0.0000000001Ki", "103n"),
            ("12345678Ki", "12345678Ki"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
            assert_eq!(q(canonical), q(text), "{text} and its canonical form are one value");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        use ParseError::{Format, Number, Suffix};
        for (text, error) in [
            ("", Format),
            ("-", Number),
            (".", Number),
            ("Gi", Number),
            ("1.1.M", Format),
            ("1+1.0M", Format),
            ("0.1mi", Suffix),
            ("0.1am", Format),
            ("aoeu", Format),
            (".5i", Suffix),
            ("1i", Suffix),
            ("-3.01e-", Suffix),
            ("1 Gi", Format),
            (" 1", Format),
            ("1ki", Suffix),
            ("1K", Suffix),
            ("1e3m", Format),
            ("1GiB", Format),
            ("1é", Format),
            ("--1", Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn rounds_away_from_zero() {
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("1m", 1, 1),
            ("1001m", 2, 1001),
            ("1u", 1, 1),
            ("-1u", -1, -1),
            ("-1500m", -2, -1500),
            ("0", 0, 0),
            ("2Gi", 2_147_483_648, 2_147_483_648_000),
            ("9E", 9_000_000_000_000_000_000, i64::MAX),
            ("-9E", -9_000_000_000_000_000_000, i64::MIN),
        ] {
            assert_eq!((q(text).value(), q(text).milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn adds_subtracts_and_compares() {
        assert_eq!((q("100m") + q("0.9")).to_string(), "1");
        assert_eq!((q("512Mi") + q("512Mi")).to_string(), "1Gi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") - q("1Gi")).to_string(), "0");
        assert_eq!((q("1") - q("1500m")).to_string(), "-500m");
        assert_eq!([q("1e3"), q("1e3")].into_iter().sum::<Quantity>().to_string(), "2e3");
        assert_eq!((q("9E") + q("9E")).to_string(), "9223372036854775807");
        assert!(q("1Gi") > q("1G") && q("999m") < q("1") && q("1000m") == q("1"));
        assert!(q("-1").is_negative() && !q("0").is_negative() && !q("1m").is_whole());
    }

    #[test]
    fn units_and_formats_are_kept() {
        let bytes = Quantity::from_value(2048, Format::BinarySi);
        assert_eq!((bytes.nanos(), bytes.format()), (2_048_000_000_000, Format::BinarySi));
        assert_eq!(bytes.to_text(), Text("2Ki".into()));
        assert_eq!(Text::from(Quantity::from_milli(-1500)), Text("-1500m".into()));
        assert_eq!(Quantity::from_milli(1500).nanos(), 1_500_000_000);
        assert_eq!((q("3n").nanos(), q("-3n").nanos(), q("0").nanos()), (3, -3, 0));
        assert!(q("0Gi").is_zero() && !q("1n").is_zero() && !q("-1n").is_zero());
        assert!(q("1000m").is_whole() && q("-2").is_whole());
        assert_eq!(of(Some(&Text("2".into()))), q("2"));
        assert_eq!((of(Some(&Text("two".into()))), of(None)), (Quantity::ZERO, Quantity::ZERO));
        assert_eq!(Quantity::try_from(&Text("2".into())), Ok(q("2")));
        assert_eq!(canonical("1000m").as_deref(), Ok("1"));
        assert_eq!(canonical("one"), Err(ParseError::Format));
        let mut left = q("5");
        left -= q("2");
        left += q("1");
        assert_eq!((left, -left), (q("4"), q("-4")));
        assert_eq!([q("1"), q("2Gi"), q("3")].into_iter().sum::<Quantity>(), q("2147483652"));
    }

    #[test]
    fn random_texts_are_refused_or_keep_their_value() {
        let mut dice = crate::codec::random::Dice::seeded("random_texts_are_refused_or_keep_their_value");
        let letters: Vec<char> = "0123459..-+eEiKMGTPnumké ".chars().collect();
        let mut taken = 0;
        for _ in 0..50_000 {
            let text: String = (0..dice.below(9)).map(|_| *dice.pick(&letters)).collect();
            if let Ok(quantity) = text.parse::<Quantity>() {
                taken += 1;
                assert_eq!(q(&quantity.to_string()), quantity, "{text} is {quantity}");
                assert!(quantity.nanos().abs() <= NANOS_MAX, "{text}");
            }
        }
        assert!(taken > 100, "only {taken} were quantities");
    }
}
