//! libtorch on one device: the struct, where its tensors lie, and what is charged for them. What it computes is `backend`.

use std::rc::Rc;

use tch::{Device, Kind, TchError, Tensor};
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, EngineError, Meter, PluginCall};

use crate::{
    cpu,
    memory::{Memory, Pool, Pooled},
    tensor::{TorchTensor, dtype_of, kind_of, torch_error},
    threads,
};

/// libtorch on one device.
#[derive(Clone, Debug)]
pub struct Torch {
    pub(crate) device: Device,
    meter: Meter,
    pub(crate) pool: Pool,
    /// Whether what our kernels can do is done by them.
    has_kernels: bool,
}

pub(crate) type Made<T = TorchTensor> = Result<T, EngineError>;

impl Torch {
    pub fn cpu() -> Self {
        threads::share();
        Torch { device: Device::Cpu, meter: Meter::default(), pool: Pool::default(), has_kernels: true }
    }

    /// The first device of this kind. On a GPU libtorch's own operations run, and memory is libtorch's.
    ///
    /// # Errors
    /// This machine has none, or this build of libtorch does not know it.
    pub fn on(device: unswag_abi::doc::Device) -> Result<Self, EngineError> {
        use unswag_abi::doc::Device as Kind;
        match device {
            Kind::Cpu => Ok(Torch::cpu()),
            Kind::Cuda if tch::Cuda::is_available() => Ok(Torch { device: Device::Cuda(0), ..Torch::plain_cpu() }),
            Kind::Cuda => Err(EngineError::Backend(
                "no CUDA device can be used: libtorch finds none, or was built without CUDA; set LIBTORCH to a build for CUDA, or \
                 compute on the CPU"
                    .into(),
            )),
            other => Err(EngineError::Backend(format!("libtorch does not compute on {other:?}; compute on the CPU"))),
        }
    }

    /// The CPU, with libtorch's own operations alone: what every other device runs, and what the kernels are held against.
    pub fn plain_cpu() -> Self {
        Torch { has_kernels: false, ..Torch::cpu() }
    }

    /// Whether tensors lie in this machine's own memory, and not in a device's.
    pub fn is_on_host(&self) -> bool {
        self.device == Device::Cpu
    }

    /// Bytes of the tensors that are alive.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// A tensor from the bytes of a checkpoint: little-endian elements in row-major order, copied.
    ///
    /// # Errors
    /// An element type that is not floating point, or bytes that do not fit the shape.
    pub fn tensor_from_bytes(&self, shape: [u64; 2], dtype: Dtype, bytes: &[u8]) -> Made {
        // libtorch takes a pointer and believes the shape.
        let expected = shape[0].checked_mul(shape[1]).and_then(|elements| elements.checked_mul(dtype.bytes()));
        if expected != Some(bytes.len() as u64) {
            let got = bytes.len();
            return Err(EngineError::Backend(format!("a tensor of {dtype} {shape:?} does not have {got} bytes")));
        }
        let kind = kind_of(dtype)?;
        if self.device == Device::Cpu {
            let tensor = self.fresh(shape, kind)?;
            // SAFETY: the tensor was made just now.
            unsafe { cpu::write_bytes(&tensor.view)? }.copy_from_slice(bytes);
            return Ok(tensor);
        }
        let tensor = Tensor::f_from_data_size(bytes, &sizes(shape), kind).map_err(torch_error)?;
        self.owned(tensor.f_to_device(self.device))
    }

    /// Writes f32 values into a tensor, rounded to its element type. Every handle to it sees them.
    ///
    /// # Errors
    /// There are more values than elements, or fewer.
    pub fn fill_from_f32(&self, to: &TorchTensor, values: &[f32]) -> Made<()> {
        if self.is_served(&[to]) {
            return cpu::from_f32(values, &to.view);
        }
        let host = Tensor::f_from_slice(values).and_then(|host| host.f_reshape(to.view.size())).map_err(torch_error)?;
        to.view.shallow_clone().f_copy_(&host).map_err(torch_error)
    }

