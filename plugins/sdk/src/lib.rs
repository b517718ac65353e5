//! What the author of an unswag plugin uses. Depend on this crate alone.
//!
//! A plugin is a library with one or more [`Protocol`]s. A protocol looks at a model's [`Graph`] and answers with a
//! [`Patch`]: data that says what to change. Where host primitives do not suffice it brings its own [`Op`]s, which say
//! beforehand what they make and keep ([`Op::plan`]) and give a [`Kernel`] per device. [`export_plugin!`] makes the
//! library one that unswag loads. `unswag plugin new NAME` writes a crate to start from.
//!
//! ```
//! use unswag_sdk::{Error, Graph, GraphExt, Host, Info, NoOptions, Patch, PatchBuilder, Protocol};
//!
//! /// Makes every dropout drop nothing.
//! struct NoDropout;
//!
//! impl Protocol for NoDropout {
//!     type Options = NoOptions;
//!
//!     fn info() -> Info {
//!         Info::new("no-dropout", "0.1.0", "Sets every dropout's probability to 0.").claims(["dropout"])
//!     }
//!
//!     fn open(_: NoOptions, _: Host) -> Result<Self, Error> {
//!         Ok(Self)
//!     }
//!
//!     fn rewrite(&self, graph: &Graph) -> Result<Patch, Error> {
//!         let mut patch = PatchBuilder::new();
//!         for node in graph.of_kind("dropout") {
//!             patch.attr(&node.path, "p", 0.0);
//!         }
//!         if patch.is_empty() {
//!             return Err(graph.nothing_to_do("dropout", &["dropout"]));
//!         }
//!         Ok(patch.finish())
//!     }
//! }
//!
//! unswag_sdk::export_plugin!(NoDropout);
//! # fn main() {}
//! ```
//!
//! The author never sees the boundary: documents arrive typed, tensors checked, and a panic anywhere in the author's code
//! becomes an error with its place. [`test::PluginTest`] runs all of it without the host.

pub mod conformance;
pub mod element;
pub mod graph;
pub mod guard;
pub mod launch;
pub mod options;
pub mod patch;
pub mod protocol;
pub mod tensor;
pub mod test;

mod error;
mod export;
mod info;
mod raw;

pub use element::{Element, Float};
pub use error::Error;
pub use graph::{AttrsExt, GraphExt};
pub use info::{Info, opt};
pub use launch::Launch;
pub use patch::{NodeBuilder, PatchBuilder, SubgraphBuilder};
pub use protocol::{Built, Host, Kernel, NoOptions, Op, Protocol};
pub use tensor::{Inputs, Outputs, Tensor, TensorBuf, TensorError, TensorMut};

pub use unswag_abi::doc;
pub use unswag_abi::doc::{
    Attrs, CacheSlot, Device, Dim, Dtype, Edit, Expr, Graph, Init, Manifest, Meta, Node, OpCall, OpPlan, Patch,
    ProtocolInfo, SubNode, Subgraph, SvdPart, Target, TransformJob, Value,
};
pub use unswag_abi::frame::{Extension, Module};

/// The guide's examples run as tests. A copy of this crate elsewhere has neither the guide nor tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/authoring-a-plugin.md")]
struct Guide;

pub use half;
pub use serde;
pub use serde_json;

/// The boundary's own types: for the host's command line and for [`export_plugin!`], not for authors.
#[doc(hidden)]
pub mod __private {
    use unswag_abi::{
        abi_stable::prefix_type::PrefixTypeTrait,
        frame::{DocStr, Plugin},
    };
    pub use unswag_abi::{
        abi_stable::{
            library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult},
            std_types::{RStr, RString},
        },
        doc::PanicStrategy,
        frame::{HostBox, PluginRef, ProtocolBox, Ret},
    };

    pub use crate::export::{Registered, manifest, open};

    pub fn root(
        manifest: extern "C" fn() -> RString,
        open: extern "C" fn(HostBox, RStr<'_>, DocStr<'_>) -> Ret<ProtocolBox>,
    ) -> PluginRef {
        Plugin { manifest, open }.leak_into_prefix()
    }
}
