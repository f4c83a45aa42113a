//! The group's kinds for OpenAPI: what the answers' types are, as schemas.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skiff_api::openapi::Own;
use skiff_explain::schema::{Field, Shape, description, types};
use skiff_explain::{GROUP, VERSION};

/// The parameters of a trace, as [`super::traces`] reads them.
const OF_TRACES: [(&str, &str); 4] =
    [("from", "string"), ("to", "string"), ("compare", "boolean"), ("live", "boolean")];

pub(crate) fn own() -> Own {
    let types = types();
    let mut definitions: BTreeMap<String, Value> =
        types.iter().map(|(name, fields)| (definition(name), schema(name, fields))).collect();
    // It has no fields to be known by.
    definitions.insert(definition("ListMetadata"), json!({"type": "object"}));
    let kinds = types.iter().filter(|(_, fields)| is_kind(fields));
    Own {
        group: GROUP,
        version: VERSION,
        kinds: kinds.map(|(name, _)| (*name, definition(name))).collect(),
        definitions,
        parameters: [("traces", OF_TRACES.to_vec())].into(),
    }
}

/// `dev.skiff.explain.v1.PodExplanation`.
fn definition(name: &str) -> String {
    let group: Vec<&str> = GROUP.split('.').rev().collect();
    format!("{}.{VERSION}.{name}", group.join("."))
}

fn is_kind(fields: &[Field]) -> bool {
    ["apiVersion", "kind"].iter().all(|name| fields.iter().any(|field| field.name == *name))
}

fn schema(name: &str, fields: &[Field]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), described(field))).collect();
    let mut required: Vec<&str> =
        fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    required.sort_unstable();
    let mut out = json!({"type": "object", "description": description(name, ""), "properties": properties});
    if !required.is_empty() {
        out["required"] = required.into();
    }
    if is_kind(fields) {
        out["x-kubernetes-group-version-kind"] = json!([{"group": GROUP, "version": VERSION, "kind": name}]);
    }
    out
}

fn described(field: &Field) -> Value {
    let mut out = value(&field.shape);
    out["description"] = field.description.into();
    out
}

fn value(shape: &Shape) -> Value {
    match shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Integer => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::List(of) => json!({"type": "array", "items": value(of)}),
        Shape::Map(of) => json!({"type": "object", "additionalProperties": value(of)}),
        Shape::Word(words) => json!({"type": "string", "enum": words}),
        Shape::Object(name) => json!({"$ref": format!("#/definitions/{}", definition(name))}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_served_has_a_schema() {
        let own = own();
        for listed in super::super::listed() {
            for kind in std::iter::once(listed.kind).chain(listed.subresources.iter().map(|sub| sub.kind)) {
                let schema = &own.definitions[&own.kinds[kind]];
                assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], kind);
                assert!(
                    schema["properties"]["metadata"].is_object() || kind.starts_with("Trace"),
                    "{schema}"
                );
            }
        }
        let pod = &own.definitions["dev.skiff.explain.v1.PodExplanation"];
        let mut namespaces = pod["properties"]["namespaces"].clone();
        assert!(namespaces["description"].take().is_string());
        assert_eq!(
            namespaces,
            json!({"type": "array", "description": null,
                "items": {"$ref": "#/definitions/dev.skiff.explain.v1.Namespace"}})
        );
        for (name, schema) in own.definitions.iter().filter(|(name, _)| !name.ends_with("ListMetadata")) {
            let properties = schema["properties"].as_object().expect("it has fields");
            for (field, property) in properties.iter().chain([(name, schema)]) {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{name} {field}");
            }
        }
    }
}
