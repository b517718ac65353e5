//! Jinja's built-in filters, and transformers' own `tojson`.

use indexmap::IndexMap;

use super::{
    arguments::CallArguments,
    ast::{Binary, Comparison},
    budget::Error,
    eval::Run,
    filters_text, lookup, methods,
    methods::integer,
    object::{Object, View},
    ops::{self, type_name, undefined},
    print, questions,
    value::Value,
};

/// Every filter of Jinja2 3.1.
pub(crate) const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Applies a filter.
pub(crate) fn apply(run: &mut Run, name: &str, value: Value, arguments: CallArguments) -> Result<Value, Error> {
    match name {
        "default" | "d" => {
            let [default, boolean] = arguments.take("default", 0, ["default_value", "boolean"])?;
            let is_missing = matches!(value, Value::Undefined(_))
                || (boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true());
            Ok(if is_missing { default.unwrap_or_else(|| "".into()) } else { value })
        }
        "tojson" => to_json(run, &value, arguments),
        "length" | "count" => {
            let [] = arguments.take(name, 0, [])?;
            length(run, &value)
        }
        "list" => {
            let [] = arguments.take(name, 0, [])?;
            let items = run.collect(&value)?;
            Ok(Value::list(items)?)
        }
        "string" => {
            let [] = arguments.take(name, 0, [])?;
            match value {
                Value::Markup(_) => Ok(value),
                _ => Ok(print::to_string(&mut run.budget, &value)?.into()),
            }
        }
        "join" => {
            let [separator, attribute] = arguments.take(name, 0, ["d", "attribute"])?;
            let separator = print::to_string(&mut run.budget, &separator.unwrap_or_else(|| "".into()))?;
            let mut items = run.collect(&value)?;
            if let Some(path) = attribute.filter(|attribute| !matches!(attribute, Value::None)) {
                for item in &mut items {
                    *item = at_path(run, item, &path, None)?;
                }
            }
            methods::join(&mut run.budget, &separator, &items, true)
        }
        "items" => {
            let [] = arguments.take(name, 0, [])?;
            let pairs = match &value {
                Value::Undefined(_) => Vec::new(),
                Value::Dict(dict) => run.collect(&Value::Object(Object::View(View::Items, dict.clone())))?,
                _ => return Err(Error::new("Can only get item pairs from a mapping.")),
            };
            run.generator(pairs)
        }
        "first" => {
            let [] = arguments.take(name, 0, [])?;
            let mut items = super::iterate::Items::of(&mut run.budget, &value)?;
            Ok(items.next(run)?.unwrap_or_else(|| empty("No first item, sequence was empty.")))
        }
        "last" => {
            let [] = arguments.take(name, 0, [])?;
            let items = reversible(run, &value)?;
            Ok(items.into_iter().next_back().unwrap_or_else(|| empty("No last item, sequence was empty.")))
        }
        "reverse" => {
            let [] = arguments.take(name, 0, [])?;
            if let Some(text) = value.as_str() {
                run.budget.take(text.len())?;
                return run.budget.text(text.chars().rev().collect::<String>());
            }
            let is_generator = matches!(value, Value::Object(Object::Generator(_)));
            let mut items = if is_generator { run.collect(&value)? } else { reversible(run, &value)? };
            items.reverse();
            if is_generator { Ok(Value::list(items)?) } else { run.generator(items) }
        }
        "map" => map(run, &value, arguments),
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, arguments),
        "sort" => {
            let [reverse, case_sensitive, attribute] =
                arguments.take(name, 0, ["reverse", "case_sensitive", "attribute"])?;
            let (is_reverse, is_exact) = (flag(&reverse), flag(&case_sensitive));
            let paths = match &attribute {
                Some(Value::Str(paths)) => {
                    run.budget.items(2 * paths.split(',').count())?;
                    paths.split(',').map(Value::from).collect()
                }
                Some(path) => vec![path.clone()],
                None => vec![Value::None],
            };
            let mut keyed = Vec::new();
            for item in run.collect(&value)? {
                let mut key = Vec::with_capacity(paths.len());
                for path in &paths {
                    let part = at_path(run, &item, path, None)?;
                    key.push(if is_exact { part } else { ignoring_case(run, part)? });
                }
                run.budget.items(paths.len() + 1)?;
                keyed.push((Value::list(key)?, item));
            }
            let sorted = ops::sort(&mut run.budget, keyed, is_reverse)?;
            Ok(Value::list(sorted.into_iter().map(|(_, item)| item).collect())?)
        }
        "dictsort" => {
            let [case_sensitive, by, reverse] = arguments.take(name, 0, ["case_sensitive", "by", "reverse"])?;
            let (is_reverse, is_exact) = (flag(&reverse), flag(&case_sensitive));
            let at = match by.as_ref().map_or(Some("key"), Value::as_str) {
                Some("key") => 0,
                Some("value") => 1,
                _ => return Err(Error::new("You can only sort by either \"key\" or \"value\"")),
            };
            let Value::Dict(dict) = &value else {
                return Err(Error::new(format!("'{}' object has no attribute 'items'", type_name(&value))));
            };
            let mut keyed = Vec::new();
            for pair in run.collect(&Value::Object(Object::View(View::Items, dict.clone())))? {
                let part = pair.as_list().map(|pair| pair[at].clone()).unwrap_or_default();
                keyed.push((if is_exact { part } else { ignoring_case(run, part)? }, pair));
            }
            let sorted = ops::sort(&mut run.budget, keyed, is_reverse)?;
            Ok(Value::list(sorted.into_iter().map(|(_, pair)| pair).collect())?)
        }
        "unique" => {
            let [case_sensitive, attribute] = arguments.take(name, 0, ["case_sensitive", "attribute"])?;
            let is_exact = flag(&case_sensitive);
            let path = attribute.unwrap_or(Value::None);
            let mut seen: IndexMap<Value, Value> = IndexMap::new();
            for item in run.collect(&value)? {
                let mut key = at_path(run, &item, &path, None)?;
                if !is_exact {
                    key = ignoring_case(run, key)?;
                }
                let key = ops::key(&mut run.budget, &key)?.clone();
                seen.entry(key).or_insert(item);
            }
            run.generator(seen.into_values().collect())
        }
        "min" | "max" => {
            let [case_sensitive, attribute] = arguments.take(name, 0, ["case_sensitive", "attribute"])?;
            let is_exact = flag(&case_sensitive);
            let path = attribute.unwrap_or(Value::None);
            let comparison = if name == "min" { Comparison::Less } else { Comparison::Greater };
            let mut best: Option<(Value, Value)> = None;
            for item in run.collect(&value)? {
                let mut key = at_path(run, &item, &path, None)?;
                if !is_exact {
                    key = ignoring_case(run, key)?;
                }
                let is_better = match &best {
                    None => true,
                    Some((old, _)) => ops::compare(&mut run.budget, comparison, &key, old)?,
                };
                if is_better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or_else(|| empty("No aggregated item, sequence was empty."), |(_, item)| item))
        }
        "sum" => {
            let [attribute, start] = arguments.take(name, 0, ["attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if sum.as_str().is_some() {
                return Err(Error::new("sum() can't sum strings"));
            }
            for item in run.collect(&value)? {
                let item = match &attribute {
                    Some(path) => at_path(run, &item, path, None)?,
                    None => item,
                };
                sum = ops::binary(&mut run.budget, Binary::Add, &sum, &item)?;
            }
            Ok(sum)
        }
        "groupby" => group_by(run, &value, arguments),
        "batch" => {
            let [size, fill] = arguments.take(name, 1, ["linecount", "fill_with"])?;
            let size = integer(&size.unwrap_or_default())?;
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            let items = run.collect(&value)?;
            let mut batches: Vec<Vec<Value>> = Vec::new();
            for item in items {
                match batches.last_mut() {
                    Some(last) if last.len() as i128 != size => last.push(item),
                    // As in Jinja, a size of nothing gives an empty batch and then one of all items.
                    None if size == 0 => batches.extend([Vec::new(), vec![item]]),
                    _ => batches.push(vec![item]),
                }
            }
            let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
            if let (Some(fill), Some(last)) = (fill, batches.last_mut())
                && last.len() < size
            {
                run.budget.items(size - last.len())?;
                last.resize(size, fill);
            }
            let batches = batches.into_iter().map(Value::list).collect::<Result<Vec<_>, _>>()?;
            run.generator(batches)
        }
        "slice" => {
            let [slices, fill] = arguments.take(name, 1, ["slices", "fill_with"])?;
            let slices = integer(&slices.unwrap_or_default())?;
            let items = run.collect(&value)?;
            if slices == 0 {
                return Err(Error::new("integer division or modulo by zero"));
            }
            let slices = usize::try_from(slices).unwrap_or(0);
            run.budget.items(slices.saturating_mul(2))?;
            let fill = fill.filter(|fill| !matches!(fill, Value::None));
            let (each, with_extra) = (items.len() / slices.max(1), items.len() % slices.max(1));
            let mut rest = items.into_iter();
            let mut parts = Vec::with_capacity(slices);
            for number in 0..slices {
                let mut part: Vec<Value> = rest.by_ref().take(each + usize::from(number < with_extra)).collect();
                if number >= with_extra {
                    part.extend(fill.clone());
                }
                parts.push(Value::list(part)?);
            }
            run.generator(parts)
        }
        "attr" => {
            let [name] = arguments.take(name, 1, ["name"])?;
            let name = name.unwrap_or_default();
            let name = name.as_str().ok_or_else(|| Error::new("attribute name must be string"))?;
            // Items are not looked at, unlike with a dot.
            match &value {
                Value::Dict(_) => Ok(methods::attribute(&value, name).unwrap_or_else(|| lookup::missing(&value, name))),
                _ => lookup::attribute(run, &value, name),
            }
        }
        _ => filters_text::apply(run, name, value, arguments),
    }
}

