//! Schemas of the types that served resources reach.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Own, Served, Spec, Texts};
use crate::schema::{self, Field, Kind, ListType, Shape, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Options and answers that every document describes.
const COMMON: [&str; 2] = ["DeleteOptions", "Status"];

/// What a watch answers with, whatever it is of.
pub(crate) const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

/// Name → schema of everything that these resources' kinds and their lists reach.
pub(crate) fn definitions(
    served: &[&Served],
    spec: Spec,
    texts: &Texts<'_>,
    own: &Own,
) -> Map<String, Value> {
    let mut collector = Collector { spec, texts, out: BTreeMap::new(), group_versions: BTreeSet::new() };
    for s in served {
        collector.group_versions.insert((s.group, s.version));
    }
    for s in served {
        let (group, version, kind) = s.kind;
        let list = format!("{kind}List");
        for kind in [kind, list.as_str()] {
            if let Some(ty) = schema::kind(group, version, kind) {
                collector.add(ty);
            }
        }
    }
    for kind in COMMON {
        if let Some(ty) = schema::kind("", "v1", kind) {
            collector.add(ty);
        }
    }
    if served.iter().any(|s| s.is_watched(own))
        && let Some(ty) = schema::definition(WATCH_EVENT)
    {
        collector.add(ty);
    }
    if served.iter().any(|s| (s.group, s.version) == (own.group, own.version)) {
        let schemas = own.definitions.iter();
        collector.out.extend(schemas.map(|(name, schema)| (name.clone(), turned(schema, spec))));
    }
    collector.out.into_iter().collect()
}

/// The reference to a kind's definition, if there is one.
pub(crate) fn of_kind(kind: (&str, &str, &str), spec: Spec, own: &Own) -> Option<Value> {
    let known = schema::kind(kind.0, kind.1, kind.2).map(|found| found.definition);
    let here = || own.kinds.get(kind.2).filter(|_| (kind.0, kind.1) == (own.group, own.version));
    known.or_else(|| here().map(String::as_str)).map(|name| reference(name, spec))
}

/// A schema with its references as the version has them.
fn turned(schema: &Value, spec: Spec) -> Value {
    match schema {
        Value::Object(map) => {
            let turn = |(key, value): (&String, &Value)| {
                let name = value.as_str().and_then(|text| text.strip_prefix("#/definitions/"));
                match name.filter(|_| key == "$ref") {
                    Some(name) => (key.clone(), reference(name, spec)["$ref"].clone()),
                    None => (key.clone(), turned(value, spec)),
                }
            };
            let mut out: Map<String, Value> = map.iter().map(turn).collect();
            // In v3 nothing stands beside a `$ref`.
            if spec == Spec::V3
                && out.len() > 1
                && let Some(reference) = out.remove("$ref")
            {
                out.insert("allOf".into(), json!([{"$ref": reference}]));
            }
            out.into()
        }
        Value::Array(items) => items.iter().map(|item| turned(item, spec)).collect(),
        other => other.clone(),
    }
}

/// A reference to a definition.
pub(crate) fn reference(name: &str, spec: Spec) -> Value {
    match spec {
        Spec::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        Spec::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

struct Collector<'a> {
    spec: Spec,
    texts: &'a Texts<'a>,
    out: BTreeMap<String, Value>,
    group_versions: BTreeSet<(&'static str, &'static str)>,
}

impl Collector<'_> {
    fn add(&mut self, ty: &'static Type) {
        if self.out.contains_key(ty.definition) {
            return;
        }
        // Taken first, so that types which contain themselves end.
        self.out.insert(ty.definition.to_owned(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        if ty.meta {
            for name in ["apiVersion", "kind"] {
                properties.insert(name.into(), self.described(json!({"type": "string"}), ty, name));
            }
        }
        for field in ty.json_fields() {
            let property = self.property(field);
            properties.insert(field.name.into(), self.described(property, ty, field.name));
            if field.required() {
                required.push(field.name);
            }
        }
        let mut out = json!({"type": "object"});
        if let Some(text) = self.texts.of_type(ty.definition) {
            out["description"] = text.into();
        }
        if !properties.is_empty() {
            out["properties"] = properties.into();
        }
        if !required.is_empty() {
            required.sort_unstable();
            out["required"] = required.into();
        }
        if ty.meta {
            let kinds = self.kinds_of(ty);
            if !kinds.is_empty() {
                out["x-kubernetes-group-version-kind"] = kinds.into();
            }
        }
        if ty.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        self.out.insert(ty.definition.to_owned(), out);
    }

    /// A property with what it is for. In v3 nothing stands beside a `$ref`, so one with a text is wrapped.
    fn described(&self, property: Value, of: &Type, name: &str) -> Value {
        let Some(text) = self.texts.of_field(of.definition, name) else { return property };
        let mut out = match self.spec {
            Spec::V3 if property.get("$ref").is_some() => json!({"allOf": [property]}),
            _ => property,
        };
        out["description"] = text.into();
        out
    }

    fn kinds_of(&self, ty: &'static Type) -> Vec<Value> {
        let one = |group: &str, version: &str| json!({"group": group, "version": version, "kind": ty.name});
        match (ty.group, ty.name) {
            // Registered in every group version.
            ("meta", "DeleteOptions" | "WatchEvent") => {
                let mut all = self.group_versions.clone();
                all.insert(("", "v1"));
                all.into_iter().map(|(group, version)| one(group, version)).collect()
            }
            ("meta", _) => vec![one("", "v1")],
            (group, _) => vec![one(group, ty.version)],
        }
    }

    fn property(&mut self, field: &'static Field) -> Value {
        let item = self.item(field);
        let mut out = match field.shape {
            Shape::List => json!({"type": "array", "items": item}),
            Shape::Map => json!({"type": "object", "additionalProperties": item}),
            Shape::One => item,
        };
        // v3 allows no marks beside a $ref, so references with marks or defaults are wrapped.
        let struct_value = field.shape == Shape::One && field.message().is_some() && !field.pointer();
        if self.spec == Spec::V3 && out.get("$ref").is_some() && struct_value {
            out = json!({"allOf": [out], "default": {}});
        }
        let list_type = match field.list {
            ListType::Unmarked => None,
            ListType::Atomic => Some("atomic"),
            ListType::Set => Some("set"),
            ListType::Map => Some("map"),
        };
        if let (Some(list_type), Shape::List) = (list_type, field.shape) {
            out["x-kubernetes-list-type"] = list_type.into();
        }
        if !field.keys.is_empty() {
            out["x-kubernetes-list-map-keys"] = field.keys.into();
        }
        if !field.merge_key.is_empty() {
            out["x-kubernetes-patch-merge-key"] = field.merge_key.into();
        }
        if !field.strategy.is_empty() {
            out["x-kubernetes-patch-strategy"] = field.strategy.into();
        }
        if field.atomic() && field.shape == Shape::Map {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        out
    }

    fn item(&mut self, field: &'static Field) -> Value {
        match field.kind {
            Kind::Str => json!({"type": "string"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 => json!({"type": "integer", "format": "int32"}),
            Kind::Int64 => json!({"type": "integer", "format": "int64"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Bytes => json!({"type": "string", "format": "byte"}),
            Kind::Duration => self.special(&format!("{META}Duration"), json!({"type": "string"})),
            Kind::Time => {
                self.special(&format!("{META}Time"), json!({"type": "string", "format": "date-time"}))
            }
            Kind::MicroTime => {
                self.special(&format!("{META}MicroTime"), json!({"type": "string", "format": "date-time"}))
            }
            Kind::Quantity => {
                let schema = match self.spec {
                    Spec::V2 => json!({"type": "string"}),
                    Spec::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                };
                self.special("io.k8s.apimachinery.pkg.api.resource.Quantity", schema)
            }
            Kind::IntOrString => {
                let schema = match self.spec {
                    Spec::V2 => json!({"type": "string", "format": "int-or-string"}),
                    Spec::V3 => {
                        json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
                    }
                };
                self.special("io.k8s.apimachinery.pkg.util.intstr.IntOrString", schema)
            }
            Kind::Raw => {
                self.special("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"}))
            }
            Kind::FieldsV1 => self.special(&format!("{META}FieldsV1"), json!({"type": "object"})),
            Kind::Json => self.special(&format!("{EXTENSIONS}JSON"), json!({})),
            Kind::Strings => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Object(ty) => {
                self.add(ty);
                reference(ty.definition, self.spec)
            }
            Kind::SchemaOrBool(ty) => self.union(ty, "JSONSchemaPropsOrBool"),
            Kind::SchemaOrArray(ty) => self.union(ty, "JSONSchemaPropsOrArray"),
            Kind::SchemaOrStrings(ty) => self.union(ty, "JSONSchemaPropsOrStringArray"),
        }
    }

    fn union(&mut self, ty: &'static Type, name: &str) -> Value {
        self.add(ty);
        self.special(&format!("{EXTENSIONS}{name}"), json!({}))
    }

    fn special(&mut self, name: &str, schema: Value) -> Value {
        self.out.entry(name.to_owned()).or_insert(schema);
        reference(name, self.spec)
    }
}
