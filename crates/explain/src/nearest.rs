//! The existing name that is most like a misspelt one.

/// The nearest of `names`, if one is near enough to be meant.
///
/// ```
/// use skiff_explain::nearest::nearest;
/// assert_eq!(nearest("wbe-1", ["web-1", "db"]), Some("web-1"));
/// assert_eq!(nearest("something", ["web-1"]), None);
/// assert_eq!(nearest("t2", ["hn"]), None);
/// ```
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = wanted.chars().count().div_ceil(2).max(2);
    let near = names.into_iter().map(|name| {
        // A name that begins as the wanted one does is what somebody left unfinished.
        let begins = !wanted.is_empty() && name.starts_with(wanted);
        (if begins { 1 } else { distance(wanted, name) }, name)
    });
    // One in which every letter is another is not near, however short both are.
    let all = |name: &str| wanted.chars().count().max(name.chars().count());
    near.filter(|(far, name)| *far <= limit && *far < all(name)).min().map(|(_, name)| name)
}

/// How many letters must be changed, added, removed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("", "", 0),
            ("a", "", 1),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ac", 1),
            ("ab", "ba", 1),
            ("xabx", "xbax", 1),
            ("abcd", "badc", 2),
            ("abx", "bay", 2),
            ("aab", "aba", 1),
            ("abcdef", "ghijkl", 6),
            ("kitten", "sitting", 3),
            ("wéb", "web", 1),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
            assert_eq!(distance(b, a), far, "{b} {a}");
        }
    }

    #[test]
    fn an_unfinished_name_is_found() {
        assert_eq!(nearest("web", ["web-6d9c7f7c5b-x2x4z", "wob-db"]), Some("web-6d9c7f7c5b-x2x4z"));
    }

    #[test]
    fn half_the_letters_may_be_wrong_and_two_of_a_short_name() {
        assert_eq!(nearest("abcdef", ["abcxyz"]), Some("abcxyz"));
        assert_eq!(nearest("abcdef", ["abwxyz"]), None);
        assert_eq!(nearest("abcde", ["abxyz"]), Some("abxyz"), "rounded up");
        assert_eq!(nearest("ab", ["xy"]), None, "nothing is left of it");
        assert_eq!(nearest("ab", ["ay", "ba"]), Some("ay"));
        assert_eq!(nearest("ab", ["xyz"]), None);
        // The nearest of several, and of two as near the first by name.
        assert_eq!(nearest("web-1", ["wab-2", "web-2", "db"]), Some("web-2"));
        assert_eq!(nearest("web-1", ["web-3", "web-2"]), Some("web-2"));
        // Nothing is begun by every name.
        assert_eq!(nearest("", ["something"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
