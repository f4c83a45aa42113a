//! What a registry asks for with `WWW-Authenticate`, read out of a stranger's bytes.
//!
//! The grammar is that of RFC 9110, section 11.6.1: schemes, each with parameters or one opaque word, in one
//! list. Where a header breaks off, what was understood before counts.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// More than any registry has to say; what is longer is not read.
const HEADER_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 8;
const SCOPES_MAX: usize = 8;

/// How a registry wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By a token, which another place gives.
    Bearer(Bearer),
    /// By name and password.
    Basic,
}

/// <https://distribution.github.io/distribution/spec/auth/token/>
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bearer {
    /// The URL to ask.
    pub realm: String,
    pub service: Option<String>,
    pub scopes: Vec<String>,
}

impl Challenge {
    /// The first that can be answered; a token is asked for rather than a password shown.
    pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().take(HEADERS_MAX);
        let offered: Vec<Challenge> =
            values.filter_map(|value| value.to_str().ok()).flat_map(parse).filter_map(understood).collect();
        let bearer = offered.iter().find(|offer| matches!(offer, Challenge::Bearer(_)));
        bearer.or(offered.first()).cloned()
    }
}

/// A scheme and its parameters, the names in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

fn understood(offer: Offer) -> Option<Challenge> {
    let parameter = |wanted: &str| {
        let found = offer.parameters.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match offer.scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: parameter("realm")?,
            service: parameter("service"),
            scopes: parameter("scope")
                .map(|scopes| scopes.split_ascii_whitespace().take(SCOPES_MAX).map(str::to_owned).collect())
                .unwrap_or_default(),
        })),
        _ => None,
    }
}

fn parse(header: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    if header.len() > HEADER_BYTES_MAX {
        return offers;
    }
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word = take(&mut rest, is_token);
        if word.is_empty() {
            return offers;
        }
        let after = blank(rest);
        match (after.strip_prefix('='), offers.last_mut()) {
            (Some(after), Some(offer)) => {
                rest = blank(after);
                let Some(value) = value(&mut rest) else { return offers };
                offer.parameters.push((word.to_ascii_lowercase(), value));
            }
            (Some(_), None) => return offers,
            (None, _) => {
                offers.push(Offer { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = opaque(after).unwrap_or(after);
            }
        }
    }
}

/// What follows the one word that some schemes have instead of parameters (`Negotiate YWJj==`).
fn opaque(text: &str) -> Option<&str> {
    let mut rest = text;
    let word = take(&mut rest, |c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
    let rest = blank(rest.trim_start_matches('='));
    (!word.is_empty() && (rest.is_empty() || rest.starts_with(','))).then_some(rest)
}

/// A quoted text, or a bare one: up to the next comma, as some servers leave out the quotes of what needs them.
fn value(rest: &mut &str) -> Option<String> {
    let Some(quoted) = rest.strip_prefix('"') else {
        return Some(take(rest, |c| !matches!(c, ',' | ' ' | '\t' | '"')).to_owned());
    };
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &quoted[at + 1..];
                return Some(text);
            }
            '\\' => text.push(chars.next()?.1),
            _ => text.push(c),
        }
    }
    None
}

fn take<'a>(rest: &mut &'a str, belongs: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

fn blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// RFC 9110, section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn asked(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
        }
        Challenge::of(&map)
    }

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Option<Challenge> {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        Some(Challenge::Bearer(Bearer { realm: realm.into(), service: service.map(Into::into), scopes }))
    }

    #[test]
    fn registries_ask_in_many_ways() {
        let hub = bearer("https://auth.io/token", Some("reg.io"), &["repository:a/b:pull"]);
        for header in [
            r#"Bearer realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull""#,
            r#"bearer  Realm = "https://auth.io/token" , SERVICE=reg.io, scope=repository:a/b:pull"#,
            r#"Basic realm="x, y", Bearer realm="https:\/\/auth.io/token",service="reg.io",scope="repository:a/b:pull",error="x"#,
            r#",, Negotiate YWJj==, Bearer realm="https://auth.io/token", service="reg.io", scope="repository:a/b:pull""#,
        ] {
            assert_eq!(asked(&[header]), hub, "{header}");
        }
        assert_eq!(asked(&["Basic realm=\"r\"", "Bearer realm=\"x\""]), bearer("x", None, &[]));
        assert_eq!(asked(&["Bearer realm=x,scope=\" a  b \""]), bearer("x", None, &["a", "b"]));
        for header in
            ["Basic", "basic realm=\"r\"", "Negotiate, Basic realm=r", "Bearer service=\"x\", Basic"]
        {
            assert_eq!(asked(&[header]), Some(Challenge::Basic), "{header}");
        }
        let long = format!("Bearer realm=\"{}\"", "x".repeat(HEADER_BYTES_MAX));
        for header in
            ["", ",", "=", "realm=\"x\"", "Bearer", "Bearer realm=\"x", "Bearer realm=", "\"", &long]
        {
            assert_eq!(asked(&[header]), None, "{header}");
        }
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn whatever_is_said_is_read_to_its_end_and_no_more_is_kept_than_was_said() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let parts = [
            "Bearer", "Basic", "realm", "scope", "=", "=", "\"", "\\", ",", " ", "\t", "a/b:c", "\u{e9}", ";",
        ];
        let mut understood = 0;
        for _ in 0..50_000 {
            let text: String =
                (0..random.random_range(0..16)).map(|_| parts[random.random_range(0..parts.len())]).collect();
            let offers = parse(&text);
            let kept: usize = offers
                .iter()
                .map(|offer| {
                    let of = |(name, value): &(String, String)| name.len() + value.len();
                    offer.scheme.len() + offer.parameters.iter().map(of).sum::<usize>()
                })
                .sum();
            assert!(kept <= text.len(), "{text:?} is {offers:?}");
            understood += usize::from(offers.into_iter().filter_map(super::understood).count() > 0);
        }
        assert!(understood > 100, "only {understood} were challenges");
    }
}
