//! Container logs on disk, in CRI's format: rotation, and the reading that `kubectl logs` asks for.
//!
//! A line is `2016-10-06T00:17:09.669794202Z stdout F text`; `P` in place of `F` marks a part of a longer
//! line. Files rotate by size: `0.log` is written, `0.log.1` is the youngest of the old.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use crate::log_place::{Place, open};

/// A log file is renamed when it grows over this.
pub(crate) const FILE_BYTES_MAX: u64 = 10 << 20;
/// Files of one container, the written one included.
pub(crate) const FILES_MAX: usize = 5;

/// What a reader wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr` alone.
    pub(crate) stream: Option<String>,
}

/// One parsed line.
struct Line<'a> {
    at: &'a [u8],
    stream: &'a [u8],
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (at, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Line { at, stream, partial: tag.first() == Some(&b'P'), text })
}

/// Turns raw bytes of log files into what the reader wants, keeping incomplete lines for the next time.
pub(crate) struct Filter {
    options: Options,
    rest: Vec<u8>,
    left: Option<u64>,
    mid_line: bool,
}

impl Filter {
    pub(crate) fn new(options: Options) -> Self {
        let left = options.limit_bytes;
        Self { options, rest: Vec::new(), left, mid_line: false }
    }

    /// The reader has had as many bytes as it wanted.
    pub(crate) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest[start..start + length].to_vec();
            start += length + 1;
            self.line(&line, &mut out);
        }
        self.rest.drain(..start);
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        if let Some(stream) = &self.options.stream
            && !stream.as_bytes().eq_ignore_ascii_case(line.stream)
        {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(line.at).ok().and_then(|at| at.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.options.timestamps && !self.mid_line {
            out.extend_from_slice(line.at);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        self.mid_line = line.partial;
        if !line.partial {
            out.push(b'\n');
        }
    }
}

/// The files of a log, oldest first.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let old = (1..FILES_MAX).rev().map(|index| rotated(path, index));
    old.chain([path.to_owned()]).filter(|path| path.exists()).collect()
}

fn rotated(path: &Path, index: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

/// Where the last `lines` lines begin: the file (by index in `files`) and the offset in it.
pub(crate) fn tail_start(files: &[PathBuf], lines: u64) -> io::Result<(usize, u64)> {
    const BLOCK: u64 = 64 << 10;
    if lines == 0 {
        let last = files.len().saturating_sub(1);
        let length = files.last().map_or(Ok(0), |path| Ok::<_, io::Error>(open(path)?.metadata()?.len()))?;
        return Ok((last, length));
    }
    let mut missing = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let mut file = open(path)?;
        let length = file.metadata()?.len();
        let mut end = length;
        let mut first = true;
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            file.seek(SeekFrom::Start(start))?;
            let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
            file.read_exact(&mut block)?;
            for (at, byte) in block.iter().enumerate().rev() {
                let at_end = first && at + 1 == block.len();
                if *byte != b'\n' || at_end {
                    continue;
                }
                missing -= 1;
                if missing == 0 {
                    return Ok((index, start + at as u64 + 1));
                }
            }
            first = false;
            end = start;
        }
        // The file's first line has no newline before it.
        if length > 0 {
            missing -= 1;
        }
        if missing == 0 {
            return Ok((index, 0));
        }
    }
    Ok((0, 0))
}

/// The end of a log as text, for a termination message.
pub(crate) fn tail(path: &Path, lines: usize, bytes: usize) -> Option<String> {
    let files = files(path);
    let (first, offset) = tail_start(&files, lines as u64).ok()?;
    let mut filter = Filter::new(Options::default());
    let mut text = Vec::new();
    for (index, path) in files.iter().enumerate().skip(first) {
        let mut file = open(path).ok()?;
        if index == first {
            file.seek(SeekFrom::Start(offset)).ok()?;
        }
        let mut raw = Vec::new();
        file.take(FILE_BYTES_MAX * 2).read_to_end(&mut raw).ok()?;
        text.extend(filter.feed(&raw));
    }
    let start = text.len().saturating_sub(bytes);
    let text = String::from_utf8_lossy(&text[start..]).into_owned();
    (!text.is_empty()).then_some(text)
}

