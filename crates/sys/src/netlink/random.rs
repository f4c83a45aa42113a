//! Random bytes against everything that reads the kernel's answers.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Writer, attributes, messages, text};

/// Calls `read` with many bodies of nested attributes, some of them spoiled. Each attribute's number is
/// below 32, and its length mostly what an answer would have.
pub(crate) fn bodies(header_bytes: usize, mut read: impl FnMut(&[u8])) {
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let mut body: Vec<u8> = (0..header_bytes).map(|_| random.random()).collect();
        let mut writer = Writer::new();
        nest(&mut random, &mut writer, 0);
        body.extend_from_slice(writer.as_bytes());
        for _ in 0..random.random_range(0..3) {
            if !body.is_empty() {
                let at = random.random_range(0..body.len());
                if random.random_bool(0.5) {
                    body[at] = random.random();
                } else {
                    body.truncate(at);
                }
            }
        }
        read(&body);
    }
}

fn nest(random: &mut SmallRng, writer: &mut Writer, depth: u32) {
    for _ in 0..random.random_range(0..5) {
        let kind = random.random_range(0..32);
        if depth < 3 && random.random_bool(0.4) {
            let inner = writer.open(kind);
            nest(random, writer, depth + 1);
            writer.close(inner);
        } else {
            let length = [0, 1, 2, 4, 4, 4, 6, 8, 16, 64][random.random_range(0..10)];
            let value: Vec<u8> = (0..length).map(|_| random.random()).collect();
            writer.attribute(kind, &value);
        }
    }
}

#[test]
fn random_datagrams_are_read_to_their_end() {
    bodies(16, |datagram| {
        let mut read = 0;
        for message in messages(datagram) {
            let _ = message.error();
            read += message.body.len();
            for (_, value) in attributes(message.body) {
                let _ = text(value);
            }
        }
        assert!(read <= datagram.len());
    });
    let worst = [&20_u32.to_ne_bytes()[..], &2_u16.to_ne_bytes(), &[0; 10], &i32::MIN.to_ne_bytes()].concat();
    assert_eq!(messages(&worst).next().unwrap().error(), Some(i32::MIN), "it is no number to negate");
}
