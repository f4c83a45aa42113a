//! Request bodies into one normal form: JSON, YAML or protobuf in, a `serde_json::Value` out that Go's
//! types would also write.
//!
//! Reading has three steps: parse the text without losing anything ([`text`]), hold it against the
//! schema table ([`read`]) or, for protobuf, decode by it ([`wire`]), then drop and fill in what Go's
//! encoder would ([`tidy`]). Defaults and validation come later and are not done here.
//!
//! ```
//! use skiff_api::codec::{self, FieldValidation, Gvk, Media};
//! let body = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"k":"v"},"x":1}"#;
//! let wanted = Gvk::new("", "v1", "ConfigMap");
//! let error = codec::decode(body, Media::Json, &wanted, FieldValidation::Strict).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "x""#,
//! );
//! ```

mod encode;
mod read;
mod scalar;
mod text;
mod tidy;
mod wire;

#[cfg(test)]
pub(crate) mod random;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::{Map, Value};

pub use encode::protobuf as encode_protobuf;
pub(crate) use encode::{put_bytes, put_varint};

use crate::schema::{self, Type};
use read::Reader;
use text::Node;

/// Bodies beyond this are refused by [`decode`]; upstream's limit for requests is 3 MiB.
pub const BODY_MAX: usize = 3 << 20;

/// Group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// How the text of a request body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// The request's `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    /// The API's default.
    #[default]
    Warn,
    Strict,
}

/// What a body held.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object in normal form, `apiVersion` and `kind` set.
    pub value: Value,
    pub gvk: Gvk,
    /// With [`FieldValidation::Warn`]: texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Why a body was refused; each is a `BadRequest` with exactly this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing could be learned from the body.
    #[error("the object provided is unrecognized (must be of type {wanted}): {cause} ({summary})")]
    Unrecognized { wanted: String, cause: String, summary: String },
    /// The kind is known and the content does not fit it.
    #[error("{kind} in version {version:?} cannot be handled as a {wanted}: {cause}")]
    Unfit { kind: String, version: String, wanted: String, cause: String },
    #[error("the API version in the data ({found}) does not match the expected API version ({wanted})")]
    Version { found: String, wanted: String },
    #[error("limit of {BODY_MAX} bytes exceeded")]
    TooLarge,
}

impl Gvk {
    pub fn new(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// Splits `apps/v1`.
    pub fn parse(api_version: &str, kind: impl Into<String>) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, kind)
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Its row of the schema table.
    pub fn schema(&self) -> Option<&'static Type> {
        schema::kind(&self.group, &self.version, &self.kind)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

impl Media {
    /// The media type of a `Content-Type` header; none means JSON (kubectl 1.20 sends none).
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let Some(text) = content_type else { return Some(Media::Json) };
        match text.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
            "" | "application/json" => Some(Media::Json),
            "application/yaml" => Some(Media::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
            _ => None,
        }
    }
}

