//! How a page stores levels, numbers and texts, decoded one value at a time: a run of two thousand million equal values is a
//! run, never a list.
//!
//! Specification: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use super::{
    Fault,
    thrift::{varint, zigzag},
};

/// Bits of numbers stored one after the other, the lowest bit first.
fn bits(bytes: &[u8], first_bit: u64, width: u32) -> Result<u64, Fault> {
    let mut number = 0u64;
    let mut taken = 0;
    while taken < width {
        let bit = first_bit + u64::from(taken);
        let byte = usize::try_from(bit / 8).ok().and_then(|at| bytes.get(at)).ok_or(Fault::CutOff)?;
        let offset = (bit % 8) as u32;
        let count = (8 - offset).min(width - taken);
        let part = (u64::from(*byte) >> offset) & ((1 << count) - 1);
        number |= part << taken;
        taken += count;
    }
    Ok(number)
}

/// Runs of equal numbers, and groups of eight packed ones ("RLE / bit-packing hybrid"). Bytes are those of `data[at..end]`.
#[derive(Debug, Default)]
pub(super) struct Hybrid {
    at: usize,
    end: usize,
    width: u32,
    run: Run,
}

#[derive(Debug, Default)]
enum Run {
    #[default]
    Over,
    Equal {
        left: u64,
        value: u64,
    },
    Packed {
        left: u64,
        first_bit: u64,
        start: usize,
    },
}

impl Hybrid {
    /// # Errors
    /// Numbers of more than 32 bits.
    pub fn new(at: usize, end: usize, width: u32) -> Result<Self, Fault> {
        if width > 32 {
            return Err(Fault::damaged(format!("levels or dictionary indices of {width} bits")));
        }
        Ok(Hybrid { at, end, width, run: Run::Over })
    }

    pub fn next(&mut self, page: &[u8]) -> Result<u64, Fault> {
        // Numbers of no bits are all 0, and need no run.
        if self.width == 0 {
            return Ok(0);
        }
        let data = page.get(..self.end).ok_or(Fault::CutOff)?;
        loop {
            match &mut self.run {
                Run::Equal { left, value } if *left > 0 => {
                    *left -= 1;
                    return Ok(*value);
                }
                Run::Packed { left, first_bit, start } if *left > 0 => {
                    let number = bits(&data[*start..], *first_bit, self.width)?;
                    *left -= 1;
                    *first_bit += u64::from(self.width);
                    return Ok(number);
                }
                _ => self.run = self.next_run(data)?,
            }
        }
    }

    fn next_run(&mut self, data: &[u8]) -> Result<Run, Fault> {
        let header = varint(data, &mut self.at)?;
        let count = header >> 1;
        if header & 1 == 0 {
            let value = bits(data.get(self.at..).ok_or(Fault::CutOff)?, 0, self.width.next_multiple_of(8))?;
            self.at += self.width.div_ceil(8) as usize;
            return Ok(Run::Equal { left: count, value });
        }
        let start = self.at;
        // The last group may be cut short after its last number.
        let bytes = count.saturating_mul(self.width.into()).min((data.len() - start.min(data.len())) as u64);
        self.at += bytes as usize;
        if bytes == 0 {
            return Err(Fault::CutOff);
        }
        Ok(Run::Packed { left: count.saturating_mul(8), first_bit: 0, start })
    }
}

/// Integers as differences, in blocks of miniblocks of one width each ("DELTA_BINARY_PACKED").
#[derive(Clone, Debug)]
pub(super) struct Deltas {
    at: usize,
    left: u64,
    value: i64,
    is_first: bool,
    per_miniblock: u64,
    miniblocks: usize,
    /// Of the block that is read: the smallest difference, where the widths stand, and which miniblock is read.
    smallest: i64,
    widths: usize,
    miniblock: usize,
    in_miniblock: u64,
}

impl Deltas {
    pub fn new(page: &[u8], mut at: usize, most: u64) -> Result<Self, Fault> {
        let block = varint(page, &mut at)?;
        let miniblocks = varint(page, &mut at)?;
        let left = varint(page, &mut at)?;
        let value = zigzag(varint(page, &mut at)?);
        let is_sound =
            (1..=1 << 20).contains(&block) && (1..=512).contains(&miniblocks) && block % (miniblocks * 8) == 0;
        if !is_sound || left > most {
            return Err(Fault::damaged(format!(
                "a block of {left} differences, {block} a block, {miniblocks} miniblocks"
            )));
        }
        let (per_miniblock, miniblocks) = (block / miniblocks, miniblocks as usize);
        Ok(Deltas {
            at,
            left,
            value,
            is_first: true,
            per_miniblock,
            miniblocks,
            smallest: 0,
            widths: 0,
            miniblock: miniblocks,
            in_miniblock: per_miniblock,
        })
    }

