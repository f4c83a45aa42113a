//! The rules of one subject with many bindings, by what they allow: so a decision is a few look-ups,
//! however many bindings and rules there are.
//!
//! Every rule is taken apart into its combinations of verb, group, resource and name, each of which keeps
//! the first grant that gives it. A request then asks for the combinations that would allow it, with `*` for
//! each part, and the first grant among those found is the one that a walk over all would have found.
//! Tables are made when first asked for, kept within a bound, and dropped when what they are made of changes.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Grant, RoleName};
use crate::auth::Attributes;
use crate::rbac::rule::Rule;

/// Bindings of one subject up to which walking over them is as good as a table.
pub(super) const FEW: usize = 16;

/// Combinations of one table: with more, the subject's rules are walked over. Bounds the time that it takes
/// to make one, to some 10 ms.
const TABLE_MAX: usize = 1 << 17;

/// Combinations of all tables that are kept, of some 40 bytes each.
const KEPT_MAX: usize = 1 << 18;

const ALL: &str = "*";

/// Numbers of words; a combination is made of them, so that it takes 16 bytes and is compared exactly.
type Word = u32;

/// For a rule without names.
const ANY_NAME: Word = 0;

#[derive(Debug, Default)]
pub(super) struct Table {
    words: HashMap<Box<str>, Word>,
    /// Verb, group, resource (as rules have it, such as `pods/log`) and name → position of the grant.
    resources: HashMap<[Word; 4], usize>,
    /// Verb and path.
    paths: HashMap<[Word; 2], usize>,
    /// Verb and the beginning of paths.
    beginnings: HashMap<[Word; 2], usize>,
    /// Of the longest of these beginnings, in bytes.
    longest: usize,
    /// Roles that bindings of the subject name and that are not there.
    pub(super) absent: Vec<RoleName>,
}

impl Table {
    /// `None` if it would be too large. `rules` finds those of a role.
    pub(super) fn new<'a>(
        grants: &'a [Arc<Grant>],
        rules: impl Fn(&'a RoleName) -> Option<&'a [Rule]>,
    ) -> Option<Self> {
        let mut table = Self::default();
        let mut size = 0;
        let mut seen = HashSet::new();
        for (position, grant) in grants.iter().enumerate() {
            // A second binding to the same role is never the first that allows something.
            if !seen.insert(&grant.role) {
                continue;
            }
            let Some(rules) = rules(&grant.role) else {
                table.absent.push(grant.role.clone());
                continue;
            };
            for rule in rules {
                size += combinations(rule);
                if size > TABLE_MAX {
                    return None;
                }
                table.add(rule, position);
            }
        }
        Some(table)
    }

    /// The position of the first grant that allows this.
    pub(super) fn first(&self, what: &Attributes<'_>) -> Option<usize> {
        if what.resource.is_empty() { self.first_of_path(what) } else { self.first_of_resource(what) }
    }

    fn first_of_resource(&self, what: &Attributes<'_>) -> Option<usize> {
        let (with_sub, any_with_sub);
        let resources = match what.subresource {
            "" => [self.word(ALL), self.word(what.resource), None],
            sub => {
                with_sub = format!("{}/{sub}", what.resource);
                any_with_sub = format!("{ALL}/{sub}");
                [self.word(ALL), self.word(&with_sub), self.word(&any_with_sub)]
            }
        };
        let names = [Some(ANY_NAME), self.word(what.name)];
        let mut first = None;
        for verb in [self.word(ALL), self.word(what.verb)].into_iter().flatten() {
            for group in [self.word(ALL), self.word(what.group)].into_iter().flatten() {
                for resource in resources.into_iter().flatten() {
                    for name in names.into_iter().flatten() {
                        first = earlier(first, self.resources.get(&[verb, group, resource, name]));
                    }
                }
            }
        }
        first
    }

    fn first_of_path(&self, what: &Attributes<'_>) -> Option<usize> {
        let mut first = None;
        let ends = what.path.char_indices().map(|(end, _)| end).chain([what.path.len()]);
        let beginnings =
            ends.take_while(|end| *end <= self.longest).filter_map(|end| self.word(&what.path[..end]));
        let beginnings: Vec<Word> = beginnings.collect();
        for verb in [self.word(ALL), self.word(what.verb)].into_iter().flatten() {
            if let Some(path) = self.word(what.path) {
                first = earlier(first, self.paths.get(&[verb, path]));
            }
            for beginning in &beginnings {
                first = earlier(first, self.beginnings.get(&[verb, *beginning]));
            }
        }
        first
    }

