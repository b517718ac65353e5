//! NVIDIA GPUs, asked through the driver's own library. CUDA itself need not be installed.

use std::{
    ffi::{CStr, c_char, c_int},
    path::Path,
    sync::mpsc,
    time::Duration,
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use serde::Serialize;

use super::{Finding, Surroundings, show_bytes};
use crate::plain;

/// A driver that hangs (a GPU that fell off the bus) must not take the program with it.
pub(super) const DRIVER_LIMIT: Duration = Duration::from_secs(3);

const MAX_GPUS: c_int = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nvidia {
    /// Of the kernel module: `580.65.06`.
    pub driver: Option<String>,
    /// The newest CUDA that the driver knows, as (major, minor).
    pub cuda: Option<(i32, i32)>,
    pub gpus: Vec<Gpu>,
    /// Why there is a driver and no GPU.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    pub name: String,
    pub memory_bytes: u64,
    /// (9, 0) for Hopper.
    pub compute_capability: (i32, i32),
}

impl Gpu {
    /// As `nvcc -arch` names it. An `a` marks what only this generation runs (Hopper's warp-group products).
    pub fn architecture(&self) -> String {
        let (major, minor) = self.compute_capability;
        let suffix = if major >= 9 { "a" } else { "" };
        format!("sm_{major}{minor}{suffix}")
    }
}

impl Nvidia {
    pub(super) fn detect(around: &Surroundings) -> Self {
        let version = around.read(&around.path("/proc/driver/nvidia/version"));
        // Under WSL the driver is Windows's, and this device leads to it.
        let wsl = around.path("/dev/dxg").exists();
        let Some(version) = version.or_else(|| wsl.then(String::new)) else {
            return Self::default();
        };
        let mut found = Self { driver: driver_version(&version), ..Self::default() };
        match ask_in_time(around) {
            Ok((cuda, gpus)) => {
                found.cuda = Some(cuda);
                found.gpus = gpus;
            }
            Err(problem) => found.problem = Some(plain::one_line(&problem, 300)),
        }
        found
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let driver = self.driver.as_deref().unwrap_or("of unknown version");
        let cuda = self.cuda.map_or(String::new(), |(major, minor)| format!(", up to CUDA {major}.{minor}"));
        let mut findings = vec![match (&self.driver, &self.problem, self.gpus.len()) {
            (None, None, 0) => Finding {
                item: "NVIDIA",
                present: false,
                found: "no driver".to_owned(),
                means: "protocols made for CUDA run with their CPU kernels".to_owned(),
            },
            (_, Some(problem), _) => Finding {
                item: "NVIDIA",
                present: false,
                found: format!("driver {driver}; {problem}"),
                means: "the driver is there and does not work: reinstall it, or restart the machine; until then the CPU is used"
                    .to_owned(),
            },
            (_, None, 0) => Finding {
                item: "NVIDIA",
                present: false,
                found: format!("driver {driver}{cuda}; no GPU is visible"),
                means: "see CUDA_VISIBLE_DEVICES; until then the CPU is used".to_owned(),
            },
            (_, None, count) => Finding {
                item: "NVIDIA",
                present: true,
                found: format!("driver {driver}{cuda}; {count} GPU{}", if count == 1 { "" } else { "s" }),
                means: "protocols made for CUDA, such as delhi, are at home here".to_owned(),
            },
        }];
        findings.extend(self.gpus.iter().map(|gpu| {
            Finding {
                item: "GPU",
                present: true,
                found: format!("{}, {}, {}", gpu.name, show_bytes(gpu.memory_bytes), gpu.architecture()),
                means: match gpu.compute_capability {
                    (major, _) if major < 7 => "older than any kernel here is made for (sm_75)",
                    (7, _) => "no bf16: kernels use f16",
                    (8, minor) if minor < 9 => "bf16",
                    _ => "bf16, FP8",
                }
                .to_owned(),
            }
        }));
        findings
    }
}

/// From `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  …`: the first word that looks like a version.
fn driver_version(text: &str) -> Option<String> {
    text.lines()
        .next()?
        .split_whitespace()
        .find(|word| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        .map(str::to_owned)
}

type Answer = Result<((i32, i32), Vec<Gpu>), String>;

fn ask_in_time(around: &Surroundings) -> Answer {
    let (library, limit) = (around.cuda_driver.clone(), around.driver_limit);
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new()
        .name("unswag-cuda".to_owned())
        .spawn(move || {
            let _ = send.send(ask(&library));
        })
        .map_err(|error| format!("no thread could be started to ask the driver: {error}"))?;
    // After the time limit the thread is left where it is; it holds nothing that anyone else needs.
    receive.recv_timeout(limit).unwrap_or_else(|error| {
        Err(match error {
            mpsc::RecvTimeoutError::Timeout => format!("it did not answer within {} s", limit.as_secs_f64()),
            mpsc::RecvTimeoutError::Disconnected => "asking it failed".to_owned(),
        })
    })
}

/// The few functions of the CUDA driver API that this needs (cuda.h; `CUresult` and `CUdevice` are ints).
struct Driver {
    init: unsafe extern "C" fn(flags: u32) -> c_int,
    version: unsafe extern "C" fn(version: *mut c_int) -> c_int,
    count: unsafe extern "C" fn(count: *mut c_int) -> c_int,
    device: unsafe extern "C" fn(device: *mut c_int, ordinal: c_int) -> c_int,
    name: unsafe extern "C" fn(name: *mut c_char, length: c_int, device: c_int) -> c_int,
    memory: unsafe extern "C" fn(bytes: *mut usize, device: c_int) -> c_int,
    attribute: unsafe extern "C" fn(value: *mut c_int, attribute: c_int, device: c_int) -> c_int,
}

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// `CUDA_ERROR_NO_DEVICE`: a driver without a GPU, which is no defect.
const NO_DEVICE: c_int = 100;

impl Driver {
    fn open(library: &Path) -> Result<Self, String> {
        // SAFETY: this is the system's own driver; its kernel module runs. Its constructors start no work.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|_| "libcuda.so.1 is missing or does not open".to_owned())?;
        // The driver keeps threads and exit handlers: it is never closed.
        let library: &'static Library = Box::leak(Box::new(library));
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the field's type is the function's, as cuda.h declares it.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                    .map_err(|_| format!("libcuda.so.1 has no {}", $name))?
            };
        }
        Ok(Self {
            init: symbol!("cuInit"),
            version: symbol!("cuDriverGetVersion"),
            count: symbol!("cuDeviceGetCount"),
            device: symbol!("cuDeviceGet"),
            name: symbol!("cuDeviceGetName"),
            memory: symbol!("cuDeviceTotalMem_v2"),
            attribute: symbol!("cuDeviceGetAttribute"),
        })
    }
}