    /// The next integer.
    pub fn next(&mut self, page: &[u8]) -> Result<i64, Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::damaged("fewer values than the page says"))?;
        if std::mem::take(&mut self.is_first) {
            return Ok(self.value);
        }
        if self.in_miniblock == self.per_miniblock {
            self.next_miniblock(page)?;
        }
        let width = self.width(page)?;
        let data = page.get(self.at..).ok_or(Fault::CutOff)?;
        let difference = bits(data, self.in_miniblock * u64::from(width), width)?;
        self.in_miniblock += 1;
        self.value = self.value.wrapping_add(self.smallest).wrapping_add(difference as i64);
        Ok(self.value)
    }

    fn next_miniblock(&mut self, page: &[u8]) -> Result<(), Fault> {
        if self.miniblock < self.miniblocks {
            self.at += self.miniblock_bytes(page)?;
            self.miniblock += 1;
        }
        if self.miniblock == self.miniblocks {
            self.smallest = zigzag(varint(page, &mut self.at)?);
            self.widths = self.at;
            self.at += self.miniblocks;
            self.miniblock = 0;
        }
        self.in_miniblock = 0;
        Ok(())
    }

    fn width(&self, page: &[u8]) -> Result<u32, Fault> {
        let width = u32::from(*page.get(self.widths + self.miniblock).ok_or(Fault::CutOff)?);
        if width > 64 { Err(Fault::damaged(format!("differences of {width} bits"))) } else { Ok(width) }
    }

    fn miniblock_bytes(&self, page: &[u8]) -> Result<usize, Fault> {
        Ok((self.per_miniblock * u64::from(self.width(page)?) / 8) as usize)
    }

    /// Where the data after these integers begins, once all were read.
    pub fn end(mut self, page: &[u8]) -> Result<usize, Fault> {
        while self.left > 0 {
            self.next(page)?;
        }
        match self.miniblock < self.miniblocks {
            true => Ok(self.at + self.miniblock_bytes(page)?),
            false => Ok(self.at),
        }
    }
}

/// Texts, their lengths before them all ("DELTA_LENGTH_BYTE_ARRAY").
#[derive(Debug)]
pub(super) struct LengthTexts {
    lengths: Deltas,
    at: usize,
}

impl LengthTexts {
    pub fn new(page: &[u8], at: usize, most: u64) -> Result<Self, Fault> {
        let lengths = Deltas::new(page, at, most)?;
        Ok(LengthTexts { at: lengths.clone().end(page)?, lengths })
    }

    pub fn next(&mut self, page: &[u8]) -> Result<std::ops::Range<usize>, Fault> {
        let count = usize::try_from(self.lengths.next(page)?).map_err(|_| Fault::CutOff)?;
        let range = self.at..self.at.checked_add(count).filter(|end| *end <= page.len()).ok_or(Fault::CutOff)?;
        self.at = range.end;
        Ok(range)
    }
}

/// Texts that begin as the one before does ("DELTA_BYTE_ARRAY").
#[derive(Debug)]
pub(super) struct PrefixTexts {
    prefixes: Deltas,
    suffixes: LengthTexts,
    pub text: Vec<u8>,
}

impl PrefixTexts {
    pub fn new(page: &[u8], at: usize, most: u64) -> Result<Self, Fault> {
        let prefixes = Deltas::new(page, at, most)?;
        let suffixes = LengthTexts::new(page, prefixes.clone().end(page)?, most)?;
        Ok(PrefixTexts { prefixes, suffixes, text: Vec::new() })
    }

    /// Puts the next text into `text`.
    pub fn next(&mut self, page: &[u8], limit_bytes: usize) -> Result<(), Fault> {
        let prefix = usize::try_from(self.prefixes.next(page)?).ok().filter(|prefix| *prefix <= self.text.len());
        self.text.truncate(prefix.ok_or_else(|| Fault::damaged("a prefix is longer than the text before"))?);
        let suffix = self.suffixes.next(page)?;
        if self.text.len() + suffix.len() > limit_bytes {
            return Err(Fault::TooLongRow { limit_bytes });
        }
        self.text.extend_from_slice(&page[suffix]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_groups_are_read_as_the_specification_has_them() {
        // Its own example: 0 to 7 in three bits, after a run of four 5s.
        let page = [0x08, 5, 0x03, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        let mut numbers = Hybrid::new(0, page.len(), 3).unwrap();
        let found: Vec<u64> = (0..12).map(|_| numbers.next(&page).unwrap()).collect();
        assert_eq!(found, [5, 5, 5, 5, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(matches!(numbers.next(&page), Err(Fault::CutOff)));
    }

    #[test]
    fn differences_are_read_as_the_specification_has_them() {
        // 7, 5, 3, 1, 2, 3, 4, 5: the smallest difference is -2, and the others are 0 or 3 above it, in two bits.
        let page = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0];
        let mut integers = Deltas::new(&page, 0, 8).unwrap();
        let found: Vec<i64> = (0..8).map(|_| integers.next(&page).unwrap()).collect();
        assert_eq!(found, [7, 5, 3, 1, 2, 3, 4, 5]);
        assert!(integers.next(&page).is_err());
        assert_eq!(Deltas::new(&page, 0, 8).unwrap().end(&page).unwrap(), page.len());
        assert!(Deltas::new(&page, 0, 7).is_err(), "more than the page has");
    }
}
