//! Renders a parsed template: statements write text, expressions give values.
//!
//! Bounded in steps, bytes and depth by the [`Budget`] and [`MAX_CALLS`]; it reads nothing but its variables.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use indexmap::IndexMap;

use super::{
    arguments::CallArguments,
    ast::{Arguments, Block, Expr, ExprKind, For, Macro, Name, Statement, Target},
    budget::{Budget, Error, Limits},
    calls, filters,
    iterate::Items,
    lookup,
    object::{Function, Object},
    ops,
    parser::Parsed,
    print, questions,
    value::{Dict, List, Value},
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

/// A `for` loop that runs, or ran.
pub(super) struct Loop {
    node: Arc<For>,
    items: Items,
    /// Items that were read ahead.
    pending: VecDeque<Value>,
    pub(super) current: Value,
    pub(super) before: Value,
    /// -1 before the first item.
    pub(super) index0: i128,
    length: Option<usize>,
    scope: usize,
    pub(super) depth0: usize,
    pub(super) changed: Option<Value>,
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
        if !self.scopes[own].is_captured {
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
    fn closure(&mut self, function: &Arc<Macro>) -> Result<Value, Error> {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            if std::mem::replace(&mut self.scopes[scope].is_captured, true) {
                break;
            }
            at = self.scopes[scope].parent;
        }
        self.budget.take(size_of::<Scope>())?;
        Ok(Value::Object(Object::Macro(function.clone(), self.scope)))
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

    // Statements

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

    fn block(&mut self, block: &Block) -> Result<Flow, Error> {
        for statement in block.iter() {
            match self.nested(|run| run.statement(statement))? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Statement) -> Result<Flow, Error> {
        match statement {
            Statement::Data(text) => self.write(text)?,
            Statement::Print(expr) => {
                let value = self.eval(expr)?;
                self.print(&value).map_err(|error| error.at(expr.line))?;
            }
            Statement::For(node) => {
                let iterable = self.eval(&node.iterable)?;
                let scope = self.scope;
                self.for_loop(node, &iterable, scope, 0).map_err(|error| error.at(node.line))?;
            }
            Statement::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test)?.is_true() {
                        return self.block(body);
                    }
                }
                return self.block(otherwise);
            }
            Statement::Set(target, expr) => {
                let value = self.eval(expr)?;
                self.assign(target, value).map_err(|error| error.at(expr.line))?;
            }
            Statement::SetBlock(target, filter, body) => {
                let scope = self.scope;
                let (mut text, flow) = self.capture(|run| run.scoped(scope, |run| run.block(body)))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                if let Some(filter) = filter {
                    text = self.filtered(filter, text)?;
                }
                self.assign(target, text)?;
            }
            Statement::With(assigned, body) => {
                let mut values = Vec::with_capacity(assigned.len());
                for (_, expr) in assigned {
                    values.push(self.eval(expr)?);
                }
                let scope = self.scope;
                return self.scoped(scope, |run| {
                    for ((target, _), value) in assigned.iter().zip(values) {
                        run.assign(target, value)?;
                    }
                    run.block(body)
                });
            }
            Statement::Macro(name, function) => {
                let value = self.closure(function)?;
                self.set(*name, value);
            }
            Statement::Call(expr, function) => {
                let caller = self.closure(function)?;
                let ExprKind::Call(callee, arguments) = &expr.kind else {
                    return Err(Error::new("expected a call behind {% call %}").at(expr.line));
                };
                let result = self.nested(|run| {
                    let callee = run.eval(callee)?;
                    let mut arguments = run.arguments(arguments)?;
                    arguments.named.push(("caller".into(), caller));
                    run.call(&callee, arguments)
                });
                let text = result.map_err(|error| error.at(expr.line))?;
                self.print(&text).map_err(|error| error.at(expr.line))?;
            }
            Statement::Filter(filter, body) => {
                let scope = self.scope;
                let (text, flow) = self.capture(|run| run.scoped(scope, |run| run.block(body)))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let text = self.filtered(filter, text)?;
                self.print(&text).map_err(|error| error.at(filter.line))?;
            }
            Statement::Generation(body) => {
                let scope = self.scope;
                self.write(GENERATED[0].encode_utf8(&mut [0; 4]))?;
                self.scoped(scope, |run| run.block(body))?;
                self.write(GENERATED[1].encode_utf8(&mut [0; 4]))?;
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Unsupported(message, line) => return Err(Error::new(message.as_str()).at(*line)),
        }
        Ok(Flow::Next)
    }

    fn filtered(&mut self, filter: &Expr, text: Value) -> Result<Value, Error> {
        self.captured.push(text);
        let result = self.eval(filter);
        self.captured.pop();
        result
    }

    // Loops

    fn for_loop(&mut self, node: &Arc<For>, iterable: &Value, scope: usize, depth0: usize) -> Result<(), Error> {
        let items = Items::of(&mut self.budget, iterable)?;
        let length = items.len().filter(|_| node.test.is_none());
        let number = self.loops.len();
        self.budget.take(size_of::<Loop>())?;
        self.loops.push(Loop {
            node: node.clone(),
            items,
            pending: VecDeque::new(),
            current: Value::UNDEFINED,
            before: Value::UNDEFINED,
            index0: -1,
            length,
            scope,
            depth0,
            changed: None,
        });
        let mut is_empty = true;
        let mut result = Ok(());
        loop {
            let item = match self.advance(number) {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            is_empty = false;
            let turn = self.scoped(scope, |run| {
                if let Some(name) = run.loop_name {
                    run.set(name, Value::Object(Object::Loop(number)));
                }
                run.assign(&node.target, item)?;
                run.block(&node.body)
            });
            match turn {
                Ok(Flow::Break) => break,
                Ok(_) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if self.loop_name.is_none() && number + 1 == self.loops.len() {
            self.loops.pop();
        } else {
            let state = &mut self.loops[number];
            (state.items, state.pending) = (Items::default(), VecDeque::new());
        }
        if is_empty && result.is_ok() {
            // A break in there would lead out of an outer loop; the parser lets none stand there.
            self.scoped(scope, |run| run.block(&node.otherwise))?;
        }
        result
    }

    /// The next item of a loop that its test accepts.
    fn fetch(&mut self, number: usize) -> Result<Option<Value>, Error> {
        loop {
            self.budget.steps(1)?;
            let mut items = std::mem::take(&mut self.loops[number].items);
            let item = items.next(self);
            self.loops[number].items = items;
            let Some(item) = item? else { return Ok(None) };
            let node = self.loops[number].node.clone();
            let Some(test) = &node.test else { return Ok(Some(item)) };
            let scope = self.loops[number].scope;
            let passes = self.scoped(scope, |run| {
                run.assign(&node.target, item.clone())?;
                Ok(run.eval(test)?.is_true())
            })?;
            if passes {
                return Ok(Some(item));
            }
        }
    }

    fn advance(&mut self, number: usize) -> Result<Option<Value>, Error> {
        let item = match self.loops[number].pending.pop_front() {
            Some(item) => Some(item),
            None => self.fetch(number)?,
        };
        if let Some(item) = &item {
            let state = &mut self.loops[number];
            state.index0 += 1;
            state.before = std::mem::replace(&mut state.current, item.clone());
        }
        Ok(item)
    }

    /// The item after the current one.
    pub(super) fn peek(&mut self, number: usize) -> Result<Option<Value>, Error> {
        if self.loops[number].pending.is_empty()
            && let Some(item) = self.fetch(number)?
        {
            self.loops[number].pending.push_back(item);
        }
        Ok(self.loops[number].pending.front().cloned())
    }

    /// How many items a loop has in all; those that are left are read for it where nothing else says it.
    pub(super) fn loop_length(&mut self, number: usize) -> Result<usize, Error> {
        if let Some(length) = self.loops[number].length {
            return Ok(length);
        }
        while let Some(item) = self.fetch(number)? {
            self.budget.items(1)?;
            self.loops[number].pending.push_back(item);
        }
        let state = &mut self.loops[number];
        let length = (state.index0 + 1) as usize + state.pending.len();
        state.length = Some(length);
        Ok(length)
    }

    /// `loop(items)` of a recursive loop: its text.
    pub(super) fn recurse(&mut self, number: usize, iterable: &Value) -> Result<Value, Error> {
        let state = &self.loops[number];
        if !state.node.is_recursive {
            return Err(Error::new("The loop must have the 'recursive' marker to be called recursively."));
        }
        let (node, scope, depth0) = (state.node.clone(), state.scope, state.depth0 + 1);
        let act = |run: &mut Self| run.for_loop(&node, iterable, scope, depth0).map(|_| Flow::Next);
        Ok(self.nested(|run| run.capture(act))?.0)
    }

    // Expressions

    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Value, Error> {
        match &expr.kind {
            ExprKind::Const(value) => Ok(value.clone()),
            ExprKind::Name(name) => Ok(self.find(*name)?.clone()),
            _ => self.nested(|run| run.compound(expr)).map_err(|error| error.at(expr.line)),
        }
    }

    fn all(&mut self, parts: &[Expr]) -> Result<Vec<Value>, Error> {
        self.budget.items(parts.len())?;
        parts.iter().map(|part| self.eval(part)).collect()
    }

    fn compound(&mut self, expr: &Expr) -> Result<Value, Error> {
        match &expr.kind {
            ExprKind::Const(_) | ExprKind::Name(_) => self.eval(expr),
            ExprKind::Captured => Ok(self.captured.last().cloned().unwrap_or_default()),
            ExprKind::List(parts) => Ok(Value::list(self.all(parts)?)?),
            ExprKind::Tuple(parts) => Ok(Value::Tuple(Arc::new(List::new(self.all(parts)?)?))),
            ExprKind::Dict(parts) => {
                let mut map = IndexMap::new();
                for (key, value) in parts {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    self.budget.items(3)?;
                    map.insert(ops::key(&mut self.budget, &key)?.clone(), value);
                }
                Ok(Value::Dict(Arc::new(Dict::new(map)?)))
            }
            ExprKind::Not(part) => Ok(Value::Bool(!self.eval(part)?.is_true())),
            ExprKind::Negative(part) => ops::negate(&self.eval(part)?, true),
            ExprKind::Positive(part) => ops::negate(&self.eval(part)?, false),
            ExprKind::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                ops::binary(&mut self.budget, *operator, &left, &right)
            }
            ExprKind::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let part = self.eval(part)?;
                    print::text(&mut self.budget, &mut text, &part)?;
                }
                Ok(text.into())
            }
            ExprKind::Compare(first, others) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in others {
                    let right = self.eval(right)?;
                    if !ops::compare(&mut self.budget, *comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            ExprKind::And(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { self.eval(right) } else { Ok(left) }
            }
            ExprKind::Or(left, right) => {
                let left = self.eval(left)?;
                if left.is_true() { Ok(left) } else { self.eval(right) }
            }
            ExprKind::Conditional(test, value, otherwise) => {
                if self.eval(test)?.is_true() {
                    return self.eval(value);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise),
                    None => {
                        let message = "the inline if-expression evaluated to false and no else section was defined.";
                        Ok(Value::Undefined(Some(message.into())))
                    }
                }
            }
            ExprKind::Attribute(value, name) => {
                let value = self.eval(value)?;
                lookup::attribute(self, &value, name)
            }
            ExprKind::Item(value, item) => {
                let (value, item) = (self.eval(value)?, self.eval(item)?);
                lookup::item(self, &value, &item)
            }
            ExprKind::Slice(value, bounds) => {
                let value = self.eval(value)?;
                let mut values = [Value::None, Value::None, Value::None];
                for (value, bound) in values.iter_mut().zip(bounds) {
                    if let Some(bound) = bound {
                        *value = self.eval(bound)?;
                    }
                }
                ops::slice(&mut self.budget, &value, values)
            }
            ExprKind::Call(callee, arguments) => {
                let callee = self.eval(callee)?;
                let arguments = self.arguments(arguments)?;
                self.call(&callee, arguments)
            }
            ExprKind::Filter(value, name, arguments) => {
                let value = self.eval(value)?;
                let arguments = self.arguments(arguments)?;
                filters::apply(self, name, value, arguments)
            }
            ExprKind::Test(value, name, arguments) => {
                let value = self.eval(value)?;
                let arguments = self.arguments(arguments)?;
                Ok(Value::Bool(questions::ask(self, name, &value, arguments)?))
            }
        }
    }

    fn arguments(&mut self, arguments: &Arguments) -> Result<CallArguments, Error> {
        let mut positional = self.all(&arguments.positional)?;
        let mut named = Vec::with_capacity(arguments.named.len());
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.eval(value)?));
        }
        if let Some(rest) = &arguments.all_positional {
            let rest = self.eval(rest)?;
            positional.extend(self.collect(&rest)?);
        }
        if let Some(rest) = &arguments.all_named {
            let rest = self.eval(rest)?;
            let Some(dict) = rest.as_dict() else { return Err(Error::new("argument after ** must be a mapping")) };
            self.budget.items(2 * dict.len())?;
            for (name, value) in dict.iter() {
                let name = name.as_str().ok_or_else(|| Error::new("keywords must be strings"))?;
                named.push((name.into(), value.clone()));
            }
        }
        Ok(CallArguments { positional, named })
    }

    /// All items of a value, counted.
    pub(super) fn collect(&mut self, value: &Value) -> Result<Vec<Value>, Error> {
        let mut items = Items::of(&mut self.budget, value)?;
        let mut values = Vec::new();
        if let Some(len) = items.len() {
            self.budget.items(len)?;
            values.reserve(len);
        }
        while let Some(item) = items.next(self)? {
            self.budget.steps(1)?;
            values.push(item);
        }
        Ok(values)
    }

    /// A generator of these items.
    pub(super) fn generator(&mut self, items: Vec<Value>) -> Result<Value, Error> {
        self.budget.items(items.len() + 1)?;
        self.generators.push(items.into());
        Ok(Value::Object(Object::Generator(self.generators.len() - 1)))
    }

    /// Calls a value.
    pub(super) fn call(&mut self, callee: &Value, arguments: CallArguments) -> Result<Value, Error> {
        match callee {
            Value::Object(Object::Macro(function, scope)) => {
                self.nested(|run| run.call_macro(function, *scope, arguments))
            }
            _ => self.nested(|run| calls::call(run, callee, arguments)),
        }
    }

    fn call_macro(
        &mut self,
        function: &Arc<Macro>,
        scope: usize,
        CallArguments { positional, named }: CallArguments,
    ) -> Result<Value, Error> {
        let name = &function.name;
        self.budget.steps(function.parameters.len() + named.len())?;
        let mut named: IndexMap<Arc<str>, Value> = named.into_iter().collect();
        let mut positional = VecDeque::from(positional);
        let mut given = Vec::with_capacity(function.parameters.len());
        for parameter in &function.parameters {
            given.push(positional.pop_front().or_else(|| named.shift_remove(&parameter.text)));
        }
        let has_caller = function.parameters.iter().any(|parameter| &*parameter.text == "caller");
        let caller = if function.reads_caller && !has_caller { named.shift_remove("caller") } else { None };
        if !function.reads_kwargs
            && let Some(unknown) = named.keys().next()
        {
            return Err(Error::new(format!("macro '{name}' takes no keyword argument '{unknown}'")));
        }
        if !function.reads_varargs && !positional.is_empty() {
            let count = function.parameters.len();
            return Err(Error::new(format!("macro '{name}' takes not more than {count} argument(s)")));
        }
        let act = |run: &mut Self| {
            if function.reads_caller && !has_caller {
                let none = || Value::Undefined(Some("No caller defined".into()));
                run.set_special(0, caller.unwrap_or_else(none));
            }
            if function.reads_kwargs {
                let fields = named.into_iter().map(|(name, value)| (Value::Str(name), value));
                run.set_special(1, Value::object(fields)?);
            }
            if function.reads_varargs {
                run.set_special(2, Value::tuple(positional.into())?);
            }
            // A default sees the parameters that were given, and those before it.
            for (parameter, value) in function.parameters.iter().zip(&given) {
                if let Some(value) = value {
                    run.set(parameter.name, value.clone());
                }
            }
            for (parameter, value) in function.parameters.iter().zip(&given) {
                if value.is_none() {
                    let value = match &parameter.default {
                        Some(default) => run.eval(default)?,
                        None => {
                            let message = format!("parameter '{}' was not provided", parameter.text);
                            Value::Undefined(Some(message.into()))
                        }
                    };
                    run.set(parameter.name, value);
                }
            }
            run.block(&function.body)
        };
        Ok(self.capture(|run| run.scoped(scope, act))?.0)
    }

    fn set_special(&mut self, which: usize, value: Value) {
        if let Some(name) = self.macro_names[which] {
            self.set(name, value);
        }
    }
}
