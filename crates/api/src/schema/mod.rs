//! What Go's API machinery learns by reflection, as constant tables: for every type of the API its
//! fields with JSON name, protobuf number, shape, and the marks that drive decoding, normalisation,
//! patches and OpenAPI.
//!
//! `table.rs` is written by `tools/schema/generate.py`. A kind that is not in it is `None`: custom
//! resources bring their own schema.
//!
//! ```
//! let pod = skiff_api::schema::kind("", "v1", "Pod").unwrap();
//! let spec = pod.field("spec").unwrap();
//! assert_eq!((spec.number, spec.message().unwrap().name), (2, "PodSpec"));
//! ```

#[rustfmt::skip] // generated, a field a line
mod table;

#[cfg(test)]
mod tests;

pub use table::TYPES;

/// One object type of the API.
#[derive(Debug)]
pub struct Type {
    /// API group (`""` for core, `meta` for the machinery's own types).
    pub group: &'static str,
    pub version: &'static str,
    /// Go's name of the type, as decoding errors show it.
    pub name: &'static str,
    /// Name among the OpenAPI definitions, `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
    /// `apiVersion` and `kind` stand in front of the fields (they have no protobuf numbers).
    pub meta: bool,
    /// Server-side apply owns the object as a whole.
    pub atomic: bool,
    pub fields: &'static [Field],
}

/// One field of a [`Type`].
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// JSON name. For an inlined field a name that no JSON document holds.
    pub name: &'static str,
    /// Protobuf number.
    pub number: u32,
    /// What the value (or each element or map value) is.
    pub kind: Kind,
    pub shape: Shape,
    /// How lists are merged by server-side apply.
    pub list: ListType,
    /// Keys of a [`ListType::Map`].
    pub keys: &'static [&'static str],
    /// Strategies of strategic merge patch: `merge`, `replace`, `retainKeys`, comma separated.
    pub strategy: &'static str,
    /// Merge key of strategic merge patch; empty for lists of plain values.
    pub merge_key: &'static str,
    /// Go's name of the type where it is not the kind's own, `Protocol`.
    pub go: &'static str,
    flags: u8,
}

/// What one value is in JSON and on the wire.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Str,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, six digits.
    MicroTime,
    /// Go's `1h2m3s`.
    Duration,
    Quantity,
    IntOrString,
    /// An object of any kind, embedded as JSON.
    Raw,
    /// The set of managed fields, any JSON object.
    FieldsV1,
    /// Any JSON value.
    Json,
    /// A list of strings that protobuf wraps in a message.
    Strings,
    Object(&'static Type),
    SchemaOrBool(&'static Type),
    SchemaOrArray(&'static Type),
    SchemaOrStrings(&'static Type),
}

/// How many values a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    /// Keys are strings.
    Map,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Unmarked,
    Atomic,
    Set,
    Map,
}

/// The type of a kind, or `None` if the table lacks it. The machinery's kinds (`DeleteOptions`,
/// `Status`, …) are found in every group version that the table knows, as upstream registers them.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let found = table::KINDS.binary_search_by(|row| (row.0, row.1, row.2).cmp(&(group, version, kind)));
    match found {
        Ok(at) => Some(table::KINDS[at].3),
        Err(_) if group == "meta.k8s.io" => None,
        Err(_) if COMMON.contains(&kind) => self::kind("meta.k8s.io", "v1", kind),
        Err(_) => None,
    }
}

/// Kinds that upstream registers in every group version.
const COMMON: [&str; 7] = [
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "UpdateOptions",
    "WatchEvent",
];

/// All kinds as (group, version, kind, type), sorted.
pub fn kinds() -> &'static [(&'static str, &'static str, &'static str, &'static Type)] {
    &table::KINDS
}

/// A type by its OpenAPI definition's name.
pub fn definition(name: &str) -> Option<&'static Type> {
    TYPES.iter().copied().find(|t| t.definition == name)
}

impl Type {
    /// The field that a JSON object of this type calls `name`, looked for in inlined structs too.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        for field in self.fields {
            if field.inline() {
                if let Some(found) = field.message().and_then(|t| t.field(name)) {
                    return Some(found);
                }
            } else if field.name == name {
                return Some(field);
            }
        }
        None
    }

    /// All fields as JSON shows them, inlined structs' fields in place.
    pub fn json_fields(&self) -> Vec<&'static Field> {
        let mut out = Vec::new();
        for field in self.fields {
            match field.message() {
                Some(inner) if field.inline() => out.extend(inner.json_fields()),
                _ => out.push(field),
            }
        }
        out
    }
}

