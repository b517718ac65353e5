//! What the builders say of configs and checkpoints that do not fit, word for word where a user acts on it.

use serde_json::{Value as Json, json};
use unswag_abi::doc::{Attrs, Dtype};
use unswag_graph::builders::{self, BuildError, Built, Expected, TensorInfo, build, build_with, infer, sample_config};

/// A checkpoint that a test can damage.
#[derive(Clone)]
struct Model {
    config: Attrs,
    tensors: Vec<(String, Dtype, Vec<u64>)>,
}

impl Model {
    fn of(family: &str) -> Self {
        Model::with(family, json!({}))
    }

    /// A sample whose config has some fields changed; its tensors are those that the changed config asks for.
    fn with(family: &str, changes: Json) -> Self {
        let config = changed(sample_config(family).expect("a sample"), &changes);
        let tensors = builders::expected(&config).expect("a config that builds");
        let tensors = tensors.into_iter().map(|Expected { name, shape, .. }| (name, Dtype::Bf16, shape)).collect();
        Model { config, tensors }
    }

    /// The config alone is changed, so that it no longer fits the tensors.
    fn misconfigured(mut self, changes: Json) -> Self {
        self.config = changed(self.config, &changes);
        self
    }

    fn without(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|(tensor, ..)| tensor != name);
        assert!(self.tensors.len() < before, "there is no {name} to take away");
        self
    }

    fn and(mut self, name: &str, dtype: Dtype, shape: &[u64]) -> Self {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec()));
        self
    }

    fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        for (name, ..) in &mut self.tensors {
            *name = rename(name);
        }
        self
    }

    fn infos(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, dtype, shape)| TensorInfo { name, dtype: *dtype, shape })
    }

    fn build(&self) -> Result<Built, BuildError> {
        build(&self.config, self.infos())
    }

    fn error(&self) -> String {
        self.build().expect_err("this must be refused").to_string()
    }
}

fn changed(mut config: Attrs, changes: &Json) -> Attrs {
    for (name, value) in changes.as_object().expect("an object") {
        match value.as_str() {
            Some("<absent>") => config.remove(name),
            _ => config.insert(name.clone(), value.clone()),
        };
    }
    config
}

#[test]
fn a_missing_tensor_is_named_with_shape_place_and_nearest_name() {
    let model = Model::of("llama").without("model.layers.1.mlp.up_proj.weight");
    let model = model.and("model.layers.1.mlp.upproj.weight", Dtype::Bf16, &[96, 64]);
    assert_eq!(
        model.error(),
        "checkpoint: model.layers.1.mlp.up_proj.weight is missing: model.layers.1.mlp.up_proj expects it with shape \
         [96, 64] (the nearest name that nothing uses is model.layers.1.mlp.upproj.weight); the file is incomplete, or \
         the config belongs to another model"
    );
}

#[test]
fn a_missing_layer_is_told_from_a_missing_tensor() {
    let error = Model::of("llama").misconfigured(json!({"num_hidden_layers": 3})).error();
    assert!(error.contains("model.layers.2.input_layernorm.weight is missing"), "{error}");
    assert!(error.contains("the file's last layer is 1: a shard is missing"), "{error}");
}

#[test]
fn tensors_of_another_architecture_are_recognised_as_such() {
    let mut model = Model::of("gpt2");
    model.config = sample_config("llama").expect("a sample");
    let error = model.error();
    assert!(error.contains("model.embed_tokens.weight is missing"), "{error}");
    assert!(error.contains("is this another architecture, or an adapter?"), "{error}");
}

#[test]
fn an_empty_file_is_recognised_as_such() {
    let mut model = Model::of("llama");
    model.tensors.clear();
    let error = model.misconfigured(json!({"num_hidden_layers": 1})).error();
    assert!(error.contains("expected at most 0 layers, since the checkpoint has 0 tensors"), "{error}");
}

#[test]
fn a_wrong_shape_names_the_tensor_and_both_shapes() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let error = Model::of("llama").without(name).and(name, Dtype::Bf16, &[64, 64]).error();
    assert_eq!(
        error,
        "checkpoint: model.layers.0.self_attn.k_proj.weight: model.layers.0.self_attn.k_proj expects shape [32, 64], \
         found [64, 64]; the config and the weights belong to different models, or the file is damaged"
    );
}

#[test]
fn a_quantised_tensor_is_refused_by_its_dtype() {
    let name = "model.layers.0.mlp.down_proj.weight";
    let error = Model::of("llama").without(name).and(name, Dtype::U8, &[64, 96]).error();
    assert!(
        error.starts_with("checkpoint: model.layers.0.mlp.down_proj.weight: expected a dtype to compute in"),
        "{error}"
    );
    assert!(error.contains("found U8"), "{error}");
}

