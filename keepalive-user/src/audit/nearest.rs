//! What somebody may have meant.

/// The known name that is most like this one, if it is much like it; of several the first.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known
        .into_iter()
        .map(|known| (distance(name, known), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= name.len().div_ceil(3)).then_some(nearest)
}

/// A sentence for the end of an error message, or nothing.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |nearest| {
        format!("; did you mean {nearest:?}?")
    })
}

/// How many letters are to be changed, added or removed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, &there) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != there);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest() {
        let known = ["aws-nlb", "azure-lb", "gcp"];
        assert_eq!(nearest("aws-nbl", known), Some("aws-nlb"));
        assert_eq!(nearest("azure", known), None);
        assert_eq!(nearest("gpc", known), None);
        assert_eq!(nearest("gcpx", known), Some("gcp"));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(suggestion("x", []), "");
    }
}