    /// The most bytes that the pool gave out at once: tensors, and what kernels took and gave back within one call. What
    /// libtorch's own operations took is not among them.
    pub fn pool_peak_bytes(&self) -> u64 {
        self.pool.peak_bytes()
    }

    /// Plugins' kernels are handed bytes in the host's memory.
    pub(crate) fn runs_plugins(&self, call: &PluginCall) -> Made<()> {
        match self.device {
            Device::Cpu => Ok(()),
            device => Err(call.fault(format!("plugins' kernels are not run on {device:?} yet; compute on the CPU"))),
        }
    }

    /// A tensor whose elements are still to be written, in memory that is used again.
    pub(crate) fn fresh(&self, shape: [u64; 2], kind: Kind) -> Made {
        let bytes = shape[0] * shape[1] * dtype_of(kind).bytes();
        let (tensor, block) = match self.device {
            Device::Cpu => {
                let Pooled { tensor, block } = self.pool.tensor(&sizes(shape), kind).map_err(torch_error)?;
                (tensor, Some(block))
            }
            // On other devices libtorch keeps memory itself.
            device => (Tensor::f_empty(sizes(shape), (kind, device)).map_err(torch_error)?, None),
        };
        let memory = Memory { _block: block, _charge: self.meter.charge(bytes) };
        Ok(TorchTensor { view: Rc::new(tensor), memory: Rc::new(memory), quantized: None })
    }

    /// One row of bytes, copied.
    pub(crate) fn bytes_from(&self, bytes: &[u8]) -> Made {
        let tensor = self.fresh([1, bytes.len() as u64], Kind::Uint8)?;
        let copy = || tensor.view.shallow_clone().f_copy_(&Tensor::f_from_slice(bytes)?);
        copy().map_err(torch_error)?;
        Ok(tensor)
    }

    pub(crate) fn like(&self, x: &TorchTensor) -> Made {
        self.fresh(self.shape(x), x.view.kind())
    }

    pub(crate) fn filled(&self, shape: [u64; 2], kind: Kind) -> Made {
        let x = self.fresh(shape, kind)?;
        drop(x.view.shallow_clone().f_zero_().map_err(torch_error)?);
        Ok(x)
    }

    /// Memory for the kernels' own work, where they are to be used.
    pub(crate) fn kernels(&self) -> Option<&Pool> {
        self.has_kernels.then_some(&self.pool)
    }

    /// Whether the kernels work on these: they are on the CPU, and of one element type that there are kernels for.
    pub(crate) fn is_served(&self, tensors: &[&TorchTensor]) -> bool {
        self.has_kernels
            && cpu::is_served(&tensors[0].view)
            && tensors.iter().all(|x| x.view.kind() == tensors[0].view.kind())
    }

    /// Charges a tensor that owns its memory.
    pub(crate) fn owned(&self, tensor: Result<Tensor, TchError>) -> Made {
        let tensor = tensor.map_err(torch_error)?;
        let bytes = tensor.numel() as u64 * dtype_of(tensor.kind()).bytes();
        let memory = Memory { _block: None, _charge: self.meter.charge(bytes) };
        Ok(TorchTensor { view: Rc::new(tensor), memory: Rc::new(memory), quantized: None })
    }

    /// Changes x in its own memory where nobody else holds it, else makes another.
    pub(crate) fn changed(
        &self,
        x: TorchTensor,
        in_place: impl FnOnce(&mut Tensor) -> Result<Tensor, TchError>,
        fresh: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Made {
        if self.is_unique(&x) {
            drop(in_place(&mut x.view.shallow_clone()).map_err(torch_error)?);
            Ok(x)
        } else {
            self.owned(fresh(&x.view))
        }
    }

    pub(crate) fn ids(&self, ids: &[u32], offset: u64) -> Result<Tensor, EngineError> {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id) + offset as i64).collect();
        Tensor::f_from_slice(&ids).and_then(|ids| ids.f_to_device(self.device)).map_err(torch_error)
    }
}

pub(crate) fn sizes([rows, columns]: [u64; 2]) -> [i64; 2] {
    [rows as i64, columns as i64]
}
