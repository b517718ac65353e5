//! Tags to statements: what stands between `{%` and `%}`, the bodies up to their end tags, and the targets of assignments.
//!
//! A tag that cannot be read is an error at its line; none is passed over. Nesting goes through [`Parser::nested`], so that no
//! template recurses deeper than [`MAX_NESTING`](super::MAX_NESTING).

use std::sync::Arc;

use super::Parser;
use crate::jinja::{
    ast::{Block, Expr, ExprKind, For, Macro, Parameter, Statement, Target},
    budget::Error,
    lexer::Kind,
};

impl Parser {
    /// Statements up to a tag of one of these names, which is left as the current token.
    pub(super) fn block_until(&mut self, ends: &[&str]) -> Result<Block, Error> {
        let mut body = Vec::new();
        loop {
            match self.kind().clone() {
                Kind::Data(text) => {
                    self.step();
                    body.push(Statement::Data(text.into()));
                }
                Kind::VariableBegin => {
                    self.step();
                    let value = self.tuple(true, false)?;
                    if *self.kind() != Kind::VariableEnd {
                        return self.unexpected("}}");
                    }
                    self.step();
                    body.push(Statement::Print(value));
                }
                Kind::BlockBegin => {
                    self.step();
                    let Kind::Name(tag) = self.kind().clone() else { return self.unexpected("the name of a tag") };
                    if ends.contains(&tag.as_str()) {
                        return Ok(body.into());
                    }
                    self.nested(|parser| parser.statement(&tag, &mut body))?;
                    self.expect_block_end()?;
                }
                Kind::End if ends.is_empty() => return Ok(body.into()),
                _ => {
                    return self
                        .unexpected(&ends.iter().map(|end| format!("{{% {end} %}}")).collect::<Vec<_>>().join(" or "));
                }
            }
        }
    }

    /// A body after the rest of its tag, up to one of these, and which of them it was.
    fn body(&mut self, tag: &str, line: u32, ends: &[&str]) -> Result<(Block, String), Error> {
        self.skip_operator(":");
        self.expect_block_end()?;
        self.open.push((tag.to_owned(), line));
        let body = self.block_until(ends)?;
        self.open.pop();
        let end = self.expect_name()?;
        Ok((body, end))
    }

