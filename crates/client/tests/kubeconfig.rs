//! Kubeconfigs that somebody's editor has spoiled.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use skiff_client::kubeconfig::{Entries, Kubeconfig};

const GOOD: &str = "apiVersion: v1
kind: Config
current-context: a
clusters:
- name: a
  cluster: {server: \"https://h:1\", certificate-authority-data: aGk=}
users: [{name: a, user: {token: t, client-certificate-data: aGk=, client-key-data: aGk=}}]
contexts:
- {name: a, context: {cluster: a, user: a}}
";

#[test]
fn random_damage_is_refused_or_read_back() {
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let path = Path::new("/nowhere/config");
    for _ in 0..5_000 {
        let mut text: Vec<char> = GOOD.chars().collect();
        for _ in 0..random.random_range(0..5) {
            let at = random.random_range(0..text.len());
            match random.random_range(0..3) {
                0 => text[at] = random.random(),
                1 => text.insert(
                    at,
                    [' ', '\n', '-', ':', '{', '}', '&', '*', '"', '!'][random.random_range(0..10)],
                ),
                _ => drop(text.remove(at)),
            }
        }
        let text: String = text.into_iter().collect();
        let Ok(mut config) = Kubeconfig::parse(path, &text) else { continue };
        let _ = (config.remote(None), config.remote(Some("b")));
        config.merge(&Entries {
            name: "b",
            server: "https://h:2",
            ca_pem: "c",
            certificate_pem: "d",
            key_pem: "e",
        });
        let again = Kubeconfig::parse(path, &config.to_yaml()).expect("what is written can be read");
        assert_eq!(again, config, "{text}");
    }
}
