//! Rows from columns: levels say where lists begin and what is null (Melnik et al. 2010, "Dremel").
//!
//! A value's definition level is how many of the optional and repeated nodes above it are there; its repetition level is the
//! innermost list that it continues, 0 where it begins a row.

use super::{
    Fault,
    column::{Column, Value},
    schema::{Inside, Node, Repetition},
};
use crate::source::delimited::push_json_text;

/// The next row as a JSON object.
pub(super) fn row(columns: &[Node], leaves: &mut [Option<Column>], limit_bytes: usize) -> Result<String, Fault> {
    let mut writer = Writer { out: String::new(), leaves, limit_bytes };
    for (index, node) in columns.iter().enumerate() {
        let leaf = writer.first(node);
        if leaf.peek()?.is_none_or(|levels| levels.repetition != 0) {
            return Err(Fault::damaged("a column ends before its row group"));
        }
        writer.name(index, &node.name)?;
        writer.node(node)?;
    }
    writer.out.push_str(if columns.is_empty() { "{}" } else { "}" });
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    leaves: &'a mut [Option<Column>],
    limit_bytes: usize,
}

impl Writer<'_> {
    fn first(&mut self, node: &Node) -> &mut Column {
        self.leaves[node.first_leaf].as_mut().expect("the leaves of needed columns are open")
    }

    /// The definition level of the next value in a node.
    fn definition(&mut self, node: &Node) -> Result<u16, Fault> {
        let next = self.first(node).peek()?;
        next.map(|levels| levels.definition).ok_or_else(|| Fault::damaged("a column ends before its row group"))
    }

    fn push(&mut self, text: &str) -> Result<(), Fault> {
        if self.out.len() + text.len() > self.limit_bytes {
            return Err(Fault::TooLongRow { limit_bytes: self.limit_bytes });
        }
        self.out.push_str(text);
        Ok(())
    }

    fn name(&mut self, index: usize, name: &str) -> Result<(), Fault> {
        self.push(if index == 0 { "{" } else { "," })?;
        push_json_text(&mut self.out, name);
        self.push(":")
    }

    /// A node with all that it repeats.
    fn node(&mut self, node: &Node) -> Result<(), Fault> {
        if node.repetition != Repetition::Required && self.definition(node)? < node.definition {
            self.drop_one_value(node)?;
            return self.push(if node.repetition == Repetition::Repeated { "[]" } else { "null" });
        }
        if node.repetition != Repetition::Repeated {
            return self.inside(node);
        }
        self.push("[")?;
        loop {
            self.inside(node)?;
            let goes_on = self.first(node).peek()?.is_some_and(|next| next.repetition == node.repetition_level);
            if !goes_on {
                return self.push("]");
            }
            self.push(",")?;
        }
    }

    fn inside(&mut self, node: &Node) -> Result<(), Fault> {
        match &node.inside {
            Inside::Leaf => self.leaf(node),
            Inside::List(element) => self.node(element),
            Inside::Group(fields) => {
                for (index, field) in fields.iter().enumerate() {
                    self.name(index, &field.name)?;
                    self.node(field)?;
                }
                self.push("}")
            }
        }
    }

    fn leaf(&mut self, node: &Node) -> Result<(), Fault> {
        let Writer { out, leaves, limit_bytes } = self;
        let limit_bytes = *limit_bytes;
        let column = leaves[node.first_leaf].as_mut().expect("the leaves of needed columns are open");
        let room = limit_bytes.saturating_sub(out.len());
        match column.take()? {
            Value::Null => return Err(Fault::damaged("a value is null in a column that has no nulls")),
            Value::Boolean(value) => out.push_str(if value { "true" } else { "false" }),
            Value::Integer(value) => out.push_str(&value.to_string()),
            // JSON has no other numbers.
            Value::Float(value) if !value.is_finite() => out.push_str("null"),
            Value::Float(value) => {
                out.push_str(&serde_json::Number::from_f64(value).map_or_else(String::new, |n| n.to_string()))
            }
            Value::Bytes(bytes) if bytes.len() > room => return Err(Fault::TooLongRow { limit_bytes }),
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => push_json_text(out, text),
                Err(_) => return Err(Fault::NotText(column.path().to_owned())),
            },
        }
        if out.len() > limit_bytes {
            return Err(Fault::TooLongRow { limit_bytes });
        }
        Ok(())
    }

    /// One value of every leaf in a node: each says that the node is not there.
    fn drop_one_value(&mut self, node: &Node) -> Result<(), Fault> {
        for column in self.leaves[node.first_leaf..node.first_leaf + node.leaves].iter_mut().flatten() {
            column.take()?;
        }
        Ok(())
    }
}