#[test]
fn a_tensor_that_stands_twice_is_refused() {
    let error = Model::of("llama").and("model.norm.weight", Dtype::Bf16, &[64]).error();
    assert_eq!(error, "checkpoint: model.norm.weight: found twice; a tensor's name must be its own");
}

#[test]
fn an_unknown_model_type_gets_the_list_and_the_nearest() {
    let error = Model::of("llama").misconfigured(json!({"model_type": "lama"})).error();
    assert_eq!(
        error,
        "config: model_type: expected one of llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gemma3, opt, gpt2, \
         found lama; did you mean llama?"
    );
    let error = Model::of("llama").misconfigured(json!({"model_type": "mamba2"})).error();
    assert!(error.ends_with("found mamba2"), "{error}");
}

#[test]
fn a_config_without_model_type_is_known_by_its_class() {
    let model =
        Model::of("qwen3").misconfigured(json!({"model_type": "<absent>", "architectures": ["Qwen3ForCausalLM"]}));
    let built = model.build().expect("it builds");
    assert_eq!(built.graph.arch.model_type, "qwen3");
    let error = Model::of("qwen3").misconfigured(json!({"model_type": "<absent>"})).error();
    assert!(error.contains("is this the model's own config.json?"), "{error}");
}

#[test]
fn absurd_fields_are_refused_by_name() {
    let cases = [
        (
            "llama",
            json!({"num_attention_heads": 0}),
            "config: num_attention_heads: expected a positive whole number, found 0",
        ),
        (
            "llama",
            json!({"num_attention_heads": -4}),
            "config: num_attention_heads: expected a positive whole number, found -4",
        ),
        ("llama", json!({"num_attention_heads": 4.5}), "expected a positive whole number, found 4.5"),
        ("llama", json!({"num_attention_heads": "4"}), "expected a positive whole number, found \"4\""),
        (
            "llama",
            json!({"hidden_size": [64]}),
            "config: hidden_size: expected a positive whole number, found a list of 1",
        ),
        ("llama", json!({"hidden_size": null}), "config: hidden_size: expected a positive whole number, found null"),
        (
            "llama",
            json!({"num_attention_heads": 7}),
            "config: num_attention_heads: expected a divisor of the hidden size (64), found 7",
        ),
        (
            "llama",
            json!({"num_key_value_heads": 3}),
            "config: num_key_value_heads: expected a divisor of num_attention_heads (4), found 3",
        ),
        ("llama", json!({"head_dim": 15}), "config: head_dim: expected an even number"),
        ("llama", json!({"head_dim": u64::MAX}), "config: head_dim: expected a size that fits the model"),
        (
            "llama",
            json!({"num_hidden_layers": 1_000_000_000_000_u64}),
            "config: num_hidden_layers: expected at most 21 layers, since the checkpoint has 21 tensors, found 1000000000000",
        ),
        ("llama", json!({"rms_norm_eps": "nan"}), "config: rms_norm_eps: expected a number above 0 and below 1"),
        ("llama", json!({"rms_norm_eps": -1e-6}), "config: rms_norm_eps: expected a number above 0 and below 1"),
        ("llama", json!({"rope_theta": 0}), "config: rope_theta: expected a finite number above 0, found 0"),
        ("llama", json!({"tie_word_embeddings": "yes"}), "config: tie_word_embeddings: expected true or false"),
        (
            "llama",
            json!({"hidden_act": "mish"}),
            "config: hidden_act: mish is not supported: a graph can express silu, swish, gelu",
        ),
        ("llama", json!({"model_type": 3}), "config: model_type: expected a string, found 3"),
        (
            "gemma2",
            json!({"layer_types": ["full_attention"]}),
            "config: layer_types: expected a list of 2 words, one for each layer, found a list of 1",
        ),
        (
            "gemma2",
            json!({"layer_types": ["full_attention", "chunked_attention"]}),
            "config: layer_types: \"chunked_attention\" is not supported",
        ),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": -1}),
            "config: query_pre_attn_scalar: expected a finite number above 0",
        ),
        (
            "gemma3_text",
            json!({"sliding_window_pattern": 0}),
            "config: sliding_window_pattern: expected a positive whole number, found 0",
        ),
        ("gemma3", json!({"text_config": 5}), "config: text_config: expected an object, found 5"),
        (
            "gemma3",
            json!({"text_config": {"hidden_size": "64"}}),
            "config: text_config.hidden_size: expected a positive whole number",
        ),
        ("opt", json!({"dropout": 1.5}), "config: dropout: expected a number of at least 0 and below 1"),
        (
            "opt",
            json!({"max_position_embeddings": u64::MAX}),
            "config: max_position_embeddings: expected a size that fits the model",
        ),
        ("gpt2", json!({"n_embd": u64::MAX - 3, "n_head": 4}), "config: n_embd: expected a size that fits the model"),
    ];
    for (family, change, expected) in cases {
        let error = Model::of(family).misconfigured(change.clone()).error();
        assert!(error.contains(expected), "{family} {change}: {error}");
    }
}

