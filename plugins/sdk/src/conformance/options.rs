//! Options: what opens a protocol, and what must not.

use serde_json::{Value, json};
use unswag_abi::doc::{Attrs, OptionSpec, OptionType, ProtocolInfo};

use super::{Checks, MAX_VARIANTS, Verdict, not_a_panic};
use crate::{error::Error, test::PluginTest};

fn object(options: &Attrs) -> Value {
    Value::Object(options.clone().into_iter().collect())
}

/// Options that open it: those given, plus a value for each mandatory option that has an obvious one.
pub(super) fn check(plugin: &PluginTest, info: &ProtocolInfo, given: &Attrs, checks: &mut Checks<'_>) -> Option<Attrs> {
    let mut base = given.clone();
    for (name, spec) in &info.options {
        if spec.default.is_some() || base.contains_key(name) {
            continue;
        }
        match obvious(spec) {
            Some(value) => {
                base.insert(name.clone(), value);
            }
            None => {
                checks.run(&info.id, "opens with its defaults", || {
                    Ok(Verdict::Skip(format!(
                        "option {name:?} is mandatory and nothing says what to try; give it to the check"
                    )))
                });
                return None;
            }
        }
    }
    checks.value(&info.id, "opens with its defaults", || plugin.open(&info.id, object(&base)))?;
    checks.run(&info.id, "refuses unknown protocols and options", || {
        refused(plugin, "no such protocol", "{}", "an unknown protocol")?;
        let mut options = base.clone();
        options.insert("no_such_option".to_owned(), json!(1));
        refused(plugin, &info.id, &object(&options).to_string(), "an unknown option")?;
        for text in ["", "[", "null", "[]", "7", "{\"a\":", "\u{0}", "{\"a\":1e999}"] {
            refused(plugin, &info.id, text, "options that are no JSON object")?;
        }
        Ok(Verdict::Pass)
    });
    checks.run(&info.id, "refuses options of a wrong type or value", || {
        let mut tried = 0;
        for (name, spec) in &info.options {
            for wrong in misfits(spec) {
                let mut options = base.clone();
                options.insert(name.clone(), wrong.clone());
                refused(plugin, &info.id, &object(&options).to_string(), &format!("{name}={wrong}"))?;
                tried += 1;
            }
        }
        Ok(if tried == 0 { Verdict::Skip("it has no options".to_owned()) } else { Verdict::Pass })
    });
    Some(base)
}

fn refused(plugin: &PluginTest, id: &str, options: &str, what: &str) -> Result<(), Error> {
    let outcome = plugin.open_text(id, options);
    not_a_panic(&outcome).map_err(|error| error.at(what))?;
    match outcome {
        Ok(_) => Err(crate::error!("{what}: expected an error, it opened")),
        Err(_) => Ok(()),
    }
}

fn obvious(spec: &OptionSpec) -> Option<Value> {
    let number = spec.minimum.or(spec.maximum);
    spec.choices.first().cloned().or_else(|| match spec.kind {
        OptionType::Integer => number.map(|number| json!(number as i64)),
        OptionType::Number => number.map(|number| json!(number)),
        OptionType::Boolean => Some(json!(false)),
        OptionType::String | OptionType::Path => None,
    })
}

fn misfits(spec: &OptionSpec) -> Vec<Value> {
    let mut wrong = match spec.kind {
        OptionType::String | OptionType::Path => vec![json!(7), json!(["a"])],
        OptionType::Integer => vec![json!("7"), json!(1.5), json!(true)],
        OptionType::Number => vec![json!("7"), json!({})],
        OptionType::Boolean => vec![json!("true"), json!(1)],
    };
    wrong.push(Value::Null);
    wrong.extend(spec.minimum.map(|least| json!(least.floor() as i64 - 1)));
    wrong.extend(spec.maximum.filter(|most| *most < 1e15).map(|most| json!(most.ceil() as i64 + 1)));
    if !spec.choices.is_empty() && spec.kind == OptionType::String {
        wrong.push(json!("none of its choices"));
    }
    wrong
}

/// The base, and the base with each option set to each value that the manifest names. The label says what differs.
pub(super) fn variants(info: &ProtocolInfo, base: &Attrs) -> Vec<(String, Attrs)> {
    let mut variants = vec![(String::new(), base.clone())];
    for (name, spec) in &info.options {
        let ends = || spec.minimum.into_iter().chain(spec.maximum);
        let values = match spec.kind {
            _ if !spec.choices.is_empty() => spec.choices.clone(),
            OptionType::Boolean => vec![json!(true), json!(false)],
            OptionType::Integer => ends().map(|number| json!(number as i64)).collect(),
            OptionType::Number => ends().map(|number| json!(number)).collect(),
            OptionType::String | OptionType::Path => Vec::new(),
        };
        let usual = base.get(name).or(spec.default.as_ref());
        for value in values.into_iter().filter(|value| Some(value) != usual) {
            let mut options = base.clone();
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            options.insert(name.clone(), value);
            variants.push((format!("{name}={text}"), options));
        }
    }
    variants.truncate(MAX_VARIANTS);
    variants
}
