//! Who has which rules: roles by name and bindings by subject, and the decision over them.
//!
//! A decision looks at the bindings of one user and of its groups alone, however many others there are, and
//! for those who have many of their own at a [`table`] of what these allow.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use self::table::{FEW, Table, Tables};
use super::rule::Rule;
use crate::auth::{Attributes, Identity};
use crate::derived::Derive;
use crate::object::Object;
use crate::resources::Resource;

mod table;

/// A binding as one of its subjects has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grant {
    binding: String,
    /// Empty for a binding of the whole cluster.
    namespace: String,
    role: RoleName,
    subject: Subject,
}

/// The role that a binding names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RoleName {
    kind: String,
    name: String,
}

impl From<&RoleRef> for RoleName {
    fn from(reference: &RoleRef) -> Self {
        Self { kind: reference.kind.clone(), name: reference.name.clone() }
    }
}

/// As upstream's lister words what it has not.
impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.to_ascii_lowercase();
        write!(f, "{kind}.rbac.authorization.k8s.io {:?} not found", self.name)
    }
}

/// As upstream's reason of an allowed review: which binding gave it, and to whom.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {:?}", self.binding)?,
            namespace => write!(f, "RoleBinding {:?}", format!("{}/{namespace}", self.binding))?,
        }
        write!(f, " of {} {:?} to {} ", self.role.kind, self.role.name, self.subject.kind)?;
        match self.subject.kind.as_str() {
            "ServiceAccount" => {
                let namespace = self.subject.namespace.as_deref().filter(|n| !n.is_empty());
                write!(f, "{:?}", format!("{}/{}", self.subject.name, namespace.unwrap_or(&self.namespace)))
            }
            _ => write!(f, "{:?}", self.subject.name),
        }
    }
}

/// What binds one subject in one namespace, or in the cluster.
#[derive(Default)]
struct Held {
    /// Names this value among all that ever were, for its table.
    number: u64,
    grants: Vec<Arc<Grant>>,
}

type BySubject = HashMap<Box<str>, Held>;

/// Bindings of one namespace, or of the cluster.
#[derive(Default)]
struct Grants {
    users: BySubject,
    groups: BySubject,
}

impl Grants {
    fn of<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a Held> {
        let users = self.users.get(&*who.user).into_iter();
        let groups = who.groups.iter().filter_map(|group| self.groups.get(&**group));
        users.chain(groups)
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

#[derive(Default)]
pub(crate) struct Index {
    cluster_roles: HashMap<Box<str>, Vec<Rule>>,
    /// By namespace and name.
    roles: HashMap<Box<str>, HashMap<Box<str>, Vec<Rule>>>,
    cluster: Grants,
    namespaces: HashMap<Box<str>, Grants>,
    /// Of those who are bound often. By namespace, so that a change of one namespace's role leaves others'
    /// alone, and by [`Held::number`].
    tables: Tables<(Box<str>, u64)>,
    /// How many [`Held`] there ever were.
    held: u64,
}

/// What the index says of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Allowed(Arc<Grant>),
    /// With the roles that bindings of the user name and that are not there.
    Denied(Vec<RoleName>),
}

impl Index {
    /// The decision, a pure function of roles, bindings, user and request.
    pub(crate) fn decide(&self, who: &Identity, what: &Attributes<'_>) -> Verdict {
        let mut absent: Vec<RoleName> = Vec::new();
        for held in self.held(who, what.namespace) {
            let grant = match self.table(held) {
                Some(table) => match table.first(what) {
                    Some(position) => Some(&held.grants[position]),
                    None => {
                        note(&mut absent, &table.absent);
                        None
                    }
                },
                None => self.walk(held, what, &mut absent),
            };
            if let Some(grant) = grant {
                return Verdict::Allowed(Arc::clone(grant));
            }
        }
        Verdict::Denied(absent)
    }

