//! Header blocks: name and value pairs, deflated over the whole connection with a preset dictionary.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::SpdyError;

/// What all headers of one frame may come to, deflated and inflated.
pub(crate) const BLOCK_BYTES_MAX: usize = 64 << 10;

/// The words of the dictionary, each preceded by its length (draft 3, section 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public \
    set-cookie keep-alive origin";

/// What follows the words, without lengths.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417\
    502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
    Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
    UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, \
    Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        put_text(&mut dictionary, word.as_bytes());
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
});

/// Names (in lower case) and values, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(has, _)| has.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            put_text(&mut block, name.as_bytes());
            put_text(&mut block, value.as_bytes());
        }
        block
    }

    fn from_block(mut block: &[u8]) -> Option<Self> {
        let count = take_number(&mut block)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut block)?;
            let value = take_text(&mut block)?;
            headers.push((name, value));
        }
        block.is_empty().then_some(Self(headers))
    }
}

fn put_text(block: &mut Vec<u8>, text: &[u8]) {
    block.extend_from_slice(&(text.len() as u32).to_be_bytes());
    block.extend_from_slice(text);
}

fn take_number(block: &mut &[u8]) -> Option<u32> {
    let (number, rest) = block.split_first_chunk::<4>()?;
    *block = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Option<String> {
    let length = take_number(block)? as usize;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// The sending half of a connection's compression.
pub struct Compressor(Compress);

impl Default for Compressor {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        Self(compress)
    }
}

impl Compressor {
    pub fn compress(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.to_block();
        let mut out = Vec::with_capacity(block.len() + 64);
        let before = self.0.total_in();
        loop {
            let taken = (self.0.total_in() - before) as usize;
            self.0
                .compress_vec(&block[taken..], &mut out, FlushCompress::Sync)
                .expect("deflate refuses no input");
            let all_taken = (self.0.total_in() - before) as usize == block.len();
            // Room that was left means that nothing was held back.
            if all_taken && out.len() < out.capacity() {
                return out;
            }
            out.reserve(out.capacity().max(64));
        }
    }
}

/// The receiving half.
pub struct Decompressor(Decompress);

impl Default for Decompressor {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Decompressor {
    pub fn decompress(&mut self, mut deflated: &[u8]) -> Result<Headers, SpdyError> {
        let mut block = Vec::with_capacity(1024);
        loop {
            let before = self.0.total_in();
            let result = self.0.decompress_vec(deflated, &mut block, FlushDecompress::Sync);
            let taken = (self.0.total_in() - before) as usize;
            deflated = deflated.get(taken..).ok_or(SpdyError::Compression)?;
            match result {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Compression),
            }
            let is_full = block.len() == block.capacity();
            if is_full && block.len() >= BLOCK_BYTES_MAX {
                return Err(SpdyError::Headers);
            }
            if is_full {
                block.reserve(block.capacity());
            } else if deflated.is_empty() || taken == 0 {
                return Headers::from_block(&block).ok_or(SpdyError::Headers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_draft() {
        assert_eq!(DICTIONARY.len(), 1423);
        let mut compress = Compress::new(Compression::fast(), true);
        // Its Adler-32, as it stands at the beginning of every SPDY/3 connection.
        assert_eq!(compress.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn headers_survive_the_connection() {
        let (mut compressor, mut decompressor) = (Compressor::default(), Decompressor::default());
        let long = "x".repeat(20_000);
        let cases = [
            Headers::of(&[("streamType", "error"), ("port", "8080"), ("requestID", "0")]),
            Headers::default(),
            Headers::of(&[("streamtype", "data"), ("long", &long)]),
            Headers::of(&[("a", "")]),
        ];
        for headers in cases {
            let deflated = compressor.compress(&headers);
            assert_eq!(decompressor.decompress(&deflated).unwrap(), headers);
        }
    }

    #[test]
    fn headers_that_blow_up_are_refused() {
        let huge = Headers::of(&[("bomb", &"0".repeat(2 << 20))]);
        let deflated = Compressor::default().compress(&huge);
        assert!(deflated.len() < BLOCK_BYTES_MAX);
        let refused = Decompressor::default().decompress(&deflated);
        assert!(matches!(refused, Err(SpdyError::Headers)), "{refused:?}");
    }

    #[test]
    fn a_block_that_lies_is_refused() {
        for block in
            [&b""[..], b"\0\0\0\x02\0\0\0\x01a\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01\xff\xff\xff\xffab"]
        {
            assert_eq!(Headers::from_block(block), None, "{block:?}");
        }
    }
}
