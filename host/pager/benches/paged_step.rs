//! How much longer an optimizer's step takes when its state lies in pages, against the same step in memory: one run, ratios.
//!
//!     cargo bench -p unswag-pager --bench paged_step [FOLDER]
//!
//! AdamW with 8-bit state on 32 Mi parameters; the forms take turns. The file lies in FOLDER (by default cargo's folder for temporary files); as long
//! as the system has memory to spare, it keeps most of the file there. The answer is checked first: both come to the same bits.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use unswag_kernels::{
    Exec,
    optim::{AdamW, Moment8bit, Step},
};
use unswag_pager::{FileBacking, Pager, PagerError};

const PAGE_BYTES: usize = 2 << 20;
/// Whole blocks whose state, 2 codes for each element and 2 scales for each block, fits a page.
const PER_PAGE: usize = PAGE_BYTES / (2 * 256 + 8) * 256;
const PAGES: usize = (32 << 20) / PER_PAGE;
const STEPS: usize = 11;

struct Tensor {
    params: Vec<f32>,
    grads: Vec<f32>,
}

impl Tensor {
    fn new() -> Self {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let params = (0..PAGES * PER_PAGE).map(|_| random()).collect();
        Tensor { params, grads: (0..PAGES * PER_PAGE).map(|_| random()).collect() }
    }

    /// One page's elements and state.
    fn step(&mut self, number: usize, page: usize, state: &mut [u8]) {
        let elements = page * PER_PAGE..(page + 1) * PER_PAGE;
        let (absmax, codes) = state.split_at_mut(2 * PER_PAGE / 256 * 4);
        let (m_absmax, v_absmax) = bytemuck::cast_slice_mut(absmax).split_at_mut(PER_PAGE / 256);
        let (m_codes, rest) = codes.split_at_mut(PER_PAGE);
        let m = Moment8bit { codes: m_codes, absmax: m_absmax };
        let v = Moment8bit { codes: &mut rest[..PER_PAGE], absmax: v_absmax };
        let step = Step { number: number as u64 + 1, learning_rate: 1e-3, grad_scale: 1.0 };
        let exec = Exec::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let (params, grads) = (&mut self.params[elements.clone()], &self.grads[elements]);
        AdamW::default().step_8bit(exec, step, params, grads, m, v).expect("the lengths agree");
    }
}

/// A form of the state, and how long each of its steps took.
struct Form {
    name: String,
    tensor: Tensor,
    state: State,
    seconds: Vec<f64>,
}

enum State {
    InMemory(Vec<u64>),
    Paged(Pager),
}

impl Form {
    fn new(name: String, state: State) -> Self {
        Form { name, tensor: Tensor::new(), state, seconds: Vec::new() }
    }

    fn step(&mut self, number: usize) -> Result<(), PagerError> {
        let start = Instant::now();
        for page in 0..PAGES {
            let bytes = match &mut self.state {
                State::InMemory(words) => {
                    &mut bytemuck::cast_slice_mut(words)[page * PAGE_BYTES..(page + 1) * PAGE_BYTES]
                }
                State::Paged(pager) => pager.write(page)?,
            };
            self.tensor.step(number, page, bytes);
        }
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn bits(&self) -> impl Iterator<Item = u32> {
        self.tensor.params.iter().map(|x| x.to_bits())
    }
}

fn paged(folder: &Path, share: usize) -> Result<Form, PagerError> {
    let backing = FileBacking::new(folder, PAGES, PAGE_BYTES)?;
    let pager = Pager::new(PAGES, PAGE_BYTES, PAGES * PAGE_BYTES / share, Box::new(backing))?;
    Ok(Form::new(format!("a budget of 1/{share}"), State::Paged(pager)))
}

fn main() -> Result<(), PagerError> {
    let folder = std::env::args().skip(1).find(|word| !word.starts_with("--"));
    let folder = folder.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let mut forms = vec![Form::new("in memory".into(), State::InMemory(vec![0; PAGES * PAGE_BYTES / 8]))];
    for share in [2, 4, 8] {
        forms.push(paged(&folder, share)?);
    }
    for number in 0..=STEPS {
        for form in &mut forms {
            form.step(number)?;
        }
    }
    for form in &forms[1..] {
        assert!(form.bits().eq(forms[0].bits()), "{} comes to other bits", form.name);
    }
    let (parameters, state) = (PAGES * PER_PAGE, PAGES * PAGE_BYTES);
    println!("{} Mi parameters, state of {} MiB, pages of {} KiB", parameters >> 20, state >> 20, PAGE_BYTES >> 10);
    let mut in_memory = None;
    for Form { name, mut seconds, .. } in forms {
        // The first one makes the state.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let [least, median, most] = [0, STEPS / 2, STEPS - 1].map(|at| seconds[at] * 1e3);
        let ratio = median / *in_memory.get_or_insert(median);
        println!("{name:16} median {median:7.1} ms ({least:.1} to {most:.1}), x {ratio:.2}");
    }
    Ok(())
}