impl FieldValidation {
    /// The query parameter's value; empty means the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Reads a body that should hold `wanted`. A body without `kind` or `apiVersion` is taken for it, as
/// upstream does. A kind that the schema table lacks is read without checks but those for repeated keys.
pub fn decode(
    body: &[u8],
    media: Media,
    wanted: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, Error> {
    if body.len() > BODY_MAX {
        return Err(Error::TooLarge);
    }
    let unrecognized =
        |cause: String| Error::Unrecognized { wanted: wanted.kind.clone(), cause, summary: summary(body) };
    let node = match media {
        Media::Json => text::json(body)
            .map_err(|e| unrecognized(format!("couldn't get version/kind; json parse error: {e}")))?,
        Media::Yaml => {
            text::yaml(body).map_err(|e| unrecognized(format!("error converting YAML to JSON: {e}")))?
        }
        Media::Protobuf => {
            let envelope = wire::envelope(body).map_err(unrecognized)?;
            let gvk = completed(&envelope.api_version, &envelope.kind, wanted);
            if envelope.content_type == "application/json" {
                text::json(envelope.raw).map_err(|e| unfit(&gvk, wanted, e))?
            } else {
                let ty = fitting(&gvk, wanted)?.ok_or_else(|| unregistered(&gvk, wanted))?;
                let mut map = wire::object(ty, envelope.raw).map_err(|e| unfit(&gvk, wanted, e))?;
                tidy::object(ty, &mut map);
                return Ok(finish(map, gvk, Vec::new()));
            }
        }
    };
    let (api_version, kind) = type_meta(&node)
        .map_err(|e| unrecognized(format!("couldn't get version/kind; json parse error: {e}")))?;
    let gvk = completed(&api_version, &kind, wanted);
    checked(node, gvk, wanted, validation)
}

/// Brings an object that was put together in this process (by a patch, say) into normal form, with
/// the same checks that [`decode`] makes.
pub fn normalise(value: Value, wanted: &Gvk, validation: FieldValidation) -> Result<Decoded, Error> {
    let node = Node::from(value);
    let (api_version, kind) = type_meta(&node).map_err(|cause| unfit(wanted, wanted, cause))?;
    let gvk = completed(&api_version, &kind, wanted);
    checked(node, gvk, wanted, validation)
}

/// Parses a patch or another body without a kind of its own; a repeated key is reported by its path.
pub fn parse(body: &[u8], media: Media) -> Result<(Value, Vec<String>), String> {
    let node = match media {
        Media::Json => text::json(body)?,
        Media::Yaml => text::yaml(body)?,
        Media::Protobuf => return Err("a patch can't be protobuf".into()),
    };
    let mut reader = Reader::new();
    let value = reader.untyped(node);
    Ok((value, reader.complaints))
}

const STRICT: &str = "strict decoding error: ";

/// The message that strict field validation gives for these complaints.
pub fn strict_error(complaints: &[String]) -> String {
    format!("{STRICT}{}", complaints.join(", "))
}

/// Whether a cause is [`strict_error`]'s: the content fits, but for fields that nobody knows.
pub fn is_strict(cause: &str) -> bool {
    cause.starts_with(STRICT)
}

fn checked(node: Node, gvk: Gvk, wanted: &Gvk, validation: FieldValidation) -> Result<Decoded, Error> {
    let ty = fitting(&gvk, wanted)?;
    let mut reader = Reader::new();
    let map = match (ty, node) {
        (Some(ty), Node::Object(pairs)) => {
            let mut map = reader.object(ty, pairs);
            tidy::object(ty, &mut map);
            map
        }
        (None, node @ Node::Object(_)) => match reader.untyped(node) {
            Value::Object(map) => map,
            _ => Map::new(),
        },
        // `null` is an object without content, as in Go; lists and scalars failed before.
        (ty, _) => {
            let mut map = Map::new();
            if let Some(ty) = ty {
                tidy::object(ty, &mut map);
            }
            map
        }
    };
    if let Some(cause) = reader.error {
        return Err(unfit(&gvk, wanted, cause));
    }
    match validation {
        FieldValidation::Strict if !reader.complaints.is_empty() => {
            Err(unfit(&gvk, wanted, strict_error(&reader.complaints)))
        }
        FieldValidation::Warn => Ok(finish(map, gvk, reader.complaints)),
        _ => Ok(finish(map, gvk, Vec::new())),
    }
}

fn finish(mut map: Map<String, Value>, gvk: Gvk, warnings: Vec<String>) -> Decoded {
    map.insert("apiVersion".into(), gvk.api_version().into());
    map.insert("kind".into(), gvk.kind.clone().into());
    Decoded { value: Value::Object(map), gvk, warnings }
}

/// `apiVersion` and `kind` of a document; the last of repeated ones.
fn type_meta(node: &Node) -> Result<(String, String), String> {
    const META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let pairs = match node {
        Node::Object(pairs) => pairs.as_slice(),
        Node::Null => &[],
        other => return Err(format!("json: cannot unmarshal {} into Go value of type {META}", other.word())),
    };
    let text = |name: &str| match pairs.iter().rev().find(|p| p.0 == name) {
        None | Some((_, Node::Null)) => Ok(String::new()),
        Some((_, Node::String(s))) => Ok(s.clone()),
        Some((_, other)) => Err(format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            other.word()
        )),
    };
    Ok((text("apiVersion")?, text("kind")?))
}

/// What the body says, and what is expected where it says nothing.
fn completed(api_version: &str, kind: &str, wanted: &Gvk) -> Gvk {
    let mut gvk = Gvk::parse(api_version, kind);
    if gvk.kind.is_empty() {
        gvk.kind.clone_from(&wanted.kind);
    }
    if api_version.is_empty() {
        gvk.group.clone_from(&wanted.group);
        gvk.version.clone_from(&wanted.version);
    }
    gvk
}

/// The type to read with: the wanted one, or `None` if the table has no such kind at all.
fn fitting(gvk: &Gvk, wanted: &Gvk) -> Result<Option<&'static Type>, Error> {
    if gvk == wanted {
        return Ok(gvk.schema());
    }
    match (gvk.schema(), wanted.schema()) {
        // The machinery's kinds are the same in every version.
        (Some(found), Some(ty)) if std::ptr::eq(found, ty) => Ok(Some(ty)),
        (found, _) if gvk.kind == wanted.kind && (found.is_some() || wanted.schema().is_none()) => {
            Err(Error::Version { found: gvk.api_version(), wanted: wanted.api_version() })
        }
        (Some(found), _) => {
            let cause = format!(
                "converting ({}.{}) to ({}.{}): unknown conversion",
                found.version,
                found.name,
                internal_package(&wanted.group),
                wanted.kind
            );
            Err(unfit(gvk, wanted, cause))
        }
        (None, _) => Err(unregistered(gvk, wanted)),
    }
}

/// Upstream's package of a group's internal types, as conversion errors show it.
fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    }
}

fn unfit(gvk: &Gvk, wanted: &Gvk, cause: impl Into<String>) -> Error {
    Error::Unfit {
        kind: gvk.kind.clone(),
        version: gvk.version.clone(),
        wanted: wanted.kind.clone(),
        cause: cause.into(),
    }
}

fn unregistered(gvk: &Gvk, wanted: &Gvk) -> Error {
    let (kind, version) = (&gvk.kind, gvk.api_version());
    let cause = format!(
        "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    );
    unfit(gvk, wanted, cause)
}

/// The start of a body that could not be read, as upstream quotes it.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (shown, more) = if body.len() > SHOWN { (&body[..SHOWN], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}
