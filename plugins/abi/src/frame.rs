//! The frozen frame: the only types that cross the shared-library boundary.
//!
//! `Plugin{manifest, open}` gives a [`Protocol`]; a protocol gives [`Op`]s; an op gives a [`Kernel`] for one device.
//! The host allocates every byte and calls; a plugin owns nothing between calls. Nothing here may change once published:
//! the frame grows by document fields and by [`Extension`] ids, each checked by its own layout.

// `#[sabi_trait]` 0.11 expands to impls inside a const block, which rustc has warned of since 1.79.
#![allow(non_local_definitions)]

use std::{ffi::c_void, marker::PhantomData};

use abi_stable::{
    StableAbi, abi_stability::abi_checking::check_layout_compatibility, declare_root_module_statics,
    library::RootModule, package_version_strings, sabi_trait, sabi_types::VersionStrings, std_types::*,
    type_layout::TypeLayout,
};

/// What every call returns: the value, or a sentence for the user (what, where, expected, got, next step).
pub type Ret<T> = RResult<T, RString>;

/// A JSON document whose type is in [`crate::doc`]. Control plane only: nothing on the hot path is a document.
pub type DocStr<'a> = RStr<'a>;

/// Element type, byte for byte DLPack's `DLDataType`: `code` 0 int, 1 uint, 2 float, 4 bfloat, 6 bool, 10.. float8.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DlDataType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

/// Where the data is, byte for byte DLPack's `DLDevice`: `kind` 1 CPU, 2 CUDA, 3 CUDA host (pinned).
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct DlDevice {
    pub kind: i32,
    pub index: i32,
}

/// A borrowed tensor, byte for byte DLPack's `DLTensor`. `data` null means "this one is not wanted".
///
/// `strides` counts elements and may be null for a contiguous row-major tensor.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub data: *mut c_void,
    pub device: DlDevice,
    pub ndim: i32,
    pub dtype: DlDataType,
    pub shape: *const i64,
    pub strides: *const i64,
    pub byte_offset: u64,
    pub life: PhantomData<&'a ()>,
}

pub type Views<'a> = RSlice<'a, TensorView<'a>>;

/// Everything that belongs to a call and not to a tensor. `(seed, offset)` make a recompute give the first pass's bits.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Launch<'a> {
    pub stream: *mut c_void,
    pub seed: u64,
    pub offset: u64,
    pub scratch: *mut c_void,
    pub scratch_bytes: u64,
    /// This step's values of the scheduled attributes, in the order of `OpPlan::scalars`.
    pub scalars: RSlice<'a, f64>,
    /// How many threads the call may use; at least 1.
    pub threads: u32,
    /// Bits: [`Launch::TRAINING`], [`Launch::DETERMINISTIC`], [`Launch::RECOMPUTE`].
    pub flags: u32,
    /// Enqueues entry `entry` of this op's compiled module on `stream`; returns 0 or a driver error code. `None` on the
    /// CPU. A plugin links no CUDA: it launches through this. `args` point to the kernel's arguments, as in
    /// `cuLaunchKernel`.
    pub gpu: Option<
        extern "C" fn(
            host: *const c_void,
            entry: u32,
            grid: [u32; 3],
            block: [u32; 3],
            shared_bytes: u32,
            args: RSlice<'_, *const c_void>,
        ) -> i32,
    >,
    /// Goes back to the host as the first argument of `gpu`.
    pub host: *const c_void,
    pub reserved: [u64; 4],
}

impl Launch<'_> {
    pub const TRAINING: u32 = 1;
    pub const DETERMINISTIC: u32 = 2;
    pub const RECOMPUTE: u32 = 4;
}

/// One op on one device. Stateless between calls; may be called from several threads at once.
#[sabi_trait]
pub trait Kernel: Send + Sync {
    /// Computes `outputs` from `inputs` and fills `saved`, as the op's plan listed them. `saved` is empty when not training.
    fn forward(&self, launch: &Launch<'_>, inputs: Views<'_>, outputs: Views<'_>, saved: Views<'_>) -> Ret<()>;

    /// Computes `grad_inputs` from `grad_outputs` and `saved` (then the saved inputs, then the saved outputs, by index).
    fn backward(
        &self,
        launch: &Launch<'_>,
        grad_outputs: Views<'_>,
        saved: Views<'_>,
        grad_inputs: Views<'_>,
    ) -> Ret<()>;

