//! A row as a window holds it: its ids, and where something begins or ends, in a fifth of a row's bytes.

use std::ops::Range;

use crate::{IGNORED, Row};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    ids: Vec<u32>,
    /// Tokens that are learned, as stretches.
    learned: Vec<Range<u32>>,
    /// Tokens of each document, in order.
    documents: Vec<u32>,
}

impl Held {
    pub fn of(row: Row) -> Self {
        let Row { mut ids, labels, documents: numbers, .. } = row;
        ids.shrink_to_fit();
        let mut learned: Vec<Range<u32>> = Vec::new();
        for at in (0..).zip(&labels).filter(|(_, label)| **label != IGNORED).map(|(at, _)| at) {
            match learned.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => learned.push(at..at + 1),
            }
        }
        let documents = numbers.chunk_by(|a, b| a == b).map(|document| document.len() as u32).collect();
        Held { ids, learned, documents }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Puts another row's documents behind this one's.
    pub fn append(&mut self, other: Held) {
        let before = self.ids.len() as u32;
        self.ids.extend(other.ids);
        self.learned.extend(other.learned.into_iter().map(|tokens| tokens.start + before..tokens.end + before));
        self.documents.extend(other.documents);
    }

    pub fn into_row(self) -> Row {
        let mut labels = vec![IGNORED; self.ids.len()];
        for at in self.learned.into_iter().flatten() {
            labels[at as usize] = self.ids[at as usize].into();
        }
        let positions = self.documents.iter().flat_map(|&tokens| 0..tokens).collect();
        let numbered = (0..).zip(&self.documents);
        let documents = numbered.flat_map(|(number, &tokens)| std::iter::repeat_n(number, tokens as usize)).collect();
        Row { ids: self.ids, labels, positions, documents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(ids: &[u32], learned: &[usize]) -> Row {
        let label = |(at, &id): (usize, &u32)| if learned.contains(&at) { id.into() } else { IGNORED };
        Row::document(ids.to_vec(), ids.iter().enumerate().map(label).collect())
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let whole = document(&[5, 6, 7, 8], &[0, 1, 2, 3]);
        let parts = document(&[1, 2, 3, 4, 5, 6, 7], &[2, 3, 6]);
        let nothing = document(&[9], &[]);
        for row in [&whole, &parts, &nothing, &Row::default()] {
            assert_eq!(Held::of(row.clone()).into_row(), *row);
        }
        let mut held = Held::of(whole);
        held.append(Held::of(parts));
        held.append(Held::of(nothing));
        let packed = held.into_row();
        assert_eq!(packed.ids, [5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 9]);
        let no = IGNORED;
        assert_eq!(packed.labels, [no, 6, 7, 8, no, no, 3, 4, no, no, 7, no]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(packed.documents, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2]);
        assert_eq!(Held::of(packed.clone()).into_row(), packed);
    }
}