fn ask(library: &Path) -> Answer {
    let driver = Driver::open(library)?;
    let check = |call: &str, code: c_int| match code {
        0 => Ok(()),
        code => Err(format!("{call} failed with CUDA error {code}")),
    };
    let mut version = 0;
    // SAFETY: cuDriverGetVersion may be called before cuInit; the pointer is valid.
    check("cuDriverGetVersion", unsafe { (driver.version)(&mut version) })?;
    let version = (version / 1000, version % 1000 / 10);
    // SAFETY: 0 is the only flag value allowed.
    match unsafe { (driver.init)(0) } {
        NO_DEVICE => return Ok((version, Vec::new())),
        code => check("cuInit", code)?,
    }
    let mut count = 0;
    // SAFETY: cuInit succeeded; the pointer is valid.
    check("cuDeviceGetCount", unsafe { (driver.count)(&mut count) })?;
    let gpus = (0..count.clamp(0, MAX_GPUS)).map(|ordinal| describe(&driver, ordinal, check));
    Ok((version, gpus.collect::<Result<_, _>>()?))
}

fn describe(driver: &Driver, ordinal: c_int, check: impl Fn(&str, c_int) -> Result<(), String>) -> Result<Gpu, String> {
    let mut device = 0;
    // SAFETY: the ordinal is below the count that the driver gave; the pointer is valid.
    check("cuDeviceGet", unsafe { (driver.device)(&mut device, ordinal) })?;
    let mut name = [0 as c_char; 256];
    // One byte less than there is, so that a zero ends it whatever the driver writes.
    // SAFETY: the buffer is longer than the length given.
    check("cuDeviceGetName", unsafe { (driver.name)(name.as_mut_ptr(), 255, device) })?;
    // SAFETY: the last byte is still zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    let mut memory_bytes = 0;
    // SAFETY: the device is the driver's own; the pointer is valid.
    check("cuDeviceTotalMem", unsafe { (driver.memory)(&mut memory_bytes, device) })?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: as above.
        check("cuDeviceGetAttribute", unsafe { (driver.attribute)(&mut value, attribute, device) }).map(|()| value)
    };
    Ok(Gpu {
        name: plain::one_line(&name.to_string_lossy(), 100),
        memory_bytes: memory_bytes as u64,
        compute_capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_version_is_read_from_both_kinds_of_module() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.2.0";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n";
        assert_eq!(driver_version(closed).as_deref(), Some("535.183.01"));
        assert_eq!(driver_version(open).as_deref(), Some("580.65.06"));
        assert_eq!(driver_version(""), None);
        assert_eq!(driver_version("NVRM version: none"), None);
    }

    #[test]
    fn an_architecture_is_named_as_the_compiler_names_it() {
        let gpu = |compute_capability| Gpu { name: "GPU".to_owned(), memory_bytes: 0, compute_capability };
        assert_eq!(gpu((7, 5)).architecture(), "sm_75");
        assert_eq!(gpu((9, 0)).architecture(), "sm_90a");
    }
}
