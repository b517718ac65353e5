//! The processor.

use serde::Serialize;

use super::{Finding, Surroundings};
use crate::plain;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    pub model: Option<String>,
    /// `x86_64` or `aarch64`.
    pub arch: &'static str,
    /// Threads that this process may run at once (its affinity and its control group considered).
    pub threads: usize,
    /// Instruction sets that kernels ask for, as Rust names them: `avx2`, `avx512f`, `neon`, ….
    pub features: Vec<String>,
}

impl Cpu {
    pub(super) fn detect(around: &Surroundings) -> Self {
        let cpuinfo = around.read(&around.path("/proc/cpuinfo")).unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, model)| plain::one_line(model, 100));
        Self {
            model,
            arch: std::env::consts::ARCH,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: features(),
        }
    }

    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }

    pub(super) fn finding(&self) -> Finding {
        let kernels = if self.has("avx512f") && self.has("avx512bw") && self.has("avx512vl") {
            "delhi's AVX-512 kernels run"
        } else if self.has("avx2") && self.has("fma") {
            "no AVX-512: delhi's AVX2 kernels run"
        } else {
            "neither AVX-512 nor AVX2: delhi's portable kernels run"
        };
        let bf16 = match self.has("avx512bf16") || self.has("bf16") {
            true => "; bf16 matrix products in hardware",
            false => "; bf16 matrix products without hardware: f32 may be faster",
        };
        Finding {
            item: "CPU",
            present: true,
            found: format!(
                "{} ({}), {} threads: {}",
                self.model.as_deref().unwrap_or("unnamed"),
                self.arch,
                self.threads,
                match self.features.is_empty() {
                    true => "no vector extensions".to_owned(),
                    false => self.features.join(" "),
                }
            ),
            means: format!("{kernels}{bf16}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn features() -> Vec<String> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let all = detected!(
        "sse4.2",
        "avx",
        "f16c",
        "fma",
        "bmi2",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    all.iter().filter(|(_, here)| *here).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(target_arch = "aarch64")]
pub(super) fn features() -> Vec<String> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    let all = detected!("neon", "fp16", "dotprod", "bf16", "i8mm", "sve", "sve2");
    all.iter().filter(|(_, here)| *here).map(|(name, _)| (*name).to_owned()).collect()
}