#[test]
fn what_a_graph_cannot_express_is_refused_with_the_reason() {
    let cases = [
        (
            "llama",
            json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
            "config: quantization_config: bitsandbytes is not supported: surgery needs plain weights",
        ),
        ("llama", json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "gptq is not supported"),
        (
            "mistral",
            json!({"num_local_experts": 8}),
            "config: num_local_experts: a mixture of experts (8) is not supported",
        ),
        ("qwen3", json!({"num_experts": 128}), "config: num_experts: a mixture of experts (128) is not supported"),
        (
            "gemma",
            json!({"use_bidirectional_attention": true}),
            "config: use_bidirectional_attention: true is not supported",
        ),
        ("gpt2", json!({"add_cross_attention": true}), "config: add_cross_attention: true is not supported"),
        (
            "opt",
            json!({"layer_norm_elementwise_affine": false}),
            "config: layer_norm_elementwise_affine: false is not supported",
        ),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "mrope"}}),
            "config: rope_scaling.rope_type: mrope is not supported: the builders know default, linear",
        ),
        (
            "llama",
            json!({"partial_rotary_factor": 0.5}),
            "config: partial_rotary_factor: a partial rotation is not supported",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "config: rope_parameters.full_attention",
        ),
    ];
    for (family, change, expected) in cases {
        let error = Model::of(family).misconfigured(change.clone()).error();
        assert!(error.contains(expected), "{family} {change}: {error}");
    }
    // Harmless spellings of the same fields.
    for change in [json!({"quantization_config": null}), json!({"num_experts": 0}), json!({"use_cache": false})] {
        let built = Model::of("llama").misconfigured(change.clone()).build();
        assert!(built.is_ok(), "{change}: {built:?}");
    }
}

#[test]
fn rope_scaling_without_its_numbers_is_refused_by_name() {
    let cases = [
        (
            json!({"rope_type": "linear"}),
            "config: rope_scaling.factor: expected a finite number above 0, which rope_type linear needs, found null",
        ),
        (json!({"type": "linear", "factor": "2"}), "config: rope_scaling.factor: expected a finite number above 0"),
        (json!({"rope_type": "llama3", "factor": 8.0}), "config: rope_scaling.low_freq_factor"),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2, "high_freq_factor": 2}),
            "config: rope_scaling.high_freq_factor: expected a number other than low_freq_factor (2)",
        ),
        (
            json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
            "config: rope_scaling.short_factor: expected a list of 8 finite numbers above 0, one for each pair of a head",
        ),
        (
            json!({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 1}),
            "config: rope_scaling.attention_factor: expected a factor and an original_max_position_embeddings that give a \
             finite one, found \"inf\"",
        ),
        (
            json!({"rope_type": "yarn", "factor": 1e308, "mscale": 1e308, "mscale_all_dim": 1e308}),
            "config: rope_scaling.attention_factor",
        ),
        (json!({"rope_type": 7}), "config: rope_scaling.rope_type: expected a string, found 7"),
        (json!("linear"), "config: rope_scaling: expected an object"),
    ];
    for (scaling, expected) in cases {
        let error = Model::of("llama").misconfigured(json!({"rope_scaling": scaling})).error();
        assert!(error.contains(expected), "{scaling}: {error}");
    }
}

#[test]
fn a_zero_in_yarn_is_read_as_transformers_reads_it() {
    let rotary = |more: Json| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        scaling.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let built = Model::of("llama").misconfigured(json!({"rope_scaling": scaling})).build().expect("it builds");
        let node = built
            .graph
            .nodes
            .into_iter()
            .find(|node| node.kind == "rotary_embedding" || node.path.ends_with("rotary_emb"));
        node.expect("a rotary embedding").attrs
    };
    let plain = rotary(json!({}));
    for zero in [
        json!({"mscale_all_dim": 0}),
        json!({"mscale": 1.3, "mscale_all_dim": 0.0}),
        json!({"mscale": 0, "mscale_all_dim": 0.7}),
        json!({"beta_fast": 0, "beta_slow": 0}),
        json!({"mscale": null, "mscale_all_dim": null, "beta_fast": null}),
    ] {
        assert_eq!(rotary(zero.clone()), plain, "{zero}");
    }
    assert_ne!(rotary(json!({"mscale": 1.3, "mscale_all_dim": 0.7})), plain);
}

