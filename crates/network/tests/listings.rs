//! What is listed of the packet filter is what it was at one moment, however often it changes.

mod lab;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::Netns;
use skiff_sys::nft::listing::{Expression, Listing};

const CHANGES: usize = 60;
/// So that reading takes longer than changing.
const FILLERS: usize = 400;

#[test]
fn a_listing_is_of_one_moment() {
    let netns = Netns::new();
    let rules = tempfile::tempdir().unwrap();
    // Both chains drop the same port, whichever it is; a transaction changes both.
    let change = |number: usize| {
        let port = 1000 + number;
        let text = format!(
            "flush chain ip it first\nflush chain ip it last\n\
             add rule ip it first tcp dport {port} drop\nadd rule ip it last tcp dport {port} drop\n"
        );
        let file = rules.path().join(format!("{number}"));
        fs::write(&file, text).unwrap();
        netns.command("nft", &["-f", file.to_str().unwrap()]);
    };
    let fillers: String = (0..FILLERS)
        .map(|number| format!("add chain ip it filler{number}\nadd rule ip it filler{number} counter drop\n"))
        .collect();
    let start = rules.path().join("start");
    let chains = format!("add table ip it\nadd chain ip it first\n{fillers}add chain ip it last\n");
    fs::write(&start, chains).unwrap();
    netns.command("nft", &["-f", start.to_str().unwrap()]);
    change(0);

    let over = AtomicBool::new(false);
    let port = |listing: &Listing, chain: &str| {
        let chain = listing.chain(2, "it", chain).expect("the chain is there");
        let constants = chain.rules.iter().flat_map(|rule| &rule.expressions).filter_map(|this| match this {
            Expression::Compare { bytes, .. } if bytes.len() == 2 => Some(bytes.clone()),
            _ => None,
        });
        constants.collect::<Vec<_>>()
    };
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            netns.run(|| {
                let mut seen = Vec::new();
                while !over.load(Ordering::Acquire) {
                    // One that never stands still is told as such, and never as what it was not.
                    if let Ok(listing) = Listing::open() {
                        seen.push((port(&listing, "first"), port(&listing, "last")));
                    }
                }
                seen
            })
        });
        (1..=CHANGES).for_each(change);
        over.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert!(read.iter().all(|(first, last)| first.len() == 1 && first == last), "{read:?}");
    let last = netns.run(Listing::open).unwrap();
    assert_eq!(port(&last, "last"), [(1000 + CHANGES as u16).to_be_bytes().to_vec()]);
}

#[test]
fn a_table_that_sleeps_is_not_met() {
    let netns = Netns::new();
    let tables = || {
        let listing = netns.run(Listing::open).unwrap();
        let mut tables: Vec<String> = listing.chains.into_iter().map(|chain| chain.table).collect();
        tables.extend(listing.sets.into_keys().map(|(_, table, _)| table));
        tables.sort();
        tables.dedup();
        tables
    };
    let nft = |text: &str| netns.command("nft", &[text]);
    // Of the same name in another family.
    nft("add table inet it { flags dormant; chain c { type filter hook forward priority 0; policy drop; }; \
         set s { type ipv4_addr; }; }");
    nft("add table ip awake { chain c { type filter hook forward priority 0; policy drop; }; }");
    assert_eq!(tables(), ["awake"]);
    nft("add table ip it { chain c { type filter hook forward priority 0; }; }");
    assert_eq!(tables(), ["awake", "it"]);
    nft("delete table ip it; add table inet it");
    assert_eq!(tables(), ["awake", "it"], "it was woken");
}
