//! Plans against steps of the same mixture, the search against trying everything, and figures against sums made by hand.

mod common;

use common::{graph, of_graph, program, sample, smollm2};
use unswag_abi::doc::Dtype;
use unswag_engine::{EngineError, Pass, Plan, PlanOptions, Policy, Program, Survey, longest_seq};
use unswag_graph::builders::FAMILIES;

/// Odd sizes, and stretches that do not divide them.
fn options() -> PlanOptions {
    PlanOptions {
        batch: 2,
        seq: 211,
        loss_rows: 9,
        tile_rows: 32,
        optimizer_bytes: 1234,
        policies: Policy::ALL.into(),
        ..PlanOptions::default()
    }
}

/// Every mixture of these policies over so many blocks.
fn mixtures(policies: &[Policy], blocks: usize) -> Vec<Vec<Policy>> {
    let mut all = vec![Vec::new()];
    for _ in 0..blocks {
        let longer = |mixture: &Vec<Policy>| {
            let mixture = mixture.clone();
            policies.iter().map(move |&policy| [mixture.clone(), vec![policy]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

fn each_program(layers: u64, mut check: impl FnMut(&str, &Program)) {
    for family in FAMILIES {
        for lora in [Some(4), None] {
            let program = program(&sample(family, layers), Dtype::Bf16, lora);
            check(&format!("{family}, LoRA {lora:?}"), &program);
        }
    }
}

#[test]
fn the_survey_knows_the_peak_of_every_mixture_to_the_byte() {
    each_program(3, |case, program| {
        for accumulates in [false, true] {
            let options = PlanOptions { accumulates, ..options() };
            let survey = Survey::new(program, &options).expect("a survey");
            for mixture in mixtures(&Policy::ALL, 3) {
                let plan = Plan::new(program, &options, &mixture).expect("a plan");
                assert_eq!(survey.peak_bytes(&mixture), Some(plan.peak_bytes), "{case}: {mixture:?}");
                assert_eq!(plan.parts.sum(), plan.peak_bytes, "{case}: {mixture:?}: parts {:?}", plan.parts);
                let seconds = survey.seconds(&mixture).expect("all may be chosen");
                assert!((seconds / plan.estimated_seconds - 1.0).abs() < 1e-9, "{case}: {mixture:?}");
            }
        }
    });
}

#[test]
fn the_search_finds_what_trying_everything_finds() {
    each_program(3, |case, program| {
        let options = options();
        let survey = Survey::new(program, &options).expect("a survey");
        let tried: Vec<_> = mixtures(&Policy::ALL, 3)
            .into_iter()
            .map(|mixture| {
                let plan = Plan::new(program, &options, &mixture).expect("a plan");
                (plan.peak_bytes, plan.estimated_seconds)
            })
            .collect();
        let mut peaks: Vec<u64> = tried.iter().map(|(peak, _)| *peak).collect();
        peaks.sort_unstable();
        peaks.dedup();
        assert_eq!(survey.least_bytes(), peaks[0], "{case}");
        assert!(peaks.len() > 4, "{case}: the policies hardly differ: {peaks:?}");
        // A budget is different only where it lets one more mixture in.
        for budget in peaks.iter().flat_map(|&peak| [peak - 1, peak]) {
            let fitting = tried.iter().filter(|(peak, _)| *peak <= budget).map(|(_, seconds)| *seconds);
            let best = fitting.min_by(f64::total_cmp);
            let found = survey.fastest_within(budget);
            assert_eq!(found.is_some(), best.is_some(), "{case}: {budget}");
            let (Some(found), Some(best)) = (found, best) else { continue };
            assert!(survey.peak_bytes(&found).expect("chosen") <= budget, "{case}: {budget}: {found:?}");
            let seconds = survey.seconds(&found).expect("chosen");
            assert!(seconds <= best * (1.0 + 1e-9), "{case}: {budget}: {found:?} takes {seconds}, {best} is possible");
        }
    });
}

#[test]
fn the_longest_sequence_fits_and_one_token_more_does_not() {
    each_program(2, |case, program| {
        let options = PlanOptions { policies: Policy::IN_MEMORY.into(), ..options() };
        let least =
            |seq| Survey::new(program, &PlanOptions { seq, ..options.clone() }).expect("a survey").least_bytes();
        let bytes: Vec<u64> = (1..80).map(least).collect();
        assert!(bytes.is_sorted(), "{case}: a longer sequence takes less: {bytes:?}");
        for budget in [bytes[0], bytes[17], bytes[17] + 1, 3 * bytes[70]] {
            let longest = longest_seq(program, &options, budget).expect("a search").expect("one token fits");
            assert!(least(longest) <= budget, "{case}: {budget}: {longest}");
            assert!(least(longest + 1) > budget, "{case}: {budget}: {longest}");
        }
        assert_eq!(longest_seq(program, &options, bytes[0] - 1).expect("a search"), None, "{case}");
    });
}

#[test]
fn the_search_is_soon_done_on_many_layers() {
    // Two kinds of block in turn, all six policies: the partial choices stay few, or this would not end.
    let program = program(&sample("gemma2", 64), Dtype::Bf16, Some(4));
    let options = options();
    let survey = Survey::new(&program, &options).expect("a survey");
    let (least, most) = (survey.least_bytes(), survey.peak_bytes(&[Policy::Keep; 64]).expect("may be chosen"));
    let mut before = f64::INFINITY;
    for tenth in 0..=10 {
        let budget = least + (most - least) * tenth / 10;
        let plan = Plan::within(&program, &options, budget).expect("it fits");
        assert!(plan.peak_bytes <= budget);
        assert!(plan.estimated_seconds <= before, "more memory, and slower");
        before = plan.estimated_seconds;
    }
    assert_eq!(survey.fastest_within(most), Some(vec![Policy::Keep; 64]));
    assert_eq!(survey.fastest_within(u64::MAX), Some(vec![Policy::Keep; 64]));
}

#[test]
fn a_budget_that_nothing_fits_is_refused_with_the_least_that_would() {
    let program = program(&smollm2(), Dtype::Bf16, Some(16));
    let options = PlanOptions::default();
    let error = Plan::within(&program, &options, 1 << 20).expect_err("a mebibyte is too little");
    let EngineError::Budget { least_bytes, .. } = error else { panic!("{error}") };
    assert!(
        error
            .to_string()
            .contains("1 x 2048 tokens does not fit the memory budget of 1 MiB: the least that it takes is "),
        "{error}"
    );
    assert_eq!(Plan::within(&program, &options, least_bytes).expect("the least fits").peak_bytes, least_bytes);
    assert!(Plan::within(&program, &options, least_bytes - 1).is_err());
}

#[test]
fn budgets_are_kept_where_blocks_reach_past_their_neighbours() {
    let mut graph = graph(&sample("llama", 4), Dtype::Bf16);
    // The last block adds what the first one made, not what came into it.
    let out_of = |layer: u64| {
        let path = format!("model.layers.{layer}.");
        let last = graph.nodes.iter().rposition(|node| node.path.starts_with(&path)).expect("a layer");
        graph.nodes[last].outputs[0].clone()
    };
    let (first, third) = (out_of(0), out_of(2));
    let is_add = |node: &&mut unswag_abi::doc::Node| {
        node.path.starts_with("model.layers.3.") && node.kind == "add" && node.inputs.contains(&third)
    };
    let add = graph.nodes.iter_mut().find(is_add).expect("a residual");
    add.inputs.iter_mut().filter(|input| **input == third).for_each(|input| *input = first.clone());
    let (program, options) = (of_graph(&graph, Some(4)), options());
    let survey = Survey::new(&program, &options).expect("a survey");
    let tried: Vec<u64> = mixtures(&Policy::ALL, 4)
        .iter()
        .map(|mixture| Plan::new(&program, &options, mixture).expect("a plan").peak_bytes)
        .collect();
    let (least, most) = (tried.iter().min().expect("some"), tried.iter().max().expect("some"));
    let mut kept = 0;
    for step in 0..=20 {
        let budget = least + (most - least) * step / 20;
        match Plan::within(&program, &options, budget) {
            Ok(plan) => {
                assert!(plan.peak_bytes <= budget, "{budget}");
                kept += 1;
            }
            Err(error) => assert!(matches!(error, EngineError::Budget { .. }), "{error}"),
        }
    }
    assert!(kept >= 18, "only {kept} of 21 budgets that can be kept were; the survey says {}", survey.least_bytes());
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let program = program(&sample("llama", 1), Dtype::Bf16, Some(4));
    for (batch, seq) in [(0, 1), (1, 0), (1, u64::MAX), (u64::MAX, 2), (1 << 13, 1 << 12)] {
        let options = PlanOptions { batch, seq, ..options() };
        let error = Plan::new(&program, &options, &[]).expect_err("no such batch").to_string();
        assert!(error.contains("tokens to plan for: expected 1 to 16777216"), "{error}");
        assert!(Survey::new(&program, &options).is_err());
    }
    let options = PlanOptions { policies: Vec::new(), ..options() };
    let error = Survey::new(&program, &options).expect_err("nothing to choose from").to_string();
    assert!(error.contains("policies"), "{error}");
    let options = PlanOptions { optimizer_bytes: u64::MAX, ..options };
    let error = Plan::new(&program, &options, &[]).expect_err("no such memory").to_string();
    assert!(error.contains("optimizer"), "{error}");
}

/// SmolLM2-135M, LoRA r = 16 on all seven projections, bf16.
mod smollm2_by_hand {
    use super::*;

    const T: u64 = 2048;
    const LAYERS: u64 = 30;

    #[test]
    fn a_block_keeps_what_its_nodes_ask_for() {
        let program = program(&smollm2(), Dtype::Bf16, Some(16));
        let survey = Survey::new(&program, &options(T)).expect("a survey");
        let (hidden, kv, wide, r, heads) = (576, 192, 1536, 16, 9);
        // x, norm(x); q, k, v, y; the residual, its norm; gate, up, silu(gate) up; seven times x A^T.
        let halves = 4 * hidden + (hidden + kv + kv + hidden) + 3 * wide + 7 * r;
        // One rstd for each norm, and the log-sum-exp of every head.
        let singles = 2 + heads;
        let keep = T * (2 * halves + 4 * singles);
        // Without norm(x) of the MLP, the residual, gate, up and their product; its five x A^T and one rstd.
        let tiled = keep - T * (2 * (2 * hidden + 3 * wide + 4 * r) + 4);
        // Without both norms and the product of the gate.
        let selective = keep - T * 2 * (2 * hidden + wide);
        // The embedding is frozen: the first norm has nothing to go back to, and keeps neither x nor rstd. Its residual needs
        // x, where it is tiled; and what keeps nothing makes nothing again.
        assert_eq!(survey.kept_bytes(0, Policy::Keep), Some(keep - T * (2 * hidden + 4)));
        assert_eq!(survey.kept_bytes(0, Policy::Selective), Some(selective - T * 4));
        assert_eq!(survey.kept_bytes(0, Policy::Tile), Some(tiled - T * 4));
        for block in 0..LAYERS as usize {
            if block > 0 {
                assert_eq!(survey.kept_bytes(block, Policy::Keep), Some(keep), "block {block}");
                assert_eq!(survey.kept_bytes(block, Policy::Selective), Some(selective), "block {block}");
                assert_eq!(survey.kept_bytes(block, Policy::Tile), Some(tiled), "block {block}");
            }
            assert_eq!(survey.kept_bytes(block, Policy::Recompute), Some(T * 2 * hidden), "block {block}");
            assert_eq!(survey.kept_bytes(block, Policy::RecomputeTile), Some(T * 2 * hidden), "block {block}");
            assert_eq!(survey.kept_bytes(block, Policy::Offload), Some(0), "block {block}");
        }
    }

    #[test]
    fn the_work_is_that_of_the_weights() {
        let program = program(&smollm2(), Dtype::Bf16, Some(16));
        let plan = |policy| Plan::new(&program, &options(T), &[policy; LAYERS as usize]).expect("a plan");
        let base = (LAYERS * (576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536) + 576 * 49152) as f64;
        let adapters = (LAYERS * 16 * (4 * 576 + 2 * (576 + 192) + 3 * (576 + 1536))) as f64;
        let tokens = T as f64;
        let keep = plan(Policy::Keep);
        assert_eq!(keep.forward.matmul_flops, 2.0 * tokens * (base + adapters));
        // Frozen weights have no gradient; the first block's q, k and v need dx for nothing but their adapters.
        let unneeded = (576 * (576 + 2 * 192) + 3 * 16 * 576) as f64;
        assert_eq!(keep.backward.matmul_flops, 2.0 * tokens * (base + 2.0 * adapters - unneeded));
        assert_eq!(keep.recompute.matmul_flops, 0.0);
        let selective = plan(Policy::Selective);
        assert_eq!(selective.forward, keep.forward);
        assert_eq!(selective.backward.matmul_flops, keep.backward.matmul_flops);
        assert!(selective.backward.moved_bytes > keep.backward.moved_bytes);
        let again = plan(Policy::Recompute);
        assert_eq!(again.forward, keep.forward);
        assert_eq!(again.backward, keep.backward);
        assert!(again.recompute.matmul_flops < keep.forward.matmul_flops);
        let tiled = plan(Policy::RecomputeTile);
        assert_eq!(tiled.recompute.matmul_flops, again.recompute.matmul_flops);
        assert_eq!(tiled.backward.matmul_flops, keep.backward.matmul_flops);
        // Half of all pairs, in whole blocks of queries: 256 more keys than the diagonal for each.
        let pairs = tokens * (tokens + 256.0) / 2.0;
        assert_eq!(keep.forward.attention_flops, LAYERS as f64 * 9.0 * 2.0 * pairs * 128.0);
    }

    #[test]
    fn memory_falls_from_policy_to_policy() {
        let program = program(&smollm2(), Dtype::Bf16, Some(16));
        let plan = |policy| Plan::new(&program, &options(8192), &[policy; LAYERS as usize]).expect("a plan");
        let order = [
            Policy::Keep,
            Policy::Selective,
            Policy::Tile,
            Policy::Recompute,
            Policy::RecomputeTile,
            Policy::OffloadTile,
        ];
        let peaks = order.map(|policy| plan(policy).peak_bytes);
        assert!(peaks.is_sorted_by(|a, b| a > b), "{peaks:?}");
        assert_eq!(plan(Policy::Offload).offloaded_bytes, LAYERS * 8192 * 576 * 2);
        assert_eq!(plan(Policy::Keep).offloaded_bytes, 0);
    }

    #[test]
    fn the_peak_and_its_place_are_told_by_parts() {
        let program = program(&smollm2(), Dtype::Bf16, Some(16));
        let plan = Plan::new(&program, &options(T), &[Policy::Keep; LAYERS as usize]).expect("a plan");
        let params: u64 = 134_515_008;
        assert_eq!(plan.parts.frozen_parameters, 2 * params);
        let adapters = LAYERS * 16 * (4 * 576 + 2 * (576 + 192) + 3 * (576 + 1536));
        assert_eq!(plan.parts.trainable_parameters, 2 * adapters);
        assert_eq!(plan.peak_at.pass, Pass::Backward);
        // Before the blocks (the embedding, and the rotary tables), the blocks, the last norm; the head; and all back but
        // for what is before the blocks, where there is nothing to train.
        let bars: Vec<_> = plan.bars.iter().map(|bar| (bar.pass, bar.block)).collect();
        assert_eq!(bars.iter().filter(|bar| **bar == (Pass::Forward, Some(29))).count(), 1);
        assert_eq!(bars.iter().filter(|bar| **bar == (Pass::Backward, Some(0))).count(), 1);
        assert_eq!(plan.bars.iter().map(|bar| bar.peak_bytes).max(), Some(plan.peak_bytes));
        let optimizer = PlanOptions { optimizer_bytes: 12 * adapters, ..options(T) };
        let more = Plan::new(&program, &optimizer, &[Policy::Keep; LAYERS as usize]).expect("a plan");
        assert_eq!(more.peak_bytes, plan.peak_bytes + 12 * adapters);
        assert_eq!(more.parts.optimizer, 12 * adapters);
        let accumulating = PlanOptions { accumulates: true, ..options(T) };
        let more = Plan::new(&program, &accumulating, &[Policy::Keep; LAYERS as usize]).expect("a plan");
        assert_eq!(more.parts.gradients, 4 * adapters);
    }

    fn options(seq: u64) -> PlanOptions {
        PlanOptions { seq, policies: Policy::ALL.into(), ..PlanOptions::default() }
    }
}
