//! Quantisation and optimizer steps against bitsandbytes and torch, on the CPU, in the environment that `scripts/fetch venv` lays
//! down. The kernels' results go into one file, and `peers/optimizers.py` does the same things and compares.

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use unswag_kernels::Exec;
use unswag_kernels::optim::{AdamW, Lion, Moment8bit, Step};
use unswag_kernels::quant::{BLOCK, DynamicMap, Float, blockwise, nf4};
use unswag_tests::{Run, python};

/// More than 4096, below which bitsandbytes keeps f32 state; the last blocks, of 256 and of 64, are partial.
const N: usize = 8_267;
const STEPS: u64 = 10;

/// Named tensors for one safetensors file.
#[derive(Default)]
struct Results(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Results {
    fn f32(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.0.insert(name.into(), (Dtype::F32, vec![values.len()], bytes));
    }

    fn floats<T: Float>(&mut self, name: &str, values: &[T]) {
        if T::NAME == "f32" {
            return self.f32(name, &values.iter().map(|value| value.to_f32()).collect::<Vec<f32>>());
        }
        assert_eq!(T::NAME, "bf16");
        let bytes = values.iter().flat_map(|value| bf16::from_f32(value.to_f32()).to_le_bytes()).collect();
        self.0.insert(name.into(), (Dtype::BF16, vec![values.len()], bytes));
    }

    fn u8(&mut self, name: &str, values: &[u8]) {
        self.0.insert(name.into(), (Dtype::U8, vec![values.len()], values.to_vec()));
    }

    fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("as many bytes as the shape says"))
        });
        std::fs::write(path, safetensors::serialize(views, None).expect("sound tensors")).unwrap();
    }
}

/// Numbers that look normal, from a counter.
fn normals<T: Float>(seed: u64, n: usize) -> Vec<T> {
    let at = |i: usize| {
        let mut x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let sum: f32 = (0..4).map(|k| f32::from((x >> (16 * k)) as u16) / 65536.0 - 0.5).sum();
        T::from_f32(sum * 1.732)
    };
    (0..n).map(at).collect()
}

/// Gradients as they come: each element has its own size, over four decades, and some are zero.
fn gradients<T: Float>(step: u64) -> Vec<T> {
    let sizes = normals::<f32>(77, N);
    let values = normals::<f32>(100 + step, N).into_iter().zip(sizes).enumerate();
    values.map(|(i, (x, size))| T::from_f32(if i % 97 == 0 { 0.0 } else { 0.01 * x * (2.0 * size).exp() })).collect()
}

fn exec() -> Exec {
    Exec::new(2)
}

fn quantised<T: Float>(results: &mut Results, name: &str) {
    let x = normals::<T>(1, N);
    results.floats(&format!("{name}.x"), &x);
    for (map_name, map) in [("signed", DynamicMap::signed()), ("unsigned", DynamicMap::unsigned())] {
        let (mut codes, mut absmax, mut y) = (vec![0; N], vec![0.0; blockwise::blocks(N)], vec![T::ZERO; N]);
        blockwise::quantize(exec(), map, &x, &mut codes, &mut absmax).unwrap();
        blockwise::dequantize(exec(), map, &codes, &absmax, &mut y).unwrap();
        results.f32(&format!("map.{map_name}"), map.values());
        results.u8(&format!("{name}.{map_name}.codes"), &codes);
        results.f32(&format!("{name}.{map_name}.absmax"), &absmax);
        results.floats(&format!("{name}.{map_name}.y"), &y);
    }
    let (mut packed, mut absmax, mut y) = (vec![0; nf4::packed_bytes(N)], vec![0.0; nf4::blocks(N)], vec![T::ZERO; N]);
    nf4::quantize(exec(), &x, &mut packed, &mut absmax).unwrap();
    nf4::dequantize(exec(), &packed, &absmax, &mut y).unwrap();
    let (mut codes, mut nested) = (vec![0; absmax.len()], vec![0.0; absmax.len().div_ceil(BLOCK)]);
    let offset = nf4::quantize_absmax(exec(), &absmax, &mut codes, &mut nested).unwrap();
    let mut again = vec![0.0; absmax.len()];
    nf4::dequantize_absmax(exec(), &codes, &nested, offset, &mut again).unwrap();
    let mut y_double = vec![T::ZERO; N];
    nf4::dequantize(exec(), &packed, &again, &mut y_double).unwrap();
    results.f32("nf4.levels", nf4::levels());
    results.u8(&format!("{name}.nf4.packed"), &packed);
    results.f32(&format!("{name}.nf4.absmax"), &absmax);
    results.floats(&format!("{name}.nf4.y"), &y);
    results.u8(&format!("{name}.nf4.double.codes"), &codes);
    results.f32(&format!("{name}.nf4.double.absmax"), &nested);
    results.f32(&format!("{name}.nf4.double.offset"), &[offset]);
    results.floats(&format!("{name}.nf4.double.y"), &y_double);
}

