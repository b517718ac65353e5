//! Renders a parsed template: statements write text, expressions give values. Here: the state of a rendering, its scopes, and
//! what it writes; [`statements`], [`loops`] and [`expressions`] run the template.
//!
//! Bounded in steps, bytes and depth by the [`Budget`] and [`MAX_CALLS`]; it reads nothing but its variables.

mod expressions;
mod loops;
mod statements;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use indexmap::IndexMap;

use self::loops::Loop;
use super::{
    ast::{Macro, Name, Target},
    budget::{Budget, Error, Limits},
    object::{Function, Object},
    parser::Parsed,
    print,
    value::Value,
};

/// Deepest nesting of statements and expressions that run at once, calls of macros included. CPython gives up at 1000.
const MAX_CALLS: usize = 1000;
/// The stack that this takes at most, with a margin of ten: a level takes some 5 KB without optimisation.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Around what a template marks as generated. Unicode keeps these two for such use: they stand for no character.
pub(crate) const GENERATED: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// What follows a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Variables of one scope.
#[derive(Default)]
struct Scope {
    variables: HashMap<Name, Value>,
    parent: Option<usize>,
    /// Whether a macro was defined in it or below: it then stays to the end.
    is_captured: bool,
    is_left: bool,
}

/// One rendering.
pub(crate) struct Run {
    pub(super) budget: Budget,
    pub(super) now: jiff::civil::DateTime,
    out: String,
    /// What each name stands for outside of all scopes.
    globals: Vec<Value>,
    loop_name: Option<Name>,
    /// `caller`, `kwargs` and `varargs`.
    macro_names: [Option<Name>; 3],
    scopes: Vec<Scope>,
    scope: usize,
    depth: usize,
    captured: Vec<Value>,
    pub(super) loops: Vec<Loop>,
    pub(super) namespaces: Vec<IndexMap<Arc<str>, Value>>,
    pub(super) generators: Vec<VecDeque<Value>>,
    pub(super) cyclers: Vec<(Vec<Value>, usize)>,
    pub(super) joiners: Vec<(Value, bool)>,
}

const FUNCTIONS: [(&str, Function); 9] = [
    ("self", Function::Template),
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("lipsum", Function::Lipsum),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
];

/// Renders a template under these variables, of which the last one of a name counts.
///
/// # Errors
/// The template fails, or takes more than its limits.
pub(crate) fn render(
    template: &Parsed,
    variables: &[(&str, Value)],
    now: jiff::civil::DateTime,
    limits: Limits,
) -> Result<String, Error> {
    let global = |name: &Arc<str>| {
        let given = variables.iter().rev().find(|(given, _)| **given == **name).map(|(_, value)| value.clone());
        let function = || FUNCTIONS.iter().find(|(known, _)| **known == **name);
        given
            .or_else(|| function().map(|(_, function)| Value::Object(Object::Function(*function))))
            .unwrap_or_else(|| Value::Undefined(Some(format!("'{name}' is undefined").into())))
    };
    let number = |text: &str| template.names.iter().position(|name| &**name == text).map(|at| at as Name);
    let mut run = Run {
        budget: Budget::new(limits),
        now,
        out: String::new(),
        globals: template.names.iter().map(global).collect(),
        loop_name: number("loop"),
        macro_names: ["caller", "kwargs", "varargs"].map(number),
        scopes: vec![Scope::default()],
        scope: 0,
        depth: 0,
        captured: Vec::new(),
        loops: Vec::new(),
        namespaces: Vec::new(),
        generators: Vec::new(),
        cyclers: Vec::new(),
        joiners: Vec::new(),
    };
    run.block(&template.body.clone())?;
    Ok(run.out)
}

impl Run {
    // Scopes

    /// Runs something in a new scope below another one.
    fn scoped<T>(&mut self, parent: usize, act: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let outer = self.scope;
        self.scopes.push(Scope { parent: Some(parent), ..Scope::default() });
        let own = self.scopes.len() - 1;
        self.scope = own;
        let result = act(self);
        self.scope = outer;
        if self.scopes[own].is_captured {
            // It stays to the end: what it holds counts.
            let variables = self.scopes[own].variables.len();
            self.budget.take(size_of::<Scope>() + 2 * variables * size_of::<(Name, Value)>())?;
        } else {
            self.scopes[own].is_left = true;
            self.scopes[own].variables = HashMap::new();
            while self.scopes.last().is_some_and(|scope| scope.is_left) {
                self.scopes.pop();
            }
        }
        result
    }

    fn set(&mut self, name: Name, value: Value) {
        self.scopes[self.scope].variables.insert(name, value);
    }

    /// What a name stands for here; every few scopes that are looked through count as a step.
    fn find(&mut self, name: Name) -> Result<&Value, Error> {
        let mut at = Some(self.scope);
        let mut seen = 0;
        while let Some(scope) = at {
            if self.scopes[scope].variables.contains_key(&name) {
                break;
            }
            at = self.scopes[scope].parent;
            seen += 1;
        }
        self.budget.steps(seen / 4)?;
        let found = at.and_then(|scope| self.scopes[scope].variables.get(&name));
        Ok(found.unwrap_or(&self.globals[name as usize]))
    }

    /// A macro that was defined here: the scopes around it stay.
    fn closure(&mut self, function: &Arc<Macro>) -> Value {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            if std::mem::replace(&mut self.scopes[scope].is_captured, true) {
                break;
            }
            at = self.scopes[scope].parent;
        }
        Value::Object(Object::Macro(function.clone(), self.scope))
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<(), Error> {
        match target {
            Target::Name(name) => self.set(*name, value),
            Target::Field(name, field) => {
                let Value::Object(Object::Namespace(number)) = *self.find(*name)? else {
                    return Err(Error::new("cannot assign attribute on non-namespace object"));
                };
                self.budget.take(field.len())?;
                self.namespaces[number].insert(field.clone(), value);
            }
            Target::Tuple(targets) => {
                let values = self.collect(&value)?;
                if values.len() != targets.len() {
                    let (expected, got) = (targets.len(), values.len());
                    return Err(Error::new(format!("{got} values to unpack, expected {expected}")));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
        }
        Ok(())
    }

    /// One level deeper.
    pub(super) fn nested<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.budget.steps(1)?;
        if self.depth >= MAX_CALLS {
            return Err(Error::new(format!("nested too deeply: more than {MAX_CALLS} calls and blocks")));
        }
        self.depth += 1;
        let result = act(self);
        self.depth -= 1;
        result
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.budget.read(text.len())?;
        self.budget.output(self.out.len() + text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn print(&mut self, value: &Value) -> Result<(), Error> {
        match value {
            Value::Str(text) => self.write(text),
            _ => {
                print::text(&mut self.budget, &mut self.out, value)?;
                self.budget.output(self.out.len())
            }
        }
    }

    /// The text that something writes.
    fn capture(&mut self, act: impl FnOnce(&mut Self) -> Result<Flow, Error>) -> Result<(Value, Flow), Error> {
        let start = self.out.len();
        let flow = act(self)?;
        let text = self.budget.text(&self.out[start..])?;
        self.out.truncate(start);
        Ok((text, flow))
    }
}
