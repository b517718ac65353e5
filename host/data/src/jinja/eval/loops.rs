//! `for` loops: their items, those read ahead for `loop.length` and `loop.nextitem`, and recursion.
//!
//! Items are read one at a time and each counts as a step, so that no loop runs without bound. A loop's state stays where the
//! template can still ask for it, its items never.

use std::{collections::VecDeque, sync::Arc};

use super::{Flow, Run};
use crate::jinja::{ast::For, budget::Error, iterate::Items, object::Object, value::Value};

/// A `for` loop that runs, or ran.
pub(in crate::jinja) struct Loop {
    node: Arc<For>,
    items: Items,
    /// Items that were read ahead.
    pending: VecDeque<Value>,
    pub(in crate::jinja) current: Value,
    pub(in crate::jinja) before: Value,
    /// -1 before the first item.
    pub(in crate::jinja) index0: i128,
    length: Option<usize>,
    scope: usize,
    pub(in crate::jinja) depth0: usize,
    pub(in crate::jinja) changed: Option<Value>,
}

impl Run {
    pub(super) fn for_loop(
        &mut self,
        node: &Arc<For>,
        iterable: &Value,
        scope: usize,
        depth0: usize,
    ) -> Result<(), Error> {
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
    pub(in crate::jinja) fn peek(&mut self, number: usize) -> Result<Option<Value>, Error> {
        if self.loops[number].pending.is_empty()
            && let Some(item) = self.fetch(number)?
        {
            self.loops[number].pending.push_back(item);
        }
        Ok(self.loops[number].pending.front().cloned())
    }

    /// How many items a loop has in all; those that are left are read for it where nothing else says it.
    pub(in crate::jinja) fn loop_length(&mut self, number: usize) -> Result<usize, Error> {
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
    pub(in crate::jinja) fn recurse(&mut self, number: usize, iterable: &Value) -> Result<Value, Error> {
        let state = &self.loops[number];
        if !state.node.is_recursive {
            return Err(Error::new("The loop must have the 'recursive' marker to be called recursively."));
        }
        let (node, scope, depth0) = (state.node.clone(), state.scope, state.depth0 + 1);
        let act = |run: &mut Self| run.for_loop(&node, iterable, scope, depth0).map(|_| Flow::Next);
        Ok(self.nested(|run| run.capture(act))?.0)
    }
}
