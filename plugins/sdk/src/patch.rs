//! Writing a patch edit by edit. What comes out is plain data; the host alone decides whether it is valid.

use serde_json::Value as Json;
use unswag_abi::doc::{CacheSlot, Dtype, Edit, Expr, Graph, Init, Node, Patch, SubNode, Subgraph, Value};

use crate::{error::Error, graph::GraphExt};

/// Collects the edits of one patch, in the order in which they apply.
#[derive(Clone, Debug)]
pub struct PatchBuilder {
    patch: Patch,
}

impl Default for PatchBuilder {
    fn default() -> Self {
        Self { patch: Patch { version: Patch::VERSION, ..Patch::default() } }
    }
}

impl PatchBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.patch.edits.is_empty()
    }

    /// A host feature without which the patch means something else. Naming it twice is no harm.
    pub fn requires(&mut self, feature: &str) -> &mut Self {
        if !self.patch.requires.iter().any(|known| known == feature) {
            self.patch.requires.push(feature.to_owned());
        }
        self
    }

    /// Says in one sentence what training loses. Leave it out only where training is bit for bit what it was.
    pub fn lossy(&mut self, sentence: impl Into<String>) -> &mut Self {
        self.patch.lossy = Some(sentence.into());
        self
    }

    /// Puts another node in the place of one: same inputs, outputs, types and parameters, another kind. Its attributes are
    /// kept; the builder that comes back changes them and says what the new node [`NodeBuilder::stands_for`].
    ///
    /// # Errors
    /// The graph does not describe one of the node's outputs.
    pub fn swap(&mut self, graph: &Graph, node: &Node, kind: &str) -> Result<NodeBuilder<'_>, Error> {
        let region = graph.region_at(&node.path)?;
        if region.nodes.len() != 1 {
            crate::bail!(
                "{}: there are nodes under this path, so it cannot be swapped alone; replace it whole",
                node.path
            );
        }
        let mut values = Vec::with_capacity(node.outputs.len());
        for output in &node.outputs {
            values.push(graph.value(output)?.clone());
        }
        let with = Subgraph {
            inputs: region.inputs,
            outputs: region.outputs,
            nodes: vec![SubNode {
                name: String::new(),
                kind: kind.to_owned(),
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
                params: node.params.clone(),
                attrs: node.attrs.clone(),
                values,
                stands_for: None,
            }],
        };
        self.replace(&node.path, with);
        let Some(Edit::Replace { with, .. }) = self.patch.edits.last_mut() else {
            unreachable!("the edit was just pushed");
        };
        Ok(NodeBuilder(&mut with.nodes[0]))
    }

    /// Puts a subgraph where the node at a path, or all nodes under it, stood.
    pub fn replace(&mut self, at: &str, with: Subgraph) -> &mut Self {
        self.patch.edits.push(Edit::Replace { at: at.to_owned(), with });
        self
    }

    /// Sets an attribute of a node.
    pub fn attr(&mut self, at: &str, name: &str, value: impl Into<Json>) -> &mut Self {
        self.patch.edits.push(Edit::Attr { at: at.to_owned(), name: name.to_owned(), value: value.into() });
        self
    }

    /// Adds a parameter, or makes an existing one anew.
    pub fn param(&mut self, name: &str, dtype: Dtype, shape: &[u64], init: Init) -> &mut Self {
        self.patch.edits.push(Edit::Param { name: name.to_owned(), dtype, shape: shape.to_vec(), init });
        self
    }

    /// [`Self::param`] made by an expression over the checkpoint's tensors.
    pub fn param_expr(&mut self, name: &str, dtype: Dtype, shape: &[u64], expr: Expr) -> &mut Self {
        self.param(name, dtype, shape, Init::Expr(expr))
    }

    /// Removes a parameter that no node uses any more.
    pub fn drop_param(&mut self, name: &str) -> &mut Self {
        self.patch.edits.push(Edit::Drop { param: name.to_owned() });
        self
    }

    /// Adds slots to what generation keeps between tokens.
    pub fn cache(&mut self, at: &str, slots: Vec<CacheSlot>) -> &mut Self {
        self.patch.edits.push(Edit::Cache { at: at.to_owned(), slots });
        self
    }

    /// Adds `weight` times a scalar value of the patched graph to the training loss.
    pub fn loss(&mut self, name: &str, value: &str, weight: f64) -> &mut Self {
        self.patch.edits.push(Edit::Loss { name: name.to_owned(), value: value.to_owned(), weight });
        self
    }

    /// The patch. Host features that its edits need are added to what it requires.
    pub fn finish(mut self) -> Patch {
        for feature in features(&self.patch.edits) {
            self.requires(feature);
        }
        self.patch
    }
}

