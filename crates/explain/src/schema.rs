//! What the answers look like, learned from the types themselves.
//!
//! A type is deserialized from a source that has whatever it is asked for, and takes note of what that is; so
//! what is published can't differ from what is sent. A field without which a value can't be read is required.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::node::NodeExplanation;
use crate::pending::PendingExplanation;
use crate::pod::{PodExplanation, PodExplanationList};
use crate::start::StartExplanation;
use crate::trace::{TraceComparison, TraceExplanation};

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Text,
    Bool,
    Integer,
    Number,
    List(Box<Shape>),
    /// Values by name.
    Map(Box<Shape>),
    /// One of these words.
    Word(Vec<&'static str>),
    /// A type, by its name.
    Object(&'static str),
}

/// A field of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// What it is for.
    pub description: &'static str,
}

/// The fields of types, by the types' names.
pub type Types = BTreeMap<&'static str, Vec<Field>>;

/// Type, field and what it is for, from the comments of the types; a type itself has no field's name.
static DESCRIPTIONS: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/descriptions.rs"));

/// What a type is for, or a field of it. Nothing where that is not written down.
pub fn description(of: &str, field: &str) -> &'static str {
    let found = DESCRIPTIONS.iter().find(|(name, own, _)| (*name, *own) == (of, field));
    found.map_or("", |(.., text)| text)
}

/// Every type that an answer of the group is, or is made of.
pub fn types() -> Types {
    let mut types = Types::new();
    for answer in ANSWERS {
        types.append(&mut answer(None).expect("answers are made of what a source has: a test looks at them"));
    }
    let names: Vec<(&'static str, &'static str)> =
        types.iter().flat_map(|(name, fields)| fields.iter().map(|field| (*name, field.name))).collect();
    for (name, field) in names {
        // Read once more without it, each answer; those that don't have the type don't miss it.
        let required = ANSWERS.iter().any(|answer| answer(Some((name, field))).is_none());
        let own = types.get_mut(name).and_then(|fields| fields.iter_mut().find(|own| own.name == field));
        if let Some(own) = own {
            own.required = required;
        }
    }
    types
}

/// Type and field that an answer is read without, if any.
type Without = Option<(&'static str, &'static str)>;

/// Every answer, learned: as it is, or without a field.
const ANSWERS: [fn(Without) -> Option<Types>; 7] = [
    learn::<PodExplanation>,
    learn::<PodExplanationList>,
    learn::<NodeExplanation>,
    learn::<PendingExplanation>,
    learn::<StartExplanation>,
    learn::<TraceExplanation>,
    learn::<TraceComparison>,
];

/// The types that this one is made of; nothing if it can't be read without the field of a type.
fn learn<T: for<'de> Deserialize<'de>>(without: Without) -> Option<Types> {
    let (notes, shape) = (RefCell::default(), RefCell::new(None));
    T::deserialize(Source { notes: &notes, shape: &shape, without }).ok()?;
    Some(notes.into_inner())
}

#[derive(Debug)]
struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

impl de::Error for Unreadable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Has whatever is asked for, and notes what that was.
#[derive(Clone, Copy)]
struct Source<'a> {
    notes: &'a RefCell<Types>,
    shape: &'a RefCell<Option<Shape>>,
    /// A type, and a field that it does not find.
    without: Without,
}

impl Source<'_> {
    fn note(self, shape: Shape) {
        *self.shape.borrow_mut() = Some(shape);
    }

    /// Reads a part, and says what it was.
    fn part<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Shape), Unreadable> {
        let shape = RefCell::new(None);
        let value = seed.deserialize(Source { shape: &shape, ..self })?;
        let shape = shape.into_inner().ok_or_else(|| Unreadable("it read nothing".into()))?;
        Ok((value, shape))
    }
}

