//! JSON and YAML text as a tree that forgets nothing: keys in their order, repeated ones too, numbers
//! as written. Syntax errors read as Go's `encoding/json` words them, for that is what users know.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// Nesting beyond this is refused. Go allows 10,000; no built-in type comes near.
const DEPTH_MAX: usize = 200;

/// One JSON value as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    /// The literal, unparsed.
    Number(String),
    String(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Go's word for the value in type errors.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::Array(_) => "array",
            Node::Object(_) => "object",
        }
    }

    /// The value as it stands; of a repeated key the last one counts.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(b) => Value::Bool(b),
            Node::Number(text) => number(&text),
            Node::String(s) => Value::String(s),
            Node::Array(items) => items.into_iter().map(Node::into_value).collect(),
            Node::Object(pairs) => pairs.into_iter().map(|(k, v)| (k, v.into_value())).collect(),
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Node::Null,
            Value::Bool(b) => Node::Bool(b),
            Value::Number(n) => Node::Number(n.to_string()),
            Value::String(s) => Node::String(s),
            Value::Array(items) => Node::Array(items.into_iter().map(Node::from).collect()),
            Value::Object(map) => Node::Object(map.into_iter().map(|(k, v)| (k, Node::from(v))).collect()),
        }
    }
}

/// A number literal: an integer where it fits one, else a double, as Go's untyped decoding does.
pub(crate) fn number(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return Value::from(n);
    }
    text.parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

/// Parses one JSON document. The error is Go's message.
pub(crate) fn json(text: &[u8]) -> Result<Node, String> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(invalid(c, "after top-level value")),
    }
}

/// Parses the first document of a YAML stream.
pub(crate) fn yaml(text: &[u8]) -> Result<Node, String> {
    let size = text.len();
    let text = std::str::from_utf8(text).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    if is_too_deep(text) {
        return Err("yaml: exceeded max depth".into());
    }
    let Some(document) = serde_yaml_ng::Deserializer::from_str(text).next() else { return Ok(Node::Null) };
    let room = Cell::new(size.saturating_mul(VALUE_COST).saturating_add(ALIASED_MAX));
    Tree(&room).deserialize(document).map_err(|e| format!("yaml: {e}"))
}

/// Brackets that may be open at once, strings' included: as many as Go's YAML reader takes.
const BRACKETS_MAX: usize = 10_000;
/// Collections that may begin on one line, one in the other.
const BEGUN_MAX: usize = 100;
/// Directives that may stand in front: the scanner looks through all of them for each.
const DIRECTIVES_MAX: usize = 100;
/// Steps of the scanner that any document may take, and those that each of its bytes adds: some 50 ms.
const STEPS: usize = 4_000_000;
const STEPS_A_BYTE: usize = 16;

/// Whether reading would take long just to find out that the nesting is refused: the scanner goes through
/// all open brackets at each token. Strings are not told apart, so the bounds are far beyond [`DEPTH_MAX`].
fn is_too_deep(text: &str) -> bool {
    let most = text.len().saturating_mul(STEPS_A_BYTE).saturating_add(STEPS);
    let (mut open, mut steps) = (0_usize, 0_usize);
    let brackets = text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        // No token begins or ends without one of these.
        steps += if byte.is_ascii_punctuation() || byte == b'\n' { open } else { 0 };
        open > BRACKETS_MAX || steps > most
    });
    let directives = text.lines().filter(|line| line.starts_with('%')).count() > DIRECTIVES_MAX;
    let begins = |word: &&str| matches!(*word, "-" | "?" | ":");
    brackets
        || directives
        || text.lines().any(|line| line.split_ascii_whitespace().take_while(begins).count() > BEGUN_MAX)
}

