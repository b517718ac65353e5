//! What the optimizer keeps for each tensor, and how that is cut into stretches that fill pages.
//!
//! A stretch is some of a tensor's elements with all that is kept for them, side by side in one page:
//!
//! ```text
//! f32     exp_avg, exp_avg_sq                               4 bytes an element each
//! 8 bits  absmax of both, codes of both, up to a multiple of 4   4 bytes a block of 256, 1 byte an element each
//! ```
//!
//! It begins at a multiple of 256 of the tensor's elements, so that no block lies in two of them. Small tensors share a page,
//! large ones take several; a step that goes over the tensors in order goes over the pages once.

use std::ops::Range;

use unswag_abi::doc::Dtype;
use unswag_kernels::quant::{BLOCK, blockwise};

use super::Moment;
use crate::Optim;

/// Smaller tensors keep f32 state. bitsandbytes' `min_8bit_size`.
const LEAST_8BIT: usize = 4096;

/// A part of a moment, as a checkpoint's tensors have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Values,
    Codes,
    Absmax,
}

impl Field {
    pub fn dtype(self) -> Dtype {
        match self {
            Field::Values | Field::Absmax => Dtype::F32,
            Field::Codes => Dtype::U8,
        }
    }

    /// What stands behind the moment's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Field::Values => "",
            Field::Codes => ".codes",
            Field::Absmax => ".absmax",
        }
    }

    /// Numbers in it for so many parameters.
    fn count(self, elements: usize) -> usize {
        match self {
            Field::Values | Field::Codes => elements,
            Field::Absmax => blockwise::blocks(elements),
        }
    }

    /// Bytes of it for so many parameters.
    pub fn bytes(self, elements: usize) -> usize {
        self.count(elements) * self.dtype().bytes() as usize
    }
}

/// One field of one moment of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub tensor: usize,
    pub moment: usize,
    pub field: Field,
    /// Numbers in it.
    pub count: usize,
}

/// The state of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub elements: usize,
    pub is_8bit: bool,
    pub moments: usize,
}

impl Kept {
    pub fn of(optim: Optim, elements: usize) -> Self {
        let moments = if optim.is_lion() { 1 } else { 2 };
        Kept { elements, is_8bit: optim.is_8bit() && elements >= LEAST_8BIT, moments }
    }

    /// In the order in which a stretch holds them, each once for every moment.
    fn fields(self) -> &'static [Field] {
        if self.is_8bit { &[Field::Absmax, Field::Codes] } else { &[Field::Values] }
    }

    pub fn parts(self, tensor: usize) -> impl Iterator<Item = Part> {
        let part = move |field: Field, moment| Part { tensor, moment, field, count: field.count(self.elements) };
        self.fields().iter().flat_map(move |&field| (0..self.moments).map(move |moment| part(field, moment)))
    }

    /// Bytes that are kept for so many elements.
    pub fn bytes(self, elements: usize) -> usize {
        self.moments * self.fields().iter().map(|field| field.bytes(elements)).sum::<usize>()
    }

    /// Where a field lies in a stretch of so many elements.
    pub fn range(self, elements: usize, field: Field, moment: usize) -> Range<usize> {
        let before = self.fields().iter().take_while(|other| **other != field);
        let begin =
            before.map(|other| self.moments * other.bytes(elements)).sum::<usize>() + moment * field.bytes(elements);
        begin..begin + field.bytes(elements)
    }

    /// The moments in a stretch's bytes. Empty ones where `bytes` is no stretch of so many elements.
    pub fn moments(self, elements: usize, mut bytes: &mut [u8]) -> Vec<Moment<'_>> {
        let mut take = |field: Field| bytes.split_off_mut(..field.bytes(elements)).unwrap_or_default();
        let mut fields: Vec<&mut [u8]> = Vec::new();
        for &field in self.fields() {
            fields.extend((0..self.moments).map(|_| take(field)));
        }
        if !self.is_8bit {
            return fields.into_iter().map(|values| Moment::F32(bytemuck::cast_slice_mut(values))).collect();
        }
        let codes = fields.split_off(self.moments);
        let absmax = fields.into_iter().map(bytemuck::cast_slice_mut);
        absmax.zip(codes).map(|(absmax, codes)| Moment::Bits8 { codes, absmax }).collect()
    }
}

/// Some of a tensor's elements, and where their state lies.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub tensor: usize,
    pub elements: Range<usize>,
    pub page: usize,
    /// In the page.
    pub offset: usize,
}

/// Where all state lies.
#[derive(Debug)]
pub(super) struct Layout {
    pub kept: Vec<Kept>,
    /// In the order of tensors, of elements, and of pages.
    pub stretches: Vec<Stretch>,
    pub pages: usize,
    pub page_bytes: usize,
}

impl Layout {
    /// `page_bytes`: at least what a block of 256 takes, 2,048 bytes.
    pub fn new(kept: Vec<Kept>, page_bytes: usize) -> Self {
        let (mut stretches, mut page, mut used) = (Vec::new(), 0, 0);
        for (tensor, kept) in kept.iter().enumerate() {
            let mut begin = 0;
            while begin < kept.elements {
                let room = page_bytes - used;
                let rest = kept.elements - begin;
                let fits = if kept.bytes(rest) <= room { rest } else { room / kept.bytes(BLOCK) * BLOCK };
                if fits == 0 {
                    (page, used) = (page + 1, 0);
                    continue;
                }
                stretches.push(Stretch { tensor, elements: begin..begin + fits, page, offset: used });
                // The next one begins with f32.
                used += kept.bytes(fits).next_multiple_of(size_of::<f32>());
                begin += fits;
            }
        }
        let pages = stretches.last().map_or(0, |last| last.page + 1);
        Layout { kept, stretches, pages, page_bytes }
    }

    pub fn file_bytes(&self) -> u64 {
        self.pages as u64 * self.page_bytes as u64
    }

    /// The stretches of a tensor.
    pub fn of_tensor(&self, tensor: usize) -> &[Stretch] {
        let begin = self.stretches.partition_point(|stretch| stretch.tensor < tensor);
        let end = self.stretches.partition_point(|stretch| stretch.tensor <= tensor);
        &self.stretches[begin..end]
    }

    /// Where a part of a stretch's state lies in its page.
    pub fn range(&self, stretch: &Stretch, field: Field, moment: usize) -> Range<usize> {
        let range = self.kept[stretch.tensor].range(stretch.elements.len(), field, moment);
        stretch.offset + range.start..stretch.offset + range.end
    }
}
