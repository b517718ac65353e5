//! The module tree that `unswag inspect` shows: the graph by path, equal layers told once.
//!
//! Rows are data first; [`Tree::render`] makes text of them and leaves colours to its caller.

use std::collections::{BTreeSet, HashMap, HashSet};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::json;
use unswag_abi::doc::{Graph, Node, Value};

use crate::{
    group::{number, ranges},
    kinds::show_shape,
    saved::saved,
};

/// Deeper modules are shown as one name, so that no path can exhaust the stack.
const MOST_DEPTH: usize = 64;

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// Only modules whose path has this as its first number.
    pub layer: Option<u64>,
    /// Tell equal layers once.
    pub collapse: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        TreeOptions { layer: None, collapse: true }
    }
}

/// Rows in the order of the model, and the sums over what they show.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tree {
    pub rows: Vec<Row>,
    pub params: u64,
    pub param_bytes: u64,
    pub saved_bytes_per_token: f64,
}

/// One module, or several equal ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub depth: usize,
    /// `model.layers.{0..29}.mlp.act_fn`.
    pub path: String,
    /// The path's last part: `act_fn`, `{0..29}`.
    pub name: String,
    /// How many modules the row stands for. The figures below are one module's.
    pub count: u64,
    /// `None` for a block, which is only what is under it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Value>,
    /// Elements of the parameters here and below. One that an earlier module has already is not counted again.
    pub params: u64,
    pub param_bytes: u64,
    /// Whether it uses a parameter that an earlier module has.
    pub tied: bool,
    /// Bytes kept for the backward, here and below, by who keeps each first.
    pub saved_bytes_per_token: f64,
}

/// Makes the tree of a graph that passes [`crate::validate`].
pub fn tree(graph: &Graph, options: TreeOptions) -> Tree {
    let mut forest = Forest::default();
    let mut counted = HashSet::new();
    let wanted = |node: &Node| options.layer.is_none_or(|layer| node.path.split('.').find_map(number) == Some(layer));
    for (node, saved) in graph.nodes.iter().zip(saved(graph).nodes) {
        let mut figures = Figures { saved: saved.bytes_per_token, ..Figures::default() };
        for name in node.params.values() {
            if !counted.insert(name) {
                figures.tied = true;
            } else if let Some(param) = graph.params.get(name) {
                let elements = param.shape.iter().fold(1u64, |product, &size| product.saturating_mul(size));
                figures.params = figures.params.saturating_add(elements);
                figures.bytes = figures.bytes.saturating_add(elements.saturating_mul(param.dtype.bytes()));
            }
        }
        if wanted(node) {
            forest.add(graph, node, figures);
        }
    }
    forest.sign();
    let mut tree = Tree::default();
    for &root in &forest.roots() {
        let sum = &forest.modules[root].sum;
        tree.params = tree.params.saturating_add(sum.params);
        tree.param_bytes = tree.param_bytes.saturating_add(sum.bytes);
        tree.saved_bytes_per_token += sum.saved;
    }
    forest.rows(&forest.roots(), 0, "", options.collapse, &mut tree.rows);
    tree
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    params: u64,
    bytes: u64,
    saved: f64,
    tied: bool,
}

/// A module of the tree: a node, a block, or both.
#[derive(Default)]
struct Module<'a> {
    name: &'a str,
    node: Option<(&'a Node, Vec<Value>)>,
    children: IndexMap<&'a str, usize>,
    /// What the module itself is, in words: two modules of one text are alike.
    text: String,
    sum: Figures,
    /// Equal for modules that are alike all the way down.
    signature: usize,
}

#[derive(Default)]
struct Forest<'a> {
    /// Parents come before their children.
    modules: Vec<Module<'a>>,
    roots: IndexMap<&'a str, usize>,
}

impl<'a> Forest<'a> {
    fn add(&mut self, graph: &Graph, node: &'a Node, figures: Figures) {
        let mut at: Option<usize> = None;
        for name in node.path.splitn(MOST_DEPTH, '.') {
            let next = self.modules.len();
            let children = match at {
                Some(parent) => &mut self.modules[parent].children,
                None => &mut self.roots,
            };
            let module = *children.entry(name).or_insert(next);
            if module == next {
                self.modules.push(Module { name, ..Module::default() });
            }
            at = Some(module);
        }
        let outputs: Vec<Value> = node.outputs.iter().filter_map(|name| graph.values.get(name)).cloned().collect();
        let params: Vec<_> = node.params.iter().map(|(role, name)| (role, graph.params.get(name))).collect();
        let text =
            json!([node.kind, node.attrs, outputs, params, node.stands_for, figures.tied, figures.saved.to_bits()]);
        let module = &mut self.modules[at.expect("a path has at least one word")];
        module.text = text.to_string();
        module.node = Some((node, outputs));
        module.sum = figures;
    }

    fn roots(&self) -> Vec<usize> {
        self.roots.values().copied().collect()
    }

