//! Configs and tensor lists that somebody damaged, by accident or not: the builders refuse them or build a sound graph,
//! and never panic.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use unswag_abi::doc::{Attrs, Dtype};
use unswag_graph::{
    builders::{self, FAMILIES, TensorInfo, build, infer, sample_config},
    validate,
};

type Tensor = (String, Dtype, Vec<u64>);

fn family() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(FAMILIES.to_vec())
}

fn tensors_of(config: &Attrs) -> Vec<Tensor> {
    let expected = builders::expected(config).expect("a sample's config");
    expected.into_iter().map(|tensor| (tensor.name, Dtype::Bf16, tensor.shape)).collect()
}

fn infos(tensors: &[Tensor]) -> impl Iterator<Item = TensorInfo<'_>> {
    tensors.iter().map(|(name, dtype, shape)| TensorInfo { name, dtype: *dtype, shape })
}

/// Values that a field should not have, and some that it may.
fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        (0u64..300).prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        "[a-z_0-9]{0,12}".prop_map(Json::from),
        proptest::sample::select(vec![
            "silu",
            "gelu",
            "relu2",
            "default",
            "linear",
            "dynamic",
            "llama3",
            "yarn",
            "longrope",
            "full_attention",
            "sliding_attention",
            "float32",
            "NaN",
            "\u{1b}[31m",
        ])
        .prop_map(Json::from),
        Just(json!(1e308)),
        Just(json!(-0.0)),
        Just(json!(5e-324)),
    ];
    leaf.prop_recursive(2, 12, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::btree_map(name(), inner, 0..6).prop_map(Json::from_iter),
        ]
    })
}

/// Names that some builder reads.
fn name() -> impl Strategy<Value = String> {
    let names = "model_type architectures vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads \
                 num_key_value_heads head_dim hidden_act hidden_activation rms_norm_eps rope_theta rope_scaling \
                 rope_parameters rope_type type factor low_freq_factor high_freq_factor short_factor long_factor mscale \
                 mscale_all_dim attention_factor beta_fast beta_slow truncate original_max_position_embeddings \
                 partial_rotary_factor rope_local_base_freq full_attention sliding_attention max_position_embeddings \
                 attention_bias mlp_bias sliding_window use_sliding_window max_window_layers layer_types \
                 sliding_window_pattern query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping \
                 tie_word_embeddings text_config ffn_dim word_embed_proj_dim do_layer_norm_before enable_bias \
                 activation_function dropout attention_dropout _remove_final_layer_norm n_embd n_head n_layer n_inner \
                 n_positions layer_norm_epsilon resid_pdrop embd_pdrop attn_pdrop scale_attn_weights \
                 scale_attn_by_inverse_layer_idx quantization_config num_experts is_encoder_decoder dtype torch_dtype";
    proptest::sample::select(names.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

/// Sets fields beside the family's own and, for gemma3, in its text part.
fn damage(config: &mut Attrs, changes: Vec<(String, Json)>) {
    for (index, (name, value)) in changes.into_iter().enumerate() {
        match config.get_mut("text_config").and_then(Json::as_object_mut) {
            Some(text) if index % 2 == 0 => text.insert(name, value),
            _ => config.insert(name, value),
        };
    }
}

/// What holds of every graph that a builder gives, whatever it was given.
fn check(config: &Attrs, tensors: &[Tensor]) {
    let Ok(built) = build(config, infos(tensors)) else { return };
    if let Err(error) = validate(&built.graph) {
        panic!("{error}: {config:?}");
    }
    let mut places: Vec<&str> = built.graph.params.keys().map(String::as_str).collect();
    places.extend(built.duplicates.iter().map(|(name, _)| name.as_str()));
    places.extend(built.buffers.iter().chain(&built.unclaimed).map(String::as_str));
    let count = places.len();
    let places: BTreeSet<&str> = places.into_iter().collect();
    assert_eq!(places.len(), count, "a tensor stands in two places");
    let names: BTreeSet<&str> = tensors.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(places, names);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_configs_never_panic(family in family(), changes in proptest::collection::vec((name(), value()), 1..4)) {
        let mut config = sample_config(family).expect("a sample");
        let tensors = tensors_of(&config);
        damage(&mut config, changes);
        check(&config, &tensors);
    }

    #[test]
    fn configs_with_their_own_tensors_build_or_are_refused(
        family in family(),
        changes in proptest::collection::vec((name(), value()), 1..3),
    ) {
        let mut config = sample_config(family).expect("a sample");
        damage(&mut config, changes);
        if let Ok(expected) = builders::expected(&config) {
            let tensors: Vec<Tensor> =
                expected.into_iter().map(|tensor| (tensor.name, Dtype::F32, tensor.shape)).collect();
            let built = build(&config, infos(&tensors));
            prop_assert!(built.is_ok(), "what is expected must be enough: {:?}", built.err());
        }
    }

    #[test]
    fn configs_of_nothing_but_noise_never_panic(config in proptest::collection::btree_map(name(), value(), 0..12)) {
        check(&config, &[]);
    }

    #[test]
    fn damaged_tensor_lists_never_panic(
        family in family(),
        at in any::<proptest::sample::Index>(),
        shape in proptest::collection::vec(any::<u64>(), 0..5),
        dtype in proptest::sample::select(Dtype::ALL.to_vec()),
        name in "\\PC{0,40}",
        what in 0..5u8,
    ) {
        let config = sample_config(family).expect("a sample");
        let mut tensors = tensors_of(&config);
        let at = at.index(tensors.len());
        match what {
            0 => { tensors.remove(at); }
            1 => tensors[at].2 = shape,
            2 => tensors[at].1 = dtype,
            3 => tensors[at].0 = name,
            _ => tensors.push((name, dtype, shape)),
        }
        check(&config, &tensors);
        let _ = infer(infos(&tensors)).to_string();
    }
}

#[test]
fn a_layer_count_is_refused_before_anything_is_made_for_the_layers() {
    for family in FAMILIES {
        let mut config = sample_config(family).expect("a sample");
        let tensors = tensors_of(&config);
        let field = if family == "gpt2" { "n_layer" } else { "num_hidden_layers" };
        for layers in [tensors.len() as u64 + 1, 1_000_000_000_000, u64::MAX] {
            damage(&mut config, vec![(field.to_owned(), json!(layers))]);
            let error = build(&config, infos(&tensors)).expect_err("too many").to_string();
            assert!(error.contains(&format!("found {layers}; the config belongs to another model")), "{error}");
        }
        assert!(builders::expected(&config).is_err());
    }
}
