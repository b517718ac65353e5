//! What a plugin says of itself before anyone opens it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Device;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`crate::ABI_VERSION`] of the build.
    pub abi: u32,
    /// The library's own name and version.
    pub name: String,
    pub version: String,
    /// A plugin built with `panic=abort` could take the host down, so it is refused.
    pub panic: PanicStrategy,
    pub protocols: Vec<ProtocolInfo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicStrategy {
    Unwind,
    Abort,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProtocolInfo {
    /// What the user types after `--plugin`: lower-case letters, digits, `-` and `_`.
    pub id: String,
    pub version: String,
    /// One sentence for `unswag plugin list`.
    pub summary: String,
    /// Host features it needs; as `Patch::requires`.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Node kinds it rewrites.
    #[serde(default)]
    pub claims: Vec<String>,
    /// Its own ops: `delhi.swiglu`, ….
    #[serde(default)]
    pub ops: Vec<String>,
    /// Devices its ops have kernels for.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The device it is made for, if any; automatic selection prefers it there.
    #[serde(default)]
    pub home: Option<Device>,
    /// What `--plugin ID:key=value` takes.
    #[serde(default)]
    pub options: BTreeMap<String, OptionSpec>,
}

/// One option: checked by the host before the plugin sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionSpec {
    #[serde(rename = "type")]
    pub kind: OptionType,
    pub description: String,
    /// `None` makes the option mandatory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    /// The only values allowed, where not empty.
    #[serde(default, rename = "enum", skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionType {
    String,
    Integer,
    Number,
    Boolean,
    /// A path to a file; relative to where the user stands.
    Path,
}