#[test]
fn a_tied_head_uses_the_embedding() {
    let built = Model::with("llama", json!({"tie_word_embeddings": true})).build().expect("it builds");
    let head = built.graph.node("lm_head").expect("a head");
    assert_eq!(head.params["weight"], "model.embed_tokens.weight");
    assert!(!built.graph.params.contains_key("lm_head.weight"));
}

#[test]
fn an_untied_head_must_be_in_the_file() {
    let error = Model::of("llama").without("lm_head.weight").error();
    assert!(
        error.starts_with("checkpoint: lm_head.weight is missing: lm_head expects it with shape [128, 64]"),
        "{error}"
    );
    assert!(error.contains("set tie_word_embeddings to true"), "{error}");
}

#[test]
fn a_second_copy_of_a_tied_head_is_a_duplicate_where_it_is_one() {
    let model =
        Model::with("llama", json!({"tie_word_embeddings": true})).and("lm_head.weight", Dtype::Bf16, &[128, 64]);
    let names = ("lm_head.weight".to_owned(), "model.embed_tokens.weight".to_owned());
    let same = build_with(&model.config, model.infos(), |a, b| {
        assert_eq!((a, b), (names.0.as_str(), names.1.as_str()));
        true
    });
    let same = same.expect("it builds");
    assert_eq!(same.duplicates, [names]);
    assert!(same.unclaimed.is_empty() && !same.graph.params.contains_key("lm_head.weight"));

    let differing = build_with(&model.config, model.infos(), |_, _| false).expect("it builds");
    assert_eq!(differing.graph.node("lm_head").expect("a head").params["weight"], "lm_head.weight");
    assert!(differing.duplicates.is_empty() && differing.unclaimed.is_empty());
    assert!(
        differing.notes[0].contains("lm_head.weight and model.embed_tokens.weight differ"),
        "{:?}",
        differing.notes
    );
}

#[test]
fn a_second_copy_of_a_tied_head_has_its_shape() {
    let model =
        Model::with("llama", json!({"tie_word_embeddings": true})).and("lm_head.weight", Dtype::Bf16, &[127, 64]);
    assert!(model.error().contains("lm_head.weight: lm_head expects shape [128, 64], found [127, 64]"));
}