impl Field {
    /// A Go pointer: absent and zero are two different things.
    pub fn pointer(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Left out of JSON when empty.
    pub fn omit_empty(&self) -> bool {
        self.flags & 2 != 0
    }

    /// Left out of JSON when zero (a struct without content too).
    pub fn omit_zero(&self) -> bool {
        self.flags & 4 != 0
    }

    /// The struct's fields stand in the enclosing JSON object.
    pub fn inline(&self) -> bool {
        self.flags & 8 != 0
    }

    /// OpenAPI lists it as required.
    pub fn required(&self) -> bool {
        self.flags & 16 != 0
    }

    /// A map or struct that server-side apply owns as a whole.
    pub fn atomic(&self) -> bool {
        self.flags & 32 != 0
    }

    /// The type of its object, elements or map values.
    pub fn message(&self) -> Option<&'static Type> {
        match self.kind {
            Kind::Object(t) => Some(t),
            _ => None,
        }
    }

    /// Strategic merge patch merges the list (or map) instead of replacing it.
    pub fn merges(&self) -> bool {
        self.strategy.split(',').any(|s| s == "merge")
    }

    /// Go's name of the field's type, as `json.UnmarshalTypeError` prints it.
    pub fn go_type(&self) -> String {
        let one = self.go_item();
        match self.shape {
            Shape::One => one,
            Shape::List => format!("[]{one}"),
            Shape::Map if matches!(self.kind, Kind::Quantity) => "v1.ResourceList".into(),
            Shape::Map => format!("map[string]{one}"),
        }
    }

    /// Go's name of the type of one value.
    pub fn go_item(&self) -> String {
        if self.go.contains('.') {
            return self.go.to_owned();
        }
        if !self.go.is_empty() {
            return format!("v1.{}", self.go);
        }
        match self.kind {
            Kind::Str => "string".into(),
            Kind::Bool => "bool".into(),
            Kind::Int32 => "int32".into(),
            Kind::Int64 => "int64".into(),
            Kind::Double => "float64".into(),
            Kind::Bytes => "[]uint8".into(),
            Kind::Time => "v1.Time".into(),
            Kind::MicroTime => "v1.MicroTime".into(),
            Kind::Duration => "v1.Duration".into(),
            Kind::Quantity => "resource.Quantity".into(),
            Kind::IntOrString => "intstr.IntOrString".into(),
            Kind::Raw => "runtime.RawExtension".into(),
            Kind::FieldsV1 => "v1.FieldsV1".into(),
            Kind::Json => "v1.JSON".into(),
            Kind::Strings => "v1.ExtraValue".into(),
            Kind::Object(t) => format!("{}.{}", t.version, t.name),
            Kind::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
            Kind::SchemaOrArray(_) => "v1.JSONSchemaPropsOrArray".into(),
            Kind::SchemaOrStrings(_) => "v1.JSONSchemaPropsOrStringArray".into(),
        }
    }

    const fn list(mut self) -> Self {
        self.shape = Shape::List;
        self
    }

    const fn map(mut self) -> Self {
        self.shape = Shape::Map;
        self
    }

    const fn atomic_list(mut self) -> Self {
        self.list = ListType::Atomic;
        self
    }

    const fn set(mut self) -> Self {
        self.list = ListType::Set;
        self
    }

    const fn keyed(mut self, keys: &'static [&'static str]) -> Self {
        self.list = ListType::Map;
        self.keys = keys;
        self
    }

    const fn patch(mut self, strategy: &'static str, merge_key: &'static str) -> Self {
        self.strategy = strategy;
        self.merge_key = merge_key;
        self
    }

    const fn go(mut self, name: &'static str) -> Self {
        self.go = name;
        self
    }
}

/// A row of `table.rs`.
const fn f(name: &'static str, number: u32, kind: Kind, flags: u8) -> Field {
    Field {
        name,
        number,
        kind,
        shape: Shape::One,
        list: ListType::Unmarked,
        keys: &[],
        strategy: "",
        merge_key: "",
        go: "",
        flags,
    }
}
