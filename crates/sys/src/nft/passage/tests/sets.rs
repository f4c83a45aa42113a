//! Sets and maps.

use super::*;

fn element(key: &[u8], end: bool, value: ListedValue) -> ListedElement {
    ListedElement { key: key.to_vec(), key_end: None, end, value }
}

#[test]
fn a_set_finds_its_elements() {
    let data = |byte: u8| ListedValue::Data(vec![byte]);
    let found = |set: &ListedSet, key: &[u8]| match find(set, key) {
        Some(ListedValue::Data(bytes)) => Some(bytes[0]),
        None => None,
        other => panic!("{other:?}"),
    };
    let single = ListedSet {
        interval: false,
        elements: vec![element(&[0, 80], false, data(1)), element(&[1, 187], false, data(2))],
    };
    assert_eq!(found(&single, &[0, 80]), Some(1));
    assert_eq!(found(&single, &[1, 187]), Some(2));
    assert_eq!(found(&single, &[0, 81]), None);

    // 10.0.0.0/8, and from 20.0.0.0 on two ranges that touch.
    let borders = ListedSet {
        interval: true,
        elements: vec![
            element(&[0, 0, 0, 0], true, ListedValue::Member),
            element(&[10, 0, 0, 0], false, data(1)),
            element(&[11, 0, 0, 0], true, ListedValue::Member),
            element(&[20, 0, 0, 0], false, data(2)),
            element(&[21, 0, 0, 0], true, ListedValue::Member),
            element(&[21, 0, 0, 0], false, data(3)),
            element(&[22, 0, 0, 0], true, ListedValue::Member),
        ],
    };
    for (key, expected) in [
        ([9, 255, 255, 255], None),
        ([10, 0, 0, 0], Some(1)),
        ([10, 255, 255, 255], Some(1)),
        ([11, 0, 0, 0], None),
        ([20, 0, 0, 1], Some(2)),
        ([21, 0, 0, 0], Some(3)),
        ([22, 0, 0, 0], None),
    ] {
        assert_eq!(found(&borders, &key), expected, "{key:?}");
        let mut turned = borders.clone();
        turned.elements.reverse();
        assert_eq!(found(&turned, &key), expected, "{key:?}, in whatever order they are listed");
    }

    // 10.0.0.0-10.0.0.9 with the ports 80-90, whose part fills a register of its own.
    let both = ListedSet {
        interval: true,
        elements: vec![ListedElement {
            key: vec![10, 0, 0, 0, 0, 80, 0, 0],
            key_end: Some(vec![10, 0, 0, 9, 0, 90, 0, 0]),
            end: false,
            value: data(1),
        }],
    };
    for (key, expected) in [
        ([10, 0, 0, 5, 0, 85, 0, 0], Some(1)),
        ([10, 0, 0, 9, 0, 90, 0, 0], Some(1)),
        ([10, 0, 0, 0, 0, 80, 0, 0], Some(1)),
        ([10, 0, 0, 5, 0, 79, 0, 0], None),
        ([10, 0, 0, 5, 0, 91, 0, 0], None),
        ([10, 0, 0, 10, 0, 85, 0, 0], None),
        ([9, 0, 0, 5, 0, 85, 0, 0], None),
    ] {
        assert_eq!(found(&both, &key), expected, "{key:?}");
    }
}

fn lookup(from: usize, into: Option<usize>, inverted: bool) -> Expression {
    Expression::Lookup { set: "s".into(), from, into, inverted }
}

#[test]
fn a_lookup_matches_decides_or_loads() {
    let end = |listing: &Listing| outcome(listing, Point::Forward, &packet()).end;
    let member = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Member)];
    for (key, inverted, expected) in [
        (80, false, End::Dropped),
        (81, false, End::Accepted),
        (80, true, End::Accepted),
        (81, true, End::Dropped),
    ] {
        let drop = rule(vec![port(), lookup(0, None, inverted), Expression::Verdict(Verdict::Drop)]);
        assert_eq!(end(&with_set(member(key), vec![drop])), expected, "{key}, inverted: {inverted}");
    }
    // A set that is not there has no element.
    let unknown = rule(vec![port(), lookup(0, None, false), Expression::Verdict(Verdict::Drop)]);
    assert_eq!(end(&listing(vec![hooked("c", Point::Forward, 0, vec![unknown])])), End::Accepted);

    let verdicts = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Verdict(Verdict::Drop))];
    let vmap = || rule(vec![port(), lookup(0, Some(VERDICT_REGISTER), false)]);
    assert_eq!(end(&with_set(verdicts(80), vec![vmap()])), End::Dropped);
    assert_eq!(end(&with_set(verdicts(81), vec![vmap()])), End::Accepted);

    // The port is a key of the second register.
    let loads = |key: u16| vec![element(&key.to_be_bytes(), false, ListedValue::Data(vec![9, 9]))];
    let compare = |bytes: Vec<u8>| Expression::Compare { from: 3, operator: 0, bytes };
    let map = |bytes: Vec<u8>| {
        let load = Expression::Payload { base: 2, offset: 2, length: 2, into: 1 };
        rule(vec![load, lookup(1, Some(3), false), compare(bytes), Expression::Verdict(Verdict::Drop)])
    };
    assert_eq!(end(&with_set(loads(80), vec![map(vec![9, 9])])), End::Dropped);
    assert_eq!(end(&with_set(loads(80), vec![map(vec![9, 8])])), End::Accepted);
    assert_eq!(end(&with_set(loads(81), vec![map(vec![0, 0])])), End::Accepted, "nothing is loaded");
    // What a map's element stands for has to be known.
    let passage = outcome(&with_set(member(80), vec![map(vec![0, 0])]), Point::Forward, &packet());
    assert!(passage.steps[0].doubtful);
}

#[test]
fn a_shorter_value_clears_the_rest_of_its_register() {
    let constant = |bytes: &[u8]| Expression::Constant { bytes: bytes.to_vec(), into: 2 };
    let compare = |bytes: &[u8]| Expression::Compare { from: 2, operator: 0, bytes: bytes.to_vec() };
    let over =
        |second: &[u8], is: &[u8]| matches(vec![constant(&[1; 8]), constant(second), compare(is)], &packet());
    assert_eq!(over(&[2], &[2, 0, 0, 0, 1, 1, 1, 1]), Some(true));
    assert_eq!(over(&[2; 5], &[2, 2, 2, 2, 2, 0, 0, 0]), Some(true));
    // The last register is the 32nd.
    let beyond = Expression::Constant { bytes: vec![1; 4], into: 32 };
    assert_eq!(matches(vec![beyond], &packet()), Some(false));
    assert_eq!(matches(vec![Expression::Constant { bytes: vec![1; 4], into: 31 }], &packet()), Some(true));
}
