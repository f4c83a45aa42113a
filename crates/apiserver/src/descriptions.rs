//! What the API's types and fields are for: texts that the build script collects, unpacked only while a
//! document is made of them.

use std::io::Read as _;

use flate2::read::GzDecoder;

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

/// The lines that `skiff_api::openapi::Texts` reads.
pub(crate) fn lines() -> String {
    let mut lines = String::new();
    GzDecoder::new(PACKED).read_to_string(&mut lines).expect("the build script packed text");
    lines
}

/// Tells these texts from others, for the documents' hashes: the end of a gzip file is its checksum.
pub(crate) fn checksum() -> u64 {
    PACKED.iter().rev().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}
