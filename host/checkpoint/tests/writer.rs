//! Files written are, byte for byte, those that the `safetensors` crate writes for the same tensors.

use std::{borrow::Cow, collections::HashMap, fs, path::Path};

use proptest::prelude::*;
use safetensors::tensor::{self, TensorView};
use tempfile::TempDir;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{
    Checkpoint, Commit, Existing, NewTensor, RealDisk, Sink, Staging, TensorData, TensorFault, WriteError, Written,
    hash_file, pytorch_metadata, silent,
};

fn staged<T>(write: impl FnOnce(&mut Staging<'_>) -> T) -> (TempDir, T) {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let mut staging = Staging::begin(&scratch.path().join("out"), &[], Existing::Refuse, &RealDisk).expect("it begins");
    let result = write(&mut staging);
    staging.commit(Commit::default()).expect("published");
    (scratch, result)
}

fn new(name: &str, dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> NewTensor<'static> {
    NewTensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: TensorData::Bytes(Cow::Owned(bytes)) }
}

fn f32s(name: &str, count: u64) -> NewTensor<'static> {
    new(name, Dtype::F32, &[count], vec![count as u8; 4 * count as usize])
}

fn names_of(written: &[Written]) -> Vec<&str> {
    written.iter().map(|written| written.name.as_str()).collect()
}

fn tensors() -> impl Strategy<Value = HashMap<String, (Dtype, Vec<u64>)>> {
    let dtype = prop::sample::select(Dtype::ALL.to_vec());
    prop::collection::hash_map("t[a-z.0-9é\"]{0,9}", (dtype, prop::collection::vec(0u64..6, 0..4)), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate(tensors in tensors()) {
        let bytes_of = |dtype: Dtype, shape: &[u64]| (shape.iter().product::<u64>() * dtype.bytes()) as usize;
        let data: HashMap<&str, Vec<u8>> = tensors
            .iter()
            .map(|(name, (dtype, shape))| (name.as_str(), (0..bytes_of(*dtype, shape)).map(|at| at as u8).collect()))
            .collect();
        let views = tensors.iter().map(|(name, (dtype, shape))| {
            let dtype: tensor::Dtype = serde_json::from_value(dtype.name().into()).expect("one spelling of dtypes");
            let shape = shape.iter().map(|&size| size as usize).collect();
            (name.clone(), TensorView::new(dtype, shape, &data[name.as_str()]).expect("shape and data agree"))
        });
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let expected = safetensors::serialize(views, Some(metadata)).expect("the crate writes it");

        let (scratch, written) = staged(|staging| {
            let tensors = tensors
                .iter()
                .map(|(name, (dtype, shape))| new(name, *dtype, shape, data[name.as_str()].clone()))
                .collect();
            staging.write_safetensors("m.safetensors", &pytorch_metadata(), tensors, &silent).expect("written")
        });
        let found = fs::read(scratch.path().join("out/m.safetensors")).expect("read");
        prop_assert_eq!(written.bytes, found.len() as u64);
        prop_assert_eq!(written.hash, blake3::hash(&found));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn bytes_ranges_and_made_tensors_all_arrive() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let source = scratch.path().join("source");
    fs::write(&source, (0..=255).collect::<Vec<u8>>()).expect("written");
    let local = [7u8; 12];
    let (out, _) = staged(|staging| {
        let tensors = vec![
            NewTensor {
                name: "borrowed".to_owned(),
                dtype: Dtype::F32,
                shape: vec![3],
                data: TensorData::Bytes(Cow::Borrowed(&local)),
            },
            NewTensor {
                name: "ranged".to_owned(),
                dtype: Dtype::Bf16,
                shape: vec![2, 4],
                data: TensorData::Range { path: source.clone(), range: 100..116 },
            },
            NewTensor {
                name: "made".to_owned(),
                dtype: Dtype::U8,
                shape: vec![5],
                data: TensorData::Make(Box::new(|| Ok(vec![3; 5]))),
            },
        ];
        staging.write_safetensors("m.safetensors", &Default::default(), tensors, &silent).expect("written")
    });
    let checkpoint = Checkpoint::open(out.path().join("out")).expect("it opens");
    assert_eq!(checkpoint.data("borrowed").expect("data"), local);
    assert_eq!(checkpoint.data("ranged").expect("data"), (100..116).collect::<Vec<u8>>());
    assert_eq!(checkpoint.data("made").expect("data"), [3; 5]);
    assert!(checkpoint.metadata().is_empty());
    // Wide elements come first and the header is padded, so every tensor is aligned to its element.
    for info in checkpoint.tensors() {
        assert_eq!(info.range.start % info.dtype.bytes(), 0, "{}", info.name);
    }
}

fn total_size(folder: &Path) -> u64 {
    let index = fs::read(folder.join("model.safetensors.index.json")).expect("read");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    index["metadata"]["total_size"].as_u64().expect("a number")
}

#[test]
fn tensors_are_split_into_shards_in_the_order_given() {
    let (scratch, written) = staged(|staging| {
        let tensors = vec![f32s("c", 10), f32s("a", 10), f32s("huge", 100), f32s("b", 5), f32s("d", 15)];
        staging.write_sharded("model", &pytorch_metadata(), tensors, 80, &silent).expect("written")
    });
    let shard = |number: usize| format!("model-0000{number}-of-00003.safetensors");
    assert_eq!(names_of(&written), [shard(1), shard(2), shard(3), "model.safetensors.index.json".to_owned()]);
    let checkpoint = Checkpoint::open(scratch.path().join("out")).expect("it opens");
    let found: Vec<(&str, usize)> = checkpoint.tensors().map(|info| (info.name, info.file)).collect();
    assert_eq!(found, [("a", 0), ("c", 0), ("huge", 1), ("b", 2), ("d", 2)]);
    assert_eq!(total_size(&scratch.path().join("out")), 4 * 140);
    for written in &written {
        let path = scratch.path().join("out").join(&written.name);
        assert_eq!(hash_file(path, &silent).expect("hashed"), written.hash, "{}", written.name);
    }
}

#[test]
fn what_fits_one_file_has_no_index() {
    let (scratch, written) = staged(|staging| {
        staging.write_sharded("model", &pytorch_metadata(), vec![f32s("a", 20)], 80, &silent).expect("written")
    });
    assert_eq!(names_of(&written), ["model.safetensors"]);
    assert!(Checkpoint::open(scratch.path().join("out")).is_ok());
}

#[track_caller]
fn refused(tensors: Vec<NewTensor<'_>>) -> WriteError {
    let (scratch, error) = staged(|staging| {
        staging.write_safetensors("m.safetensors", &pytorch_metadata(), tensors, &silent).expect_err("it is refused")
    });
    drop(scratch);
    error
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let error = refused(vec![f32s("a", 1), f32s("a", 2)]);
    assert!(matches!(error, WriteError::Tensor { fault: TensorFault::Duplicate, .. }), "{error}");
    for name in ["", "../a", "a\n", "__metadata__"] {
        let error = refused(vec![f32s(name, 1)]);
        assert!(!matches!(error, WriteError::Io { .. }), "{name:?}: {error}");
    }
    let error = refused(vec![new("a", Dtype::F32, &[3], vec![0; 8])]);
    assert!(matches!(error, WriteError::WrongSize { expected_bytes: 12, found_bytes: 8, .. }), "{error}");
    let error = refused(vec![new("a", Dtype::F64, &[1 << 40, 1 << 40], vec![])]);
    assert!(matches!(error, WriteError::Tensor { fault: TensorFault::Overflow { .. }, .. }), "{error}");
    let error = refused(vec![new("a", Dtype::U8, &[1; 65], vec![0])]);
    assert!(matches!(error, WriteError::Tensor { fault: TensorFault::Rank, .. }), "{error}");
}

#[test]
fn a_tensor_that_cannot_be_made_stops_the_file() {
    let make = |result: Result<Vec<u8>, &'static str>| NewTensor {
        name: "a".to_owned(),
        dtype: Dtype::U8,
        shape: vec![2],
        data: TensorData::Make(Box::new(move || result.map_err(Into::into))),
    };
    let error = refused(vec![make(Err("no convergence"))]);
    assert!(matches!(error, WriteError::Produce { .. }), "{error}");
    assert_eq!(std::error::Error::source(&error).expect("a source").to_string(), "no convergence");
    let error = refused(vec![make(Ok(vec![0; 3]))]);
    assert!(matches!(error, WriteError::WrongSize { expected_bytes: 2, found_bytes: 3, .. }), "{error}");
}

fn streamed(pieces: &'static [&'static [u8]], error: Option<&'static str>) -> NewTensor<'static> {
    let stream = move |sink: &mut Sink<'_>| {
        pieces.iter().try_for_each(|piece| sink(piece))?;
        error.map_or(Ok(()), |error| Err(error.into()))
    };
    NewTensor { name: "a".to_owned(), dtype: Dtype::U8, shape: vec![5], data: TensorData::Stream(Box::new(stream)) }
}

