//! Tokens to statements and expressions, by the grammar of Jinja2 3.1's parser. Here: the tokens as they are read, the numbers
//! of names, and errors; [`statements`] and [`expressions`] have the grammar.
//!
//! A template is a stranger's text: nothing here panics on one, and nesting is bounded ([`MAX_NESTING`]).

mod expressions;
mod statements;

use std::{collections::HashMap, sync::Arc};

use super::{
    ast::{Block, MAX_NESTING, Name, too_deep},
    budget::Error,
    lexer::{Kind, Token, tokenize},
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
