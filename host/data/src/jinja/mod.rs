//! Jinja as chat templates need it: values and syntax of Jinja2 3.1 in transformers' sandbox.
#![allow(dead_code, reason = "the engine that uses it follows")]

mod ast;
mod budget;
mod lexer;
mod object;
mod parser;
mod value;

pub(crate) use value::Value;