    /// Makes the outputs named in `OpPlan::rematerializes` again, from what `backward` gets as `saved`, so that the op's
    /// consumers need not save them.
    #[sabi(last_prefix_field)]
    fn rematerialize(&self, launch: &Launch<'_>, saved: Views<'_>, outputs: Views<'_>) -> Ret<()>;
}
pub type KernelBox = Kernel_TO<'static, RBox<()>>;

/// Device code as text. `language` is `cuda`, `ptx` or `stablehlo`; the host compiles or inlines it.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Module {
    pub language: RString,
    pub text: RString,
    pub entries: RVec<RString>,
    pub options: RVec<RString>,
}

/// What an op gives for a target: modules, and the kernel that runs or launches them. StableHLO needs no kernel.
#[repr(C)]
#[derive(StableAbi)]
pub struct Code {
    pub modules: RVec<Module>,
    pub kernel: ROption<KernelBox>,
}

#[sabi_trait]
pub trait Op: Send + Sync {
    /// [`crate::doc::OpCall`] to [`crate::doc::OpPlan`]. Pure: the same call gives the same plan, and nothing runs.
    fn plan(&self, call: DocStr<'_>) -> Ret<RString>;

    /// [`crate::doc::OpCall`] and [`crate::doc::Target`] to code, or an error that says why there is none.
    #[sabi(last_prefix_field)]
    fn build(&self, call: DocStr<'_>, target: DocStr<'_>) -> Ret<Code>;
}
pub type OpBox = Op_TO<'static, RBox<()>>;

#[sabi_trait]
pub trait Protocol: Send + Sync {
    /// [`crate::doc::Graph`] to [`crate::doc::Patch`]. A patch is data: the host validates, plans, diffs and applies it.
    fn rewrite(&self, graph: DocStr<'_>) -> Ret<RString>;

    /// Weight surgery beyond `Init::Expr`: one [`crate::doc::TransformJob`], inputs in the checkpoint's own dtypes,
    /// outputs allocated by the host. May be called from any thread.
    fn transform(&self, job: DocStr<'_>, inputs: Views<'_>, outputs: Views<'_>) -> Ret<()>;

    /// The op of this kind (`delhi.swiglu`), if this protocol has it.
    fn op(&self, kind: RStr<'_>) -> ROption<OpBox>;

    /// A later interface by name (`unswag.generate/1`), if this protocol has it.
    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension>;
}
pub type ProtocolBox = Protocol_TO<'static, RBox<()>>;

/// An interface that came after the frame. A layout mismatch costs a plugin this extension, not its life.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Extension {
    layout: &'static TypeLayout,
    value: *const c_void,
}

// SAFETY: `value` points to a `&'static T` with `T: Send + Sync`; `new` is the only constructor.
unsafe impl Send for Extension {}
// SAFETY: as above.
unsafe impl Sync for Extension {}

impl Extension {
    pub fn new<T: StableAbi + Send + Sync>(value: &'static T) -> Self {
        Self { layout: T::LAYOUT, value: (value as *const T).cast() }
    }

    /// The interface, if its layout here and there agree.
    ///
    /// # Errors
    /// The first lines of the layout report; the whole runs to a thousand.
    pub fn get<T: StableAbi>(self) -> Result<&'static T, String> {
        check_layout_compatibility(T::LAYOUT, self.layout)
            .map_err(|report| report.to_string().lines().take(6).collect::<Vec<_>>().join("\n"))?;
        // SAFETY: `new` stored a `&'static` of a type whose layout was just found compatible with `T`.
        Ok(unsafe { &*self.value.cast::<T>() })
    }
}

/// What the host offers a plugin while it is open.
#[sabi_trait]
pub trait Host: Send + Sync {
    /// One line for the user: `level` 1 error, 2 warning, 3 information, 4 debugging.
    fn log(&self, level: u8, text: RStr<'_>);

    #[sabi(last_prefix_field)]
    fn extension(&self, id: RStr<'_>) -> ROption<Extension>;
}
pub type HostBox = Host_TO<'static, RBox<()>>;

/// The root module that a plugin library exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRef, prefix_fields = PluginPrefix)))]
pub struct Plugin {
    /// A [`crate::doc::Manifest`]. No side effects: it is asked before anyone decided to trust the plugin with more.
    pub manifest: extern "C" fn() -> RString,
    /// Opens one of the manifest's protocols with its options, a JSON object that fits the protocol's `options`.
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn(host: HostBox, protocol: RStr<'_>, options: DocStr<'_>) -> Ret<ProtocolBox>,
}

impl RootModule for PluginRef {
    declare_root_module_statics! {PluginRef}
    const BASE_NAME: &'static str = "unswag_plugin";
    const NAME: &'static str = "unswag plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