fn empty(message: &str) -> Value {
    Value::Undefined(Some(message.into()))
}

fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

fn ignoring_case(run: &mut Run, value: Value) -> Result<Value, Error> {
    match &value {
        Value::Str(text) => run.budget.text(text.to_lowercase()),
        _ => Ok(value),
    }
}

pub(crate) fn length(run: &mut Run, value: &Value) -> Result<Value, Error> {
    if let Value::Object(Object::Loop(number)) = value {
        return Ok(run.loop_length(*number)?.into());
    }
    if let Some(text) = value.as_str() {
        run.budget.read(text.len())?;
        return Ok(text.chars().count().into());
    }
    let len = super::iterate::Items::of(&mut run.budget, value).ok().and_then(|items| items.len());
    len.map(Value::from).ok_or_else(|| Error::new(format!("object of type '{}' has no len()", type_name(value))))
}

/// The items of what Python's `reversed` takes.
fn reversible(run: &mut Run, value: &Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Object(Object::Generator(_)) => {
            Err(Error::new(format!("'{}' object is not reversible", type_name(value))))
        }
        _ => run.collect(value),
    }
}

/// What a path such as `function.name` or `0` leads to; the item itself where the path is `None`.
fn at_path(run: &mut Run, item: &Value, path: &Value, default: Option<&Value>) -> Result<Value, Error> {
    let step = |run: &mut Run, item: &Value, part: &Value| -> Result<Value, Error> {
        let found = lookup::item(run, item, part)?;
        Ok(match (&found, default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            _ => found,
        })
    };
    match path {
        Value::None => Ok(item.clone()),
        Value::Str(text) => {
            let mut item = item.clone();
            run.budget.read(text.len())?;
            for part in text.split('.') {
                run.budget.steps(1)?;
                let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                let part = match part.parse::<i64>() {
                    Ok(number) if is_number => Value::from(number),
                    _ => part.into(),
                };
                item = step(run, &item, &part)?;
            }
            Ok(item)
        }
        other => step(run, item, other),
    }
}