#[test]
fn buffers_of_early_releases_are_known_and_other_tensors_are_unclaimed() {
    let model = Model::of("gpt2")
        .renamed(|name| name.trim_start_matches("transformer.").to_owned())
        .and("h.0.attn.bias", Dtype::U8, &[1, 1, 32, 32])
        .and("h.0.attn.masked_bias", Dtype::F32, &[])
        .and("classifier.weight", Dtype::F32, &[2, 64]);
    let built = model.build().expect("it builds");
    assert_eq!(built.buffers, ["h.0.attn.bias", "h.0.attn.masked_bias"]);
    assert_eq!(built.unclaimed, ["classifier.weight"]);
    assert!(built.graph.params.contains_key("h.0.attn.c_attn.bias"));

    let model = Model::of("llama").and("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[8]);
    assert_eq!(model.build().expect("it builds").buffers, ["model.layers.0.self_attn.rotary_emb.inv_freq"]);
}

#[test]
fn layers_beyond_the_configs_are_unclaimed() {
    let built = Model::of("llama").misconfigured(json!({"num_hidden_layers": 1})).build().expect("it builds");
    assert_eq!(built.unclaimed.len(), 9);
    assert!(built.unclaimed.iter().all(|name| name.starts_with("model.layers.1.")), "{:?}", built.unclaimed);
}

#[test]
fn a_multimodal_decoder_is_found_under_each_of_its_prefixes() {
    let published = Model::of("gemma3");
    let paths = |model: &Model| -> Vec<String> {
        let built = model.build().expect("it builds");
        assert!(built.unclaimed.is_empty());
        built.graph.nodes.into_iter().map(|node| node.path).collect()
    };
    let expected = paths(&published);
    assert!(expected.contains(&"model.language_model.layers.1.mlp.act_fn".to_owned()));
    for prefix in ["model.language_model.", "model.", ""] {
        let renamed = published.clone().renamed(|name| name.replacen("language_model.model.", prefix, 1));
        assert_eq!(paths(&renamed), expected, "{prefix:?}");
    }
}

#[test]
fn activations_of_mixed_weights_take_the_configs_dtype_or_the_commonest() {
    let mut model = Model::of("llama");
    for (name, dtype, _) in &mut model.tensors {
        if name.ends_with("norm.weight") {
            *dtype = Dtype::F32;
        }
    }
    for (stated, expected) in [
        (json!({}), Dtype::Bf16),
        (json!({"torch_dtype": "float32"}), Dtype::F32),
        (json!({"dtype": "bfloat16"}), Dtype::Bf16),
        // No weight is F16: the weights win.
        (json!({"torch_dtype": "float16"}), Dtype::Bf16),
        (json!({"torch_dtype": "int8"}), Dtype::Bf16),
    ] {
        let built = model.clone().misconfigured(stated.clone()).build().expect("it builds");
        unswag_graph::validate(&built.graph).unwrap_or_else(|error| panic!("{stated}: {error}"));
        assert_eq!(built.graph.values["model.norm"].dtype, expected, "{stated}");
        assert_eq!(built.graph.values["model.rotary_emb"].dtype, expected, "{stated}");
        assert_eq!(built.graph.params["model.norm.weight"].dtype, Dtype::F32);
        assert!(built.notes[0].starts_with("weights are of several dtypes (BF16, F32)"), "{:?}", built.notes);
    }
}

#[test]
fn hostile_names_are_printed_harmlessly() {
    let long = "model.norm.weigh".to_owned() + &"t".repeat(1000);
    let model = Model::of("llama")
        .without("model.norm.weight")
        .and("model.norm.\u{1b}[2Jweight", Dtype::Bf16, &[64])
        .and(&long, Dtype::Bf16, &[64]);
    let error = model.error();
    assert!(error.contains("the nearest name that nothing uses is model.norm.\\u{1b}[2Jweight"), "{error}");
    let error = Model::of("llama").misconfigured(json!({"hidden_act": "a".repeat(100_000)})).error();
    assert!(error.len() < 1000, "{}", error.len());
}

/// The real shapes of SmolLM2-135M.
fn smollm2() -> Model {
    Model::with(
        "llama",
        json!({
            "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
            "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": true, "rope_theta": 100_000,
            "max_position_embeddings": 8192,
        }),
    )
}

#[test]
fn smollm2_has_its_published_size() {
    let built = smollm2().build().expect("it builds");
    let elements: u64 = built.graph.params.values().map(|param| param.shape.iter().product::<u64>()).sum();
    assert_eq!(elements, 134_515_008);
    assert_eq!(built.graph.nodes.iter().filter(|node| node.kind == "swiglu").count(), 30);
    assert_eq!(built.graph.node("model.rotary_emb").expect("a node").attrs["theta"], json!(100_000.0));
}

#[test]
fn what_tensors_tell_without_a_config_is_said_with_what_they_do_not() {
    assert_eq!(
        infer(smollm2().infos()).to_string(),
        "looks like a llama-family decoder (llama or mistral or gemma): 30 layers, hidden 576, intermediate 1536, vocab \
         49152, 3 query heads to a key-value head read from the shapes; the output matrix is the embedding; head count, \
         rope_theta and rms_norm_eps cannot be inferred"
    );
    for (family, expected) in [
        ("qwen2", "looks like a qwen2 decoder: 2 layers, hidden 64, intermediate 96, vocab 128"),
        ("qwen3", "looks like a qwen3 decoder: 2 layers, hidden 64, intermediate 96, vocab 128, head_dim 32"),
        ("gemma2", "looks like a gemma2 decoder: 2 layers, hidden 64"),
        ("gemma3", "looks like a gemma3_text-family decoder (gemma3_text or gemma3): 2 layers, hidden 64"),
        ("opt", "looks like an opt decoder: 2 layers, hidden 64, intermediate 96, vocab 128"),
        ("gpt2", "looks like a gpt2 decoder: 2 layers, hidden 64, intermediate 96, vocab 128"),
    ] {
        let text = infer(Model::of(family).infos()).to_string();
        assert!(text.starts_with(expected), "{family}: {text}");
    }
    let bare = Model::of("gpt2").renamed(|name| name.trim_start_matches("transformer.").to_owned());
    assert_eq!(infer(bare.infos()).candidates, ["gpt2"]);
    let nothing = Model::of("gpt2").renamed(|name| format!("unknown.{name}"));
    assert!(infer(nothing.infos()).to_string().starts_with("none of its 28 tensors is named as in a supported family"));
}