#[test]
fn a_tensor_in_pieces_is_the_tensor_in_one() {
    let write = |tensor| {
        let (scratch, _) = staged(|staging| {
            let tensors = vec![tensor, f32s("b", 7)];
            staging.write_safetensors("m.safetensors", &pytorch_metadata(), tensors, &silent).expect("written")
        });
        fs::read(scratch.path().join("out/m.safetensors")).expect("read")
    };
    let whole = write(new("a", Dtype::U8, &[5], vec![1, 2, 3, 4, 5]));
    assert_eq!(write(streamed(&[&[1, 2], &[], &[3], &[4, 5]], None)), whole);
}

#[test]
fn pieces_that_are_too_few_too_many_or_fail_stop_the_file() {
    let too_few = refused(vec![streamed(&[&[1, 2]], None)]);
    assert!(matches!(too_few, WriteError::WrongSize { expected_bytes: 5, found_bytes: 2, .. }), "{too_few}");
    let too_many = refused(vec![streamed(&[&[1, 2, 3, 4], &[5, 6], &[7]], None)]);
    assert!(matches!(too_many, WriteError::WrongSize { expected_bytes: 5, found_bytes: 7, .. }), "{too_many}");
    let failed = refused(vec![streamed(&[&[1, 2]], Some("no convergence"))]);
    assert!(matches!(failed, WriteError::Produce { .. }), "{failed}");
}
