//! The table holds what it should: spot checks that read like the API's documentation, and rules
//! that hold for every row.

use super::*;

#[test]
fn every_message_has_distinct_numbers_and_names() {
    for t in TYPES {
        let mut numbers: Vec<_> = t.fields.iter().map(|f| f.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), t.fields.len(), "{}", t.definition);
        let mut names: Vec<_> = t.json_fields().iter().map(|f| f.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), t.json_fields().len(), "{}", t.definition);
    }
}

#[test]
fn keyed_lists_hold_their_keys() {
    for t in TYPES {
        for field in t.fields {
            let Some(item) = field.message() else { continue };
            for key in field.keys.iter().chain((!field.merge_key.is_empty()).then_some(&field.merge_key)) {
                assert!(item.field(key).is_some(), "{}.{}: {key}", t.definition, field.name);
            }
        }
    }
}

#[test]
fn kinds_are_sorted_and_found() {
    assert!(kinds().is_sorted_by_key(|row| (row.0, row.1, row.2)));
    for row in kinds() {
        assert!(std::ptr::eq(kind(row.0, row.1, row.2).unwrap(), row.3), "{row:?}");
        assert!(row.3.meta, "{}", row.3.definition);
    }
    assert!(kind("apps", "v1", "DeleteOptions").is_some());
    assert!(kind("apps", "v1", "Pod").is_none());
    assert!(kind("example.com", "v1", "Anything").is_none());
}

#[test]
fn inlined_structs_are_part_of_the_object() {
    let volume = kind("", "v1", "Pod").unwrap().field("spec").unwrap().message().unwrap();
    let volume = volume.field("volumes").unwrap().message().unwrap();
    assert_eq!(volume.field("hostPath").unwrap().message().unwrap().name, "HostPathVolumeSource");
    assert!(volume.field("volumeSource").is_none());
}

#[test]
fn ports_of_a_container() {
    let pod = kind("", "v1", "Pod").unwrap().field("spec").unwrap().message().unwrap();
    let ports = pod.field("containers").unwrap().message().unwrap().field("ports").unwrap();
    assert_eq!(ports.keys, ["containerPort", "protocol"]);
    assert_eq!((ports.merge_key, ports.strategy, ports.list), ("containerPort", "merge", ListType::Map));
    assert_eq!(ports.go_type(), "[]v1.ContainerPort");
    assert_eq!(ports.message().unwrap().field("protocol").unwrap().go_type(), "v1.Protocol");
}
