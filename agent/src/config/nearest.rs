// SPDX-License-Identifier: Apache-2.0
//! The known word nearest to one that is unknown.

/// The candidate with the fewest letters added, removed, changed or swapped, letter case aside;
/// `None` where all are too far to be what was meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // A word of a megabyte is no misspelling, and the comparison is quadratic.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            let length = candidate.chars().count().max(word.chars().count());
            *distance <= (length / 3).max(1) && *distance < length
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_and_another_word_does_not() {
        let known = ["size", "staleFor", "prefetch"];
        let find = |word| nearest(word, known.into_iter());
        assert_eq!(find("sice"), Some("size"));
        assert_eq!(find("stale_for"), Some("staleFor"));
        assert_eq!(find("STALEFOR"), Some("staleFor"));
        assert_eq!(find("prefecth"), Some("prefetch"));
        assert_eq!(find("upstreams"), None);
        assert_eq!(find(""), None);
        assert_eq!(find(&"s".repeat(100_000)), None);
    }
}
