//! How long the documents take: `cargo bench -p unswag-graph`.
//!
//! The graph is a llama of 85 layers, 1,194 nodes; the answers are checked before anything is timed.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{Llama, TINY_LLAMA, TestOps, swiglu_patch};
use criterion::{Criterion, criterion_group, criterion_main};
use unswag_abi::doc::Graph;
use unswag_graph::{
    apply, diff,
    saved::saved,
    tree::{Plain, TreeOptions, tree},
    validate,
};

fn documents(bench: &mut Criterion) {
    let graph = Llama { layers: 85, ..TINY_LLAMA }.graph();
    assert_eq!(graph.nodes.len(), 1194);
    assert_eq!(validate(&graph), Ok(()));
    let document = serde_json::to_vec(&graph).expect("a graph is a document");
    assert_eq!(serde_json::from_slice::<Graph>(&document).expect("a graph is a document"), graph);
    let patch = swiglu_patch(&graph, "exact");
    let operated = apply(&graph, &patch, &TestOps).expect("a valid patch").graph;
    assert_eq!(diff(&graph, &operated).nodes_changed.len(), 85);

    let mut group = bench.benchmark_group("graph of 1,194 nodes");
    group.bench_function("write JSON", |b| b.iter(|| serde_json::to_vec(black_box(&graph))));
    group.bench_function("read JSON", |b| b.iter(|| serde_json::from_slice::<Graph>(black_box(&document))));
    group.bench_function("validate", |b| b.iter(|| validate(black_box(&graph))));
    group.bench_function("apply 85 replaces", |b| b.iter(|| apply(black_box(&graph), &patch, &TestOps)));
    group.bench_function("diff", |b| b.iter(|| diff(black_box(&graph), &operated).to_string()));
    group.bench_function("saved", |b| b.iter(|| saved(black_box(&operated))));
    group.bench_function("tree", |b| b.iter(|| tree(black_box(&operated), TreeOptions::default()).render(&Plain)));
    group.finish();

    // A mixture of experts has many nodes: 60 layers of 256 experts.
    let many = Llama { layers: 15_000, hidden: 64, intermediate: 160, heads: 4, kv_heads: 2, vocabulary: 100 }.graph();
    let all = swiglu_patch(&many, "exact");
    let mut group = bench.benchmark_group("graph of 210,000 nodes");
    group.sample_size(10);
    group.bench_function("validate", |b| b.iter(|| validate(black_box(&many))));
    group.bench_function("apply 15,000 replaces", |b| b.iter(|| apply(black_box(&many), &all, &TestOps)));
    group.finish();
}

criterion_group!(benches, documents);
criterion_main!(benches);