fn map(run: &mut Run, value: &Value, mut arguments: CallArguments) -> Result<Value, Error> {
    if !value.is_true() {
        return run.generator(Vec::new());
    }
    let is_attribute =
        arguments.positional.is_empty() && arguments.named.iter().any(|(name, _)| &**name == "attribute");
    let mut mapped = Vec::new();
    if is_attribute {
        let [attribute, default] = arguments.take("map", 0, ["attribute", "default"])?;
        let path = attribute.unwrap_or(Value::None);
        let default = default.filter(|default| !matches!(default, Value::None));
        for item in run.collect(value)? {
            mapped.push(at_path(run, &item, &path, default.as_ref())?);
        }
        return run.generator(mapped);
    }
    if arguments.positional.is_empty() {
        return Err(Error::new("map requires a filter argument"));
    }
    let name = arguments.positional.remove(0);
    let name = name.as_str().ok_or_else(|| Error::new("map requires the name of a filter"))?;
    for item in run.collect(value)? {
        let arguments = CallArguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
        run.budget.items(arguments.positional.len() + 2 * arguments.named.len())?;
        mapped.push(nested(run, name, item, arguments)?);
    }
    run.generator(mapped)
}

/// A filter that a filter applies: one level deeper, because `map('map', 'map', ...)` nests.
fn nested(run: &mut Run, name: &str, item: Value, arguments: CallArguments) -> Result<Value, Error> {
    run.nested(|run| apply(run, name, item, arguments))
}

