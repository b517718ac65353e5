//! Values of a template: what Python has of JSON, and the objects that a rendering makes.
//!
//! Containers never change once built, as transformers' sandbox demands, so a value holds no cycle. Each knows how deep
//! it is, and none is deeper than [`MAX_DEPTH`]: every recursion over a value is bounded by that.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use indexmap::{Equivalent, IndexMap};
use serde::{
    Deserialize, Serialize,
    de::{self, Deserializer, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap as _, SerializeSeq as _, Serializer},
};
use serde_json::Value as Json;

use super::{
    budget::{Budget, Limits},
    object::Object,
    print,
};

/// Deepest nesting of lists and mappings; JSON itself is read to 128.
pub(crate) const MAX_DEPTH: u16 = 250;

/// A value. `Default` is an undefined one.
#[derive(Clone)]
pub(crate) enum Value {
    /// What a missing variable or field is; the text says what was missing.
    Undefined(Option<Arc<str>>),
    None,
    Bool(bool),
    /// Python's integers have no bound; arithmetic beyond 128 bits is refused.
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// Text that `safe` or `escape` marked. It prints as other text does.
    Markup(Arc<str>),
    List(Arc<List>),
    Tuple(Arc<List>),
    Dict(Arc<Dict>),
    Object(Object),
}

/// Items of a list or tuple.
#[derive(Debug, Default)]
pub(crate) struct List {
    items: Vec<Value>,
    depth: u16,
}

/// Items of a mapping, in the order of their keys' first assignment.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    map: IndexMap<Value, Value>,
    depth: u16,
}

/// A container deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooDeep;

impl List {
    pub fn new(items: Vec<Value>) -> Result<Self, TooDeep> {
        let depth = deeper(items.iter())?;
        Ok(List { items, depth })
    }

    pub fn items(&self) -> &[Value] {
        &self.items
    }
}

impl Dict {
    /// Keys must be hashable ([`Value::is_hashable`]).
    pub fn new(map: IndexMap<Value, Value>) -> Result<Self, TooDeep> {
        let depth = deeper(map.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Dict { map, depth })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(&Name(key))
    }

    /// The item of any hashable key.
    pub fn get_value(&self, key: &Value) -> Option<&Value> {
        self.map.get(key)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Value, &Value)> + ExactSizeIterator {
        self.map.iter()
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn depth(&self) -> u16 {
        self.depth
    }

    pub fn map(&self) -> &IndexMap<Value, Value> {
        &self.map
    }
}

fn deeper<'a>(parts: impl Iterator<Item = &'a Value>) -> Result<u16, TooDeep> {
    let depth = 1 + parts.map(Value::depth).max().unwrap_or(0);
    if depth > MAX_DEPTH { Err(TooDeep) } else { Ok(depth) }
}

impl Value {
    pub const UNDEFINED: Value = Value::Undefined(None);

    /// A mapping with these fields, of which the last of one name counts.
    ///
    /// # Errors
    /// It would be deeper than [`MAX_DEPTH`].
    pub fn object<K: Into<Value>>(fields: impl IntoIterator<Item = (K, Value)>) -> Result<Value, TooDeep> {
        let map = fields.into_iter().map(|(key, value)| (key.into(), value)).collect();
        Ok(Value::Dict(Arc::new(Dict::new(map)?)))
    }

    /// A list of these items.
    ///
    /// # Errors
    /// It would be deeper than [`MAX_DEPTH`].
    pub fn list(items: Vec<Value>) -> Result<Value, TooDeep> {
        Ok(Value::List(Arc::new(List::new(items)?)))
    }

    pub fn tuple(items: Vec<Value>) -> Result<Value, TooDeep> {
        Ok(Value::Tuple(Arc::new(List::new(items)?)))
    }

    /// The text, of a text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The items, of a list or a tuple.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(list) | Value::Tuple(list) => Some(&list.items),
            _ => None,
        }
    }

    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Value::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// A field of a mapping; `None` where it is missing, or this is no mapping.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.as_dict()?.get(field)
    }

    /// Whether JSON's `null` stands there, or nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::None | Value::Undefined(_))
    }

    /// The integer that Python would take this for: booleans are integers.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Bool(flag) => Some(i128::from(*flag)),
            _ => None,
        }
    }

    /// The number, as a float.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    /// Whether it counts as true where a condition is expected.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.items.is_empty(),
            Value::Dict(dict) => dict.len() > 0,
            Value::Object(Object::Range(range)) => range.len > 0,
            Value::Object(Object::View(_, dict)) => dict.len() > 0,
            Value::Object(_) => true,
        }
    }

    /// `str(value)` of what JSON can say.
    pub fn to_text(&self) -> String {
        let mut budget = Budget::new(Limits::for_input(self.bytes()));
        print::to_string(&mut budget, self).expect("JSON takes no more than its size")
    }

    pub(super) fn depth(&self) -> u16 {
        match self {
            Value::List(list) | Value::Tuple(list) => list.depth,
            Value::Dict(dict) => dict.depth,
            Value::Object(object) => object.depth(),
            _ => 0,
        }
    }

    /// Whether it can be a key. Python hashes objects by their identity; no template needs that.
    pub fn is_hashable(&self) -> bool {
        match self {
            Value::List(_) | Value::Dict(_) | Value::Object(_) => false,
            Value::Tuple(list) => list.items.iter().all(Value::is_hashable),
            _ => true,
        }
    }

    /// Bytes of its texts and items, each counted where it stands.
    pub fn bytes(&self) -> usize {
        let own = size_of::<Value>();
        own + match self {
            Value::Str(text) | Value::Markup(text) => text.len(),
            Value::List(list) | Value::Tuple(list) => list.items.iter().map(Value::bytes).sum(),
            Value::Dict(dict) => dict.iter().map(|(key, value)| 16 + key.bytes() + value.bytes()).sum(),
            _ => 0,
        }
    }
}

