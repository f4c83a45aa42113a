//! Rows of `metav1.Table`: the columns that `kubectl get` prints, and their cells for an object.
//!
//! A kind is one row of [`KINDS`]: its columns and the function that makes its cells. Kinds without a row
//! get name and age.

mod certificates;
mod cluster;
mod events;
mod format;
mod pods;
mod rbac;
mod services;
mod workloads;

use serde_json::Value;

pub use format::age;

pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub type_: &'static str,
    /// `name` for the column of the object's name.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 always, 1 only when asked for wide output.
    pub priority: i32,
}

struct Kind {
    group: &'static str,
    kind: &'static str,
    columns: &'static [Column],
    /// The cells of an object at a time in Unix seconds.
    cells: fn(&Value, i64) -> Vec<Value>,
}

const fn col(name: &'static str) -> Column {
    Column { name, type_: "string", format: "", description: "", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { priority: 1, ..col(name) }
}

const fn int(name: &'static str) -> Column {
    Column { type_: "integer", ..col(name) }
}

const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "The object's name, unique in its namespace among its kind.",
    priority: 0,
};
const AGE: Column = Column { description: "The time since the object was created.", ..col("Age") };

static DEFAULT: Kind = Kind {
    group: "",
    kind: "",
    columns: &[NAME, AGE],
    cells: |o, now| vec![format::name(o), format::age(o, now).into()],
};

static KINDS: &[Kind] = &[
    Kind { group: "", kind: "Pod", columns: pods::COLUMNS, cells: pods::cells },
    Kind { group: "", kind: "Node", columns: cluster::NODE_COLUMNS, cells: cluster::node },
    Kind { group: "", kind: "Namespace", columns: &[NAME, col("Status"), AGE], cells: cluster::namespace },
    Kind { group: "", kind: "ConfigMap", columns: &[NAME, col("Data"), AGE], cells: cluster::config_map },
    Kind {
        group: "",
        kind: "Secret",
        columns: &[NAME, col("Type"), col("Data"), AGE],
        cells: cluster::secret,
    },
    Kind { group: "", kind: "Service", columns: services::COLUMNS, cells: services::service },
    Kind {
        group: "",
        kind: "Endpoints",
        columns: &[NAME, col("Endpoints"), AGE],
        cells: services::endpoints,
    },
    Kind { group: "", kind: "Event", columns: events::COLUMNS, cells: events::cells },
    Kind { group: "events.k8s.io", kind: "Event", columns: events::COLUMNS, cells: events::cells },
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        columns: &[NAME, col("Controller"), col("Revision"), AGE],
        cells: workloads::controller_revision,
    },
    Kind {
        group: "apps",
        kind: "DaemonSet",
        columns: workloads::DAEMON_SET_COLUMNS,
        cells: workloads::daemon_set,
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        columns: workloads::DEPLOYMENT_COLUMNS,
        cells: workloads::deployment,
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        columns: workloads::REPLICA_SET_COLUMNS,
        cells: workloads::replica_set,
    },
    Kind {
        group: "autoscaling",
        kind: "Scale",
        columns: &[NAME, int("Desired"), int("Available"), AGE],
        cells: workloads::scale,
    },
    Kind {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        columns: certificates::COLUMNS,
        cells: certificates::cells,
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        columns: &[NAME, col("Holder"), AGE],
        cells: cluster::lease,
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        columns: &[NAME, col("AddressType"), col("Ports"), col("Endpoints"), AGE],
        cells: services::endpoint_slice,
    },
    Kind { group: "rbac.authorization.k8s.io", kind: "Role", columns: rbac::ROLE_COLUMNS, cells: rbac::role },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        columns: rbac::ROLE_COLUMNS,
        cells: rbac::role,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding,
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding,
    },
    Kind {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        columns: &[NAME, col("Pod-Selector"), AGE],
        cells: services::network_policy,
    },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        columns: cluster::PRIORITY_CLASS_COLUMNS,
        cells: cluster::priority_class,
    },
];

fn of(group: &str, kind: &str) -> &'static Kind {
    KINDS.iter().find(|k| k.group == group && k.kind == kind).unwrap_or(&DEFAULT)
}

/// The columns of a kind.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    of(group, kind).columns
}

/// The cells of an object at this time (Unix seconds), one for each of its kind's columns.
pub fn cells(group: &str, kind: &str, object: &Value, now: i64) -> Vec<Value> {
    (of(group, kind).cells)(object, now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_a_cell_for_each_column_even_of_an_empty_object() {
        for kind in KINDS {
            let cells = (kind.cells)(&json!({"metadata": {"name": "x"}}), 0);
            assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
        }
    }
}
