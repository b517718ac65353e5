//! The manifest: what the host reads before anyone decided to trust the plugin.

use std::collections::HashSet;

use unswag_abi::{
    ABI_VERSION,
    doc::{Manifest, OptionSpec, OptionType, PanicStrategy, ProtocolInfo},
};

use super::{Checks, Verdict};
use crate::{error::Error, test::PluginTest};

/// The manifest, where there is one that the rest of the suite can go by.
pub(super) fn check(plugin: &PluginTest, checks: &mut Checks<'_>) -> Option<Manifest> {
    let manifest = checks.value("manifest", "is a manifest document", || plugin.manifest())?;
    checks.run("manifest", "is the same each time", || {
        let (first, second) = (plugin.manifest_text(), plugin.manifest_text());
        if first == second { Ok(Verdict::Pass) } else { Err(Error::new("two calls gave two texts")) }
    });
    checks.run("manifest", "states this ABI and a panic that unwinds", || {
        if manifest.abi != ABI_VERSION {
            crate::bail!("expected ABI {ABI_VERSION}, got {}; build it with the SDK of this version", manifest.abi);
        }
        if manifest.panic != PanicStrategy::Unwind {
            crate::bail!("built with panic=abort, which could end the host; remove it from the profile");
        }
        Ok(Verdict::Pass)
    });
    checks.run("manifest", "names the library and its protocols", || {
        if manifest.name.is_empty() || !is_version(&manifest.version) {
            crate::bail!("expected a name and a version like 1.2.3, got {:?} {:?}", manifest.name, manifest.version);
        }
        if manifest.protocols.is_empty() {
            crate::bail!("a plugin without a protocol does nothing");
        }
        let mut seen = HashSet::new();
        match manifest.protocols.iter().find(|info| !seen.insert(&info.id)) {
            Some(info) => Err(crate::error!("protocol {:?} stands twice", info.id)),
            None => Ok(Verdict::Pass),
        }
    });
    for info in &manifest.protocols {
        checks.run(&info.id, "describes itself", || protocol(info).map(|()| Verdict::Pass));
    }
    Some(manifest)
}

fn protocol(info: &ProtocolInfo) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if info.id.is_empty() || !info.id.chars().all(plain) {
        crate::bail!("id {:?}: expected lower-case letters, digits, - and _", info.id);
    }
    if !is_version(&info.version) {
        crate::bail!("version {:?}: expected one like 1.2.3", info.version);
    }
    if info.summary.trim().is_empty() || info.summary.contains('\n') {
        crate::bail!("summary {:?}: expected one sentence on one line", info.summary);
    }
    for kind in &info.ops {
        // The host finds an op's protocol by what stands before the dot.
        if !kind.strip_prefix(&info.id).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')) {
            crate::bail!("op {kind:?}: expected a name that starts with {:?}", format!("{}.", info.id));
        }
    }
    if !info.ops.is_empty() && info.devices.is_empty() {
        crate::bail!("it has ops but no device that they run on");
    }
    for (name, spec) in &info.options {
        option(spec).map_err(|error| error.at(format!("option {name:?}")))?;
    }
    Ok(())
}

fn option(spec: &OptionSpec) -> Result<(), Error> {
    if spec.description.trim().is_empty() {
        crate::bail!("it has no description");
    }
    let fits = |value: &serde_json::Value| match spec.kind {
        OptionType::String | OptionType::Path => value.is_string(),
        OptionType::Integer => value.is_i64() || value.is_u64(),
        OptionType::Number => value.is_number(),
        OptionType::Boolean => value.is_boolean(),
    };
    if let Some(value) = spec.choices.iter().chain(&spec.default).find(|value| !fits(value)) {
        crate::bail!("{value} is not of its type {:?}", spec.kind);
    }
    if let Some(default) = &spec.default {
        if !spec.choices.is_empty() && !spec.choices.contains(default) {
            crate::bail!("its default {default} is not among its choices");
        }
        let number = default.as_f64();
        let below = number.zip(spec.minimum).is_some_and(|(number, least)| number < least);
        if below || number.zip(spec.maximum).is_some_and(|(number, most)| number > most) {
            crate::bail!("its default {default} is out of its range");
        }
    }
    match (spec.minimum, spec.maximum) {
        (Some(least), Some(most)) if least > most => Err(crate::error!("its range is empty: {least} to {most}")),
        _ => Ok(()),
    }
}

fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let parts = Vec::from_iter(numbers.split('.'));
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u64>().is_ok())
}
