//! `delhi.swiglu` and `delhi.geglu`: gate and up saved as they are (`exact`) or in groups of 8, 4 or 2 bits, from which the
//! backward takes value and derivative alike, and from which the product is made again for whoever consumes it.

use unswag_kernels::{
    Exec,
    delhi::{Activation, Config, Mode, Rounding, Saved, SavedMut, SavedSizes, Shape, geglu, saved_sizes, swiglu},
};
use unswag_sdk::{
    Attrs, AttrsExt, Built, Device, Dtype, Element, Error, Inputs, Kernel, Launch, Meta, Op, OpCall, OpPlan, Outputs,
    Target, TensorMut, bail, half::bf16,
};

use crate::call::{activation, by_dtype, check_dtype, elements};

pub const SWIGLU: &str = swiglu::OP;
pub const GEGLU: &str = geglu::OP;

/// As for the un-gated op, and the product.
const FLOPS_FORWARD: u64 = 17;
/// Value, derivative and two products.
const FLOPS_BACKWARD: u64 = 22;

pub struct Gated;

/// What the node's attributes ask for.
#[derive(Clone, Copy, Debug)]
struct Settings {
    mode: Mode,
    group: usize,
    stochastic: bool,
}

impl Settings {
    fn read(attrs: &Attrs) -> Result<Self, Error> {
        let mode = attrs.require::<Mode>("mode")?;
        let group = attrs.read("group")?.unwrap_or(unswag_kernels::delhi::DEFAULT_GROUP);
        let stochastic = match attrs.read::<String>("rounding")?.as_deref() {
            None | Some("nearest") => false,
            Some("stochastic") => true,
            Some(other) => bail!("attribute \"rounding\": expected \"nearest\" or \"stochastic\", got {other:?}"),
        };
        Ok(Self { mode, group, stochastic })
    }

    fn config(self, launch: &Launch<'_>) -> Config {
        let rounding = match self.stochastic {
            true => Rounding::Stochastic { seed: launch.seed(), offset: launch.offset() },
            false => Rounding::Nearest,
        };
        Config { mode: self.mode, group: self.group, rounding }
    }
}

/// Rows of the last dimension: groups never cross from one to the next.
fn shape_of(call: &OpCall, meta: &Meta) -> Result<Shape, Error> {
    let elements = elements(call, meta)?;
    let cols = meta.shape.last().map_or(1, |&size| size as usize);
    Ok(Shape { rows: elements.checked_div(cols).unwrap_or(0), cols })
}

impl Op for Gated {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        let [gate, up] = call.inputs.as_slice() else {
            bail!("{}: expected two inputs, gate and up, got {}", call.kind, call.inputs.len());
        };
        if gate != up {
            bail!(
                "{}: expected gate and up of one type, got {} {:?} and {} {:?}",
                call.kind,
                gate.dtype,
                gate.shape,
                up.dtype,
                up.shape
            );
        }
        check_dtype(call, gate)?;
        activation(&call.kind, &call.attrs)?;
        let settings = Settings::read(&call.attrs)?;
        let shape = shape_of(call, gate)?;
        let elements = elements(call, gate)? as u64;
        let mut plan = OpPlan {
            outputs: vec![gate.clone()],
            rematerializes: vec![0],
            flops_forward: FLOPS_FORWARD.saturating_mul(elements),
            flops_backward: FLOPS_BACKWARD.saturating_mul(elements),
            ..OpPlan::default()
        };
        if settings.mode == Mode::Exact {
            plan.saves_inputs = vec![0, 1];
            plan.rematerializes_exactly = true;
        } else {
            let sizes = saved_sizes(shape.rows, shape.cols, settings.mode, settings.group)?;
            let rows = shape.rows as u64;
            let codes = Meta { dtype: Dtype::U32, shape: vec![rows, sizes.words_per_row as u64] };
            let params = Meta { dtype: Dtype::Bf16, shape: vec![rows, sizes.params_per_row as u64] };
            plan.saved = vec![codes.clone(), params.clone(), codes, params];
        }
        Ok(plan)
    }

    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error> {
        if target.device != Device::Cpu {
            bail!("{}: this build has kernels for the CPU only", call.kind);
        }
        self.plan(call)?;
        let settings = Settings::read(&call.attrs)?;
        let shape = shape_of(call, &call.inputs[0])?;
        let activation = activation(&call.kind, &call.attrs)?;
        let dtype = call.inputs[0].dtype;
        if settings.mode == Mode::Exact {
            return Ok(Built::kernel(Exact { activation, dtype }));
        }
        let sizes = saved_sizes(shape.rows, shape.cols, settings.mode, settings.group)?;
        Ok(Built::kernel(Grouped { activation, dtype, settings, shape, sizes }))
    }
}

