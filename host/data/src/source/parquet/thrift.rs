//! Thrift's compact protocol, as much of it as Parquet's metadata needs. No length in it is trusted: what is read must be there.
//!
//! Specification: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

use super::Fault;

/// Structures inside each other; Parquet's own go five deep.
const MOST_DEPTH: usize = 16;

/// What a field or an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

impl Kind {
    fn of(code: u8) -> Result<Self, Fault> {
        Ok(match code {
            1 => Kind::True,
            2 => Kind::False,
            3 => Kind::Byte,
            4..=6 => Kind::Integer,
            7 => Kind::Double,
            8 => Kind::Binary,
            9 | 10 => Kind::List,
            11 => Kind::Map,
            12 => Kind::Struct,
            _ => return Err(Fault::damaged(format!("its metadata has a field of unknown type {code}"))),
        })
    }
}

pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Thrift<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Thrift { bytes, at: 0, depth: 0 }
    }

    /// Bytes that were read.
    pub fn at(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::CutOff)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        varint(self.bytes, &mut self.at)
    }

    pub fn integer(&mut self) -> Result<i64, Fault> {
        Ok(zigzag(self.varint()?))
    }

    /// A size, a count or an offset: not negative.
    pub fn size(&mut self) -> Result<u64, Fault> {
        let integer = self.integer()?;
        u64::try_from(integer).map_err(|_| Fault::damaged(format!("its metadata has a size of {integer}")))
    }

    pub fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let count = usize::try_from(self.varint()?).map_err(|_| Fault::CutOff)?;
        let bytes = self.bytes[self.at..].get(..count).ok_or(Fault::CutOff)?;
        self.at += count;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<String, Fault> {
        let text = std::str::from_utf8(self.binary()?);
        text.map(str::to_owned).map_err(|_| Fault::damaged("a name in its metadata is not UTF-8"))
    }

    /// Reads a structure's fields. `read` says whether it read the field's value; else it is passed over.
    pub fn fields(&mut self, mut read: impl FnMut(&mut Self, i16, Kind) -> Result<bool, Fault>) -> Result<(), Fault> {
        self.deeper(|thrift| {
            let mut id: i16 = 0;
            loop {
                let header = thrift.byte()?;
                if header == 0 {
                    return Ok(());
                }
                id = match header >> 4 {
                    0 => thrift.integer()? as i16,
                    step => id.wrapping_add(step.into()),
                };
                let kind = Kind::of(header & 15)?;
                if !read(thrift, id, kind)? {
                    thrift.pass(kind, false)?;
                }
            }
        })
    }

    /// Reads a list's elements.
    pub fn elements(&mut self, mut read: impl FnMut(&mut Self, Kind) -> Result<(), Fault>) -> Result<(), Fault> {
        self.deeper(|thrift| {
            let header = thrift.byte()?;
            let count = match header >> 4 {
                15 => thrift.varint()?,
                count => count.into(),
            };
            let kind = Kind::of(header & 15)?;
            for _ in 0..count {
                read(thrift, kind)?;
            }
            Ok(())
        })
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.depth == MOST_DEPTH {
            return Err(Fault::damaged("its metadata is nested too deep"));
        }
        self.depth += 1;
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// Goes over a value. A boolean takes a byte in a list, and none in a structure, where its type is its value.
    fn pass(&mut self, kind: Kind, is_element: bool) -> Result<(), Fault> {
        match kind {
            Kind::True | Kind::False if !is_element => {}
            Kind::True | Kind::False | Kind::Byte => drop(self.byte()?),
            Kind::Integer => drop(self.varint()?),
            Kind::Double => {
                for _ in 0..8 {
                    self.byte()?;
                }
            }
            Kind::Binary => drop(self.binary()?),
            Kind::Struct => self.fields(|_, _, _| Ok(false))?,
            Kind::List => self.elements(|thrift, kind| thrift.pass(kind, true))?,
            Kind::Map => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    self.deeper(|thrift| thrift.pass(Kind::of(kinds >> 4)?, true))?;
                    self.deeper(|thrift| thrift.pass(Kind::of(kinds & 15)?, true))?;
                }
            }
        }
        Ok(())
    }
}

/// A number in groups of seven bits, the lowest first.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Fault> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(Fault::CutOff)?;
        *at += 1;
        number |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            return Ok(number);
        }
    }
    Err(Fault::damaged("a number in it takes more than 64 bits"))
}

/// Signed numbers as 0, -1, 1, -2, 2, ...
pub(super) fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
