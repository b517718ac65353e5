//! The module tree.

mod common;

use common::{SMALL, TINY_LLAMA, TestOps, swiglu_patch};
use unswag_graph::{
    apply,
    saved::saved,
    tree::{Part, Plain, Style, TreeOptions, tree},
};

#[test]
fn equal_layers_are_one_row() {
    let tree = tree(&TINY_LLAMA.graph(), TreeOptions::default());
    let paths: Vec<&str> = tree.rows.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(paths[..5], ["model", "model.embed_tokens", "model.rotary_emb", "model.layers", "model.layers.{0..21}"]);
    let layer = &tree.rows[4];
    assert_eq!((layer.count, layer.kind.as_deref(), layer.depth), (22, None, 2));
    let inside = paths.iter().filter(|path| path.starts_with("model.layers.{0..21}.")).count();
    assert_eq!(inside, 14 + 2, "fourteen nodes, two blocks");
}

#[test]
fn totals_are_the_whole_models() {
    let graph = TINY_LLAMA.graph();
    let tree = tree(&graph, TreeOptions::default());
    let elements: u64 = graph.params.values().map(|param| param.shape.iter().product::<u64>()).sum();
    assert_eq!((tree.params, tree.param_bytes), (elements, 2 * elements));
    assert_eq!(tree.saved_bytes_per_token, saved(&graph).bytes_per_token);
    let roots: u64 = tree.rows.iter().filter(|row| row.depth == 0).map(|row| row.params).sum();
    assert_eq!(roots, elements, "a tied parameter is counted once");
    let head = tree.rows.iter().find(|row| row.path == "lm_head").expect("there");
    assert!(head.tied && head.params == 0);
}

#[test]
fn a_layer_that_differs_has_its_own_row() {
    let graph = TINY_LLAMA.graph();
    let mut patch = swiglu_patch(&graph, "exact");
    patch.edits.drain(1..21);
    let operated = apply(&graph, &patch, &TestOps).expect("a valid patch").graph;
    let tree = tree(&operated, TreeOptions::default());
    let layers: Vec<(&str, u64)> = tree
        .rows
        .iter()
        .filter(|row| row.depth == 2 && row.kind.is_none())
        .map(|row| (row.name.as_str(), row.count))
        .collect();
    assert_eq!(layers, [("{0,21}", 2), ("{1..20}", 20)]);
}

#[test]
fn one_layer_alone_may_be_asked_for() {
    let graph = TINY_LLAMA.graph();
    let one = tree(&graph, TreeOptions { layer: Some(7), ..TreeOptions::default() });
    assert!(one.rows.iter().skip(2).all(|row| row.path.starts_with("model.layers.7")));
    assert_eq!(one.saved_bytes_per_token, saved(&graph).under("model.layers.7"));
    assert!(tree(&graph, TreeOptions { layer: Some(22), ..TreeOptions::default() }).rows.is_empty());
}

#[test]
fn nothing_is_collapsed_where_it_should_not_be() {
    let all = tree(&SMALL.graph(), TreeOptions { collapse: false, ..TreeOptions::default() });
    assert!(all.rows.iter().all(|row| row.count == 1));
    assert_eq!(all.rows.iter().filter(|row| row.name == "act_fn").count(), 3);
}

#[test]
fn the_text_is_aligned_and_ends_with_totals() {
    let text = tree(&SMALL.graph(), TreeOptions::default()).render(&Plain);
    let expected = "\
module                          kind              output                    parameters       bytes  saved B/token
model                                                                          135,872  265.38 KiB          6,796
  embed_tokens                  embedding         BF16 [batch, seq, 64]          6,400   12.50 KiB
  rotary_emb                    rotary_embedding  BF16 [batch, seq, 16] +1                                     64
  layers                                                                       129,408  252.75 KiB          6,600
    {0..2}  x3                                                                  43,136   84.25 KiB          2,200
      input_layernorm           rms_norm          BF16 [batch, seq, 64]             64       128 B            132
      self_attn                                                                 12,288   24.00 KiB            528
        q_proj                  linear            BF16 [batch, seq, 64]          4,096    8.00 KiB            128
        k_proj                  linear            BF16 [batch, seq, 32]          2,048    4.00 KiB
        v_proj                  linear            BF16 [batch, seq, 32]          2,048    4.00 KiB
        rope                    rope              BF16 [batch, seq, 64] +1
        attn                    attention         BF16 [batch, seq, 64]                                       400
        o_proj                  linear            BF16 [batch, seq, 64]          4,096    8.00 KiB
      add_attn                  add               BF16 [batch, seq, 64]
      post_attention_layernorm  rms_norm          BF16 [batch, seq, 64]             64       128 B            132
      mlp                                                                       30,720   60.00 KiB          1,408
        gate_proj               linear            BF16 [batch, seq, 160]        10,240   20.00 KiB            128
        up_proj                 linear            BF16 [batch, seq, 160]        10,240   20.00 KiB
        act_fn                  swiglu            BF16 [batch, seq, 160]                                      960
        down_proj               linear            BF16 [batch, seq, 64]         10,240   20.00 KiB            320
      add_mlp                   add               BF16 [batch, seq, 64]
  norm                          rms_norm          BF16 [batch, seq, 64]             64       128 B            132
lm_head                         linear            BF16 [batch, seq, 100]          tied                        128
total                                                                          135,872  265.38 KiB          6,924
";
    assert_eq!(text, expected, "got:\n{text}");
}

#[test]
fn colours_are_the_callers_and_change_no_width() {
    struct Marked;
    impl Style for Marked {
        fn paint(&self, part: Part, text: &str) -> String {
            match part {
                Part::PluginKind => text.to_uppercase(),
                _ => text.to_owned(),
            }
        }
    }
    let graph = SMALL.graph();
    let operated = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch").graph;
    let tree = tree(&operated, TreeOptions::default());
    let (plain, marked) = (tree.render(&Plain), tree.render(&Marked));
    assert!(marked.contains("TEST.SWIGLU") && !marked.contains("RMS_NORM"));
    assert_eq!(plain.to_lowercase(), marked.to_lowercase());
}

#[test]
fn rows_are_a_document() {
    let document = serde_json::to_value(tree(&SMALL.graph(), TreeOptions::default())).expect("a tree is a document");
    assert_eq!(document["rows"][1]["path"], "model.embed_tokens");
}
