//! What this machine has: for `unswag doctor`, for choosing protocols by hardware, and for a kernel's [`Target`].
//!
//! Input: the environment, `/proc`, library folders, and NVIDIA's driver where its kernel module runs. Nothing here may
//! panic, wait long, run Python, follow a relative path, or open a library other than the driver's own. What is absent is
//! an answer, not an error.

mod cpu;
mod libraries;
mod memory;
mod nvidia;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use unswag_abi::doc::{Device, Target};

pub use self::{
    cpu::Cpu,
    libraries::{Libraries, Library},
    memory::Memory,
    nvidia::{Gpu, Nvidia},
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    pub cpu: Cpu,
    pub memory: Memory,
    pub nvidia: Nvidia,
    pub libraries: Libraries,
    /// TPU chips that the kernel shows.
    pub tpu_chips: usize,
}

/// One line of `unswag doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub item: &'static str,
    pub present: bool,
    pub found: String,
    /// What follows from it, and for which protocols.
    pub means: String,
}

/// Where to look: the real machine, or a test's idea of one.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub variables: BTreeMap<String, OsString>,
    pub root: PathBuf,
    /// NVIDIA's driver library, as ld.so is asked for it.
    pub cuda_driver: PathBuf,
    /// How long it may take to answer.
    pub driver_limit: Duration,
}

impl Surroundings {
    fn real() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self {
            variables: variables.collect(),
            root: PathBuf::from("/"),
            cuda_driver: PathBuf::from("libcuda.so.1"),
            driver_limit: nvidia::DRIVER_LIMIT,
        }
    }

    /// `path`, given as from the root.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// A variable that names a file or folder. A relative one is left out: it would mean the working directory.
    fn variable_path(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The start of a small text file.
    fn read(&self, path: &Path) -> Option<String> {
        use std::{io::Read as _, os::unix::fs::OpenOptionsExt as _};

        let mut bytes = Vec::new();
        let file =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
        file.take(64 << 10).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Instruction sets of this machine's CPU that kernels ask for. Reads no file.
pub(crate) fn cpu_features() -> Vec<String> {
    cpu::features()
}

impl Machine {
    /// Looks. Takes milliseconds; with an NVIDIA driver that does not answer, three seconds.
    pub fn detect() -> Self {
        Self::detect_in(&Surroundings::real())
    }

    /// Only the memory. Reads a few small files.
    pub fn memory() -> Memory {
        Memory::detect(&Surroundings::real())
    }

    fn detect_in(around: &Surroundings) -> Self {
        Self {
            cpu: Cpu::detect(around),
            memory: Memory::detect(around),
            nvidia: Nvidia::detect(around),
            libraries: Libraries::detect(around),
            tpu_chips: tpu_chips(around),
        }
    }

    /// The devices that kernels can run on here.
    pub fn devices(&self) -> BTreeSet<Device> {
        let mut devices = BTreeSet::from([Device::Cpu]);
        if !self.nvidia.gpus.is_empty() {
            devices.insert(Device::Cuda);
        }
        if self.tpu_chips > 0 && !self.libraries.libtpu.is_empty() {
            devices.insert(Device::Tpu);
        }
        devices
    }

    /// What a kernel for `device` is built for; `None` where there is no such device.
    pub fn target(&self, device: Device) -> Option<Target> {
        let features = match device {
            _ if !self.devices().contains(&device) => return None,
            Device::Cpu => self.cpu.features.clone(),
            Device::Cuda => self.nvidia.gpus.first().map(Gpu::architecture).into_iter().collect(),
            // Which generation it is, only libtpu can say, and it is not opened here.
            Device::Tpu => Vec::new(),
        };
        Some(Target { device, features })
    }

    /// Everything, item by item, with what it means.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![self.cpu.finding(), self.memory.finding()];
        findings.extend(self.nvidia.findings());
        findings.extend(self.libraries.findings(!self.nvidia.gpus.is_empty()));
        findings.push(Finding {
            item: "TPU",
            present: self.tpu_chips > 0,
            found: match self.tpu_chips {
                0 => "none".to_owned(),
                chips => format!("{chips} chips"),
            },
            means: match (self.tpu_chips > 0, self.libraries.libtpu.is_empty()) {
                (true, false) => "protocols made for a TPU, such as alpha, run at home here".to_owned(),
                (true, true) => {
                    "libtpu is missing: `pip install libtpu`; until then protocols run on the CPU".to_owned()
                }
                (false, _) => "a protocol made for a TPU runs here only where it has CPU or CUDA kernels".to_owned(),
            },
        });
        findings
    }
}

/// `/dev/accel*` on newer hosts, VFIO groups on older ones are not counted: other devices use them too.
fn tpu_chips(around: &Surroundings) -> usize {
    let Ok(entries) = std::fs::read_dir(around.path("/dev")) else {
        return 0;
    };
    let is_chip = |name: &str| {
        name.strip_prefix("accel")
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_chip)).count()
}

/// Bytes as people read them.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests;
