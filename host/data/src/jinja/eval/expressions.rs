//! Evaluates expressions, and calls what they call.
//!
//! Every compound expression counts as a step and a level ([`Run::nested`]); lists and texts count before they are made.

use std::{collections::VecDeque, sync::Arc};

use indexmap::IndexMap;

use super::Run;
use crate::error::cut;
use crate::jinja::{
    arguments::CallArguments,
    ast::{Arguments, Expr, ExprKind, Macro},
    budget::Error,
    calls, filters,
    iterate::Items,
    lookup,
    object::Object,
    ops, print, questions,
    value::{Dict, List, Value},
};

impl Run {
    pub(in crate::jinja) fn eval(&mut self, expr: &Expr) -> Result<Value, Error> {
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

    pub(super) fn arguments(&mut self, arguments: &Arguments) -> Result<CallArguments, Error> {
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
    pub(in crate::jinja) fn collect(&mut self, value: &Value) -> Result<Vec<Value>, Error> {
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
    pub(in crate::jinja) fn generator(&mut self, items: Vec<Value>) -> Result<Value, Error> {
        self.budget.items(items.len() + 1)?;
        self.generators.push(items.into());
        Ok(Value::Object(Object::Generator(self.generators.len() - 1)))
    }

    /// Calls a value.
    pub(in crate::jinja) fn call(&mut self, callee: &Value, arguments: CallArguments) -> Result<Value, Error> {
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
                            let message = format!("parameter '{}' was not provided", cut(&parameter.text));
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