    /// `None` for a word that no rule has.
    fn word(&self, text: &str) -> Option<Word> {
        self.words.get(text).copied()
    }

    fn add(&mut self, rule: &Rule, position: usize) {
        let [verbs, groups, resources, names] =
            [&rule.verbs, &rule.groups, &rule.resources, &rule.names].map(|list| self.numbered(list));
        let names = if names.is_empty() { vec![ANY_NAME] } else { names };
        for &verb in &verbs {
            for &group in &groups {
                for &resource in &resources {
                    for &name in &names {
                        self.resources.entry([verb, group, resource, name]).or_insert(position);
                    }
                }
            }
        }
        for url in &rule.urls {
            let beginning = url.strip_suffix(ALL);
            let word = self.number(beginning.unwrap_or(url));
            self.longest = self.longest.max(beginning.map_or(0, str::len));
            let paths = if beginning.is_some() { &mut self.beginnings } else { &mut self.paths };
            for &verb in &verbs {
                paths.entry([verb, word]).or_insert(position);
            }
        }
    }

    fn numbered(&mut self, list: &[String]) -> Vec<Word> {
        list.iter().map(|text| self.number(text)).collect()
    }

    fn number(&mut self, text: &str) -> Word {
        if let Some(word) = self.word(text) {
            return word;
        }
        // From 1 on; 0 is ANY_NAME. There are fewer words than combinations and roles, so they fit.
        let word = Word::try_from(self.words.len() + 1).expect("a table's words are bounded by its size");
        self.words.insert(text.into(), word);
        word
    }

    fn size(&self) -> usize {
        self.resources.len() + self.paths.len() + self.beginnings.len() + self.words.len()
    }
}

fn earlier(one: Option<usize>, other: Option<&usize>) -> Option<usize> {
    [one, other.copied()].into_iter().flatten().min()
}

/// How many a rule is taken apart into.
fn combinations(rule: &Rule) -> usize {
    let lists = [rule.groups.len(), rule.resources.len(), rule.names.len().max(1)];
    let resources = lists.into_iter().fold(1, usize::saturating_mul);
    // Verbs alone cost too: their words are kept.
    rule.verbs
        .len()
        .saturating_mul(resources.saturating_add(rule.urls.len()))
        .saturating_add(rule.verbs.len())
}

/// The tables that have been asked for, by subject; `None` for one that would be too large.
pub(super) struct Tables<Key> {
    kept: RwLock<Kept<Key>>,
}

struct Kept<Key> {
    tables: HashMap<Key, Option<Arc<Table>>>,
    size: usize,
}

impl<Key> Default for Tables<Key> {
    fn default() -> Self {
        Self { kept: RwLock::new(Kept { tables: HashMap::new(), size: 0 }) }
    }
}

impl<Key: Hash + Eq> Tables<Key> {
    /// The table of a subject, made now if it is not there.
    pub(super) fn get(&self, key: Key, make: impl FnOnce() -> Option<Table>) -> Option<Arc<Table>> {
        if let Some(table) = self.kept.read().tables.get(&key) {
            return table.clone();
        }
        // Two that ask at once both make it, which is rare and leaves the same.
        let table = make().map(Arc::new);
        let size = 1 + table.as_deref().map_or(0, Table::size);
        let mut kept = self.kept.write();
        if kept.size + size > KEPT_MAX {
            *kept = Kept { tables: HashMap::new(), size: 0 };
        }
        if kept.tables.insert(key, table.clone()).is_none() {
            kept.size += size;
        }
        table
    }

    /// Drops those that are no longer true.
    pub(super) fn drop_those(&mut self, stale: impl Fn(&Key) -> bool) {
        let kept = self.kept.get_mut();
        kept.tables.retain(|key, _| !stale(key));
        kept.size = kept.tables.values().map(|table| 1 + table.as_deref().map_or(0, Table::size)).sum();
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        let kept = self.kept.read();
        (kept.tables.len(), kept.size)
    }
}