/// Mode `exact`: gate and up are kept as they are, and everything is made from them again.
struct Exact {
    activation: Activation,
    dtype: Dtype,
}

fn plain<T: unswag_kernels::Element>(
    activation: Activation,
    exec: Exec,
    g: &[T],
    u: &[T],
    h: &mut [T],
) -> Result<(), Error> {
    match activation {
        Activation::Silu => swiglu::plain(exec, g, u, h)?,
        gelu => geglu::plain(exec, gelu, g, u, h)?,
    }
    Ok(())
}

impl Kernel for Exact {
    fn forward(
        &self,
        launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        _: Outputs<'_>,
    ) -> Result<(), Error> {
        self.rematerialize(launch, inputs, outputs)
    }

    fn backward(
        &self,
        launch: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        let [dh] = grad_outputs.array()?;
        let [g, u] = saved.array()?;
        let [dg, du] = grad_inputs.array()?;
        let exec = Exec::new(launch.threads());
        by_dtype!(self.dtype, T => {
                    let (g, u) = (g.as_slice::<T>()?, u.as_slice::<T>()?);
                    let grads = Grads::<T>::take(dg, du)?;
                    if !dh.is_wanted() {
                        return grads.zero();
                    }
                    let dh = dh.as_slice::<T>()?;
                    grads.fill(CHUNK, |range, dg, du| {
                        let (dh, g, u) = (&dh[range.clone()], &g[range.clone()], &u[range]);
                        match self.activation {
                            Activation::Silu => swiglu::exact_backward(exec, dh, g, u, dg, du)?,
                            gelu => geglu::exact_backward(exec, gelu, dh, g, u, dg, du)?,
                        }
        Ok(())
                    })
                })
    }

    fn rematerialize(&self, launch: &mut Launch<'_>, saved: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        let [g, u] = saved.array()?;
        let [mut h] = outputs.array()?;
        let exec = Exec::new(launch.threads());
        by_dtype!(self.dtype, T => {
            plain(self.activation, exec, g.as_slice::<T>()?, u.as_slice::<T>()?, h.as_mut_slice::<T>()?)
        })
    }
}

/// Modes of 8, 4 and 2 bits.
struct Grouped {
    activation: Activation,
    dtype: Dtype,
    settings: Settings,
    shape: Shape,
    sizes: SavedSizes,
}

/// The four saved tensors, as the plan lists them.
fn saved_parts<'a>(saved: Inputs<'a>) -> Result<Saved<'a>, Error> {
    let [g_codes, g_params, u_codes, u_params] = saved.array()?;
    Ok(Saved {
        g_codes: g_codes.as_slice::<u32>()?,
        g_params: g_params.as_slice::<bf16>()?,
        u_codes: u_codes.as_slice::<u32>()?,
        u_params: u_params.as_slice::<bf16>()?,
    })
}

impl Grouped {
    /// The saved parts of `rows` alone.
    fn rows<'a>(&self, saved: &Saved<'a>, rows: std::ops::Range<usize>) -> Saved<'a> {
        let words = rows.start * self.sizes.words_per_row..rows.end * self.sizes.words_per_row;
        let params = rows.start * self.sizes.params_per_row..rows.end * self.sizes.params_per_row;
        Saved {
            g_codes: &saved.g_codes[words.clone()],
            g_params: &saved.g_params[params.clone()],
            u_codes: &saved.u_codes[words],
            u_params: &saved.u_params[params],
        }
    }
}

