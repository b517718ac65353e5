//! A store in a file: what it gives back, what it leaves behind, and what it refuses.

use std::path::Path;

use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, EngineError, Store};
use unswag_torch::{FileStore, Torch};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Odd numbers, among them those that a conversion would change.
fn tensor(torch: &Torch, rows: u64, columns: u64, dtype: Dtype) -> unswag_torch::TorchTensor {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 2.0, 1.0 / 3.0];
    let values = || (0..rows * columns).map(|i| odd.get(i as usize).copied().unwrap_or(i as f32 * 0.37)).collect();
    torch.tensor_from_f32([rows, columns], dtype, &values).expect("a tensor")
}

fn bits(x: &unswag_torch::TorchTensor) -> Vec<u32> {
    x.to_f32().expect("readable").into_iter().map(f32::to_bits).collect()
}

#[test]
fn tensors_come_back_bit_for_bit_in_any_order() {
    let (torch, folder) = (Torch::cpu(), folder());
    let mut store = FileStore::new(&torch, folder.path()).expect("a store");
    let whole = tensor(&torch, 42, 123, Dtype::F32);
    let put = [tensor(&torch, 7, 13, Dtype::Bf16), torch.rows(&whole, 5, 30), tensor(&torch, 1, 1, Dtype::F32)];
    for round in 0..3 {
        for (key, x) in put.iter().enumerate() {
            store.put(key, x).expect("room");
        }
        assert_eq!(store.meter().live(), 7 * 13 * 2 + 30 * 123 * 4 + 4);
        for key in [(round + 1) % 3, round, (round + 2) % 3] {
            store.prefetch(key);
            let x = store.take(key).expect("it was put");
            assert_eq!(torch.shape(&x), torch.shape(&put[key]));
            assert_eq!(torch.dtype(&x), torch.dtype(&put[key]));
            assert!(bits(&x) == bits(&put[key]), "round {round}, tensor {key}");
        }
        assert_eq!(store.meter().live(), 0);
    }
}

#[test]
fn a_key_holds_one_tensor_and_gives_it_once() {
    let (torch, folder) = (Torch::cpu(), folder());
    let mut store = FileStore::new(&torch, folder.path()).expect("a store");
    store.put(3, &tensor(&torch, 2, 2, Dtype::F32)).expect("room");
    let last = tensor(&torch, 9, 1, Dtype::F32);
    store.put(3, &last).expect("room");
    assert_eq!(store.meter().live(), 36);
    assert!(bits(&store.take(3).expect("it was put")) == bits(&last));
    let error = store.take(3).expect_err("it was taken");
    assert!(matches!(error, EngineError::NotStored { key: 3 }), "{error}");
}

#[test]
fn the_file_has_no_name() {
    let (torch, folder) = (Torch::cpu(), folder());
    let mut store = FileStore::new(&torch, folder.path()).expect("a store");
    store.put(0, &tensor(&torch, 100, 100, Dtype::F32)).expect("room");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    let torch = Torch::cpu();
    let error = FileStore::new(&torch, Path::new("/no/such/folder")).err().expect("there is none").to_string();
    assert!(error.contains("/no/such/folder; name a folder that can be written"), "{error}");
    // Most systems keep this one in memory.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let error = FileStore::new(&torch, memory).err().expect("it is memory").to_string();
        assert!(error.contains("kept in memory"), "{error}");
    }
}
