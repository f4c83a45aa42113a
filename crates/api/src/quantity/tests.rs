//! Texts and what they are worth.

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