/// Renames a log that has grown too large; the caller tells its writer to open a new one.
pub(crate) fn rotate(path: &Path) -> io::Result<bool> {
    let place = Place::of(path)?;
    if place.length().is_none_or(|length| length < FILE_BYTES_MAX) {
        return Ok(false);
    }
    let name = |index| rotated(Path::new(path.file_name().unwrap_or_default()), index).into_os_string();
    for index in (1..FILES_MAX - 1).rev() {
        match place.rename(&name(index), &name(index + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    place.rename(path.file_name().unwrap_or_default(), &name(1))?;
    Ok(true)
}

/// Removes a log with its rotated files.
pub(crate) fn remove(path: &Path) {
    for path in files(path) {
        // A log that can't be removed goes with its pod's directory.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2024-01-01T00:00:01.5Z stdout F one\n2024-01-01T00:00:02Z stderr P two, \n2024-01-01T00:00:02Z stderr F long\n2024-01-01T00:00:03Z stdout F three\n";

    fn check(options: Options, expected: &str) {
        let mut filter = Filter::new(options);
        // In two pieces, as a follower reads.
        let (a, b) = LOG.as_bytes().split_at(50);
        let mut text = filter.feed(a);
        text.extend(filter.feed(b));
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn lines_are_joined_and_filtered() {
        check(Options::default(), "one\ntwo, long\nthree\n");
        check(
            Options { timestamps: true, ..Options::default() },
            "2024-01-01T00:00:01.5Z one\n2024-01-01T00:00:02Z two, long\n2024-01-01T00:00:03Z three\n",
        );
        let since = "2024-01-01T00:00:02Z".parse().ok();
        check(Options { since, ..Options::default() }, "two, long\nthree\n");
        check(Options { stream: Some("Stderr".into()), ..Options::default() }, "two, long\n");
        check(Options { limit_bytes: Some(6), ..Options::default() }, "one\ntw");
    }

    #[test]
    fn tails_go_back_over_rotated_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        fs::write(rotated(&path, 1), "a\nb\n").expect("writes");
        fs::write(&path, "c\nd\n").expect("writes");
        let files = files(&path);
        assert_eq!(files.len(), 2);
        for (lines, expected) in [(0, (1, 4)), (1, (1, 2)), (2, (1, 0)), (3, (0, 2)), (9, (0, 0))] {
            assert_eq!(tail_start(&files, lines).expect("reads"), expected, "{lines}");
        }
    }

    #[test]
    fn rotation_keeps_the_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        fs::write(&path, "small").expect("writes");
        assert!(!rotate(&path).expect("looks"));
        for _ in 0..6 {
            let file = fs::File::create(&path).expect("creates");
            file.set_len(FILE_BYTES_MAX).expect("grows");
            assert!(rotate(&path).expect("rotates"));
        }
        fs::write(&path, "last").expect("writes");
        assert_eq!(files(&path).len(), FILES_MAX);
    }

    /// However the bytes are cut, and whatever they are.
    #[test]
    fn random_logs_read_the_same_in_any_pieces() {
        use rand::{RngExt, SeedableRng};
        let seed = std::env::var("SKIFF_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
        println!("SKIFF_SEED={seed}");
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        for _ in 0..5_000 {
            let mut log = LOG.as_bytes().to_vec();
            for _ in 0..random.random_range(0..6) {
                let at = random.random_range(0..log.len());
                match random.random_range(0..3) {
                    0 => log[at] = random.random(),
                    1 => log.insert(at, b" \nPF\xff"[random.random_range(0..5)]),
                    _ => drop(log.remove(at)),
                }
            }
            let options = Options {
                since: random.random_bool(0.5).then(|| "2024-01-01T00:00:02Z".parse().expect("a time")),
                timestamps: random.random_bool(0.5),
                limit_bytes: random.random_bool(0.5).then(|| random.random_range(0..60)),
                ..Options::default()
            };
            let whole = Filter::new(options.clone()).feed(&log);
            let mut filter = Filter::new(options);
            let mut pieces = Vec::new();
            let mut rest = log.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(1..=rest.len()));
                pieces.extend(filter.feed(piece));
                rest = after;
            }
            assert_eq!(pieces, whole, "{}", String::from_utf8_lossy(&log));
        }
    }
}