impl Default for Value {
    fn default() -> Self {
        Value::UNDEFINED
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Undefined(_) => f.write_str("undefined"),
            Value::None => f.write_str("none"),
            Value::Bool(flag) => flag.fmt(f),
            Value::Int(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Str(text) | Value::Markup(text) => text.fmt(f),
            Value::List(list) | Value::Tuple(list) => f.debug_list().entries(&list.items).finish(),
            Value::Dict(dict) => f.debug_map().entries(dict.iter()).finish(),
            Value::Object(object) => object.fmt(f),
        }
    }
}

/// Equality of keys, as Python's dictionaries have it: `1`, `1.0` and `True` are one key.
///
/// Comparisons of values that a template built are counted; see `ops::equal`. Keys were counted when they were inserted.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => a == b,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => a.items == b.items,
            (Value::Dict(a), Value::Dict(b)) => a.map == b.map,
            (Value::Object(a), Value::Object(b)) => a == b,
            _ => numbers_equal(self, other),
        }
    }
}

impl Eq for Value {}

/// Exact, whatever the types: `2**53 + 1 == float(2**53)` is false in Python.
fn numbers_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Float(float), other) | (other, Value::Float(float)) => {
            other.as_int().is_some_and(|int| float_as_int(*float) == Some(int))
        }
        _ => matches!((a.as_int(), b.as_int()), (Some(a), Some(b)) if a == b),
    }
}

/// The integer that a float is exactly.
pub(crate) fn float_as_int(float: f64) -> Option<i128> {
    // 2^127 is the first float beyond.
    (float.fract() == 0.0 && float.abs() < 170_141_183_460_469_231_731_687_303_715_884_105_728.0)
        .then_some(float as i128)
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Value::Undefined(_) => state.write_u8(0),
            Value::None => state.write_u8(1),
            Value::Str(text) | Value::Markup(text) => Name(text).hash(state),
            Value::Float(number) => match float_as_int(*number) {
                Some(int) => int.hash(state),
                None => number.to_bits().hash(state),
            },
            Value::Tuple(list) => {
                state.write_u8(3);
                list.items.iter().for_each(|item| item.hash(state));
            }
            _ => self.as_int().unwrap_or_default().hash(state),
        }
    }
}

/// A text key that is looked for without an allocation.
struct Name<'a>(&'a str);

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(2);
        self.0.hash(state);
    }
}

impl Equivalent<Value> for Name<'_> {
    fn equivalent(&self, key: &Value) -> bool {
        key.as_str() == Some(self.0)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Str(text.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Value::Int(number as i128)
    }
}

/// Reads it as text does, with its limit of depth.
impl TryFrom<&Json> for Value {
    type Error = TooDeep;

    fn try_from(json: &Json) -> Result<Self, TooDeep> {
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(int), _) => Value::Int(int),
                (None, float) => Value::Float(float.unwrap_or(f64::NAN)),
            },
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => Value::list(items.iter().map(Value::try_from).collect::<Result<_, _>>()?)?,
            Json::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| Ok((name.as_str(), Value::try_from(value)?)));
                Value::object(fields.collect::<Result<Vec<_>, TooDeep>>()?)?
            }
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Value::list(items).map_err(|TooDeep| de::Error::custom("nested too deeply"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = IndexMap::new();
        while let Some((name, value)) = fields.next_entry::<String, Value>()? {
            map.insert(Value::from(name), value);
        }
        let dict = Dict::new(map).map_err(|TooDeep| de::Error::custom("nested too deeply"))?;
        Ok(Value::Dict(Arc::new(dict)))
    }
}

/// As JSON; objects of a rendering are `null`.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Undefined(_) | Value::None | Value::Object(_) => serializer.serialize_unit(),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Int(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_f64(*number as f64),
            },
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Str(text) | Value::Markup(text) => serializer.serialize_str(text),
            Value::List(list) | Value::Tuple(list) => {
                let mut out = serializer.serialize_seq(Some(list.items.len()))?;
                list.items.iter().try_for_each(|item| out.serialize_element(item))?;
                out.end()
            }
            Value::Dict(dict) => {
                let mut out = serializer.serialize_map(Some(dict.len()))?;
                dict.iter().try_for_each(|(key, value)| out.serialize_entry(key, value))?;
                out.end()
            }
        }
    }
}