    /// Sums and signatures, children before parents.
    fn sign(&mut self) {
        // What it is itself, and its children by name and signature.
        type Alike<'a> = (String, Vec<(&'a str, usize)>);
        let mut known: HashMap<Alike<'a>, usize> = HashMap::new();
        for i in (0..self.modules.len()).rev() {
            let children: Vec<usize> = self.modules[i].children.values().copied().collect();
            let mut sum = self.modules[i].sum;
            for &child in &children {
                let below = self.modules[child].sum;
                sum.params = sum.params.saturating_add(below.params);
                sum.bytes = sum.bytes.saturating_add(below.bytes);
                sum.saved += below.saved;
            }
            let below =
                children.iter().map(|&child| (self.modules[child].name, self.modules[child].signature)).collect();
            let next = known.len();
            let text = std::mem::take(&mut self.modules[i].text);
            self.modules[i].signature = *known.entry((text, below)).or_insert(next);
            self.modules[i].sum = sum;
        }
    }

    fn rows(&self, modules: &[usize], depth: usize, under: &str, collapse: bool, rows: &mut Vec<Row>) {
        // Alike numbered neighbours make one group; everything else is a group of its own.
        let mut groups: IndexMap<(Option<usize>, usize), Vec<usize>> = IndexMap::new();
        for &module in modules {
            let is_numbered = collapse && number(self.modules[module].name).is_some();
            let key = match is_numbered {
                true => (Some(self.modules[module].signature), 0),
                false => (None, module),
            };
            groups.entry(key).or_default().push(module);
        }
        for group in groups.into_values() {
            let module = &self.modules[group[0]];
            let numbers: BTreeSet<u64> = group.iter().filter_map(|&one| number(self.modules[one].name)).collect();
            let name = if group.len() == 1 { module.name.to_owned() } else { ranges(&numbers) };
            let path = if under.is_empty() { name.clone() } else { format!("{under}.{name}") };
            rows.push(Row {
                depth,
                path: path.clone(),
                name,
                count: group.len() as u64,
                kind: module.node.as_ref().map(|(node, _)| node.kind.clone()),
                outputs: module.node.as_ref().map(|(_, outputs)| outputs.clone()).unwrap_or_default(),
                params: module.sum.params,
                param_bytes: module.sum.bytes,
                tied: module.node.is_some() && module.sum.tied,
                saved_bytes_per_token: module.sum.saved,
            });
            let children: Vec<usize> = module.children.values().copied().collect();
            self.rows(&children, depth + 1, &path, collapse, rows);
        }
    }
}

/// What a piece of the text is, so that a terminal can colour it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Header,
    Block,
    Module,
    /// The kind of a host primitive.
    Kind,
    /// The kind of a plugin's op.
    PluginKind,
    Shape,
    Number,
    Total,
}

/// How text is made visible.
pub trait Style {
    /// `text` already has its padding; what comes back must look as wide.
    fn paint(&self, part: Part, text: &str) -> String;
}

/// Leaves text as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Style for Plain {
    fn paint(&self, _: Part, text: &str) -> String {
        text.to_owned()
    }
}

const HEADERS: [&str; 6] = ["module", "kind", "output", "parameters", "bytes", "saved B/token"];

impl Tree {
    /// The rows as text in aligned columns, with a header, and totals in the last line.
    pub fn render(&self, style: &dyn Style) -> String {
        let mut table: Vec<[(Part, String); 6]> = vec![HEADERS.map(|header| (Part::Header, header.to_owned()))];
        table.extend(self.rows.iter().map(cells));
        let total = |text: String| (Part::Total, text);
        table.push([
            total("total".to_owned()),
            total(String::new()),
            total(String::new()),
            total(thousands(self.params)),
            total(bytes(self.param_bytes)),
            total(figure(self.saved_bytes_per_token)),
        ]);
        let mut widths = [0; 6];
        for line in &table {
            for (width, (_, text)) in widths.iter_mut().zip(line) {
                *width = (*width).max(text.chars().count());
            }
        }
        let mut page = String::new();
        for line in table {
            let mut shown = String::new();
            for (column, ((part, text), width)) in line.iter().zip(widths).enumerate() {
                let gap = " ".repeat(width - text.chars().count());
                let is_number = column >= 3;
                let padded = if is_number { format!("{gap}{text}") } else { format!("{text}{gap}") };
                shown.push_str(if column == 0 { "" } else { "  " });
                match padded.trim().is_empty() {
                    true => shown.push_str(&padded),
                    false => shown.push_str(&style.paint(*part, &padded)),
                }
            }
            page.push_str(shown.trim_end());
            page.push('\n');
        }
        page
    }
}

fn cells(row: &Row) -> [(Part, String); 6] {
    let times = if row.count > 1 { format!("  x{}", row.count) } else { String::new() };
    let name = format!("{}{}{times}", "  ".repeat(row.depth), row.name);
    let (part, kind) = match &row.kind {
        None => (Part::Block, (Part::Kind, String::new())),
        Some(kind) if crate::kinds::is_plugin_op(kind) => (Part::Module, (Part::PluginKind, kind.clone())),
        Some(kind) => (Part::Module, (Part::Kind, kind.clone())),
    };
    let outputs: Vec<String> =
        row.outputs.iter().map(|value| format!("{} {}", value.dtype, show_shape(&value.shape))).collect();
    let shown = match &outputs[..] {
        [] | [_] => outputs.concat(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    };
    let params = match (row.params, row.tied) {
        (0, true) => "tied".to_owned(),
        (0, false) => String::new(),
        (params, _) => thousands(params),
    };
    let saved = if row.saved_bytes_per_token > 0.0 { figure(row.saved_bytes_per_token) } else { String::new() };
    [
        (part, name),
        kind,
        (Part::Shape, shown),
        (Part::Number, params),
        (Part::Number, if row.param_bytes > 0 { bytes(row.param_bytes) } else { String::new() }),
        (Part::Number, saved),
    ]
}

/// `1,100,048,384`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `2.05 GiB`.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.2} {}", UNITS[unit]) }
}

/// Whole where it is whole, as almost all bytes per token are.
fn figure(number: f64) -> String {
    match number.fract() == 0.0 && number < 1e15 {
        true => thousands(number as u64),
        false => format!("{number:.2}"),
    }
}
