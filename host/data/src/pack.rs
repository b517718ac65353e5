//! Best-fit packing: documents into rows of a fixed length, none cut, little left empty.

use std::collections::BTreeSet;

/// Which documents go into which row: the longest first, each into the row with the least room that still takes it, as
/// in best-fit decreasing bin packing (Ding et al. 2024, "Fewer truncations improve language modeling", section 3).
///
/// Every index of `lengths` is in exactly one row, and no row is longer than `capacity`.
///
/// ```
/// let rows = unswag_data::pack(&[3, 9, 5, 2], 10).unwrap();
/// assert_eq!(rows, [vec![1], vec![2, 0, 3]]);
/// ```
///
/// # Errors
/// The index of a document that is longer than `capacity` alone.
pub fn pack(lengths: &[usize], capacity: usize) -> Result<Vec<Vec<usize>>, usize> {
    if let Some(index) = lengths.iter().position(|length| *length > capacity) {
        return Err(index);
    }
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|&index| (std::cmp::Reverse(lengths[index]), index));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Room left, and the row that has it.
    let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
    for index in by_length {
        let found = rooms.range((lengths[index], 0)..).next().copied();
        let (room, row) = found.unwrap_or_else(|| {
            rows.push(Vec::new());
            (capacity, rows.len() - 1)
        });
        rooms.remove(&(room, row));
        rows[row].push(index);
        rooms.insert((room - lengths[index], row));
    }
    Ok(rows)
}