/// What a value counts besides its text: no document without aliases has more than one a byte.
const VALUE_COST: usize = 8;
/// So much may aliases add, in bytes of text and [`VALUE_COST`] a value: more than a body may have.
const ALIASED_MAX: usize = 3 << 20;

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    /// The next byte that is not white space, not consumed.
    fn peek(&mut self) -> Option<u8> {
        while let Some(c) = self.text.get(self.at) {
            if !matches!(c, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(*c);
            }
            self.at += 1;
        }
        None
    }

    fn next(&mut self) -> Result<u8, String> {
        let c = *self.text.get(self.at).ok_or_else(ended)?;
        self.at += 1;
        Ok(c)
    }

    fn value(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err("exceeded max depth".into());
        }
        match self.peek().ok_or_else(ended)? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Ok(Node::String(self.string()?)),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            c => Err(invalid(c, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, String> {
        self.at += 1;
        let mut pairs = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(pairs));
        }
        loop {
            match self.peek().ok_or_else(ended)? {
                b'"' => {}
                c => return Err(invalid(c, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            match self.peek().ok_or_else(ended)? {
                b':' => self.at += 1,
                c => return Err(invalid(c, "after object key")),
            }
            pairs.push((key, self.value(depth + 1)?));
            match self.peek().ok_or_else(ended)? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Node::Object(pairs));
                }
                c => return Err(invalid(c, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, String> {
        self.at += 1;
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.peek().ok_or_else(ended)? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                c => return Err(invalid(c, "after array element")),
            }
        }
    }

    fn literal(&mut self, word: &str, node: Node) -> Result<Node, String> {
        for expected in word.bytes() {
            let c = self.next()?;
            if c != expected {
                return Err(invalid(c, &format!("in literal {word} (expecting {})", quoted(expected))));
            }
        }
        Ok(node)
    }

    fn number(&mut self) -> Result<Node, String> {
        let start = self.at;
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        match self.next()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            c => return Err(invalid(c, "in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
        }
        Ok(Node::Number(String::from_utf8_lossy(&self.text[start..self.at]).into_owned()))
    }

    fn digit(&mut self, place: &str) -> Result<(), String> {
        let c = self.next()?;
        if !c.is_ascii_digit() {
            return Err(invalid(c, place));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    let c = self.escape()?;
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                c if c < 0x20 => return Err(invalid(c, "in string literal")),
                c => bytes.push(c),
            }
        }
        // Go replaces what is not UTF-8 instead of refusing it.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn escape(&mut self) -> Result<char, String> {
        Ok(match self.next()? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                if !(0xd800..0xdc00).contains(&high) {
                    return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                // A surrogate pair, or a lone half that Go replaces.
                if self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xdc00..0xe000).contains(&low) {
                        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = back;
                }
                char::REPLACEMENT_CHARACTER
            }
            c => return Err(invalid(c, "in string escape code")),
        })
    }

    fn hex(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let c = self.next()?;
            let digit =
                (c as char).to_digit(16).ok_or_else(|| invalid(c, "in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
        }
        Ok(code)
    }
}

fn ended() -> String {
    "unexpected end of JSON input".into()
}

fn invalid(c: u8, place: &str) -> String {
    format!("invalid character {} {place}", quoted(c))
}

fn quoted(c: u8) -> String {
    match c {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0..0x20 | 0x7f => format!("'\\x{c:02x}'"),
        0x80..0xa0 => format!("'\\u{c:04x}'"),
        c => format!("'{}'", c as char),
    }
}

/// Reads a tree while there is room: what is written once may be meant very often.
#[derive(Clone, Copy)]
struct Tree<'a>(&'a Cell<usize>);

impl Tree<'_> {
    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(bytes.saturating_add(VALUE_COST));
        self.0.set(left.ok_or_else(|| E::custom("document contains excessive aliasing"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value that JSON can hold")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.take(0)?;
        Ok(Node::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.take(0)?;
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
        self.deserialize(d)
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<Node, E> {
        self.take(0)?;
        Ok(Node::Bool(b))
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Node, E> {
        self.take(0)?;
        Ok(Node::Number(n.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Node, E> {
        self.take(0)?;
        Ok(Node::Number(n.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Node, E> {
        self.take(0)?;
        if n.is_finite() {
            Ok(Node::Number(n.to_string()))
        } else {
            Err(E::custom("json: unsupported value: NaN or infinity"))
        }
    }

    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Node, E> {
        self.take(s.len())?;
        Ok(Node::String(s.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        self.take(0)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        self.take(0)?;
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry_seed(self, self)? {
            let key = match key {
                Node::String(s) | Node::Number(s) => s,
                Node::Bool(b) => b.to_string(),
                Node::Null => "null".into(),
                Node::Array(_) | Node::Object(_) => {
                    return Err(serde::de::Error::custom("a map's key is not a scalar"));
                }
            };
            pairs.push((key, value));
        }
        Ok(Node::Object(pairs))
    }
}
