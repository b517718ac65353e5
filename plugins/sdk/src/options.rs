//! Options against what the manifest declares of them. The host checks them too; a plugin must not depend on that.

use serde_json::Value;
use unswag_abi::doc::{Attrs, OptionSpec, OptionType, ProtocolInfo};

use crate::error::Error;

/// `given`, with the declared defaults filled in.
///
/// # Errors
/// A mandatory option is missing, or one is unknown, of the wrong type, out of range, or not among its choices.
pub fn resolve(info: &ProtocolInfo, given: &Attrs) -> Result<Attrs, Error> {
    if let Some(unknown) = given.keys().find(|name| !info.options.contains_key(*name)) {
        let known = Vec::from_iter(info.options.keys().map(String::as_str));
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        crate::bail!("unknown option {unknown:?} of protocol {}; {known}", info.id);
    }
    let mut resolved = Attrs::new();
    for (name, spec) in &info.options {
        let Some(value) = given.get(name).or(spec.default.as_ref()) else {
            crate::bail!("option {name:?} of protocol {} is missing: {}", info.id, spec.description);
        };
        check(spec, value).map_err(|wanted| {
            crate::error!("option {name:?} of protocol {}: expected {wanted}, got {value}", info.id)
        })?;
        resolved.insert(name.clone(), value.clone());
    }
    Ok(resolved)
}

/// What was expected instead.
fn check(spec: &OptionSpec, value: &Value) -> Result<(), String> {
    let (fits, wanted) = match spec.kind {
        OptionType::String => (value.is_string(), "a string"),
        OptionType::Path => (value.is_string(), "a path"),
        OptionType::Integer => (value.is_i64() || value.is_u64(), "an integer"),
        OptionType::Number => (value.is_number(), "a number"),
        OptionType::Boolean => (value.is_boolean(), "true or false"),
    };
    if !fits {
        return Err(wanted.to_owned());
    }
    if let Some(number) = value.as_f64()
        && (spec.minimum.is_some_and(|least| number < least) || spec.maximum.is_some_and(|most| number > most))
    {
        return Err(match (spec.minimum, spec.maximum) {
            (Some(least), Some(most)) => format!("{wanted} from {least} to {most}"),
            (Some(least), None) => format!("{wanted} of at least {least}"),
            (_, most) => format!("{wanted} of at most {}", most.unwrap_or(f64::INFINITY)),
        });
    }
    if !spec.choices.is_empty() && !spec.choices.contains(value) {
        let choices = Vec::from_iter(spec.choices.iter().map(Value::to_string));
        return Err(format!("one of {}", choices.join(", ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::info::{Info, opt};

    fn given(value: Value) -> Attrs {
        serde_json::from_value(value).expect("an object")
    }

    fn info() -> ProtocolInfo {
        Info::new("p", "1.0.0", "A test.")
            .option("bits", opt::integer("Bits.").default(2).range(1.0, 4.0))
            .option("mode", opt::string("How.").default("exact").choices(["exact", "2bit"]))
            .option("rank", opt::integer("Rank; no default."))
            .into_doc()
    }

    #[test]
    fn defaults_are_filled_in() {
        let all = resolve(&info(), &given(json!({"rank": 8}))).unwrap();
        assert_eq!(all, given(json!({"bits": 2, "mode": "exact", "rank": 8})));
    }

    #[test]
    fn every_misfit_names_the_option_and_what_it_takes() {
        for (options, expected) in [
            (json!({}), "option \"rank\" of protocol p is missing: Rank; no default."),
            (json!({"rank": 8, "bit": 2}), "unknown option \"bit\" of protocol p; it has bits, mode, rank"),
            (json!({"rank": "8"}), "option \"rank\" of protocol p: expected an integer, got \"8\""),
            (json!({"rank": 1, "bits": 5}), "option \"bits\" of protocol p: expected an integer from 1 to 4, got 5"),
            (
                json!({"rank": 1, "mode": "3bit"}),
                "option \"mode\" of protocol p: expected one of \"exact\", \"2bit\", got \"3bit\"",
            ),
        ] {
            assert_eq!(resolve(&info(), &given(options)).unwrap_err().message(), expected);
        }
    }
}