    fn statement(&mut self, tag: &str, body: &mut Vec<Statement>) -> Result<(), Error> {
        let line = self.line();
        self.step();
        let statement = match tag {
            "for" => self.for_loop(line)?,
            "if" => self.condition(line)?,
            "set" => self.set(line)?,
            "with" => self.with(line)?,
            "macro" => {
                let name = self.expect_name()?;
                let parameters = self.parameters()?;
                let number = self.name(&name);
                Statement::Macro(number, self.function(name, parameters, "macro", line, "endmacro")?)
            }
            "call" => {
                let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
                let call = self.expression(true)?;
                if !matches!(call.kind, ExprKind::Call(..)) {
                    return Err(Error::new("expected a call behind {% call %}").at(line));
                }
                Statement::Call(call, self.function("caller".to_owned(), parameters, "call", line, "endcall")?)
            }
            "filter" => {
                let captured = Expr::new(ExprKind::Captured, line)?;
                let filter = self.filter(captured)?;
                let filter = self.filters(filter)?;
                Statement::Filter(filter, self.body("filter", line, &["endfilter"])?.0)
            }
            "generation" => {
                // Its body is a function in transformers: no break leads out of it.
                let outer = std::mem::take(&mut self.loops);
                let (block, _) = self.body("generation", line, &["endgeneration"])?;
                self.loops = outer;
                Statement::Generation(block)
            }
            "print" => {
                while *self.kind() != Kind::BlockEnd {
                    let value = self.expression(true)?;
                    body.push(Statement::Print(value));
                    if *self.kind() != Kind::BlockEnd {
                        self.expect_operator(",")?;
                    }
                }
                return Ok(());
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(Error::new(format!("{{% {tag} %}} stands outside of a loop")).at(line));
                }
                if tag == "break" { Statement::Break } else { Statement::Continue }
            }
            "block" | "extends" | "include" | "import" | "from" | "autoescape" => {
                let message = format!("{{% {tag} %}} is not supported in chat templates");
                if tag == "block" || tag == "autoescape" {
                    return Err(Error::new(message).at(line));
                }
                // transformers fails on it when it is reached: it has no other templates.
                while !matches!(self.kind(), Kind::BlockEnd | Kind::End) {
                    self.step();
                }
                Statement::Unsupported(message, line)
            }
            _ => {
                let open = self.open.last();
                let hint =
                    open.map_or_else(String::new, |(tag, line)| format!("; {{% {tag} %}} of line {line} is open"));
                return Err(Error::new(format!("unknown tag '{tag}'{hint}")).at(line));
            }
        };
        body.push(statement);
        Ok(())
    }

    fn for_loop(&mut self, line: u32) -> Result<Statement, Error> {
        self.enclosing_loops += 1;
        let target = self.target(false)?;
        self.expect_keyword("in")?;
        let iterable = self.tuple_until(false, false, Some("recursive"))?;
        let test = if self.skip_name("if") { Some(self.expression(true)?) } else { None };
        let is_recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.body("for", line, &["endfor", "else"])?;
        self.loops -= 1;
        // Python has no loop around the else part but one further out; no chat template breaks out of that from here.
        let outer = std::mem::take(&mut self.loops);
        let otherwise = if end == "else" { self.body("for", line, &["endfor"])?.0 } else { Block::default() };
        self.loops = outer;
        self.enclosing_loops -= 1;
        Ok(Statement::For(Arc::new(For { target, iterable, test, body, otherwise, is_recursive, line })))
    }

    fn condition(&mut self, line: u32) -> Result<Statement, Error> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, false)?;
            let (body, end) = self.body("if", line, &["elif", "else", "endif"])?;
            branches.push((test, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(Statement::If(branches, self.body("if", line, &["endif"])?.0)),
                _ => return Ok(Statement::If(branches, Block::default())),
            }
        }
    }

    fn set(&mut self, line: u32) -> Result<Statement, Error> {
        let target = self.target(true)?;
        if self.skip_operator("=") {
            return Ok(Statement::Set(target, self.tuple(true, false)?));
        }
        let filter = if self.is_operator("|") {
            let captured = Expr::new(ExprKind::Captured, line)?;
            Some(self.filters(captured)?)
        } else {
            None
        };
        let (body, _) = self.body("set", line, &["endset"])?;
        Ok(Statement::SetBlock(target, filter, body))
    }

    fn with(&mut self, line: u32) -> Result<Statement, Error> {
        let mut assigned = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !assigned.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target(false)?;
            self.expect_operator("=")?;
            assigned.push((target, self.expression(true)?));
        }
        let (body, _) = self.body("with", line, &["endwith"])?;
        Ok(Statement::With(assigned, body))
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, Error> {
        self.expect_operator("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let text = self.expect_name()?;
            let default = if self.skip_operator("=") { Some(self.expression(true)?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|last| last.default.is_some()) {
                return self.fail("a parameter without default behind one with a default");
            }
            parameters.push(Parameter { name: self.name(&text), text: text.into(), default });
        }
        self.step();
        Ok(parameters)
    }

    fn function(
        &mut self,
        name: String,
        parameters: Vec<Parameter>,
        tag: &str,
        line: u32,
        end: &str,
    ) -> Result<Arc<Macro>, Error> {
        let (loops, reads) = (std::mem::take(&mut self.loops), std::mem::take(&mut self.reads));
        let (body, _) = self.body(tag, line, &[end])?;
        let inner = std::mem::replace(&mut self.reads, reads);
        self.loops = loops;
        Ok(Arc::new(Macro {
            name: name.into(),
            parameters,
            body,
            reads_caller: inner.caller,
            reads_kwargs: inner.kwargs,
            reads_varargs: inner.varargs,
        }))
    }

    fn target(&mut self, with_field: bool) -> Result<Target, Error> {
        let mut targets = Vec::new();
        loop {
            targets.push(self.nested(|parser| parser.one_target(with_field))?);
            if !self.skip_operator(",") {
                break;
            }
            if self.is_name("in") || self.is_operator("=") || *self.kind() == Kind::BlockEnd {
                return Ok(Target::Tuple(targets));
            }
        }
        match <[Target; 1]>::try_from(targets) {
            Ok([target]) => Ok(target),
            Err(targets) => Ok(Target::Tuple(targets)),
        }
    }

    fn one_target(&mut self, with_field: bool) -> Result<Target, Error> {
        if self.skip_operator("(") {
            let mut targets = Vec::new();
            let mut is_tuple = false;
            while !self.is_operator(")") {
                targets.push(self.nested(|parser| parser.one_target(with_field))?);
                if !self.skip_operator(",") {
                    break;
                }
                is_tuple = true;
            }
            self.expect_operator(")")?;
            return match (is_tuple, <[Target; 1]>::try_from(targets)) {
                (false, Ok([target])) => Ok(target),
                (_, Ok([target])) => Ok(Target::Tuple(vec![target])),
                (_, Err(targets)) => Ok(Target::Tuple(targets)),
            };
        }
        let name = self.expect_name()?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("can't assign to {name}"));
        }
        let number = self.name(&name);
        if with_field && self.skip_operator(".") {
            return Ok(Target::Field(number, self.expect_name()?.into()));
        }
        if name == "loop" && self.enclosing_loops > 0 {
            return self.fail("can't assign to the special variable loop within a loop");
        }
        Ok(Target::Name(number))
    }
}
