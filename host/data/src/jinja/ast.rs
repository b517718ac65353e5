//! A parsed template. No expression or statement is nested deeper than [`MAX_NESTING`].

use std::sync::Arc;

use super::{budget::Error, value::Value};

/// Deepest nesting of a template's source. CPython, which runs Jinja, refuses 200 parentheses and 20 loops.
pub(crate) const MAX_NESTING: u16 = 200;

/// A name of the template, by its number.
pub(crate) type Name = u32;

pub(crate) type Block = Arc<[Statement]>;

#[derive(Debug)]
pub(crate) enum Statement {
    Data(Arc<str>),
    Print(Expr),
    For(Arc<For>),
    /// Branches with their tests, and the last one without.
    If(Vec<(Expr, Block)>, Block),
    Set(Target, Expr),
    /// `{% set x | filter %}...{% endset %}`; the filter is applied to [`ExprKind::Captured`].
    SetBlock(Target, Option<Expr>, Block),
    With(Vec<(Target, Expr)>, Block),
    Macro(Name, Arc<Macro>),
    /// `{% call(args) f() %}...{% endcall %}`.
    Call(Expr, Arc<Macro>),
    /// `{% filter f %}...{% endfilter %}`.
    Filter(Expr, Block),
    /// `{% generation %}...{% endgeneration %}`, which transformers adds.
    Generation(Block),
    Break,
    Continue,
    /// What Jinja knows and a chat template has no use for.
    Unsupported(String, u32),
}

#[derive(Debug)]
pub(crate) struct For {
    pub target: Target,
    pub iterable: Expr,
    pub test: Option<Expr>,
    pub body: Block,
    pub otherwise: Block,
    pub is_recursive: bool,
    pub line: u32,
}

#[derive(Debug)]
pub(crate) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<Parameter>,
    pub body: Block,
    /// Which of Jinja's own variables the body reads.
    pub reads_caller: bool,
    pub reads_kwargs: bool,
    pub reads_varargs: bool,
}

#[derive(Debug)]
pub(crate) struct Parameter {
    pub name: Name,
    pub text: Arc<str>,
    pub default: Option<Expr>,
}

/// What is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Name),
    /// A field of a namespace.
    Field(Name, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(crate) struct Expr {
    pub kind: ExprKind,
    pub line: u32,
    depth: u16,
}

#[derive(Debug)]
pub(crate) enum ExprKind {
    Const(Value),
    Name(Name),
    /// The text of the block that a filter is applied to.
    Captured,
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// Test, value, and the value where the test fails.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    Filter(Box<Expr>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    pub all_positional: Option<Box<Expr>>,
    pub all_named: Option<Box<Expr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

impl Expr {
    /// # Errors
    /// It would be nested deeper than [`MAX_NESTING`].
    pub fn new(kind: ExprKind, line: u32) -> Result<Self, Error> {
        let mut depth = 0;
        kind.each_part(&mut |part| depth = depth.max(part.depth));
        let depth = depth + 1;
        if depth > MAX_NESTING { Err(too_deep().at(line)) } else { Ok(Expr { kind, line, depth }) }
    }
}

pub(crate) fn too_deep() -> Error {
    Error::new(format!("nested too deeply: more than {MAX_NESTING} levels"))
}

impl ExprKind {
    fn each_part(&self, see: &mut impl FnMut(&Expr)) {
        match self {
            ExprKind::Const(_) | ExprKind::Name(_) | ExprKind::Captured => {}
            ExprKind::List(items) | ExprKind::Tuple(items) | ExprKind::Concat(items) => items.iter().for_each(see),
            ExprKind::Dict(items) => items.iter().for_each(|(key, value)| {
                see(key);
                see(value);
            }),
            ExprKind::Not(part) | ExprKind::Negative(part) | ExprKind::Positive(part) => see(part),
            ExprKind::Attribute(part, _) => see(part),
            ExprKind::Binary(_, left, right) | ExprKind::And(left, right) | ExprKind::Or(left, right) => {
                see(left);
                see(right);
            }
            ExprKind::Item(left, right) => {
                see(left);
                see(right);
            }
            ExprKind::Compare(first, others) => {
                see(first);
                others.iter().for_each(|(_, other)| see(other));
            }
            ExprKind::Conditional(test, value, otherwise) => {
                see(test);
                see(value);
                otherwise.iter().for_each(|part| see(part));
            }
            ExprKind::Slice(value, bounds) => {
                see(value);
                bounds.iter().flatten().for_each(|part| see(part));
            }
            ExprKind::Call(value, arguments)
            | ExprKind::Filter(value, _, arguments)
            | ExprKind::Test(value, _, arguments) => {
                see(value);
                arguments.positional.iter().for_each(&mut *see);
                arguments.named.iter().for_each(|(_, part)| see(part));
                arguments.all_positional.iter().chain(&arguments.all_named).for_each(|part| see(part));
            }
        }
    }
}