    /// The first grant that allows this; notes which roles are missing on the way to it.
    fn walk<'a>(
        &self,
        held: &'a Held,
        what: &Attributes<'_>,
        absent: &mut Vec<RoleName>,
    ) -> Option<&'a Arc<Grant>> {
        held.grants.iter().find(|grant| match self.rules(&grant.namespace, &grant.role) {
            Some(rules) => rules.iter().any(|rule| rule.allows(what)),
            None => {
                note(absent, std::slice::from_ref(&grant.role));
                false
            }
        })
    }

    /// `None` where walking is as good, or where a table would be too large.
    fn table(&self, held: &Held) -> Option<Arc<Table>> {
        let (first, many) = (held.grants.first()?, held.grants.len() > FEW);
        let make = || Table::new(&held.grants, |role| self.rules(&first.namespace, role));
        many.then(|| self.tables.get((first.namespace.as_str().into(), held.number), make))?
    }

    /// All rules of a user in a namespace (empty: cluster-wide), and the roles that are missing.
    pub(crate) fn rules_of(&self, who: &Identity, namespace: &str) -> (Vec<Rule>, Vec<RoleName>) {
        let (mut rules, mut absent) = (Vec::new(), Vec::new());
        for grant in self.held(who, namespace).flat_map(|held| &held.grants) {
            match self.rules(&grant.namespace, &grant.role) {
                Some(more) => rules.extend(more.iter().cloned()),
                None if absent.contains(&grant.role) => {}
                None => absent.push(grant.role.clone()),
            }
        }
        (rules, absent)
    }

    /// The rules of a role that a binding in this namespace names.
    pub(crate) fn rules(&self, namespace: &str, role: &RoleName) -> Option<&[Rule]> {
        let found = match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(role.name.as_str()),
            "Role" => self.roles.get(namespace)?.get(role.name.as_str()),
            _ => None,
        };
        found.map(Vec::as_slice)
    }

    fn held<'a>(&'a self, who: &'a Identity, namespace: &str) -> impl Iterator<Item = &'a Held> + use<'a> {
        let inside = match namespace {
            "" => None,
            namespace => self.namespaces.get(namespace),
        };
        std::iter::once(&self.cluster).chain(inside).flat_map(move |grants| grants.of(who))
    }

    fn set_role(&mut self, namespace: &str, name: &str, rules: Option<&[PolicyRule]>) {
        let rules: Option<Vec<Rule>> = rules.map(|rules| rules.iter().map(Rule::from).collect());
        let table = match namespace {
            "" => &mut self.cluster_roles,
            namespace => self.roles.entry(namespace.into()).or_default(),
        };
        match rules {
            Some(rules) => drop(table.insert(name.into(), rules)),
            None => drop(table.remove(name)),
        }
        if self.roles.get(namespace).is_some_and(HashMap::is_empty) {
            self.roles.remove(namespace);
        }
        // Cluster roles are bound in namespaces too.
        self.tables.drop_those(|(of, _)| namespace.is_empty() || **of == *namespace);
    }

    fn set_binding(&mut self, namespace: &str, name: &str, binding: Binding<'_>, there: bool) {
        let grants = match namespace {
            "" => &mut self.cluster,
            namespace => self.namespaces.entry(namespace.into()).or_default(),
        };
        let mut changed = Vec::new();
        for subject in binding.subjects {
            let Some((table, key)) = place(grants, subject, namespace) else { continue };
            self.held += 1;
            let number = self.held;
            if there {
                let grant = Grant {
                    binding: name.to_owned(),
                    namespace: namespace.to_owned(),
                    role: binding.role.into(),
                    subject: subject.clone(),
                };
                let held = table.entry(key).or_default();
                changed.push(std::mem::replace(&mut held.number, number));
                held.grants.push(Arc::new(grant));
            } else if let Some(held) = table.get_mut(&key) {
                changed.push(std::mem::replace(&mut held.number, number));
                held.grants.retain(|grant| grant.binding != name);
                if held.grants.is_empty() {
                    table.remove(&key);
                }
            }
        }
        self.tables.drop_those(|(_, number)| changed.contains(number));
        if self.namespaces.get(namespace).is_some_and(Grants::is_empty) {
            self.namespaces.remove(namespace);
        }
    }
}

struct Binding<'a> {
    role: &'a RoleRef,
    subjects: &'a [Subject],
}

/// Adds those that are not there yet.
fn note(absent: &mut Vec<RoleName>, more: &[RoleName]) {
    // Each of `more` is there once.
    let new: Vec<RoleName> = more.iter().filter(|role| !absent.contains(role)).cloned().collect();
    absent.extend(new);
}

/// Where a subject's bindings are. Accounts are users of a certain name.
fn place<'a>(
    grants: &'a mut Grants,
    subject: &Subject,
    namespace: &str,
) -> Option<(&'a mut BySubject, Box<str>)> {
    match subject.kind.as_str() {
        "User" => Some((&mut grants.users, subject.name.as_str().into())),
        "Group" => Some((&mut grants.groups, subject.name.as_str().into())),
        "ServiceAccount" => {
            let own = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
            let user = format!("system:serviceaccount:{own}:{}", subject.name);
            (!own.is_empty()).then(|| (&mut grants.users, user.into()))
        }
        _ => None,
    }
}

impl Derive for Index {
    const STORAGES: &'static [&'static str] =
        &["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

    fn change(&mut self, kind: &'static Resource, old: Option<&Object>, new: Option<&Object>) {
        let Some(object) = new.or(old) else { return };
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        match kind.storage {
            "roles" | "clusterroles" => {
                let value = new.and_then(|object| object.typed(kind));
                let rules = value.as_deref().and_then(|value| {
                    let cluster = value.downcast_ref::<ClusterRole>().map(|role| &role.rules);
                    cluster.or_else(|| value.downcast_ref::<Role>().map(|role| &role.rules))
                });
                self.set_role(&namespace, &name, rules.map(|rules| rules.as_deref().unwrap_or_default()));
            }
            _ => {
                for (object, there) in [(old, false), (new, true)] {
                    let Some(value) = object.and_then(|object| object.typed(kind)) else { continue };
                    if let Some(binding) = binding(&*value) {
                        self.set_binding(&namespace, &name, binding, there);
                    }
                }
            }
        }
    }
}

fn binding(value: &(dyn std::any::Any + Send + Sync)) -> Option<Binding<'_>> {
    let (role, subjects) = match value.downcast_ref::<ClusterRoleBinding>() {
        Some(binding) => (&binding.role_ref, &binding.subjects),
        None => {
            let binding = value.downcast_ref::<RoleBinding>()?;
            (&binding.role_ref, &binding.subjects)
        }
    };
    Some(Binding { role, subjects: subjects.as_deref().unwrap_or_default() })
}

#[cfg(test)]
mod tests;
