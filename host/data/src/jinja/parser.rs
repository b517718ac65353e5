//! Tokens to statements and expressions, by the grammar of Jinja2 3.1's parser.

use std::{collections::HashMap, sync::Arc};

use super::{
    ast::{
        Arguments, Binary, Block, Comparison, Expr, ExprKind, For, MAX_NESTING, Macro, Name, Parameter, Statement,
        Target, too_deep,
    },
    budget::Error,
    lexer::{Kind, Token, tokenize},
    value::Value,
};

/// A template's statements, and the names in it by their numbers.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub body: Block,
    pub names: Vec<Arc<str>>,
}

/// Parses a template.
///
/// # Errors
/// The line, and what is unsound there.
pub(crate) fn parse(source: &str) -> Result<Parsed, Error> {
    let tokens = tokenize(source)?;
    let mut parser = Parser {
        tokens,
        at: 0,
        names: Vec::new(),
        numbers: HashMap::new(),
        nesting: 0,
        loops: 0,
        enclosing_loops: 0,
        reads: Reads::default(),
        open: Vec::new(),
    };
    let body = parser.block_until(&[])?;
    Ok(Parsed { body, names: parser.names })
}

/// Jinja's own variables of a macro that were read.
#[derive(Clone, Copy, Default)]
struct Reads {
    caller: bool,
    kwargs: bool,
    varargs: bool,
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Name>,
    nesting: u16,
    /// Loops of this function that are open here: what `break` needs.
    loops: usize,
    /// Loops that are open here, of every function around.
    enclosing_loops: usize,
    reads: Reads,
    /// Tags that are open, with their lines.
    open: Vec<(String, u32)>,
}

