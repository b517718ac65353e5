//! What the SDK's layer costs per call: the panic guard, the tensor checks and the virtual calls, on 8 elements.
//!
//! `cargo bench -p unswag-sdk`. Prints the median and the range of several runs, and the same work called directly.

use std::{
    hint::black_box,
    marker::PhantomData,
    time::{Duration, Instant},
};

use unswag_abi::{
    abi_stable::{erased_types::TD_Opaque, std_types::*},
    frame::{self, DlDevice, Extension, Host_TO, TensorView, Views},
};
use unswag_sdk::{
    Built, Device, Dtype, Error, Graph, Host, Info, Inputs, Kernel, Launch, NoOptions, Op, OpCall, OpPlan, Outputs,
    Patch, Protocol, Target,
};

const CALLS: u32 = 200_000;
const RUNS: usize = 15;

struct Double;

impl Protocol for Double {
    type Options = NoOptions;

    fn info() -> Info {
        Info::new("double", "0.1.0", "Doubles.").ops(["double.double"]).devices([Device::Cpu])
    }

    fn open(_: NoOptions, _: Host) -> Result<Self, Error> {
        Ok(Self)
    }

    fn rewrite(&self, _: &Graph) -> Result<Patch, Error> {
        Err(Error::new("nothing to do"))
    }

    fn op(&self, _: &str) -> Option<Box<dyn Op>> {
        Some(Box::new(Self))
    }
}

impl Op for Double {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        Ok(OpPlan { outputs: call.inputs.clone(), ..OpPlan::default() })
    }

    fn build(&self, _: &OpCall, _: &Target) -> Result<Built, Error> {
        Ok(Built::kernel(Self))
    }
}

impl Kernel for Double {
    fn forward(
        &self,
        _: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        _: Outputs<'_>,
    ) -> Result<(), Error> {
        let ([x], [mut y]) = (inputs.array()?, outputs.array()?);
        double(x.as_slice()?, y.as_mut_slice()?);
        Ok(())
    }

    fn backward(&self, _: &mut Launch<'_>, _: Inputs<'_>, _: Inputs<'_>, _: Outputs<'_>) -> Result<(), Error> {
        Ok(())
    }
}

#[inline(never)]
fn double(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = 2.0 * x;
    }
}

unswag_sdk::export_plugin!(Double);

struct Quiet;

impl frame::Host for Quiet {
    fn log(&self, _: u8, _: RStr<'_>) {}

    fn extension(&self, _: RStr<'_>) -> ROption<Extension> {
        RNone
    }
}

fn main() {
    let host = Host_TO::from_value(Quiet, TD_Opaque);
    let protocol = (unswag_plugin().open())(host, "double".into(), "{}".into()).into_result().expect("it opens");
    let op = protocol.op("double.double".into()).into_option().expect("it has the op");
    let call = r#"{"kind":"double.double","inputs":[{"dtype":"F32","shape":[8]}]}"#;
    let code = op.build(call.into(), r#"{"device":"cpu"}"#.into()).into_result().expect("it builds");
    let kernel = code.kernel.into_option().expect("it has a kernel");

    let (x, mut y) = ([1.5f32; 8], [0f32; 8]);
    let shape = [8i64];
    let view = |data: *mut f32| TensorView {
        data: data.cast(),
        device: DlDevice { kind: 1, index: 0 },
        ndim: 1,
        dtype: Dtype::F32.into(),
        shape: shape.as_ptr(),
        strides: std::ptr::null(),
        byte_offset: 0,
        life: PhantomData,
    };
    let (inputs, outputs) = ([view(x.as_ptr().cast_mut())], [view(y.as_mut_ptr())]);
    let launch = frame::Launch {
        stream: std::ptr::null_mut(),
        seed: 0,
        offset: 0,
        scratch: std::ptr::null_mut(),
        scratch_bytes: 0,
        scalars: RSlice::from_slice(&[]),
        threads: 1,
        flags: 0,
        gpu: None,
        host: std::ptr::null(),
        reserved: [0; 4],
    };
    report("forward of 8 elements through the ABI", || {
        let returned = kernel.forward(
            black_box(&launch),
            Views::from_slice(black_box(&inputs)),
            Views::from_slice(black_box(&outputs)),
            Views::from_slice(&[]),
        );
        assert!(returned.is_ok());
    });
    assert_eq!(y, [3.0; 8], "the answer is right");
    report("the same, called directly", || double(black_box(&x), black_box(&mut y)));
    report("plan of one call", || {
        black_box(op.plan(black_box(call).into())).into_result().expect("it plans");
    });
}

fn report(what: &str, mut call: impl FnMut()) {
    let mut times = Vec::from_iter((0..RUNS).map(|_| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed() / CALLS
    }));
    times.sort();
    let [least, median, most]: [Duration; 3] = [times[0], times[RUNS / 2], times[RUNS - 1]];
    println!("{what}: median {} ns ({} to {} ns)", median.as_nanos(), least.as_nanos(), most.as_nanos());
}
