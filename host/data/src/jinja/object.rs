//! What a rendering makes besides plain values: functions, macros, loops, namespaces.
//!
//! What can change lives in the rendering itself and is named by its number here, so that values stay free of cycles.

use std::sync::Arc;

use super::{
    ast::Macro,
    value::{Dict, Value},
};

/// An object of one rendering.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// `namespace()`, by its number.
    Namespace(usize),
    /// The variable `loop`, by its number.
    Loop(usize),
    /// What `map`, `select` and others return in Python: it can be read once.
    Generator(usize),
    Cycler(usize),
    Joiner(usize),
    /// A macro, and the number of the scope that it was defined in.
    Macro(Arc<Macro>, usize),
    Function(Function),
    /// A method of a value, not yet called.
    Method(Arc<(Value, &'static str)>),
    Range(Range),
    /// `keys()`, `values()` or `items()` of a mapping.
    View(View, Arc<Dict>),
}

/// Functions that a template finds without being given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    /// `self`, the template.
    Template,
    RaiseException,
    StrftimeNow,
}

/// Numbers from `start`, by `step`, short of `stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
    pub len: usize,
}

impl Range {
    pub fn get(&self, index: usize) -> Option<i128> {
        (index < self.len).then(|| self.start + self.step * index as i128)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

impl Object {
    /// Levels that it adds where it stands in a container.
    pub fn depth(&self) -> u16 {
        match self {
            Object::Method(method) => {
                Value::tuple(vec![method.0.clone()]).map_or(super::value::MAX_DEPTH, |tuple| tuple.depth())
            }
            Object::View(_, dict) => dict.depth() + 1,
            _ => 0,
        }
    }
}

/// Identity, as Python compares objects that define nothing else.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Object::Namespace(a), Object::Namespace(b))
            | (Object::Loop(a), Object::Loop(b))
            | (Object::Generator(a), Object::Generator(b))
            | (Object::Cycler(a), Object::Cycler(b))
            | (Object::Joiner(a), Object::Joiner(b)) => a == b,
            (Object::Macro(a, _), Object::Macro(b, _)) => Arc::ptr_eq(a, b),
            (Object::Function(a), Object::Function(b)) => a == b,
            (Object::Range(a), Object::Range(b)) => a.len == b.len && a.start == b.start && a.step == b.step,
            (Object::View(View::Keys, a), Object::View(View::Keys, b)) => {
                a.len() == b.len() && a.iter().all(|(key, _)| b.get_value(key).is_some())
            }
            _ => false,
        }
    }
}