impl Parser {
    fn kind(&self) -> &Kind {
        &self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].line
    }

    fn next_kind(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn step(&mut self) {
        self.at += 1;
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(message).at(self.line()))
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), Kind::Operator(found) if *found == operator)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is_there = self.is_name(name);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let is_there = self.is_operator(operator);
        self.at += usize::from(is_there);
        is_there
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Error> {
        let found = describe(self.kind());
        match self.open.last() {
            Some((tag, line)) if *self.kind() == Kind::End => self.fail(format!(
                "unexpected end of the template, expected {expected}; {{% {tag} %}} of line {line} is not closed"
            )),
            _ => self.fail(format!("expected {expected}, found {found}")),
        }
    }

    fn expect_operator(&mut self, operator: &str) -> Result<(), Error> {
        if self.skip_operator(operator) { Ok(()) } else { self.unexpected(&format!("'{operator}'")) }
    }

    fn expect_name(&mut self) -> Result<String, Error> {
        let Kind::Name(name) = self.kind() else { return self.unexpected("a name") };
        let name = name.clone();
        self.step();
        Ok(name)
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<(), Error> {
        if self.skip_name(keyword) { Ok(()) } else { self.unexpected(&format!("'{keyword}'")) }
    }

    fn expect_block_end(&mut self) -> Result<(), Error> {
        if *self.kind() != Kind::BlockEnd {
            return self.unexpected("%}");
        }
        self.step();
        Ok(())
    }

    /// The number of a name.
    fn name(&mut self, name: &str) -> Name {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let text: Arc<str> = name.into();
        let number = self.names.len() as Name;
        self.names.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.nesting >= MAX_NESTING {
            return Err(too_deep().at(self.line()));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    // Statements

    /// Statements up to a tag of one of these names, which is left as the current token.
    fn block_until(&mut self, ends: &[&str]) -> Result<Block, Error> {
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

    // Expressions

    /// Expressions, a tuple of them where commas stand between.
    fn tuple(&mut self, with_condition: bool, in_parentheses: bool) -> Result<Expr, Error> {
        self.tuple_until(with_condition, in_parentheses, None)
    }

    fn tuple_until(&mut self, with_condition: bool, in_parentheses: bool, end: Option<&str>) -> Result<Expr, Error> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let is_end = matches!(self.kind(), Kind::VariableEnd | Kind::BlockEnd)
                || self.is_operator(")")
                || end.is_some_and(|end| self.is_name(end));
            if is_end {
                break;
            }
            items.push(self.expression(with_condition)?);
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            match <[Expr; 1]>::try_from(items) {
                Ok([item]) => return Ok(item),
                Err(_) if in_parentheses => return Expr::new(ExprKind::Tuple(Vec::new()), line),
                Err(_) => return self.unexpected("an expression"),
            }
        }
        Expr::new(ExprKind::Tuple(items), line)
    }

    fn expression(&mut self, with_condition: bool) -> Result<Expr, Error> {
        self.nested(|parser| if with_condition { parser.conditional() } else { parser.or() })
    }

    fn conditional(&mut self) -> Result<Expr, Error> {
        let mut line = self.line();
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = Box::new(self.or()?);
            let otherwise = if self.skip_name("else") { Some(Box::new(self.expression(true)?)) } else { None };
            value = Expr::new(ExprKind::Conditional(test, Box::new(value), otherwise), line)?;
            line = self.line();
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = Expr::new(ExprKind::Or(Box::new(left), Box::new(right)), line)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = Expr::new(ExprKind::And(Box::new(left), Box::new(right)), line)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        if self.skip_name("not") {
            let value = self.nested(Self::not)?;
            return Expr::new(ExprKind::Not(Box::new(value)), line);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && matches!(self.next_kind(), Kind::Name(next) if next == "in") => {
                    self.step();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.step();
            others.push((comparison, self.sum()?));
        }
        if others.is_empty() { Ok(first) } else { Expr::new(ExprKind::Compare(Box::new(first), others), line) }
    }

    fn binary(
        &mut self,
        operators: &[(&str, Binary)],
        operand: fn(&mut Self) -> Result<Expr, Error>,
    ) -> Result<Expr, Error> {
        let line = self.line();
        let mut left = operand(self)?;
        while let Some((_, binary)) = operators.iter().find(|(operator, _)| self.is_operator(operator)) {
            self.step();
            let right = operand(self)?;
            left = Expr::new(ExprKind::Binary(*binary, Box::new(left), Box::new(right)), line)?;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr, Error> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Subtract)], Self::concatenation)
    }

    fn concatenation(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        Expr::new(ExprKind::Concat(parts), line)
    }

    fn product(&mut self) -> Result<Expr, Error> {
        let operators =
            [("*", Binary::Multiply), ("/", Binary::Divide), ("//", Binary::FloorDivide), ("%", Binary::Modulo)];
        self.binary(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr, Error> {
        self.binary(&[("**", Binary::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr, Error> {
        let line = self.line();
        let value = if self.skip_operator("-") {
            let value = self.nested(|parser| parser.unary(false))?;
            Expr::new(ExprKind::Negative(Box::new(value)), line)?
        } else if self.skip_operator("+") {
            let value = self.nested(|parser| parser.unary(false))?;
            Expr::new(ExprKind::Positive(Box::new(value)), line)?
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filters { self.filter_expression(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr, Error> {
        let line = self.line();
        match self.kind().clone() {
            Kind::Name(name) => {
                self.step();
                let kind = match name.as_str() {
                    "true" | "True" => ExprKind::Const(Value::Bool(true)),
                    "false" | "False" => ExprKind::Const(Value::Bool(false)),
                    "none" | "None" => ExprKind::Const(Value::None),
                    _ => {
                        self.reads.caller |= name == "caller";
                        self.reads.kwargs |= name == "kwargs";
                        self.reads.varargs |= name == "varargs";
                        ExprKind::Name(self.name(&name))
                    }
                };
                Expr::new(kind, line)
            }
            Kind::Text(mut text) => {
                self.step();
                while let Kind::Text(more) = self.kind() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expr::new(ExprKind::Const(text.into()), line)
            }
            Kind::Int(number) => {
                self.step();
                Expr::new(ExprKind::Const(Value::Int(number)), line)
            }
            Kind::Float(number) => {
                self.step();
                Expr::new(ExprKind::Const(Value::Float(number)), line)
            }
            Kind::Operator("(") => {
                self.step();
                let value = self.tuple(true, true)?;
                self.expect_operator(")")?;
                Ok(value)
            }
            Kind::Operator("[") => {
                self.step();
                let mut items = Vec::new();
                while !self.is_operator("]") {
                    items.push(self.expression(true)?);
                    if !self.is_operator("]") {
                        self.expect_operator(",")?;
                    }
                }
                self.step();
                Expr::new(ExprKind::List(items), line)
            }
            Kind::Operator("{") => {
                self.step();
                let mut items = Vec::new();
                while !self.is_operator("}") {
                    let key = self.expression(true)?;
                    self.expect_operator(":")?;
                    items.push((key, self.expression(true)?));
                    if !self.is_operator("}") {
                        self.expect_operator(",")?;
                    }
                }
                self.step();
                Expr::new(ExprKind::Dict(items), line)
            }
            _ => self.unexpected("an expression"),
        }
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr, Error> {
        loop {
            value = match self.kind() {
                Kind::Operator("." | "[") => self.subscript(value)?,
                Kind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn filter_expression(&mut self, mut value: Expr) -> Result<Expr, Error> {
        loop {
            value = match self.kind() {
                Kind::Operator("|") => self.filters(value)?,
                Kind::Name(name) if name == "is" => self.test(value)?,
                Kind::Operator("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn subscript(&mut self, value: Expr) -> Result<Expr, Error> {
        let line = self.line();
        let value = Box::new(value);
        if self.skip_operator(".") {
            let kind = match self.kind().clone() {
                Kind::Name(name) => ExprKind::Attribute(value, name.into()),
                Kind::Int(number) => {
                    ExprKind::Item(value, Box::new(Expr::new(ExprKind::Const(Value::Int(number)), line)?))
                }
                _ => return self.unexpected("a name or a number"),
            };
            self.step();
            return Expr::new(kind, line);
        }
        self.step();
        let mut bounds: [Option<Box<Expr>>; 3] = [None, None, None];
        let mut index = 0;
        while !self.is_operator("]") {
            if self.skip_operator(":") {
                index += 1;
                if index == bounds.len() {
                    return self.unexpected("']'");
                }
            } else if self.is_operator(",") {
                return self.fail("an index of several values is not supported");
            } else if bounds[index].is_some() {
                return self.unexpected("']'");
            } else {
                bounds[index] = Some(Box::new(self.expression(true)?));
            }
        }
        self.step();
        match (index, bounds) {
            (0, [Some(item), _, _]) => Expr::new(ExprKind::Item(value, item), line),
            (0, _) => self.fail("expected an index, found ']'"),
            (_, bounds) => Expr::new(ExprKind::Slice(value, bounds), line),
        }
    }

    fn call(&mut self, value: Expr) -> Result<Expr, Error> {
        let line = self.line();
        let arguments = self.arguments()?;
        Expr::new(ExprKind::Call(Box::new(value), arguments), line)
    }

    fn arguments(&mut self) -> Result<Arguments, Error> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut is_first = true;
        while !self.is_operator(")") {
            if !is_first {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            is_first = false;
            let no_rest = arguments.all_positional.is_none() && arguments.all_named.is_none();
            let is_sound = if self.skip_operator("*") {
                arguments.all_positional = Some(Box::new(self.expression(true)?));
                no_rest
            } else if self.skip_operator("**") {
                let is_first = arguments.all_named.is_none();
                arguments.all_named = Some(Box::new(self.expression(true)?));
                is_first
            } else if let (Kind::Name(name), Kind::Operator("=")) = (self.kind().clone(), self.next_kind()) {
                self.at += 2;
                let is_sound = arguments.all_named.is_none();
                arguments.named.push((name.into(), self.expression(true)?));
                is_sound
            } else {
                arguments.positional.push(self.expression(true)?);
                no_rest && arguments.named.is_empty()
            };
            if !is_sound {
                return self.fail("invalid order of the arguments of a call");
            }
        }
        self.step();
        Ok(arguments)
    }

    fn filters(&mut self, mut value: Expr) -> Result<Expr, Error> {
        while self.skip_operator("|") {
            value = self.filter(value)?;
        }
        Ok(value)
    }

    fn filter(&mut self, value: Expr) -> Result<Expr, Error> {
        let line = self.line();
        let name = self.dotted_name()?;
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Expr::new(ExprKind::Filter(Box::new(value), name.into(), arguments), line)
    }

    fn dotted_name(&mut self) -> Result<String, Error> {
        let mut name = self.expect_name()?;
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, value: Expr) -> Result<Expr, Error> {
        let line = self.line();
        self.step();
        let is_negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let has_argument = match self.kind() {
            Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
            Kind::Text(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{") => true,
            _ => false,
        };
        let arguments = if self.is_operator("(") {
            self.arguments()?
        } else if has_argument {
            if self.is_name("is") {
                return self.fail("tests with is cannot be chained");
            }
            let argument = self.primary()?;
            let argument = self.postfix(argument)?;
            Arguments { positional: vec![argument], ..Arguments::default() }
        } else {
            Arguments::default()
        };
        let test = Expr::new(ExprKind::Test(Box::new(value), name.into(), arguments), line)?;
        if is_negated { Expr::new(ExprKind::Not(Box::new(test)), line) } else { Ok(test) }
    }
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Data(_) => "text".to_owned(),
        Kind::BlockBegin => "{%".to_owned(),
        Kind::BlockEnd => "%}".to_owned(),
        Kind::VariableBegin => "{{".to_owned(),
        Kind::VariableEnd => "}}".to_owned(),
        Kind::Name(name) => format!("'{name}'"),
        Kind::Text(_) => "a text".to_owned(),
        Kind::Int(_) | Kind::Float(_) => "a number".to_owned(),
        Kind::Operator(operator) => format!("'{operator}'"),
        Kind::End => "the end of the template".to_owned(),
    }
}
