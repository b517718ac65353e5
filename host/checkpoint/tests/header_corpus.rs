//! Runs through the seed files of the header's fuzz target, and checks the parser against the `safetensors` crate: what
//! the crate refuses must be refused, and what both take must be understood alike.

#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;

use std::{collections::HashMap, fs, path::Path};

use proptest::prelude::*;
use safetensors::{SafeTensors, tensor};
use unswag_checkpoint::{Header, HeaderError, parse_header};

fn parse(file: &[u8]) -> Result<Header, HeaderError> {
    parse_header(file, file.len() as u64)
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/safetensors");
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it is listed"))
        .map(|entry| {
            (entry.file_name().into_string().expect("a UTF-8 name"), fs::read(entry.path()).expect("it is read"))
        })
        .filter(|(name, _)| name != "make.py")
        .collect();
    seeds.sort();
    seeds
}

/// The independent reference: both readers agree on everything that ours takes.
fn agrees_with_the_crate(file: &[u8]) -> Result<(), String> {
    let ours = parse(file);
    let theirs = SafeTensors::deserialize(file);
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Ok(_), Err(error)) => return Err(format!("taken, though the safetensors crate refuses it: {error}")),
        (Err(_), _) => return Ok(()),
    };
    if ours.tensors.len() != theirs.len() {
        return Err(format!("{} tensors, the crate finds {}", ours.tensors.len(), theirs.len()));
    }
    for info in ours.tensors() {
        let view = theirs.tensor(info.name).map_err(|error| format!("{}: {error}", info.name))?;
        let shape: Vec<u64> = view.shape().iter().map(|&size| size as u64).collect();
        let data = &file[info.range.start as usize..info.range.end as usize];
        if view.dtype().to_string() != info.dtype.name() || shape != info.shape || view.data() != data {
            return Err(format!("{}: understood differently", info.name));
        }
    }
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| error.to_string())?;
    let theirs: HashMap<String, String> = metadata.metadata().clone().unwrap_or_default();
    match theirs == ours.metadata.clone().into_iter().collect::<HashMap<_, _>>() {
        true => Ok(()),
        false => Err("the metadata differ".to_owned()),
    }
}

#[test]
fn every_seed_is_read_or_refused_as_its_name_says() {
    let mut visited = 0;
    for (name, file) in seeds() {
        let result = parse(&file);
        match name.split_once('_') {
            Some(("ok", _)) => assert!(result.is_ok(), "{name}: {}", result.expect_err("refused")),
            Some(("bad", _)) => assert!(result.is_err(), "{name} was taken"),
            _ => panic!("{name} does not say whether it is sound"),
        }
        visited += 1;
    }
    assert!(visited > 80, "only {visited} seeds were found");
}

#[test]
fn every_seed_is_understood_as_the_safetensors_crate_does() {
    for (name, file) in seeds() {
        agrees_with_the_crate(&file).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn every_error_is_one_short_line_without_control_characters() {
    for (name, file) in seeds() {
        let Err(error) = parse(&file) else { continue };
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "{name}: {text:?}");
        assert!(text.len() < 1000, "{name}: {} bytes of message", text.len());
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for (name, file) in seeds().into_iter().filter(|(name, _)| name.starts_with("ok_")) {
        for end in 0..file.len() {
            assert!(parse(&file[..end]).is_err(), "{name} cut to {end} bytes was taken");
        }
    }
}

fn dtypes() -> impl Strategy<Value = tensor::Dtype> {
    use tensor::Dtype::*;
    prop::sample::select(vec![BOOL, U8, I8, F8_E4M3, F8_E5M2, I16, U16, F16, BF16, I32, U32, F32, F64, I64, U64])
}

/// A sound file, written by the crate.
fn sound_files() -> impl Strategy<Value = Vec<u8>> {
    let tensor = ("t[a-z.0-9é\"]{0,11}", dtypes(), prop::collection::vec(0usize..5, 0..4));
    (prop::collection::vec(tensor, 0..6), prop::option::of("[a-z\n\"]{0,8}")).prop_map(|(tensors, metadata)| {
        let by_name: HashMap<_, _> = tensors.into_iter().map(|(name, dtype, shape)| (name, (dtype, shape))).collect();
        let data: HashMap<_, Vec<u8>> = by_name
            .iter()
            .map(|(name, (dtype, shape))| (name, vec![7; shape.iter().product::<usize>() * dtype.bitsize() / 8]))
            .collect();
        let views = by_name.iter().map(|(name, (dtype, shape))| {
            (name.clone(), tensor::TensorView::new(*dtype, shape.clone(), &data[name]).expect("shape and data agree"))
        });
        let metadata = metadata.map(|text| HashMap::from([("key".to_owned(), text)]));
        safetensors::serialize(views, metadata).expect("a sound file is written")
    })
}

/// A change such as a fuzzer makes: a byte set, a run removed, doubled, or a token of the format put in.
fn mutate(file: &mut Vec<u8>, kind: u8, at: usize, byte: u8) {
    const TOKENS: [&str; 12] = [
        "18446744073709551615",
        "-1",
        "1e9",
        "null",
        "{",
        "[",
        "\"dtype\"",
        "\"F4\"",
        "\"U8\"",
        "\\u0000",
        "[0,0]",
        ",",
    ];
    if file.is_empty() {
        return;
    }
    let at = at % file.len();
    let run = usize::from(byte % 16).min(file.len() - at);
    match kind % 5 {
        0 => file[at] = byte,
        1 => drop(file.drain(at..at + run)),
        2 => {
            let copy = file[at..at + run].to_vec();
            file.splice(at..at, copy);
        }
        3 => drop(file.splice(at..at + run, TOKENS[usize::from(byte) % TOKENS.len()].bytes())),
        _ => file[at] ^= 1 << (byte % 8),
    }
    // Keeps most mutants past the first check, by a length that fits again.
    if !byte.is_multiple_of(4)
        && file.len() >= 8
        && let Some(end) = file.iter().rposition(|&byte| byte == b'}')
    {
        let length = (end as u64 + 1).saturating_sub(8);
        file[..8].copy_from_slice(&length.to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_the_crate_writes_is_read(file in sound_files()) {
        prop_assert!(parse(&file).is_ok(), "{:?}", parse(&file).err());
        prop_assert_eq!(agrees_with_the_crate(&file), Ok(()));
    }

    #[test]
    fn a_changed_file_is_never_taken_where_the_crate_refuses(
        seed in any::<prop::sample::Index>(),
        sound in sound_files(),
        from_corpus in any::<bool>(),
        changes in prop::collection::vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..4),
    ) {
        let seeds = seeds();
        let mut file = if from_corpus { seeds[seed.index(seeds.len())].1.clone() } else { sound };
        for (kind, at, byte) in changes {
            mutate(&mut file, kind, at, byte);
        }
        prop_assert_eq!(agrees_with_the_crate(&file), Ok(()));
    }

    #[test]
    fn any_bytes_give_an_error_and_no_panic(text in prop::collection::vec(any::<u8>(), 0..200), claimed in any::<u64>()) {
        let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
        let _ = parse(&header);
        let _ = parse_header(&header, claimed);
        let _ = parse(&text);
    }
}