/// Sizes that fill no block, and blocks of zeros of both signs, of denormals, of scales at the ends of f32, and of one element
/// that outweighs the rest.
fn nf4_edges<T: Float>(results: &mut Results, name: &str) {
    let blocks: [&dyn Fn(usize) -> f32; 7] = [
        &|i| (i as f32 * 0.7).sin(),
        &|i| if i % 2 == 0 { 0.0 } else { -0.0 },
        &|i| f32::from_bits((i as u32 + 1) * 0x1_0000) * if i % 3 == 0 { -1.0 } else { 1.0 },
        &|i| 3.0e38 * (i as f32 * 0.3).cos(),
        &|i| 4.0e-38 * (i as f32 * 0.3).cos(),
        &|i| if i == 11 { -1.0e30 } else { 1.0 },
        &|i| if i % 4 == 3 { -0.0 } else { i as f32 - 31.5 },
    ];
    for n in [1, 65, 127, 7 * 64 - 1] {
        let x: Vec<T> = (0..n).map(|i| T::from_f32(blocks[i / 64](i % 64))).collect();
        let (mut packed, mut absmax, mut y) =
            (vec![0; nf4::packed_bytes(n)], vec![0.0; nf4::blocks(n)], vec![T::ZERO; n]);
        nf4::quantize(exec(), &x, &mut packed, &mut absmax).unwrap();
        nf4::dequantize(exec(), &packed, &absmax, &mut y).unwrap();
        let name = format!("{name}.nf4_edge.{n}");
        results.floats(&format!("{name}.x"), &x);
        results.u8(&format!("{name}.packed"), &packed);
        results.f32(&format!("{name}.absmax"), &absmax);
        results.floats(&format!("{name}.y"), &y);
    }
}

struct Moment(Vec<u8>, Vec<f32>);

impl Moment {
    fn new() -> Moment {
        Moment(vec![0; N], vec![0.0; blockwise::blocks(N)])
    }

    fn view(&mut self) -> Moment8bit<'_> {
        Moment8bit { codes: &mut self.0, absmax: &mut self.1 }
    }

    fn keep(&self, results: &mut Results, name: &str) {
        results.u8(&format!("{name}.codes"), &self.0);
        results.f32(&format!("{name}.absmax"), &self.1);
    }
}

/// All optimizers from the same start on the same gradients, with everything kept after every step.
fn trained<T: Float>(results: &mut Results, name: &str) {
    let (adam, lion) = (AdamW::default(), Lion { weight_decay: 0.01, ..Lion::default() });
    let start = normals::<T>(2, N);
    results.floats(&format!("{name}.start"), &start);
    let (mut p, mut m, mut v) = (start.clone(), vec![0.0; N], vec![0.0; N]);
    let (mut p8, mut m8, mut v8) = (start.clone(), Moment::new(), Moment::new());
    let (mut q, mut l) = (start.clone(), vec![0.0; N]);
    let (mut q8, mut l8) = (start.clone(), Moment::new());
    for number in 1..=STEPS {
        let g = gradients::<T>(number);
        let step = Step { number, learning_rate: 1e-3, grad_scale: 1.0 };
        adam.step(exec(), step, &mut p, &g, &mut m, &mut v).unwrap();
        adam.step_8bit(exec(), step, &mut p8, &g, m8.view(), v8.view()).unwrap();
        lion.step(exec(), step, &mut q, &g, &mut l).unwrap();
        lion.step_8bit(exec(), step, &mut q8, &g, l8.view()).unwrap();

        results.floats(&format!("{name}.{number}.g"), &g);
        results.floats(&format!("{name}.{number}.adamw.p"), &p);
        results.f32(&format!("{name}.{number}.adamw.m"), &m);
        results.f32(&format!("{name}.{number}.adamw.v"), &v);
        results.floats(&format!("{name}.{number}.adamw_8bit.p"), &p8);
        m8.keep(results, &format!("{name}.{number}.adamw_8bit.m"));
        v8.keep(results, &format!("{name}.{number}.adamw_8bit.v"));
        results.floats(&format!("{name}.{number}.lion.p"), &q);
        results.f32(&format!("{name}.{number}.lion.m"), &l);
        results.floats(&format!("{name}.{number}.lion_8bit.p"), &q8);
        l8.keep(results, &format!("{name}.{number}.lion_8bit.m"));
    }
}

#[test]
fn codes_states_and_parameters_are_those_of_bitsandbytes_and_torch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.safetensors");
    let mut results = Results::default();
    quantised::<f32>(&mut results, "f32");
    quantised::<bf16>(&mut results, "bf16");
    nf4_edges::<f32>(&mut results, "f32");
    nf4_edges::<bf16>(&mut results, "bf16");
    trained::<f32>(&mut results, "f32");
    trained::<bf16>(&mut results, "bf16");
    results.write(&path);
    println!("{}", python("peers/optimizers.py").arg(&path).outcome().ok());

    // Wrong in eleven places: each must be found by the comparison that is there for it.
    type Break = fn(&mut [u8]);
    let last_bit: Break = |bytes| bytes[0] ^= 1;
    // Far codes too: among a thousand neighbours one would be a tie.
    let other_code: Break = |bytes| bytes[4321] ^= 0x40;
    let nibbles: Break = |bytes| bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
    let mantissa: Break = |bytes| bytes[4 * 1234 + 2] ^= 4;
    let breaks = [
        ("map.signed", last_bit),
        ("nf4.levels", last_bit),
        ("f32.signed.codes", other_code),
        ("f32.nf4.packed", nibbles),
        ("bf16.nf4.y", last_bit),
        ("f32.nf4_edge.65.packed", nibbles),
        ("f32.10.adamw.p", mantissa),
        ("f32.10.adamw_8bit.m.codes", other_code),
        ("f32.10.adamw_8bit.p", mantissa),
        ("f32.10.lion.p", mantissa),
        ("f32.10.lion_8bit.m.codes", other_code),
    ];
    for (tensor, break_it) in breaks {
        break_it(&mut results.0.get_mut(tensor).unwrap().2);
    }
    results.write(&path);
    let outcome = python("peers/optimizers.py").arg(&path).outcome();
    outcome.code(1);
    for (tensor, _) in breaks {
        assert!(outcome.stdout.contains(&format!("different: {tensor}: ")), "{tensor}: {}", outcome.stdout);
    }
}
