//! What makes a crate a plugin: the root module that the host looks for in the library.
//!
//! Everything here runs before the author's code, on documents from the host; it must never panic.

use unswag_abi::{
    ABI_VERSION,
    abi_stable::std_types::{RStr, RString},
    doc::{Attrs, Manifest, PanicStrategy},
    frame::{DocStr, HostBox, ProtocolBox, Ret},
};

use crate::{
    error::Error,
    guard::{contain, guard},
    info::Info,
    options,
    protocol::{Host, Protocol},
    raw,
};

/// One protocol of a library, its type forgotten. Made by [`export_plugin!`](crate::export_plugin).
#[derive(Clone, Copy)]
pub struct Registered {
    info: fn() -> Info,
    open: fn(Attrs, Host) -> Result<Box<dyn Protocol>, Error>,
}

impl Registered {
    pub const fn of<P: Protocol>() -> Self {
        Self { info: P::info, open: open_as::<P> }
    }
}

fn open_as<P: Protocol>(options: Attrs, host: Host) -> Result<Box<dyn Protocol>, Error> {
    let options = serde_json::Value::Object(options.into_iter().collect());
    let options: P::Options = serde_json::from_value(options)
        .map_err(|error| crate::error!("options do not fit the plugin's own type: {error}"))?;
    Ok(Box::new(P::open(options, host)?))
}

/// The manifest, as JSON. There is no way to report an error here but a text that is none, so that is what is given.
pub fn manifest(name: &str, version: &str, panic: PanicStrategy, protocols: &[Registered]) -> RString {
    let text = contain(|| {
        let manifest = Manifest {
            abi: ABI_VERSION,
            name: name.to_owned(),
            version: version.to_owned(),
            panic,
            protocols: protocols.iter().map(|protocol| (protocol.info)().into_doc()).collect(),
        };
        Ok(serde_json::to_string(&manifest)?)
    });
    text.unwrap_or_else(|error| format!("no manifest: {error}")).into()
}

/// Opens the protocol `id` with the JSON object `given`.
pub fn open(host: HostBox, id: RStr<'_>, given: DocStr<'_>, protocols: &[Registered]) -> Ret<ProtocolBox> {
    guard(
        || format!("plugin {id}: open"),
        || {
            let infos = Vec::from_iter(protocols.iter().map(|protocol| (protocol.info)().into_doc()));
            let Some(index) = infos.iter().position(|info| info.id == id.as_str()) else {
                let ids = Vec::from_iter(infos.iter().map(|info| info.id.as_str()));
                crate::bail!("no protocol {id:?} in this library; it has {}", ids.join(", "));
            };
            let given: Attrs = raw::parse("options", given)?;
            let resolved = options::resolve(&infos[index], &given)?;
            let protocol = (protocols[index].open)(resolved, Host::new(host))?;
            Ok(raw::protocol_box(&infos[index].id, protocol))
        },
    )
}

/// Exports protocols from this library: `export_plugin!(Relu, SquaredRelu);`, once, at the root of the crate.
///
/// The crate must be a `cdylib` (and an `rlib` too, so that its tests in `tests/` can link it), built with the default
/// `panic = "unwind"`. The macro also makes `pub fn unswag_plugin() -> PluginRef`, which [`PluginTest`] takes.
///
/// [`PluginTest`]: crate::test::PluginTest
#[macro_export]
macro_rules! export_plugin {
    ($($protocol:ty),+ $(,)?) => {
        /// The plugin's root module, as the host gets it from the library.
        pub fn unswag_plugin() -> $crate::__private::PluginRef {
            const PROTOCOLS: &[$crate::__private::Registered] =
                &[$($crate::__private::Registered::of::<$protocol>()),+];

            extern "C" fn manifest() -> $crate::__private::RString {
                // Asked here and not in the SDK: what counts is how the library itself is compiled.
                let panic = if ::core::cfg!(panic = "unwind") {
                    $crate::__private::PanicStrategy::Unwind
                } else {
                    $crate::__private::PanicStrategy::Abort
                };
                $crate::__private::manifest(
                    ::core::env!("CARGO_PKG_NAME"),
                    ::core::env!("CARGO_PKG_VERSION"),
                    panic,
                    PROTOCOLS,
                )
            }

            extern "C" fn open(
                host: $crate::__private::HostBox,
                protocol: $crate::__private::RStr<'_>,
                options: $crate::__private::RStr<'_>,
            ) -> $crate::__private::Ret<$crate::__private::ProtocolBox> {
                $crate::__private::open(host, protocol, options, PROTOCOLS)
            }

            static ROOT: ::std::sync::OnceLock<$crate::__private::PluginRef> = ::std::sync::OnceLock::new();
            *ROOT.get_or_init(|| $crate::__private::root(manifest, open))
        }

        const _: () = {
            extern "C" fn make() -> $crate::__private::RootModuleResult {
                $crate::__private::__call_root_module_loader(unswag_plugin)
            }

            /// The one symbol that the host looks up. Its name is abi_stable's, for a root module's loader.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static UNSWAG_PLUGIN: $crate::__private::LibHeader = {
                // SAFETY: `make` returns an erased `PluginRef`, the type named here.
                unsafe {
                    $crate::__private::LibHeader::from_constructor::<$crate::__private::PluginRef>(
                        make,
                        $crate::__private::CheckTypeLayout::Yes,
                    )
                }
            };
        };
    };
}