fn select(run: &mut Run, filter: &str, value: &Value, mut arguments: CallArguments) -> Result<Value, Error> {
    if !value.is_true() {
        return run.generator(Vec::new());
    }
    let mut path = Value::None;
    if filter.ends_with("attr") {
        if arguments.positional.is_empty() {
            return Err(Error::new("Missing parameter for attribute name"));
        }
        path = arguments.positional.remove(0);
    }
    let test = if arguments.positional.is_empty() { None } else { Some(arguments.positional.remove(0)) };
    let test = match &test {
        Some(name) => Some(name.as_str().ok_or_else(|| Error::new(format!("{filter} requires the name of a test")))?),
        None => None,
    };
    let wanted = filter.starts_with("select");
    let mut selected = Vec::new();
    for item in run.collect(value)? {
        let part = at_path(run, &item, &path, None)?;
        let answer = match test {
            None => part.is_true(),
            Some(test) => {
                let arguments =
                    CallArguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
                run.budget.steps(1 + arguments.positional.len() + arguments.named.len())?;
                questions::ask(run, test, &part, arguments)?
            }
        };
        if answer == wanted {
            selected.push(item);
        }
    }
    run.generator(selected)
}

fn group_by(run: &mut Run, value: &Value, arguments: CallArguments) -> Result<Value, Error> {
    let [attribute, default, case_sensitive] =
        arguments.take("groupby", 1, ["attribute", "default", "case_sensitive"])?;
    let path = attribute.unwrap_or_default();
    let is_exact = flag(&case_sensitive);
    let default = default.filter(|default| !matches!(default, Value::None));
    let mut keyed = Vec::new();
    for item in run.collect(value)? {
        let mut key = at_path(run, &item, &path, default.as_ref())?;
        if !is_exact {
            key = ignoring_case(run, key)?;
        }
        keyed.push((key, item));
    }
    let sorted = ops::sort(&mut run.budget, keyed, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((old, items)) if ops::equal(&mut run.budget, old, &key)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut tuples = Vec::new();
    for (key, items) in groups {
        run.budget.items(4)?;
        let key = if is_exact { key } else { at_path(run, &items[0], &path, default.as_ref())? };
        tuples.push(Value::tuple(vec![key, Value::list(items)?])?);
    }
    Ok(Value::list(tuples)?)
}

fn to_json(run: &mut Run, value: &Value, arguments: CallArguments) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        arguments.take("tojson", 0, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(Value::Undefined(message)) => return Err(undefined(&message)),
        Some(number) => {
            let width = usize::try_from(integer(&number)?.max(0)).unwrap_or(usize::MAX);
            run.budget.take(width)?;
            Some(" ".repeat(width))
        }
    };
    let [between, after_key] = match separators {
        None | Some(Value::None) => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        Some(separators) => {
            let texts = run.collect(&separators)?;
            let texts: Vec<String> = texts.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            <[String; 2]>::try_from(texts).map_err(|_| Error::new("tojson: separators are two texts"))?
        }
    };
    let json =
        print::Json { ensure_ascii: flag(&ensure_ascii), sort_keys: flag(&sort_keys), indent, between, after_key };
    let mut out = String::new();
    json.write(&mut run.budget, &mut out, value, 0)?;
    Ok(out.into())
}
