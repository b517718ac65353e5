//! Rows of tokens, and the rectangle of them that one step of training reads.

/// The label of a token that no loss is taken on, as in PyTorch and transformers.
pub const IGNORED: i64 = -100;

/// One row: a block of a stream, or documents packed behind each other. All four lists have one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub ids: Vec<u32>,
    /// The id to be predicted *as* this token (the model shifts), or [`IGNORED`].
    pub labels: Vec<i64>,
    /// Counts from 0 in each document of the row, or through the row where documents are not kept apart.
    pub positions: Vec<u32>,
    /// Which document of the row, from 0. Attention stays within one number.
    pub documents: Vec<u32>,
}

impl Row {
    /// A row of one document.
    pub(crate) fn document(ids: Vec<u32>, mut labels: Vec<i64>) -> Self {
        // Nothing before it in its document predicts the first token.
        if let Some(first) = labels.first_mut() {
            *first = IGNORED;
        }
        let positions = (0..ids.len() as u32).collect();
        let documents = vec![0; ids.len()];
        Row { ids, labels, positions, documents }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Labels that a loss is taken on. The first of a row has nothing to be predicted from.
    pub fn supervised_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
    }
}

/// `rows` x `cols` tokens, row by row. Short rows are filled behind with the padding id, label [`IGNORED`] and a
/// document of their own, so neither attention nor loss sees the filling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub input_ids: Vec<u32>,
    /// Aligned with `input_ids`, not shifted: the loss compares the logits of token `i` with the label of `i + 1`.
    pub labels: Vec<i64>,
    pub position_ids: Vec<u32>,
    /// Which document of its row a token belongs to, from 0.
    pub document_ids: Vec<u32>,
    pub rows: usize,
    pub cols: usize,
}

impl Batch {
    /// Puts rows side by side; `cols` is the length of the longest.
    pub fn new(rows: &[Row], pad_id: u32) -> Self {
        let cols = rows.iter().map(Row::len).max().unwrap_or(0);
        let size = rows.len() * cols;
        let mut batch = Batch { rows: rows.len(), cols, ..Batch::default() };
        batch.input_ids.reserve_exact(size);
        batch.labels.reserve_exact(size);
        batch.position_ids.reserve_exact(size);
        batch.document_ids.reserve_exact(size);
        for row in rows {
            let filling = cols - row.len();
            batch.input_ids.extend(&row.ids);
            batch.input_ids.extend(std::iter::repeat_n(pad_id, filling));
            batch.labels.extend(&row.labels);
            batch.labels.extend(std::iter::repeat_n(IGNORED, filling));
            batch.position_ids.extend(&row.positions);
            batch.position_ids.extend(0..filling as u32);
            let next = row.documents.last().map_or(0, |last| last + 1);
            batch.document_ids.extend(&row.documents);
            batch.document_ids.extend(std::iter::repeat_n(next, filling));
        }
        batch
    }

    /// Where documents begin in the batch read as one line of `rows * cols` tokens, and its length at the end: what
    /// variable-length attention takes as `cu_seqlens`.
    pub fn cu_seqlens(&self) -> Vec<u32> {
        let mut starts = Vec::new();
        for at in 0..self.document_ids.len() {
            if at % self.cols == 0 || self.document_ids[at] != self.document_ids[at - 1] {
                starts.push(at as u32);
            }
        }
        starts.push(self.document_ids.len() as u32);
        starts
    }

    /// Labels that a loss is taken on: those of a row's first column are predicted from nothing.
    pub fn supervised_tokens(&self) -> usize {
        let counts = |(at, label): (usize, &i64)| at % self.cols != 0 && *label != IGNORED;
        self.labels.iter().enumerate().filter(|pair| counts(*pair)).count()
    }
}
