//! A file's columns: the tree that its footer lists, and the leaves of it that are read.

use super::{Fault, footer::Element};

/// Columns inside each other; a list of messages takes four.
const MOST_DEPTH: usize = 32;
/// Bytes of all columns' paths: a path repeats the names of the groups around it.
const MOST_PATH_BYTES: usize = 16 << 20;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Boolean,
    Int32,
    Int64,
    Float,
    Double,
    ByteArray,
}

/// A leaf: a column of the file.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub path: String,
    /// None for a type that is not read.
    pub physical: Option<Physical>,
    pub is_unsigned: bool,
    pub max_definition: u16,
    pub max_repetition: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repetition {
    Required,
    Optional,
    Repeated,
}

/// A column or a group of columns.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: String,
    pub repetition: Repetition,
    /// Levels at which the node itself is there.
    pub definition: u16,
    pub repetition_level: u16,
    pub inside: Inside,
    /// The first leaf in it: every node has one.
    pub first_leaf: usize,
    pub leaves: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Inside {
    Leaf,
    Group(Vec<Node>),
    /// A group that stands for a list: its one child is repeated.
    List(Box<Node>),
}

#[derive(Debug)]
pub(super) struct Schema {
    pub columns: Vec<Node>,
    pub leaves: Vec<Leaf>,
    path_bytes: usize,
}

impl Schema {
    /// The tree of the footer's elements, which come depth first, the root before all.
    pub fn new(elements: &[Element]) -> Result<Self, Fault> {
        let (root, rest) = elements.split_first().ok_or_else(|| Fault::damaged("it has no columns"))?;
        let mut schema = Schema { columns: Vec::new(), leaves: Vec::new(), path_bytes: 0 };
        let mut rest = rest.iter();
        for _ in 0..root.children.unwrap_or(0) {
            let node = schema.node(&mut rest, "", (0, 0), 0)?;
            schema.columns.push(node);
        }
        if rest.next().is_some() {
            return Err(Fault::damaged("it lists columns that belong to no group"));
        }
        Ok(schema)
    }

    /// For each leaf, whether it is in a column that is needed.
    pub fn needed_leaves(&self, needed: impl Fn(&Node) -> bool) -> Vec<bool> {
        self.columns.iter().flat_map(|node| std::iter::repeat_n(needed(node), node.leaves)).collect()
    }

    fn node(
        &mut self,
        rest: &mut std::slice::Iter<'_, Element>,
        above: &str,
        (mut definition, mut repetition_level): (u16, u16),
        depth: usize,
    ) -> Result<Node, Fault> {
        if depth == MOST_DEPTH {
            return Err(Fault::damaged(format!("its columns are nested more than {MOST_DEPTH} deep")));
        }
        let element = rest.next().ok_or_else(|| Fault::damaged("it lists fewer columns than its groups have"))?;
        let repetition = match element.repetition {
            0 => Repetition::Required,
            1 => Repetition::Optional,
            2 => Repetition::Repeated,
            other => return Err(Fault::damaged(format!("a column has the unknown repetition {other}"))),
        };
        definition += u16::from(repetition != Repetition::Required);
        repetition_level += u16::from(repetition == Repetition::Repeated);
        let path = if above.is_empty() { element.name.clone() } else { format!("{above}.{}", element.name) };
        self.path_bytes += path.len();
        if self.path_bytes > MOST_PATH_BYTES {
            let found = format!("the paths of its columns have more than {MOST_PATH_BYTES} bytes");
            return Err(Fault::Unsupported(found));
        }
        let first_leaf = self.leaves.len();
        let inside = match element.children.unwrap_or(0) {
            0 => {
                self.leaves.push(Leaf {
                    path,
                    physical: element.physical(),
                    is_unsigned: element.is_unsigned,
                    max_definition: definition,
                    max_repetition: repetition_level,
                });
                Inside::Leaf
            }
            count => {
                let mut children = Vec::new();
                for _ in 0..count {
                    children.push(self.node(rest, &path, (definition, repetition_level), depth + 1)?);
                }
                match children.pop() {
                    Some(only) if element.is_list && children.is_empty() && only.repetition == Repetition::Repeated => {
                        Inside::List(Box::new(element_of(only, &element.name)))
                    }
                    last => {
                        children.extend(last);
                        Inside::Group(children)
                    }
                }
            }
        };
        let leaves = self.leaves.len() - first_leaf;
        let name = element.name.clone();
        Ok(Node { name, repetition, definition, repetition_level, inside, first_leaf, leaves })
    }
}

/// What a list's repeated node repeats. Where it is a group of one, that one is the element, but for two names that old
/// writers gave to elements of one field (Parquet's LogicalTypes.md, "Backward-compatibility rules").
fn element_of(repeated: Node, list: &str) -> Node {
    let is_element = repeated.name == "array" || repeated.name == format!("{list}_tuple");
    match repeated.inside {
        Inside::Group(mut fields) if fields.len() == 1 && !is_element => {
            let field = fields.pop().expect("there is one");
            Node { inside: Inside::List(Box::new(field)), ..repeated }
        }
        _ => repeated,
    }
}