macro_rules! plain {
    ($($method:ident $visit:ident $value:expr, $shape:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
            self.note($shape);
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Source<'_> {
    type Error = Unreadable;

    plain! {
        deserialize_bool visit_bool false, Shape::Bool;
        deserialize_u8 visit_u8 0, Shape::Integer;
        deserialize_u16 visit_u16 0, Shape::Integer;
        deserialize_u32 visit_u32 0, Shape::Integer;
        deserialize_u64 visit_u64 0, Shape::Integer;
        deserialize_i8 visit_i8 0, Shape::Integer;
        deserialize_i16 visit_i16 0, Shape::Integer;
        deserialize_i32 visit_i32 0, Shape::Integer;
        deserialize_i64 visit_i64 0, Shape::Integer;
        deserialize_f32 visit_f32 0.0, Shape::Number;
        deserialize_f64 visit_f64 0.0, Shape::Number;
        deserialize_str visit_str "", Shape::Text;
        deserialize_string visit_str "", Shape::Text;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_seq(One { source: self, done: false })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_map(OneByName { source: self, done: false })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.note(Shape::Object(name));
        visitor.visit_map(Fields { source: self, name, left: fields, next: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.note(Shape::Word(variants.to_vec()));
        visitor.visit_enum(First(variants[0]))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unreadable> {
        Err(Unreadable("what it asks for is not said".into()))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// A list with one element.
struct One<'a> {
    source: Source<'a>,
    done: bool,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Unreadable;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Unreadable> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let (value, shape) = self.source.part(seed)?;
        self.source.note(Shape::List(Box::new(shape)));
        Ok(Some(value))
    }
}

/// A map with one entry.
struct OneByName<'a> {
    source: Source<'a>,
    done: bool,
}

impl<'de> MapAccess<'de> for OneByName<'_> {
    type Error = Unreadable;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Unreadable> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        Ok(Some(self.source.part(seed)?.0))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unreadable> {
        let (value, shape) = self.source.part(seed)?;
        self.source.note(Shape::Map(Box::new(shape)));
        Ok(value)
    }
}

/// A type's fields, one after the other.
struct Fields<'a> {
    source: Source<'a>,
    name: &'static str,
    left: &'static [&'static str],
    next: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Unreadable;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Unreadable> {
        while let Some((first, rest)) = self.left.split_first() {
            self.left = rest;
            if self.source.without == Some((self.name, first)) {
                continue;
            }
            self.next = Some(first);
            return seed.deserialize(BorrowedStrDeserializer::new(first)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unreadable> {
        let name = self.next.take().ok_or_else(|| Unreadable("a value without a name".into()))?;
        let (value, shape) = self.source.part(seed)?;
        let mut notes = self.source.notes.borrow_mut();
        let fields = notes.entry(self.name).or_default();
        if fields.iter().all(|field| field.name != name) {
            let description = description(self.name, name);
            fields.push(Field { name, shape, required: true, description });
        }
        Ok(value)
    }
}

/// The first word of those that are allowed.
struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Unreadable;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Unreadable> {
        Ok((seed.deserialize(BorrowedStrDeserializer::new(self.0))?, self))
    }
}

impl<'de> VariantAccess<'de> for First {
    type Error = Unreadable;

    fn unit_variant(self) -> Result<(), Unreadable> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Unreadable> {
        Err(Unreadable("answers have words only".into()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Unreadable> {
        Err(Unreadable("answers have words only".into()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Unreadable> {
        Err(Unreadable("answers have words only".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_learned_with_what_they_need() {
        let types = types();
        let told = |name: &str| -> Vec<String> {
            let fields = types[name].iter();
            fields
                .map(|field| {
                    let mark = if field.required { "" } else { "?" };
                    format!("{}{mark}: {:?}", field.name, field.shape)
                })
                .collect()
        };
        assert_eq!(
            told("Reach"),
            ["from: Text", "answer: Word([\"yes\", \"no\", \"some\"])", "reason: Text"]
        );
        assert_eq!(told("PodSecurity"), ["level: Text", "next?: Text", "keptFromItBy?: List(Text)"]);
        assert_eq!(
            told("PodExplanationList")[3..],
            ["items: List(Object(\"PodExplanation\"))", "missing?: List(Object(\"Missing\"))"]
        );
        assert_eq!(told("Process"), ["pid?: Integer", "command: Text", "pod?: Text", "container?: Text"]);
        for answer in [
            "PodExplanation",
            "NodeExplanation",
            "PendingExplanation",
            "StartExplanation",
            "TraceExplanation",
            "TraceComparison",
        ] {
            let first: Vec<&str> = types[answer].iter().map(|field| field.name).collect();
            assert!(first.contains(&"kind") && first.contains(&"apiVersion"), "{answer}: {first:?}");
        }
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        fn named(shape: &Shape) -> Option<&'static str> {
            match shape {
                Shape::Object(name) => Some(name),
                Shape::List(of) | Shape::Map(of) => named(of),
                _ => None,
            }
        }
        let types = types();
        for field in types.values().flatten() {
            // One without fields is noted by nobody.
            let there =
                named(&field.shape).is_none_or(|name| name == "ListMetadata" || types.contains_key(name));
            assert!(there, "{field:?}");
        }
    }
    #[test]
    fn every_field_says_what_it_is_for() {
        let types = types();
        let mut silent: Vec<String> = Vec::new();
        for (name, fields) in &types {
            silent.extend(description(name, "").is_empty().then(|| (*name).to_owned()));
            let without = fields.iter().filter(|field| field.description.is_empty());
            silent.extend(without.map(|field| format!("{name}.{}", field.name)));
        }
        assert_eq!(silent, Vec::<String>::new(), "{} without a comment", silent.len());
        assert_eq!(
            description("HostPort", "hostIP"),
            "The address that it is opened on; 0.0.0.0 is every address."
        );
    }
}
