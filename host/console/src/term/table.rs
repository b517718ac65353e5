//! Columns aligned by their widest cell.

use super::text::{Style, paint, value, width};

/// Columns aligned by their widest cell, numbers to the right. A cell is one line; its style takes no width.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that start with `>` are aligned to the right.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let first = headings.iter().map(|heading| paint(Style::Dim, heading.trim_start_matches('>'))).collect();
        Self { rows: vec![first], right }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(value).collect());
    }

    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
                let gap = if column == 0 { "" } else { "  " };
                let (before, after) = if self.right[column] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::text::render;

    #[test]
    fn neither_a_style_nor_a_line_break_moves_a_column() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row([paint(Style::Name, "a"), "1".into()]);
        table.row(["b\nc".into(), "1000".into()]);
        let plain = anstream::adapter::strip_str(&render(&table.render())).to_string();
        assert_eq!(plain, "name  bytes\na         1\nb\\nc   1000\n");
    }
}
