//! Tokens to expressions, from the conditional down to names and constants, with their calls, filters and tests.
//!
//! It evaluates nothing, constants neither, and recurses only through [`Parser::nested`] or into an [`Expr`] whose depth is
//! counted.

use super::Parser;
use crate::jinja::{
    ast::{Arguments, Binary, Comparison, Expr, ExprKind},
    budget::Error,
    lexer::Kind,
    value::Value,
};

impl Parser {
    /// Expressions, a tuple of them where commas stand between.
    pub(super) fn tuple(&mut self, with_condition: bool, in_parentheses: bool) -> Result<Expr, Error> {
        self.tuple_until(with_condition, in_parentheses, None)
    }

    pub(super) fn tuple_until(
        &mut self,
        with_condition: bool,
        in_parentheses: bool,
        end: Option<&str>,
    ) -> Result<Expr, Error> {
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

    pub(super) fn expression(&mut self, with_condition: bool) -> Result<Expr, Error> {
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

    pub(super) fn filters(&mut self, mut value: Expr) -> Result<Expr, Error> {
        while self.skip_operator("|") {
            value = self.filter(value)?;
        }
        Ok(value)
    }

    pub(super) fn filter(&mut self, value: Expr) -> Result<Expr, Error> {
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
