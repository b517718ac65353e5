//! What a protocol says of itself: one entry of the manifest, written by chaining what applies.

use serde_json::Value;
use unswag_abi::doc::{Device, OptionSpec, OptionType, ProtocolInfo};

/// Builds a [`ProtocolInfo`].
///
/// ```
/// use unswag_sdk::{Device, Info, opt};
///
/// let info = Info::new("delhi", "0.1.0", "Saves SiLU and SwiGLU activations in a few bits.")
///     .claims(["silu", "swiglu"])
///     .ops(["delhi.silu"])
///     .devices([Device::Cpu])
///     .option("bits", opt::integer("Bits per saved derivative.").default(2).range(1.0, 4.0));
/// assert_eq!(info.as_doc().options["bits"].default, Some(2.into()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Info(ProtocolInfo);

impl Info {
    /// `id` is what the user types after `--plugin`: lower-case letters, digits, `-` and `_`. `summary` is one sentence.
    pub fn new(id: &str, version: &str, summary: &str) -> Self {
        Self(ProtocolInfo {
            id: id.to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            requires: Vec::new(),
            claims: Vec::new(),
            ops: Vec::new(),
            devices: Vec::new(),
            home: None,
            options: Default::default(),
        })
    }

    /// Host features without which it cannot work: `expr.svd/1`, `cache/1`, ….
    #[must_use]
    pub fn requires<'s>(mut self, features: impl IntoIterator<Item = &'s str>) -> Self {
        self.0.requires.extend(features.into_iter().map(str::to_owned));
        self
    }

    /// Kinds of nodes it rewrites.
    #[must_use]
    pub fn claims<'s>(mut self, kinds: impl IntoIterator<Item = &'s str>) -> Self {
        self.0.claims.extend(kinds.into_iter().map(str::to_owned));
        self
    }

    /// Its own ops, each named `id.op`.
    #[must_use]
    pub fn ops<'s>(mut self, kinds: impl IntoIterator<Item = &'s str>) -> Self {
        self.0.ops.extend(kinds.into_iter().map(str::to_owned));
        self
    }

    /// Devices that its ops have kernels for.
    #[must_use]
    pub fn devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.0.devices.extend(devices);
        self
    }

    /// The device it is made for; automatic selection prefers it there.
    #[must_use]
    pub fn home(mut self, device: Device) -> Self {
        self.0.home = Some(device);
        self
    }

    /// One option of `--plugin ID:name=value`.
    #[must_use]
    pub fn option(mut self, name: &str, option: opt::Opt) -> Self {
        self.0.options.insert(name.to_owned(), option.0);
        self
    }

    pub fn as_doc(&self) -> &ProtocolInfo {
        &self.0
    }

    pub fn into_doc(self) -> ProtocolInfo {
        self.0
    }
}

/// Options of a protocol, by type. One without a default is mandatory.
pub mod opt {
    use super::*;

    /// One option; see [`Info::option`].
    #[derive(Clone, Debug, PartialEq)]
    pub struct Opt(pub(super) OptionSpec);

    fn new(kind: OptionType, description: &str) -> Opt {
        Opt(OptionSpec {
            kind,
            description: description.to_owned(),
            default: None,
            choices: Vec::new(),
            minimum: None,
            maximum: None,
        })
    }

    pub fn string(description: &str) -> Opt {
        new(OptionType::String, description)
    }

    pub fn integer(description: &str) -> Opt {
        new(OptionType::Integer, description)
    }

    pub fn number(description: &str) -> Opt {
        new(OptionType::Number, description)
    }

    pub fn boolean(description: &str) -> Opt {
        new(OptionType::Boolean, description)
    }

    /// A file, relative to where the user stands. Its default is the empty string: no file.
    pub fn path(description: &str) -> Opt {
        new(OptionType::Path, description)
    }

    impl Opt {
        #[must_use]
        pub fn default(mut self, value: impl Into<Value>) -> Self {
            self.0.default = Some(value.into());
            self
        }

        /// The only values allowed.
        #[must_use]
        pub fn choices<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
            self.0.choices = values.into_iter().map(Into::into).collect();
            self
        }

        /// The least and the greatest value allowed.
        #[must_use]
        pub fn range(mut self, minimum: f64, maximum: f64) -> Self {
            self.0.minimum = Some(minimum);
            self.0.maximum = Some(maximum);
            self
        }
    }
}
