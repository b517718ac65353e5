//! Reads the header's JSON as a stream, straight into the tensor table: no tree of values is ever built, so a bomb of
//! nested or repeated values costs nothing, and the first wrong thing stops the reading.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use unswag_abi::doc::Dtype;

use super::{
    Header, HeaderError, LENGTH_BYTES, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_SIZES, MAX_TENSORS, TensorFault,
    UNSUPPORTED, check_name, check_tensor,
};
use crate::{table::TensorTable, text::Quoted};

/// Reads `text`, which starts at byte 8 of the file, into a header whose rows are neither sorted nor indexed yet.
pub(super) fn read(text: &str, data_start: u64, file_bytes: u64) -> Result<Header, HeaderError> {
    let mut reader = Reader { header: Header::default(), fault: None, data_start, file_bytes };
    let mut json = serde_json::Deserializer::from_str(text);
    let result = (&mut json).deserialize_map(&mut reader).and_then(|()| json.end());
    match result {
        Ok(()) => Ok(reader.header),
        Err(error) => {
            let offset = byte_offset(text, error.line(), error.column());
            Err(match reader.fault {
                Some(Fault::Tensor(tensor, fault)) => HeaderError::Entry { offset, tensor, fault },
                Some(Fault::TooMany(what, limit)) => HeaderError::TooMany { offset, what, limit },
                Some(Fault::Metadata(what)) => HeaderError::Metadata { what },
                None => HeaderError::Json { offset, message: plain_message(&error) },
            })
        }
    }
}

/// The offset in the file of serde_json's line and column (both counted from 1, columns in bytes).
fn byte_offset(text: &str, line: usize, column: usize) -> u64 {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    LENGTH_BYTES + (line_start + column.saturating_sub(1)) as u64
}

/// serde_json's message without its own "at line 1 column 7", which an offset replaces; a quoted piece of the file in
/// it is cut.
fn plain_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

struct Reader {
    header: Header,
    /// The typed reason of a failure, which serde's errors cannot carry.
    fault: Option<Fault>,
    data_start: u64,
    file_bytes: u64,
}

enum Fault {
    Tensor(Quoted, TensorFault),
    TooMany(&'static str, usize),
    Metadata(String),
}

impl Reader {
    fn stop<E: de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(Text(name)) = map.next_key()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(self.stop(Fault::Metadata("it stands twice".to_owned())));
                }
                map.next_value_seed(Metadata(self))?;
                continue;
            }
            if let Err(fault) = check_name(&name) {
                return Err(self.stop(Fault::Tensor(Quoted::new(&name), fault)));
            }
            if self.header.tensors.len() == MAX_TENSORS {
                return Err(self.stop(Fault::TooMany("tensors", MAX_TENSORS)));
            }
            map.next_value_seed(Tensor { reader: self, name: &name })?;
        }
        Ok(())
    }
}

/// A string, borrowed from the header where it has no escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`.
struct Tensor<'r> {
    reader: &'r mut Reader,
    name: &'r str,
}

impl Tensor<'_> {
    fn stop<E: de::Error>(&mut self, fault: TensorFault) -> E {
        self.reader.stop(Fault::Tensor(Quoted::new(self.name), fault))
    }
}

impl<'de> DeserializeSeed<'de> for Tensor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with dtype, shape and data_offsets for tensor {}", Quoted::new(self.name))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let sizes_start = self.reader.header.tensors.sizes_len();
        let (mut dtype, mut has_shape, mut offsets) = (None, false, None);
        while let Some(Text(field)) = map.next_key()? {
            match &*field {
                "dtype" => {
                    let Text(name) = map.next_value()?;
                    let read = read_dtype(&name).map_err(|fault| self.stop::<A::Error>(fault))?;
                    if dtype.replace(read).is_some() {
                        return Err(self.stop(TensorFault::Twice { field: "dtype" }));
                    }
                }
                "shape" => {
                    if std::mem::replace(&mut has_shape, true) {
                        return Err(self.stop(TensorFault::Twice { field: "shape" }));
                    }
                    map.next_value_seed(Shape { reader: self.reader, name: self.name })?;
                }
                "data_offsets" => {
                    if offsets.replace(map.next_value::<[u64; 2]>()?).is_some() {
                        return Err(self.stop(TensorFault::Twice { field: "data_offsets" }));
                    }
                }
                other => return Err(self.stop(TensorFault::UnknownField { field: other.into() })),
            }
        }
        let Some(dtype) = dtype else { return Err(self.stop(TensorFault::Missing { field: "dtype" })) };
        let Some(offsets) = offsets else { return Err(self.stop(TensorFault::Missing { field: "data_offsets" })) };
        if !has_shape {
            return Err(self.stop(TensorFault::Missing { field: "shape" }));
        }

        let Reader { header, data_start, file_bytes, .. } = &mut *self.reader;
        let shape = header.tensors.sizes_from(sizes_start);
        match check_tensor(dtype, shape, offsets, *data_start, *file_bytes) {
            Ok(range) => header
                .tensors
                .push(self.name, dtype, sizes_start, range, 0)
                .map_err(|full| self.reader.stop(Fault::TooMany(full.into(), u32::MAX as usize))),
            Err(fault) => Err(self.stop(fault)),
        }
    }
}

fn read_dtype(name: &str) -> Result<Dtype, TensorFault> {
    if let Some(dtype) = Dtype::from_name(name) {
        return Ok(dtype);
    }
    Err(match UNSUPPORTED.into_iter().find(|known| *known == name) {
        Some(dtype) => TensorFault::Unsupported { dtype },
        None => TensorFault::UnknownDtype { dtype: name.into() },
    })
}

/// `[2, 3]`, pushed onto the table's pool of sizes.
struct Shape<'r> {
    reader: &'r mut Reader,
    name: &'r str,
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of sizes for tensor {}", Quoted::new(self.name))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut rank = 0;
        while let Some(size) = seq.next_element::<u64>()? {
            rank += 1;
            if rank > TensorTable::MAX_RANK {
                return Err(self.reader.stop(Fault::Tensor(Quoted::new(self.name), TensorFault::Rank)));
            }
            if self.reader.header.tensors.sizes_len() == MAX_SIZES {
                return Err(self.reader.stop(Fault::TooMany("sizes of shapes", MAX_SIZES)));
            }
            self.reader.header.tensors.push_size(size);
        }
        Ok(())
    }
}

/// `{"format": "pt"}`: strings by key, bounded in number and size.
struct Metadata<'r>(&'r mut Reader);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings as __metadata__")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        let mut metadata = BTreeMap::new();
        let mut bytes = 0;
        while let Some(Text(key)) = map.next_key()? {
            let Text(value) = map.next_value()?;
            bytes += key.len() + value.len();
            if metadata.len() == MAX_METADATA_ENTRIES || bytes > MAX_METADATA_BYTES {
                return Err(reader.stop(Fault::Metadata(format!(
                    "more than {MAX_METADATA_ENTRIES} entries or {MAX_METADATA_BYTES} bytes"
                ))));
            }
            if metadata.insert(key.clone().into_owned(), value.into_owned()).is_some() {
                return Err(reader.stop(Fault::Metadata(format!("key {} stands twice", Quoted::new(&key)))));
            }
        }
        reader.header.metadata = metadata;
        Ok(())
    }
}
