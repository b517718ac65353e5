//! What kernels want lent: the sizes that both a plan and the kernel itself go by.
//!
//! Apart from the kernels, because whoever plans need not be linked to them. Nothing here may compute on elements.

pub mod attention;
