//! Options of lists and watches as nobody sends them: whatever they say, the answer is a list, a watch, or a
//! Status, and the server goes on.

mod api;

use api::{Api, MAPS};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const ROUNDS: usize = 3_000;

/// Values that one place or another takes, or nearly.
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "true",
    "false",
    "Exact",
    "NotOlderThan",
    "99999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "a=b",
    "a==b,c!=d",
    "a in (b,c)",
    "a in (",
    "!a",
    ",,,",
    "metadata.name=x",
    "metadata.name!=x,",
    "spec.nothing=1",
    "metadata.name",
    "%00",
    "%ff%fe",
    "%",
    "%zz",
    "+",
    "ü",
    "null",
    "NaN",
    "1e9",
    "Object",
    "None",
];

const KEYS: &[&str] = &[
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "labelSelector",
    "fieldSelector",
    "watch",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "timeoutSeconds",
    "includeObject",
    "dryRun",
    "pretty",
    "%00",
];

fn text(random: &mut StdRng, max: usize) -> String {
    let count = random.random_range(0..max);
    (0..count).map(|_| char::from(random.random_range(0x20..0x7f_u8))).collect()
}

/// A token as the server makes them, with something else in each place.
fn token(random: &mut StdRng) -> String {
    let revision: i64 = match random.random_range(0..4) {
        0 => random.random(),
        1 => -1,
        _ => random.random_range(0..50),
    };
    let start = match random.random_range(0..4) {
        0 => "default/m3\0".to_owned(),
        1 => "../../secrets/x\0".to_owned(),
        2 => "\0\0".to_owned(),
        _ => text(random, 20),
    };
    let version = if random.random_bool(0.8) { "meta.k8s.io/v1" } else { "meta.k8s.io/v9" };
    let mut token = json!({"v": version, "rv": revision, "start": start});
    if random.random_bool(0.2) {
        token["rv"] = json!(text(random, 5));
    }
    let mut bytes = token.to_string().into_bytes();
    if random.random_bool(0.3) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn query(random: &mut StdRng) -> String {
    let pairs: Vec<String> = (0..random.random_range(1..5))
        .map(|_| {
            let key = KEYS[random.random_range(0..KEYS.len())];
            let value = match random.random_range(0..4) {
                0 => encoded(&text(random, 12)),
                1 if key == "continue" => token(random),
                _ => VALUES[random.random_range(0..VALUES.len())].replace([' ', 'ü'], "%20"),
            };
            format!("{key}={value}")
        })
        .collect();
    pairs.join("&")
}

#[tokio::test]
async fn no_options_of_a_list_or_watch_are_too_strange() {
    let seed =
        std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed"));
    println!("SKIFF_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let api = Api::new().await;
    for n in 0..8 {
        api.ok(Method::POST, MAPS, json!({"metadata": {"name": format!("m{n}")}})).await;
    }
    let mut lists = 0;
    let mut refused = 0;
    for _ in 0..ROUNDS {
        let base = [MAPS, "/api/v1/configmaps", "/api/v1/namespaces"][random.random_range(0..3)];
        // A watch of a second at most: one that is not asked for a time has no end.
        let path = format!("{base}?timeoutSeconds=1&{}", query(&mut random));
        // A version far ahead is waited for, for seconds: that is shown elsewhere.
        if path.contains("ersion=9") || path.contains("ersion=18") {
            continue;
        }
        let Ok(uri) = path.parse::<http::Uri>() else { continue };
        let mut request = api.request(Method::GET, MAPS, &Value::Null);
        *request.uri_mut() = uri;
        let response = api.send(request).await;
        let code = response.status().as_u16();
        if path.contains("watch=") && code == 200 {
            continue;
        }
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}: {bytes:?}"));
        match code {
            200 => {
                assert!(body["kind"].as_str().is_some_and(|kind| kind.ends_with("List")), "{path}: {body}");
                lists += 1;
            }
            400 | 410 | 422 | 504 => {
                assert_eq!((&body["kind"], &body["code"]), (&json!("Status"), &json!(code)), "{path}");
                assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {body}");
                refused += 1;
            }
            other => panic!("{path}: {other}: {body}"),
        }
    }
    assert!(lists > 100 && refused > 100, "{lists} lists and {refused} refusals");
    let list = api.ok(Method::GET, MAPS, Value::Null).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(8), "nothing was changed");
}
