//! A plugin's manifest: parsed, and checked for everything that the host later relies on.
//!
//! Input: text from a plugin, or from a lock file. This must never let a control character through to a terminal, nor a
//! protocol that the host could not tell from another.

use std::collections::BTreeSet;

use serde::Deserialize;
use unswag_abi::{
    ABI_VERSION,
    doc::{Manifest, OptionSpec, PanicStrategy, ProtocolInfo},
};

use crate::{options, plain};

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

const MAX_ID_CHARS: usize = 64;
const MAX_TEXT_CHARS: usize = 1000;

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("its manifest has {bytes} bytes; at most {MAX_MANIFEST_BYTES} are read")]
    TooLarge { bytes: usize },

    #[error("its manifest is not a manifest: {0}")]
    Parse(String),

    #[error("it speaks ABI {found}, this unswag speaks ABI {ABI_VERSION}; {}", if *found > u64::from(ABI_VERSION) { "use a newer unswag" } else { "rebuild the plugin with a newer unswag-sdk" })]
    OtherAbi { found: u64 },

    #[error(
        "it is built with panic=abort, so a defect in it would end the whole process; build it with panic=\"unwind\""
    )]
    PanicAbort,

    #[error("its manifest: {at}: {problem}")]
    Field { at: String, problem: String },
}

/// Parses and checks a manifest.
///
/// # Errors
/// [`ManifestError`], which names the field.
pub fn parse_manifest(text: &str) -> Result<Manifest, ManifestError> {
    /// The one field that every manifest has had and will have. It is read first, for the rest may have changed.
    #[derive(Deserialize)]
    struct AbiOnly {
        abi: u64,
    }

    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge { bytes: text.len() });
    }
    let parse_error = |error: serde_json::Error| ManifestError::Parse(plain::one_line(&error.to_string(), 300));
    let AbiOnly { abi } = serde_json::from_str(text).map_err(parse_error)?;
    if abi != u64::from(ABI_VERSION) {
        return Err(ManifestError::OtherAbi { found: abi });
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(parse_error)?;
    check_manifest(&manifest)?;
    Ok(manifest)
}

/// Checks a manifest that was parsed elsewhere (in a lock file).
///
/// # Errors
/// As [`parse_manifest`].
pub fn check_manifest(manifest: &Manifest) -> Result<(), ManifestError> {
    if manifest.abi != ABI_VERSION {
        return Err(ManifestError::OtherAbi { found: manifest.abi.into() });
    }
    if manifest.panic != PanicStrategy::Unwind {
        return Err(ManifestError::PanicAbort);
    }
    check_text("name", &manifest.name, false)?;
    check_text("version", &manifest.version, false)?;
    if manifest.protocols.is_empty() {
        return Err(field("protocols", "a plugin has at least one"));
    }
    let mut ids = BTreeSet::new();
    let mut ops = BTreeSet::new();
    for protocol in &manifest.protocols {
        if !is_protocol_id(&protocol.id) {
            return Err(field(
                "protocols.id",
                format!(
                    "{:?} is no protocol id: expected a lower-case letter, then lower-case letters, digits, `-` and `_`",
                    plain::one_line(&protocol.id, 80)
                ),
            ));
        }
        if !ids.insert(&protocol.id) {
            return Err(field("protocols.id", format!("`{}` stands twice", protocol.id)));
        }
        check_protocol(protocol, &mut ops)?;
    }
    Ok(())
}

fn check_protocol<'a>(protocol: &'a ProtocolInfo, ops: &mut BTreeSet<&'a str>) -> Result<(), ManifestError> {
    let at = |name: &str| format!("{}.{name}", protocol.id);
    check_text(&at("version"), &protocol.version, false)?;
    check_text(&at("summary"), &protocol.summary, false)?;
    for name in protocol.requires.iter().chain(&protocol.claims) {
        check_text(&at("requires or claims"), name, false)?;
    }
    for op in &protocol.ops {
        check_text(&at("ops"), op, false)?;
        if !op.contains('.') {
            return Err(field(
                at("ops"),
                format!(
                    "`{op}` could be a host primitive; a plugin's op has its protocol in front, `{}.{op}`",
                    protocol.id
                ),
            ));
        }
        if !ops.insert(op) {
            return Err(field(at("ops"), format!("`{op}` stands twice in this library")));
        }
    }
    for (name, spec) in &protocol.options {
        let at = at(&format!("options.{}", plain::one_line(name, 80)));
        check_option(name, spec).map_err(|problem| field(at, problem))?;
    }
    Ok(())
}

fn check_option(name: &str, spec: &OptionSpec) -> Result<(), String> {
    if !is_option_name(name) {
        return Err("expected a lower-case letter, then lower-case letters, digits, `-` and `_`".to_owned());
    }
    check_text("description", &spec.description, true).map_err(|error| error.to_string())?;
    for bound in [spec.minimum, spec.maximum].into_iter().flatten() {
        if bound.is_nan() {
            return Err("its minimum and maximum must be numbers".to_owned());
        }
    }
    if let (Some(minimum), Some(maximum)) = (spec.minimum, spec.maximum)
        && minimum > maximum
    {
        return Err(format!("its minimum {minimum} is above its maximum {maximum}"));
    }
    for value in spec.choices.iter() {
        options::check_type(spec.kind, value).map_err(|got| format!("its choice {value} is {got}"))?;
    }
    match &spec.default {
        Some(default) => {
            options::check_value(spec, default).map_err(|problem| format!("its own default {default}: {problem}"))
        }
        None => Ok(()),
    }
}

/// What a user types after `--plugin`.
pub fn is_protocol_id(id: &str) -> bool {
    is_option_name(id)
}

fn is_option_name(name: &str) -> bool {
    name.len() <= MAX_ID_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

fn check_text(at: &str, text: &str, may_be_empty: bool) -> Result<(), ManifestError> {
    if text.is_empty() && !may_be_empty {
        return Err(field(at, "is empty"));
    }
    if text.chars().count() > MAX_TEXT_CHARS {
        return Err(field(at, format!("is longer than {MAX_TEXT_CHARS} characters")));
    }
    if text.chars().any(plain::is_hostile) {
        return Err(field(at, format!("has a control character: {:?}", plain::one_line(text, 80))));
    }
    Ok(())
}

fn field(at: impl Into<String>, problem: impl Into<String>) -> ManifestError {
    ManifestError::Field { at: at.into(), problem: problem.into() }
}
