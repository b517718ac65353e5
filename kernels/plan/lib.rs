//! What kernels want lent: the sizes that both a plan and the kernel itself go by.
//!
//! Apart from the kernels, because whoever plans need not be linked to them. Nothing here may compute on elements.

pub mod attention;

/// Whether the CPU has vector instructions that there are kernels for: AVX2, FMA and F16C.
pub fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
