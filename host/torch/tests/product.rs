//! A gradient's product, added to a tensor of another type. Alone in its file: nothing else may allocate beside it.

use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, View};
use unswag_torch::Torch;

// As the gradient of an embedding of 49,152 tokens, and a row over.
const ROWS: usize = 49_153;
const COLUMNS: usize = 576;
const INNER: usize = 3;

fn left(row: usize, at: usize) -> f32 {
    ((row * 7 + at) % 5) as f32 - 2.0
}

fn right(at: usize, column: usize) -> f32 {
    ((at + column * 3) % 7) as f32 - 3.0
}

/// The most bytes of this process that were in memory at once.
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system says it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_large_product_is_added_exactly_and_without_a_copy_of_its_size() {
    tch::set_num_threads(2);
    let torch = Torch::cpu();
    let made = |shape: [usize; 2], of: &dyn Fn(usize, usize) -> f32| {
        let values = || (0..shape[0] * shape[1]).map(|i| of(i / shape[1], i % shape[1])).collect();
        torch.tensor_from_f32(shape.map(|size| size as u64), Dtype::Bf16, &values).expect("memory")
    };
    let a = made([INNER, ROWS], &|at, row| left(row, at));
    let b = made([INNER, COLUMNS], &right);
    // What libtorch sets up at its first product, and the pages of its file that are mapped then, are not the product's.
    let small = torch.zeros([COLUMNS as u64, COLUMNS as u64], Dtype::F32).expect("memory");
    for alpha in [1.0, 0.5] {
        torch.matmul_add(&small, alpha, (&b, View::Transposed), (&b, View::AsIs)).expect("a product");
    }
    drop(small);
    let y = torch.zeros([ROWS as u64, COLUMNS as u64], Dtype::F32).expect("memory");
    let before = most_resident();
    for alpha in [1.0, 0.5] {
        torch.matmul_add(&y, alpha, (&a, View::Transposed), (&b, View::AsIs)).expect("a product");
    }
    let (took, size) = (most_resident() - before, (4 * ROWS * COLUMNS) as u64);
    assert!(took < size / 3, "{took} bytes, of a tensor of {size}");
    // Small integers and halves: no rounding anywhere.
    let row_of = |row: usize| -> Vec<f32> {
        let sum = |column| (0..INNER).map(|at| left(row, at) * right(at, column)).sum::<f32>();
        (0..COLUMNS).map(|column| 1.5 * sum(column)).collect()
    };
    let wrong = y.with_f32(|y| y.chunks(COLUMNS).enumerate().position(|(row, found)| found != row_of(row)));
    assert_eq!(wrong.expect("elements"), None, "the first row that is not the sum");
}
