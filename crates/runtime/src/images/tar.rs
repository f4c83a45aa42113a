//! Reading tar streams from strangers, in bounded memory.
//!
//! The `tar` crate decodes single headers; walking them is done here, because extended headers (PAX, GNU
//! long names) must be bounded before they are read: an archive may claim a name of ten gigabytes.
//! Format: POSIX.1-2024 `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// The largest extended header taken. A path has at most 4 KiB; what is large are extended attributes.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Device,
}

/// Entries one by one; the data of the present one is read from the reader itself.
pub(crate) struct TarReader<R> {
    inner: R,
    /// Data of the present entry not yet read.
    remaining: u64,
    padding: u64,
    ended: bool,
}

/// What PAX and GNU headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        TarReader { inner, remaining: 0, padding: 0, ended: false }
    }

    /// The next entry, after skipping what is left of the present one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => parse_pax(&self.extension(size)?, &mut extensions)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                EntryType::GNULongName => extensions.path = Some(until_nul(self.extension(size)?)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(self.extension(size)?)),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// Reads the stream to its end, so that a digest over it covers all bytes. Bounded by the caller.
    pub(crate) fn drain(mut self) -> io::Result<R> {
        io::copy(&mut self.inner, &mut io::sink())?;
        Ok(self.inner)
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> io::Result<Entry> {
        let size = extensions.size.unwrap_or(size);
        let link =
            || extensions.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            // Old archives write directories as files whose name ends in a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") && size == 0 => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link().unwrap_or_default()),
            EntryType::Link => Kind::HardLink(link().unwrap_or_default()),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                let name = String::from_utf8_lossy(&path).into_owned();
                return Err(invalid(format!(
                    "entry {name:?} has the unsupported type {:?}",
                    other.as_byte() as char
                )));
            }
        };
        // Links and directories may carry a size without having data.
        let data = if kind == Kind::File { size } else { 0 };
        self.remaining = data;
        self.padding = data.next_multiple_of(BLOCK as u64) - data;
        // A field that was never written means zero.
        let blank = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
        let number = |from_pax: Option<u32>, field: &[u8], from_header: io::Result<u64>| match from_pax {
            Some(number) => Ok(number),
            None if blank(field) => Ok(0),
            None => {
                from_header.and_then(|n| u32::try_from(n).map_err(|_| invalid("an owner exceeds 32 bits")))
            }
        };
        Ok(Entry {
            path,
            kind,
            size: data,
            mode: number(None, &header.as_old().mode, header.mode().map(u64::from))? & 0o7777,
            uid: number(extensions.uid, &header.as_old().uid, header.uid())?,
            gid: number(extensions.gid, &header.as_old().gid, header.gid())?,
            mtime: extensions.mtime.unwrap_or((header.mtime().unwrap_or(0) as i64, 0)),
            xattrs: extensions.xattrs,
        })
    }

    /// `None` at the end: two blocks of zeros, or simply no more bytes.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 || filled == BLOCK && block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        if filled < BLOCK {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a header"));
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(invalid("this is no tar archive, or a header of it is damaged"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid(format!(
                "an extended header has {size} bytes; {EXTENSION_BYTES_MAX} are the most"
            )));
        }
        let mut bytes = vec![0; size as usize];
        self.inner.read_exact(&mut bytes)?;
        self.remaining = 0;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(bytes)
    }

    fn skip_data(&mut self) -> io::Result<()> {
        let skip = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(skip), &mut io::sink())?;
        // A missing padding after the last entry is tolerated; missing data is not.
        if skipped < self.remaining {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// Records of the form `LENGTH KEY=VALUE\n`, the length counting the whole record.
fn parse_pax(mut bytes: &[u8], into: &mut Extensions) -> io::Result<()> {
    let damaged = || invalid("a PAX header is damaged");
    while !bytes.is_empty() {
        let space = bytes.iter().position(|b| *b == b' ').filter(|at| *at <= 10).ok_or_else(damaged)?;
        let length: usize = text(&bytes[..space]).and_then(|n| n.parse().ok()).ok_or_else(damaged)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(damaged());
        }
        let record = &bytes[space + 1..length - 1];
        bytes = &bytes[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
        let (key, value) = (text(&record[..equals]).ok_or_else(damaged)?, &record[equals + 1..]);
        let number = || text(value).and_then(|n| n.parse::<u64>().ok()).ok_or_else(damaged);
        match key {
            "path" => into.path = Some(value.to_vec()),
            "linkpath" => into.link = Some(value.to_vec()),
            "size" => into.size = Some(number()?),
            "uid" => into.uid = Some(u32::try_from(number()?).map_err(|_| damaged())?),
            "gid" => into.gid = Some(u32::try_from(number()?).map_err(|_| damaged())?),
            "mtime" => into.mtime = Some(text(value).and_then(timestamp).ok_or_else(damaged)?),
            _ if key.starts_with("GNU.sparse.") => return Err(invalid("sparse files are not supported")),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    into.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// `1700000000.25` to seconds and nanoseconds; a negative time rounds down to whole seconds.
fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.is_empty() || text.starts_with('-') {
        return Some((seconds, 0));
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds, digits.parse().ok()?))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    #[test]
    fn long_names_and_pax_records_are_understood() {
        let long = "d/".repeat(120) + "name";
        let bytes = archive(|tar| {
            tar.append_data(&mut header(3), &long, &b"abc"[..]).unwrap();
            tar.append_pax_extensions([("mtime", &b"5.5"[..]), ("SCHILY.xattr.user.x", b"\x00\x01")])
                .unwrap();
            tar.append_data(&mut header(1), "second", &b"z"[..]).unwrap();
        });
        let mut reader = TarReader::new(&bytes[..]);
        let entry = reader.next().unwrap().unwrap();
        assert_eq!(entry.path, long.as_bytes());
        let mut data = String::new();
        reader.read_to_string(&mut data).unwrap();
        assert_eq!(data, "abc");
        let entry = reader.next().unwrap().unwrap();
        assert_eq!(entry.mtime, (5, 500_000_000));
        assert_eq!(entry.xattrs, [("user.x".to_owned(), vec![0, 1])]);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn claims_of_a_huge_name_are_refused_before_they_are_read() {
        let mut claim = Header::new_gnu();
        claim.set_entry_type(EntryType::GNULongName);
        claim.set_size(10 << 30);
        claim.set_cksum();
        let said = TarReader::new(&claim.as_bytes()[..]).next().err().unwrap().to_string();
        assert!(said.contains("10737418240 bytes"), "{said}");
    }

    #[test]
    fn cuts_and_noise_are_errors_and_never_panics() {
        let whole = archive(|tar| {
            tar.append_pax_extensions([("path", &b"other"[..])]).unwrap();
            tar.append_data(&mut header(700), "file", &[7; 700][..]).unwrap();
        });
        let walk = |bytes: &[u8]| -> io::Result<usize> {
            let mut reader = TarReader::new(bytes);
            let mut count = 0;
            while reader.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(walk(&whole).unwrap(), 1);
        // Header, records, header, data: a cut inside any of them is noticed.
        for cut in [100, 513, 1100, 1600, 2200] {
            assert!(walk(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len().min(1600) {
            let mut noisy = whole.clone();
            noisy[at] ^= 0x55;
            let _ = walk(&noisy);
        }
        assert!(walk(&[b'x'; 2048]).is_err());
    }
}