/// Features without which a host could not honour these edits.
fn features(edits: &[Edit]) -> Vec<&'static str> {
    let mut features = Vec::new();
    for edit in edits {
        match edit {
            Edit::Param { init: Init::Expr(expr), .. } => {
                features.push("expr/1");
                if has_svd(expr) {
                    features.push("expr.svd/1");
                }
            }
            Edit::Param { init: Init::Transform { .. }, .. } => features.push("transform/1"),
            Edit::Cache { .. } => features.push("cache/1"),
            Edit::Loss { .. } => features.push("loss/1"),
            Edit::Replace { .. } | Edit::Attr { .. } | Edit::Drop { .. } => {}
        }
    }
    features
}

fn has_svd(expr: &Expr) -> bool {
    match expr {
        Expr::Svd { .. } => true,
        Expr::Tensor(_) | Expr::Full { .. } | Expr::Eye(_) | Expr::Normal { .. } => false,
        Expr::Cat { of, .. } => of.iter().any(has_svd),
        Expr::Slice { of, .. }
        | Expr::Reshape { of, .. }
        | Expr::Permute { of, .. }
        | Expr::Scale { of, .. }
        | Expr::Cast { of, .. }
        | Expr::Sqrt(of) => has_svd(of),
        Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Matmul(a, b) => has_svd(a) || has_svd(b),
    }
}

/// Collects the nodes of a replacement. Names are local to it: the host makes them unique.
#[derive(Clone, Debug, Default)]
pub struct SubgraphBuilder {
    subgraph: Subgraph,
}

impl SubgraphBuilder {
    /// `inputs` name, by position, the region's own inputs: the outside values its nodes use, in order of first use.
    pub fn new<'s>(inputs: impl IntoIterator<Item = &'s str>) -> Self {
        let inputs = inputs.into_iter().map(str::to_owned).collect();
        Self { subgraph: Subgraph { inputs, ..Subgraph::default() } }
    }

    /// Adds a node; its path will be the replaced path, a dot, and `name`. Nodes stand in the order in which they run.
    pub fn node(&mut self, name: &str, kind: &str) -> NodeBuilder<'_> {
        let node = SubNode { name: name.to_owned(), kind: kind.to_owned(), ..SubNode::default() };
        self.subgraph.nodes.push(node);
        NodeBuilder(self.subgraph.nodes.last_mut().expect("just pushed"))
    }

    /// Values that take the place, by position, of the region's outputs: those that others use, in order of production.
    pub fn finish<'s>(mut self, outputs: impl IntoIterator<Item = &'s str>) -> Subgraph {
        self.subgraph.outputs = outputs.into_iter().map(str::to_owned).collect();
        self.subgraph
    }
}

/// One node of a patch, being written.
pub struct NodeBuilder<'p>(&'p mut SubNode);

impl NodeBuilder<'_> {
    /// Adds inputs, in order.
    pub fn inputs<'s>(self, names: impl IntoIterator<Item = &'s str>) -> Self {
        self.0.inputs.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Adds outputs, in order.
    pub fn outputs<'s>(self, names: impl IntoIterator<Item = &'s str>) -> Self {
        self.0.outputs.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Gives the parameter `name` the role `role` (`weight`, `bias`).
    pub fn param(self, role: &str, name: &str) -> Self {
        self.0.params.insert(role.to_owned(), name.to_owned());
        self
    }

    /// Takes over another node's parameters and attributes.
    pub fn like(self, node: &Node) -> Self {
        self.0.params.extend(node.params.clone());
        self.0.attrs.extend(node.attrs.clone());
        self
    }

    pub fn attr(self, name: &str, value: impl Into<Json>) -> Self {
        self.0.attrs.insert(name.to_owned(), value.into());
        self
    }

    /// States the types of the outputs, which a plugin's own op must.
    pub fn values(self, values: impl IntoIterator<Item = Value>) -> Self {
        self.0.values = values.into_iter().collect();
        self
    }

    /// Names the host primitive whose forward this op equals bit for bit, so that tools without the plugin run that.
    pub fn stands_for(self, kind: &str) -> Self {
        self.0.stands_for = Some(kind.to_owned());
        self
    }
}
