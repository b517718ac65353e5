//! Runs statements: each writes its text and says what follows it.
//!
//! A statement runs through [`Run::nested`], which counts it; it writes through [`Run::write`] or [`Run::print`] alone, which
//! bound the output.

use super::{Flow, GENERATED, Run};
use crate::jinja::{
    ast::{Block, Expr, ExprKind, Statement},
    budget::Error,
    value::Value,
};

impl Run {
    pub(super) fn block(&mut self, block: &Block) -> Result<Flow, Error> {
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
                let value = self.closure(function);
                self.set(*name, value);
            }
            Statement::Call(expr, function) => {
                let caller = self.closure(function);
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
}
