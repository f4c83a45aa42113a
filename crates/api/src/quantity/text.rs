//! Quantities as text: read digit by digit, and printed in the one form that the API stores.

use std::fmt;
use std::str::FromStr;

use super::{Format, NANOS_MAX, NANOS_PER_UNIT, Quantity};

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
