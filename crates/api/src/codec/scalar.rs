//! Scalars whose JSON text has a canonical form: times, durations, bytes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use k8s_openapi::jiff::Timestamp;

/// The beginning of year 0: RFC 3339 has four digits for the year and no sign, so that what is before could
/// be written and not read.
const YEAR_0_S: i128 = -62_167_219_200;

fn timestamp(seconds: i64, nanos: i32) -> Option<Timestamp> {
    let t = Timestamp::new(seconds, nanos).ok()?;
    (t.as_nanosecond() >= YEAR_0_S * 1_000_000_000).then_some(t)
}

/// `2006-01-02T15:04:05Z`, whole seconds in UTC, as `metav1.Time` is written.
pub(crate) fn time(seconds: i64) -> Option<String> {
    let t = timestamp(seconds, 0)?;
    Some(t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The same with six digits, as `metav1.MicroTime` is written.
pub(crate) fn micro_time(seconds: i64, nanos: i32) -> Option<String> {
    let t = timestamp(seconds, nanos)?;
    let micros = t.subsec_nanosecond().rem_euclid(1_000_000_000) / 1000;
    Some(format!("{}.{micros:06}Z", t.strftime("%Y-%m-%dT%H:%M:%S")))
}

/// Reads RFC 3339 into seconds and nanoseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Option<(i64, i32)> {
    let b = text.as_bytes();
    let shape = b.len() >= 20
        && b.iter().take(19).enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b'-',
            10 => *c == b'T',
            13 | 16 => *c == b':',
            _ => c.is_ascii_digit(),
        })
        && matches!(b[19], b'.' | b'Z' | b'+' | b'-');
    if !shape {
        return None;
    }
    let t: Timestamp = text.parse().ok()?;
    let nanos = t.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000) as i64;
    Some((seconds, nanos.rem_euclid(1_000_000_000) as i32))
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: f64 = 0.0;
    let mut whole: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        match amount.parse::<i64>() {
            Ok(n) => whole += i128::from(n) * unit,
            Err(_) => total += amount.parse::<f64>().ok()? * unit as f64,
        }
        rest = tail;
    }
    let nanos = whole + total.round() as i128;
    i64::try_from(if negative { -nanos } else { nanos }).ok()
}

/// Go's `Duration.String`.
pub(crate) fn duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |n: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", n / unit, n % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match n {
        0..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000)),
        _ => {
            let seconds = n / 1_000_000_000;
            let (h, m) = (seconds / 3600, seconds / 60 % 60);
            let s = fraction(n % 60_000_000_000, 1_000_000_000);
            match (h, m) {
                (0, 0) => format!("{sign}{s}s"),
                (0, m) => format!("{sign}{m}m{s}s"),
                (h, m) => format!("{sign}{h}h{m}m{s}s"),
            }
        }
    }
}

/// Standard base64 with padding, as Go writes `[]byte`.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes it; line breaks are ignored. The error is Go's message.
pub(crate) fn parse_base64(text: &str) -> Result<Vec<u8>, String> {
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(&clean).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            // Go counts to where the missing padding was looked for.
            _ if STANDARD_NO_PAD.decode(&clean).is_ok() => clean.len(),
            _ => clean.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_of_a_time_can_be_read() {
        let first = -62_167_219_200;
        assert_eq!(time(first).as_deref(), Some("0000-01-01T00:00:00Z"));
        assert_eq!(parse_time("0000-01-01T00:00:00Z"), Some((first, 0)));
        assert_eq!(time(first - 1), None);
        assert_eq!(micro_time(first, 1_000).as_deref(), Some("0000-01-01T00:00:00.000001Z"));
        assert_eq!(micro_time(first, -1_000), None);
        assert_eq!(time(i64::MAX), None);
    }
}
