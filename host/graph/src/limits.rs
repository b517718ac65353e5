//! How large an id and a position may be: the rows of the tables that a graph looks them up in.

use unswag_abi::doc::Graph;

/// Rows of a graph's tables; `None` where it has no such table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexLimits {
    /// Ids of tokens are below it.
    pub token_rows: Option<u64>,
    /// Positions are below it: rows of a learned position embedding, those that no position uses (OPT's first two) left
    /// out. Rotary embeddings have no table.
    pub position_rows: Option<u64>,
}

/// The limits of a graph. Of several tables the shortest counts.
pub fn index_limits(graph: &Graph) -> IndexLimits {
    let rows = |input: &str| {
        let tables = graph.nodes.iter().filter(|node| node.kind == "embedding");
        let tables = tables.filter(|node| node.inputs.first().is_some_and(|name| name == input));
        let rows = tables.filter_map(|node| {
            let rows = graph.params.get(node.params.get("weight")?)?.shape.first()?;
            let offset = node.attrs.get("offset").and_then(serde_json::Value::as_u64).unwrap_or(0);
            Some(rows.saturating_sub(offset))
        });
        rows.min()
    };
    IndexLimits { token_rows: rows("input_ids"), position_rows: rows("position_ids") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builders;

    #[test]
    fn learned_positions_end_where_the_configuration_says_and_rotary_ones_have_no_table() {
        for (family, positions) in [("gpt2", Some(32)), ("opt", Some(32)), ("llama", None), ("gemma2", None)] {
            let config = builders::sample_config(family).expect(family);
            let stated = |key: &str| config.get(key).and_then(serde_json::Value::as_u64);
            let limits = index_limits(&builders::sample_graph(family).expect(family));
            let expected = positions.and(stated("max_position_embeddings").or(stated("n_positions")));
            assert_eq!(limits, IndexLimits { token_rows: stated("vocab_size"), position_rows: expected }, "{family}");
        }
    }
}
