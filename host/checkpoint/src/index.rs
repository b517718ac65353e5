//! Reads `model.safetensors.index.json`: which tensor lies in which shard. Streamed twice, once for the files and once to
//! check every tensor against the shards' own headers, so that no map of all names is held.

use std::{fmt, fs::Metadata, path::Path};

use indexmap::IndexSet;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{
    error::{Error, IndexFault},
    header::MAX_HEADER_BYTES,
    open,
    table::TensorTable,
    text::{Quoted, is_invisible},
};

/// Most shards of one checkpoint; the largest in use have some 200.
const MAX_SHARDS: usize = 4096;

pub(crate) struct Index {
    text: Vec<u8>,
}

impl Index {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (file, metadata): (_, Metadata) = open::regular_file(path)?;
        if metadata.len() > MAX_HEADER_BYTES {
            let fault = IndexFault::TooLarge { bytes: metadata.len(), limit: MAX_HEADER_BYTES };
            return Err(Error::Index { path: path.to_owned(), fault });
        }
        let mut text = vec![0; metadata.len() as usize];
        open::read_exact_at(&file, &mut text, 0).map_err(|source| Error::io(path, "read it", source))?;
        Ok(Index { text })
    }

    /// The shards' file names, sorted, each checked to be the plain name of a file.
    pub fn files(&self) -> Result<Vec<String>, IndexFault> {
        let mut files = IndexSet::new();
        self.each(|_, file| {
            if files.contains(file) {
                return Ok(());
            }
            check_file_name(file)?;
            if files.len() == MAX_SHARDS {
                return Err(IndexFault::TooManyFiles { limit: MAX_SHARDS });
            }
            files.insert(file.to_owned());
            Ok(())
        })?;
        if files.is_empty() {
            return Err(IndexFault::NoWeightMap);
        }
        files.sort();
        Ok(files.into_iter().collect())
    }

    /// Checks that the index and the shards list the same tensors in the same files.
    pub fn check(&self, tensors: &TensorTable, files: &[String]) -> Result<(), IndexFault> {
        let mut seen = vec![false; tensors.len()];
        self.each(|tensor, file| {
            let misplaced =
                |found: String| IndexFault::Misplaced { tensor: tensor.into(), expected: file.into(), found };
            let Some(position) = tensors.position(tensor) else {
                return Err(misplaced("no shard has it".to_owned()));
            };
            let actual = &files[tensors.at(position).map_or(0, |info| info.file)];
            if actual != file {
                return Err(misplaced(format!("it is in {}", Quoted::new(actual))));
            }
            if std::mem::replace(&mut seen[position], true) {
                return Err(IndexFault::Twice { tensor: tensor.into() });
            }
            Ok(())
        })?;
        match seen.iter().position(|&seen| !seen).and_then(|position| tensors.at(position)) {
            Some(info) => {
                Err(IndexFault::Unlisted { tensor: info.name.into(), file: files[info.file].as_str().into() })
            }
            None => Ok(()),
        }
    }

    /// Calls `entry(tensor, file)` for each entry of `weight_map`.
    fn each(&self, mut entry: impl FnMut(&str, &str) -> Result<(), IndexFault>) -> Result<(), IndexFault> {
        let mut reader = Reader { entry: &mut entry, fault: None, found: false };
        let mut json = serde_json::Deserializer::from_slice(&self.text);
        let result = (&mut json).deserialize_map(&mut reader).and_then(|()| json.end());
        match (result, reader.fault) {
            (_, Some(fault)) => Err(fault),
            (Ok(()), None) if reader.found => Ok(()),
            (Ok(()), None) => Err(IndexFault::NoWeightMap),
            (Err(error), None) => {
                let lines = self.text.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1));
                let offset = lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
                let message: String = error.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
                Err(IndexFault::Json { offset: offset as u64, message })
            }
        }
    }
}

/// A shard is the plain name of a file beside the index: anything else could reach out of the folder.
fn check_file_name(file: &str) -> Result<(), IndexFault> {
    let why = if file.is_empty() {
        "it is empty"
    } else if file.len() > 255 {
        "it is longer than a file name can be"
    } else if file.contains(['/', '\\']) || file == ".." || file == "." {
        "it is a path out of the folder, not a name"
    } else if file.chars().any(is_invisible) {
        "it holds control or invisible characters"
    } else if !file.ends_with(".safetensors") {
        "it does not end in .safetensors"
    } else {
        return Ok(());
    };
    Err(IndexFault::BadFile { file: file.into(), why })
}

struct Reader<'e, F> {
    entry: &'e mut F,
    fault: Option<IndexFault>,
    found: bool,
}

impl<'de, F: FnMut(&str, &str) -> Result<(), IndexFault>> Visitor<'de> for &mut Reader<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "weight_map" && !std::mem::replace(&mut self.found, true) {
                map.next_value_seed(WeightMap(self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct WeightMap<'r, 'e, F>(&'r mut Reader<'e, F>);

impl<'de, F: FnMut(&str, &str) -> Result<(), IndexFault>> DeserializeSeed<'de> for WeightMap<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str, &str) -> Result<(), IndexFault>> Visitor<'de> for WeightMap<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weight_map: an object from tensor to file name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if let Err(fault) = (self.0.entry)(&tensor, &file) {
                self.0.fault = Some(fault);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