impl Kernel for Grouped {
    fn forward(
        &self,
        launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        saved: Outputs<'_>,
    ) -> Result<(), Error> {
        let [g, u] = inputs.array()?;
        let [mut h] = outputs.array()?;
        let exec = Exec::new(launch.threads());
        let config = self.settings.config(launch);
        by_dtype!(self.dtype, T => {
                    let (g, u, h) = (g.as_slice::<T>()?, u.as_slice::<T>()?, h.as_mut_slice::<T>()?);
                    if !launch.training() {
                        return plain(self.activation, exec, g, u, h);
                    }
                    let [mut g_codes, mut g_params, mut u_codes, mut u_params] = saved.array()?;
                    let saved = SavedMut {
                        g_codes: g_codes.as_mut_slice::<u32>()?,
                        g_params: g_params.as_mut_slice::<bf16>()?,
                        u_codes: u_codes.as_mut_slice::<u32>()?,
                        u_params: u_params.as_mut_slice::<bf16>()?,
                    };
                    match self.activation {
                        Activation::Silu => swiglu::forward(exec, self.shape, &config, g, u, h, saved)?,
                        gelu => geglu::forward(exec, gelu, self.shape, &config, g, u, h, saved)?,
                    }
        Ok(())
                })
    }

    fn backward(
        &self,
        launch: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        let [dh] = grad_outputs.array()?;
        let saved = saved_parts(saved)?;
        let [dg, du] = grad_inputs.array()?;
        let exec = Exec::new(launch.threads());
        let config = self.settings.config(launch);
        let cols = self.shape.cols;
        by_dtype!(self.dtype, T => {
                    let grads = Grads::<T>::take(dg, du)?;
                    if !dh.is_wanted() {
                        return grads.zero();
                    }
                    let dh = dh.as_slice::<T>()?;
                    grads.fill(cols, |range, dg, du| {
                        let rows = range.start.checked_div(cols).unwrap_or(0)..range.end.checked_div(cols).unwrap_or(0);
                        let shape = Shape { rows: rows.len(), cols };
                        let (dh, saved) = (&dh[range], self.rows(&saved, rows));
                        match self.activation {
                            Activation::Silu => swiglu::backward(exec, shape, &config, dh, saved, dg, du)?,
                            gelu => geglu::backward(exec, gelu, shape, &config, dh, saved, dg, du)?,
                        }
        Ok(())
                    })
                })
    }

    fn rematerialize(&self, launch: &mut Launch<'_>, saved: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        let saved = saved_parts(saved)?;
        let [mut h] = outputs.array()?;
        let exec = Exec::new(launch.threads());
        let config = self.settings.config(launch);
        by_dtype!(self.dtype, T => {
                    let h = h.as_mut_slice::<T>()?;
                    match self.activation {
                        Activation::Silu => swiglu::rematerialize(exec, self.shape, &config, saved, h)?,
                        gelu => geglu::rematerialize(exec, gelu, self.shape, &config, saved, h)?,
                    }
        Ok(())
                })
    }
}

/// Elements at a time where one of the two gradients is thrown away.
const CHUNK: usize = 4096;

/// The two gradients, of which one may be unwanted: both come from one pass, so the other then goes into a small buffer.
struct Grads<'a, T> {
    dg: Option<&'a mut [T]>,
    du: Option<&'a mut [T]>,
}

impl<'a, T: Element> Grads<'a, T> {
    fn take(dg: TensorMut<'a>, du: TensorMut<'a>) -> Result<Self, Error> {
        let wanted = |tensor: TensorMut<'a>| match tensor.is_wanted() {
            true => tensor.into_mut_slice::<T>().map(Some),
            false => Ok(None),
        };
        Ok(Self { dg: wanted(dg)?, du: wanted(du)? })
    }

    fn zero(self) -> Result<(), Error> {
        for gradient in [self.dg, self.du].into_iter().flatten() {
            gradient.fill(T::default());
        }
        Ok(())
    }

    /// Calls `run` for the whole range where both are wanted, else for pieces of `piece` elements; not at all for neither.
    fn fill(
        self,
        piece: usize,
        run: impl Fn(std::ops::Range<usize>, &mut [T], &mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match (self.dg, self.du) {
            (Some(dg), Some(du)) => run(0..dg.len(), dg, du),
            (None, None) => Ok(()),
            (Some(wanted), None) => in_pieces(wanted, piece, |range, kept, lost| run(range, kept, lost)),
            (None, Some(wanted)) => in_pieces(wanted, piece, |range, kept, lost| run(range, lost, kept)),
        }
    }
}

fn in_pieces<T: Element>(
    wanted: &mut [T],
    piece: usize,
    run: impl Fn(std::ops::Range<usize>, &mut [T], &mut [T]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut lost = vec![T::default(); piece.min(wanted.len())];
    let mut start = 0;
    for kept in wanted.chunks_mut(piece.max(1)) {
        let end = start + kept.len();
        run(start..end, kept, &mut lost[..end - start])?;
        start = end;
    }
    Ok(())
}
