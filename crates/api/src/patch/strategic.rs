//! Strategic merge patch: like a JSON merge patch, but lists are merged by key where the schema table
//! says so, and directives in the patch say what merging alone can't.
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` | in an object: it replaces the old one; as a list's element: the list replaces the old one |
//! | `$patch: delete` | in an object: empty it; in an element with its key: drop that element |
//! | `$retainKeys: [k…]` | drop the old object's other keys |
//! | `$deleteFromPrimitiveList/FIELD: [v…]` | drop these from a list of scalars |
//! | `$setElementOrder/FIELD: [e…]` | the order of the merged list's elements |
//!
//! Where the patch is silent about order, elements it names go before those only the server has, unless
//! the old list had such an element in front; that is upstream's documented ordering.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::Error;
use crate::schema::{Field, Kind, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Applies `patch` to `current`, whose type is `ty`.
pub fn strategic(current: &Value, patch: &Value, ty: &'static Type) -> Result<Value, Error> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(Error::BadRequest("invalid JSON document".into()));
    };
    Ok(Value::Object(merge_object(current.clone(), patch.clone(), Some(ty))?))
}

/// How a list is merged.
#[derive(Clone, Copy)]
struct Merge {
    /// Empty for scalars.
    key: &'static str,
    item: Option<&'static Type>,
}

fn merge_object(mut old: Object, mut patch: Object, ty: Option<&'static Type>) -> Result<Object, Error> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(Error::Internal(format!(
                "unknown patch type '{}' in map: {}",
                go(&directive),
                go(&patch.into())
            ))),
        };
    }
    retain_keys(&mut old, &mut patch)?;
    ordered_lists(&mut old, &mut patch, ty)?;
    for (name, new) in patch {
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            delete_scalars(&mut old, name, new)?;
            continue;
        }
        if new.is_null() {
            old.remove(&name);
            continue;
        }
        let field = ty.and_then(|t| t.field(&name));
        let merged = match (old.remove(&name), new) {
            (Some(Value::Object(old)), Value::Object(new)) => match field {
                Some(field) if field.strategy.split(',').any(|s| s == "replace") => {
                    without_directives(Value::Object(new))
                }
                _ => Value::Object(merge_object(old, new, field.and_then(struct_type))?),
            },
            (Some(Value::Array(old)), Value::Array(new)) => match field.and_then(merged_by) {
                Some(merge) => Value::Array(merge_list(old, new, merge)?),
                None => without_directives(Value::Array(new)),
            },
            (_, new) => without_directives(new),
        };
        old.insert(name, merged);
    }
    Ok(old)
}

/// The type of a field that holds one struct. Maps and embedded objects have no schema of their own.
fn struct_type(field: &'static Field) -> Option<&'static Type> {
    match (field.shape, field.kind) {
        (Shape::One, Kind::Object(t)) => Some(t),
        _ => None,
    }
}

fn merged_by(field: &'static Field) -> Option<Merge> {
    (field.shape == Shape::List && field.merges())
        .then(|| Merge { key: field.merge_key, item: field.message() })
}

fn retain_keys(old: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || Error::BadRequest("invalid patch format of retainKeys directive".into());
    let Value::Array(keys) = directive else { return Err(bad()) };
    let keep: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |key: &String| keep.contains(key.as_str());
    if patch.iter().any(|(key, value)| !value.is_null() && !key.starts_with('$') && !listed(key)) {
        return Err(bad());
    }
    old.retain(|key, _| listed(key));
    Ok(())
}

/// Merges the lists that come with a `$setElementOrder` and takes both out of the patch.
fn ordered_lists(old: &mut Object, patch: &mut Object, ty: Option<&'static Type>) -> Result<(), Error> {
    let names: Vec<String> = patch.keys().filter_map(|k| k.strip_prefix(ORDER)).map(str::to_owned).collect();
    for name in names {
        let Some(Value::Array(order)) = patch.remove(&format!("{ORDER}{name}")) else {
            return Err(Error::BadRequest("invalid patch format of setElementOrder list".into()));
        };
        if matches!(patch.get(&name), Some(Value::Null)) {
            continue;
        }
        let merge = ty.and_then(|t| t.field(&name)).and_then(merged_by);
        let list = |object: &mut Object| match object.get(&name) {
            Some(Value::Array(_)) => object.remove(&name).and_then(|v| match v {
                Value::Array(items) => Some(items),
                _ => None,
            }),
            _ => None,
        };
        let (before, new) = (list(old), list(patch));
        let Some(merge) = merge else {
            // A list that is replaced anyway: the order directive says nothing new.
            if let Some(items) = new.or(before) {
                old.insert(name, without_directives(Value::Array(items)));
            }
            continue;
        };
        if let Some(new) = &new {
            in_order(new, &order, merge.key)?;
        }
        let merged = match (before.clone(), new) {
            (Some(before), Some(new)) => merge_list(before, new, merge)?,
            (Some(before), None) => before,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Value::Array(items) => items,
                _ => Vec::new(),
            },
            (None, None) => continue,
        };
        old.insert(name, Value::Array(arrange(merged, &order, &before.unwrap_or_default(), merge.key)));
    }
    Ok(())
}

/// The patch's elements must come in the order that its directive gives.
fn in_order(items: &[Value], order: &[Value], key: &str) -> Result<(), Error> {
    let mut rest = order.iter();
    for item in items {
        if item.get(PATCH).is_some() {
            continue;
        }
        if !key.is_empty() && item.get(key).is_none() {
            return Err(no_key(item, key));
        }
        if !rest.any(|o| same(o, item, key)) {
            let (items, order) = (go(&items.to_vec().into()), go(&order.to_vec().into()));
            return Err(Error::Internal(format!(
                "The order in patch list:\n{items}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, merge: Merge) -> Result<Vec<Value>, Error> {
    if merge.key.is_empty() {
        let mut seen = HashSet::new();
        let merged = old.iter().chain(&new).filter(|item| seen.insert(*item)).cloned().collect();
        return Ok(arrange(merged, &new, &old, ""));
    }
    let before = old.clone();
    let (mut merged, new) = special_elements(old, new, merge.key)?;
    let order = new.clone();
    // Over keys of its own, as what it tells the places in is changed meanwhile.
    let mut places: HashMap<Value, usize> =
        places(&merged, merge.key).into_iter().map(|(key, place)| (key.clone(), place)).collect();
    for item in new {
        let Value::Object(patch) = item else {
            return Err(Error::Unprocessable("invalid JSON document".into()));
        };
        let Some(key) = patch.get(merge.key) else {
            return Err(no_key(&Value::Object(patch), merge.key));
        };
        match places.get(key).and_then(|place| merged.get_mut(*place)) {
            Some(Value::Object(old)) => *old = merge_object(std::mem::take(old), patch, merge.item)?,
            _ => {
                places.insert(key.clone(), merged.len());
                merged.push(without_directives(Value::Object(patch)));
            }
        }
    }
    Ok(arrange(merged, &order, &before, merge.key))
}

/// Carries out the elements that are directives; leaves the others of the patch.
fn special_elements(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut rest = Vec::new();
    let mut replace = false;
    let mut unwanted = HashSet::new();
    for item in new {
        let Some(directive) = item.get(PATCH) else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                unwanted.insert(item.get(key).ok_or_else(|| no_key(&item, key))?.clone());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(Error::Internal("merging lists cannot yet be specified in the patch".into()));
            }
            _ => {
                return Err(Error::Internal(format!(
                    "unknown patch type '{}' in map: {}",
                    go(directive),
                    go(&item)
                )));
            }
        }
    }
    if replace {
        old.clear();
    }
    old.retain(|item| item.get(key).is_none_or(|key| !unwanted.contains(key)));
    Ok((old, rest))
}

fn delete_scalars(old: &mut Object, name: &str, unwanted: Value) -> Result<(), Error> {
    let Value::Array(unwanted) = unwanted else {
        return Err(Error::BadRequest("invalid patch format of primitive list".into()));
    };
    let unwanted: HashSet<Value> = unwanted.into_iter().collect();
    if let Some(Value::Array(items)) = old.get_mut(name) {
        items.retain(|item| !unwanted.contains(item));
    }
    Ok(())
}

/// Where each element of a list stands first, by what tells it from others: its key, or a scalar's value.
fn places<'a>(list: &'a [Value], key: &str) -> HashMap<&'a Value, usize> {
    let mut places = HashMap::new();
    for (place, item) in list.iter().enumerate() {
        if let Some(identity) = identity(item, key) {
            places.entry(identity).or_insert(place);
        }
    }
    places
}

fn identity<'a>(item: &'a Value, key: &str) -> Option<&'a Value> {
    if key.is_empty() { Some(item) } else { item.get(key) }
}

/// Puts a merged list in order: elements of the patch as `order` has them, the others as in `before`,
/// and of one each the server's own first only if it stood in front before.
fn arrange(merged: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let (ordered, stood) = (places(order, key), places(before, key));
    let place = |places: &HashMap<&Value, usize>, item: &Value| places.get(identity(item, key)?).copied();
    let mut ours = Vec::new();
    let mut servers = Vec::new();
    for item in merged {
        let before = place(&stood, &item);
        match place(&ordered, &item) {
            Some(place) => ours.push((place, before, item)),
            None => servers.push((before, item)),
        }
    }
    ours.sort_by_key(|(place, ..)| *place);
    servers.sort_by_key(|(before, _)| before.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + servers.len());
    let (mut ours, mut servers) = (ours.into_iter().peekable(), servers.into_iter().peekable());
    loop {
        let server_first = match (servers.peek(), ours.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((server, _)), Some((_, own, _))) => matches!((server, own), (Some(s), Some(o)) if s < o),
        };
        let next = if server_first {
            servers.next().map(|(_, item)| item)
        } else {
            ours.next().map(|(_, _, item)| item)
        };
        out.extend(next);
    }
}

/// Two elements are the same: by key, or by value in lists of scalars.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    identity(a, key).is_some_and(|identity_of_a| Some(identity_of_a) == identity(b, key))
}

/// A part of a patch for which there is nothing to merge with: what it says, less directives and nulls.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_directives(value))).collect())
        }
        Value::Array(items) => {
            let kept = items.into_iter().filter(|item| item.get(PATCH).is_none());
            Value::Array(kept.map(without_directives).collect())
        }
        scalar => scalar,
    }
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ORDER)
}

fn no_key(item: &Value, key: &str) -> Error {
    Error::Internal(format!("map: {} does not contain declared merge key: {key}", go(item)))
}

/// Go's `%v`, as upstream's messages show values.
pub fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go(v))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        scalar => scalar.to_string(),
    }
}
