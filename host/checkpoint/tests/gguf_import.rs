//! Importing GGUF files whose header is well-formed and whose content is not a model: each is an error that names the
//! key or the tensor, and nothing is written.

#[path = "common/gguf_bytes.rs"]
mod gguf_bytes;

use std::path::Path;

use gguf_bytes::Builder;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use unswag_checkpoint::gguf::{ImportDtype, ImportError, ImportOptions, ImportReport, Problem, import};
use unswag_checkpoint::{RealDisk, silent};

const HIDDEN: u64 = 8;
const VOCAB: u64 = 6;

/// What the tiny model is made of, so that a test can change one thing.
#[derive(Clone)]
struct Tiny {
    architecture: &'static str,
    keys: Vec<(&'static str, u32)>,
    eps: Option<f32>,
    tensors: Vec<(String, Vec<u64>, u32)>,
    more: fn(Builder) -> Builder,
}

/// One layer, two heads of 4, one of them for keys; six tokens.
fn tiny() -> Tiny {
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![VOCAB, HIDDEN], 0)];
    for (leaf, shape) in [
        ("attn_norm", vec![HIDDEN]),
        ("attn_q", vec![8, HIDDEN]),
        ("attn_k", vec![4, HIDDEN]),
        ("attn_v", vec![4, HIDDEN]),
        ("attn_output", vec![HIDDEN, 8]),
        ("ffn_norm", vec![HIDDEN]),
        ("ffn_gate", vec![12, HIDDEN]),
        ("ffn_up", vec![12, HIDDEN]),
        ("ffn_down", vec![HIDDEN, 12]),
    ] {
        tensors.push((format!("blk.0.{leaf}.weight"), shape, 0));
    }
    tensors.push(("output_norm.weight".to_owned(), vec![HIDDEN], 0));
    Tiny {
        architecture: "llama",
        keys: vec![
            (".embedding_length", 8),
            (".block_count", 1),
            (".attention.head_count", 2),
            (".attention.head_count_kv", 1),
            (".feed_forward_length", 12),
            (".context_length", 64),
        ],
        eps: Some(1e-5),
        tensors,
        more: |builder| builder,
    }
}

impl Tiny {
    fn set(mut self, key: &'static str, value: u32) -> Self {
        self.keys.retain(|(name, _)| *name != key);
        self.keys.push((key, value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.keys.retain(|(key, _)| *key != name);
        self.tensors.retain(|(tensor, ..)| tensor != name);
        self
    }

    fn shape(mut self, name: &str, shape: &[u64]) -> Self {
        self.tensors.retain(|(tensor, ..)| tensor != name);
        self.tensors.push((name.to_owned(), shape.to_vec(), 0));
        self
    }

    fn with(self, more: fn(Builder) -> Builder) -> Self {
        Self { more, ..self }
    }

    fn build(&self) -> Vec<u8> {
        let mut builder = Builder::new().text("general.architecture", self.architecture);
        for (key, value) in &self.keys {
            builder = builder.u32(&format!("{}{key}", self.architecture), *value);
        }
        if let Some(eps) = self.eps {
            builder = builder.f32(&format!("{}.attention.layer_norm_rms_epsilon", self.architecture), eps);
        }
        for (name, shape, code) in &self.tensors {
            let elements = shape.iter().product::<u64>() as usize;
            // Numbers that tell rows and columns apart, each exact in bf16.
            let bytes: Vec<u8> = match code {
                0 => (0..elements).flat_map(|value| (value as f32).to_le_bytes()).collect(),
                1 => (0..elements).flat_map(|value| half::f16::from_f32(value as f32).to_le_bytes()).collect(),
                other => panic!("the tests write no type {other}"),
            };
            builder = builder.tensor(name, shape, *code, &bytes);
        }
        (self.more)(builder).build()
    }
}

fn tokens(builder: Builder) -> Builder {
    builder
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &["<s>", "a", "b", "c", "ab", "abc"])
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "ab c"])
        .u32("tokenizer.ggml.bos_token_id", 0)
}

fn run(file: &[u8], options: ImportOptions) -> (TempDir, Result<ImportReport, ImportError>) {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("model.gguf"), file).expect("writable");
    let result = import(&folder.path().join("model.gguf"), &folder.path().join("out"), options, &RealDisk, &silent);
    (folder, result)
}

/// The error of a file that must not be imported; checks what it says and that nothing is left.
#[track_caller]
fn refused(file: &[u8], field: &str, says: &[&str]) -> Problem {
    let (folder, result) = run(file, ImportOptions::default());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("readable").map(|entry| entry.expect("readable")).collect();
    assert_eq!(left.len(), 1, "only the GGUF file should be there: {left:?}");
    match result.expect_err("the file should be refused") {
        ImportError::Gguf(error) => {
            let text = error.to_string();
            assert!(text.contains("model.gguf: "), "{text}");
            assert!(error.field.contains(field), "expected the field {field:?} in: {text}");
            for part in says {
                assert!(text.contains(part), "expected {part:?} in: {text}");
            }
            *error.problem
        }
        other => panic!("expected an error about the file, got {other}"),
    }
}

fn json_of(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
}

/// A tensor of the output as f32.
fn values(folder: &TempDir, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder.path().join("out/model.safetensors")).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
    let tensor = file.tensor(name).expect("there");
    match tensor.dtype() {
        safetensors::Dtype::F32 => tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        safetensors::Dtype::BF16 => {
            tensor.data().as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect()
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn a_tiny_model_comes_out_whole() {
    let (folder, result) = run(&tiny().with(tokens).build(), ImportOptions::default());
    let report = result.expect("sound");
    assert_eq!((report.model_type, report.tensors, report.dtype), ("llama", 11, "BF16"));
    assert!(report.has_tokenizer && !report.has_chat_template);
    let config = json_of(&folder.path().join("out/config.json"));
    assert_eq!(config["num_key_value_heads"], 1);
    assert_eq!(config["rms_norm_eps"], json!(1e-5));
    assert_eq!(config["rope_theta"], json!(10000.0));
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&json!(0), &Json::Null));
    // Heads of 4 rows: file rows 0 1 2 3 are (pair 0: halves 0, 1), (pair 1: halves 0, 1).
    let rows: Vec<f32> = values(&folder, "model.layers.0.self_attn.q_proj.weight").iter().step_by(8).copied().collect();
    assert_eq!(rows, [0.0, 16.0, 8.0, 24.0, 32.0, 48.0, 40.0, 56.0]);
    assert_eq!(values(&folder, "model.layers.0.self_attn.v_proj.weight")[8], 8.0, "v is not permuted");
}

#[test]
fn every_dtype_can_be_written_and_says_what_it_loses() {
    for (dtype, name) in [(ImportDtype::Bf16, "bfloat16"), (ImportDtype::F16, "float16"), (ImportDtype::F32, "float32")]
    {
        let (folder, result) = run(&tiny().build(), ImportOptions { dtype, ..ImportOptions::default() });
        let report = result.expect("sound");
        assert_eq!(json_of(&folder.path().join("out/config.json"))["torch_dtype"], name);
        assert_eq!(report.notes.iter().any(|note| note.contains("rounded")), dtype != ImportDtype::F32);
        assert!(report.notes.iter().any(|note| note.contains("no tokenizer")));
        assert!(!folder.path().join("out/tokenizer.json").exists());
    }
    let mut large = tiny();
    large.tensors[1] = ("blk.0.attn_norm.weight".to_owned(), vec![HIDDEN], 0);
    let file = large.build();
    let gguf = unswag_checkpoint::gguf::parse(&file).expect("sound");
    let at = gguf.tensor("blk.0.attn_norm.weight").expect("there").start as usize;
    let mut changed = file.clone();
    changed[at..at + 4].copy_from_slice(&1e6f32.to_le_bytes());
    let options = ImportOptions { dtype: ImportDtype::F16, ..ImportOptions::default() };
    let notes = run(&changed, options).1.expect("sound").notes;
    assert!(notes.iter().any(|note| note.starts_with("1 values are too large for F16")), "{notes:?}");
}

#[test]
fn architectures_that_are_not_known_say_what_is() {
    let mut other = tiny();
    other.architecture = "mamba";
    refused(&other.build(), "general.architecture", &["\"mamba\"", "llama, qwen2", "gpt2"]);
    let none = Builder::new().u32("x", 1).build();
    refused(&none, "general.architecture", &["missing"]);
    let number = Builder::new().u32("general.architecture", 7).build();
    refused(&number, "general.architecture", &["u32 7", "a string"]);
}

#[test]
fn sizes_that_lie_are_refused_before_they_are_used() {
    refused(
        &tiny().set(".block_count", u32::MAX >> 1).build(),
        "llama.block_count",
        &["2147483647 layers", "11 tensors"],
    );
    refused(&tiny().set(".block_count", 0).build(), "llama.block_count", &["1 to 2147483647"]);
    refused(&tiny().set(".block_count", u32::MAX).build(), "llama.block_count", &["1 to 2147483647"]);
    refused(&tiny().set(".block_count", 2).build(), "tensor blk.1.attn_norm.weight", &["missing", "llama"]);
    for huge in [1u32 << 30, (1 << 31) - 4] {
        refused(&tiny().set(".embedding_length", huge).build(), "tensor token_embd.weight", &["expected shape [6, "]);
        refused(&tiny().set(".attention.key_length", huge).build(), "tensor blk.0.attn_q.weight", &["expected shape"]);
    }
    refused(&tiny().set(".attention.head_count", 3).build(), "head_count", &["divisor"]);
    refused(&tiny().set(".attention.head_count_kv", 3).build(), "head_count_kv", &["divisor of the 2 heads"]);
    refused(&tiny().set(".attention.value_length", 6).build(), "value_length", &["4, the key length"]);
    refused(&tiny().set(".rope.dimension_count", 2).build(), "rope.dimension_count", &["partial rotary"]);
    refused(&tiny().set(".attention.key_length", 3).build(), "key_length", &["even"]);
    refused(&tiny().set(".vocab_size", 7).build(), "llama.vocab_size", &["6, the rows of token_embd.weight", "7"]);
    refused(&tiny().without(".context_length").build(), "llama.context_length", &["missing"]);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut tiny = tiny();
        tiny.eps = Some(bad);
        refused(&tiny.build(), "layer_norm_rms_epsilon", &["finite"]);
    }
    let mut none = tiny();
    none.eps = None;
    refused(&none.build(), "layer_norm_rms_epsilon", &["missing"]);
}

#[test]
fn sizes_stated_per_layer_are_read_where_they_agree() {
    let with = |keys: fn(Builder) -> Builder| tiny().without(".attention.head_count_kv").with(keys).build();
    let same = with(|builder| builder.i32s("llama.attention.head_count_kv", &[1, 1, 1]));
    run(&same, ImportOptions::default()).1.expect("the same everywhere");
    let other = with(|builder| builder.i32s("llama.attention.head_count_kv", &[1, 2]));
    refused(&other, "head_count_kv", &["1 in one layer and 2 in another"]);
    let negative = with(|builder| builder.i32s("llama.attention.head_count_kv", &[-1, -1]));
    refused(&negative, "head_count_kv", &["1 to 2147483647"]);
    let none = with(|builder| builder.i32s("llama.attention.head_count_kv", &[]));
    refused(&none, "head_count_kv", &["1 to 2147483647"]);
}

#[test]
fn tensors_must_be_all_there_and_of_the_shape_stated() {
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        let problem = refused(&tiny().without(name).build(), &format!("tensor {name}"), &["missing"]);
        assert!(matches!(problem, Problem::MissingTensor { .. }));
    }
    refused(
        &tiny().shape("blk.0.attn_k.weight", &[8, 8]).build(),
        "tensor blk.0.attn_k.weight",
        &["expected shape [4, 8]", "found [8, 8]", "byte "],
    );
    refused(&tiny().shape("token_embd.weight", &[6, 4, 2]).build(), "tensor token_embd.weight", &["found [6, 4, 2]"]);
    refused(
        &tiny().shape("blk.0.attn_sinks.weight", &[2]).build(),
        "tensor blk.0.attn_sinks.weight",
        &["no such tensor"],
    );
    refused(&tiny().shape("blk.1.attn_q.weight", &[8, 8]).build(), "tensor blk.1.attn_q.weight", &["no such tensor"]);
    let untied = |builder: Builder| builder.tensor("output.weight", &[6, 8], 0, &[0; 192]);
    run(&tiny().with(untied).build(), ImportOptions::default()).1.expect("an output of its own");
}

#[test]
fn element_types_that_cannot_be_read_are_named() {
    for (code, name, block_bytes) in
        [(19, "IQ1_S", 50), (16, "IQ2_XXS", 66), (21, "IQ3_S", 110), (34, "TQ1_0", 54), (39, "MXFP4", 8 * 17)]
    {
        let mut builder = Builder::new().text("general.architecture", "llama");
        for (key, value) in &tiny().set(".embedding_length", 256).keys {
            builder = builder.u32(&format!("llama{key}"), *value);
        }
        // The first tensor looked at; that the others are missing is not reached.
        let file = builder.tensor("token_embd.weight", &[VOCAB, 256], code, &vec![0; block_bytes * VOCAB as usize]);
        refused(&file.build(), "tensor token_embd.weight", &[name, "Q4_K", "requantise"]);
    }
}

#[test]
fn mixtures_of_experts_and_empty_vocabularies_are_refused() {
    refused(&tiny().set(".expert_count", 8).build(), "llama.expert_count", &["mixture of experts"]);
    run(&tiny().set(".expert_count", 0).build(), ImportOptions::default()).1.expect("no experts");
    refused(&tiny().shape("token_embd.weight", &[0, HIDDEN]).build(), "tokens", &["at least one token"]);
}

#[test]
fn parts_of_a_split_model_are_refused() {
    let file = tiny().with(|builder| builder.u32("split.count", 3).u32("split.no", 0)).build();
    refused(&file, "split.count", &["part 1 of 3", "llama-gguf-split --merge"]);
}

#[test]
fn rotary_scaling_that_config_json_cannot_say_is_refused() {
    let longrope = |builder: Builder| builder.text("llama.rope.scaling.type", "longrope");
    refused(&tiny().with(longrope).build(), "rope.scaling.type", &["none, linear or yarn", "longrope"]);
    let ramp = |builder: Builder| yarn(builder).f32("llama.rope.scaling.yarn_ext_factor", 0.5);
    refused(&tiny().with(ramp).build(), "yarn_ext_factor", &["extrapolation factor of 0.5", "safetensors"]);
    let negative = |builder: Builder| yarn(builder).f32("llama.rope.scaling.yarn_beta_fast", -1.0);
    refused(&tiny().with(negative).build(), "yarn_beta_fast", &["above 0"]);
    let odd = |builder: Builder| builder.f32_tensor("rope_freqs.weight", &[2], &[1.0, 3.0]);
    refused(&tiny().with(odd).build(), "tensor rope_freqs.weight", &["other than Llama 3's"]);
    let long = |builder: Builder| builder.f32_tensor("rope_freqs.weight", &[3], &[1.0, 1.0, 8.0]);
    refused(&tiny().with(long).build(), "tensor rope_freqs.weight", &["expected shape [2]"]);
    let theta = |builder: Builder| builder.f32("llama.rope.freq_base", 0.0);
    refused(&tiny().with(theta).build(), "rope.freq_base", &["above 0"]);
}

fn yarn(builder: Builder) -> Builder {
    builder.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0)
}

type Case = (fn(Builder) -> Builder, Json);

#[test]
fn yarn_is_written_with_every_parameter_that_the_file_states() {
    const ORIGINAL: &str = "llama.rope.scaling.original_context_length";
    let ln_4 = 4f64.ln();
    let cases: [Case; 7] = [
        // The context that the file has is the one that was trained on, where it states no other.
        (yarn, json!({"factor": 4.0, "original_max_position_embeddings": 64})),
        (
            |b| {
                let b = yarn(b).u32(ORIGINAL, 16).f32("llama.rope.scaling.yarn_attn_factor", 0.7);
                b.f32("llama.rope.scaling.yarn_beta_fast", 24.0).f32("llama.rope.scaling.yarn_beta_slow", 1.5)
            },
            json!({"factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 0.7, "beta_fast": 24.0, "beta_slow": 1.5}),
        ),
        // llama.cpp multiplies by it what follows from the factor.
        (
            |b| yarn(b).u32(ORIGINAL, 16).f32("llama.rope.scaling.attn_factor", 0.5),
            json!({"factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 0.5 * (1.0 + 0.1 * ln_4)}),
        ),
        (
            |b| yarn(b).u32(ORIGINAL, 16).f32("llama.rope.scaling.yarn_log_multiplier", 0.0707),
            json!({"factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.707}),
        ),
        // Writers say 0 or 1 for what they leave as it is.
        (
            |b| {
                let b = yarn(b).u32(ORIGINAL, 16).f32("llama.rope.scaling.attn_factor", 1.0);
                b.f32("llama.rope.scaling.yarn_attn_factor", 0.0).f32("llama.rope.scaling.yarn_ext_factor", 1.0)
            },
            json!({"factor": 4.0, "original_max_position_embeddings": 16}),
        ),
        (|b| b.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 1.0), Json::Null),
        (|b| b.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0), json!({"factor": 2.0})),
    ];
    for (state, mut expected) in cases {
        let (folder, result) = run(&tiny().with(state).build(), ImportOptions::default());
        result.expect("imported");
        let config = json_of(&folder.path().join("out/config.json"));
        if let Some(expected) = expected.as_object_mut() {
            let kind = if expected.len() == 1 { "linear" } else { "yarn" };
            expected.insert("rope_type".into(), json!(kind));
        }
        assert_eq!(config["rope_scaling"], expected);
    }
}

#[test]
fn generation_stops_at_every_end_that_the_file_states() {
    const EOS: &str = "tokenizer.ggml.eos_token_id";
    const EOT: &str = "tokenizer.ggml.eot_token_id";
    const EOM: &str = "tokenizer.ggml.eom_token_id";
    // The ids, and the tokens beside `<s>` that are special for having a role.
    type Case<'a> = (fn(Builder) -> Builder, Json, &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (|b| tokens(b).u32(EOS, 1), json!(1), &["a"]),
        (|b| tokens(b).u32(EOS, 1).u32(EOT, 2).u32(EOM, 3), json!([1, 2, 3]), &["a", "b", "c"]),
        (|b| tokens(b).u32(EOT, 1).u32(EOS, 1), json!(1), &["a"]),
        (|b| tokens(b).i32s(EOS, &[1, 5, -1]).u32(EOT, 5), json!([1, 5]), &["a", "abc"]),
        (|b| tokens(b).u32(EOS, u32::MAX).u32(EOT, 2), json!(2), &["b"]),
        (|b| tokens(b).raw_key(EOS.as_bytes(), 5, &(-1i32).to_le_bytes()), Json::Null, &[]),
    ];
    for (state, stops, special) in cases {
        let (folder, result) = run(&tiny().with(state).build(), ImportOptions::default());
        assert_eq!(result.expect("imported").notes.len(), 1, "the rounding alone");
        let read = |name: &str| json_of(&folder.path().join("out").join(name));
        assert_eq!(read("generation_config.json")["eos_token_id"], stops);
        assert_eq!(read("config.json")["eos_token_id"], stops);
        let added = read("tokenizer.json")["added_tokens"].clone();
        let added = added.as_array().expect("a list").iter().filter(|token| token["special"] == true);
        let added: Vec<&str> = added.filter_map(|token| token["content"].as_str()).collect();
        assert_eq!(added, [&["<s>"], special].concat());
    }
}

#[test]
fn a_role_without_a_token_is_left_out_with_a_note() {
    let file = tiny().with(|b| {
        let b = tokens(b).u32("tokenizer.ggml.padding_token_id", 6).u32("tokenizer.ggml.eot_token_id", 99);
        b.i32s("tokenizer.ggml.eos_token_id", &[7, 2])
    });
    let (folder, result) = run(&file.build(), ImportOptions::default());
    let notes = result.expect("imported").notes.join("\n");
    for note in
        ["padding_token_id is 6, which the vocabulary of 6 tokens lacks", "eot_token_id is 99", "eos_token_id is 7"]
    {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    let read = |name: &str| json_of(&folder.path().join("out").join(name));
    assert_eq!(
        read("generation_config.json"),
        json!({"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 2})
    );
    assert_eq!(read("tokenizer_config.json")["pad_token"], Json::Null);
}

#[test]
fn tokenizers_that_cannot_be_rebuilt_are_refused_unless_left_out() {
    let wordpiece = tiny().with(|builder| builder.text("tokenizer.ggml.model", "bert")).build();
    refused(&wordpiece, "tokenizer.ggml.model", &["\"bert\"", "gpt2", "import with --no-tokenizer"]);
    let (folder, result) = run(&wordpiece, ImportOptions { tokenizer: false, ..ImportOptions::default() });
    assert!(!result.expect("weights and config are sound").has_tokenizer);
    assert!(folder.path().join("out/config.json").exists());

    fn replaced(key: &str, with: impl Fn(Builder) -> Builder) -> Vec<u8> {
        let mut builder = Builder::new().text("tokenizer.ggml.model", "gpt2");
        if key != "pre" {
            builder = builder.text("tokenizer.ggml.pre", "gpt-2");
        }
        if key != "tokens" {
            builder = builder.texts("tokenizer.ggml.tokens", &["<s>", "a", "b", "c", "ab", "abc"]);
        }
        if key != "merges" {
            builder = builder.texts("tokenizer.ggml.merges", &["a b", "ab c"]);
        }
        builder = with(builder).text("general.architecture", "llama");
        let tiny = tiny();
        for (key, value) in &tiny.keys {
            builder = builder.u32(&format!("llama{key}"), *value);
        }
        builder = builder.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        for (name, shape, _) in &tiny.tensors {
            let bytes = vec![0; 4 * shape.iter().product::<u64>() as usize];
            builder = builder.tensor(name, shape, 0, &bytes);
        }
        builder.build()
    }
    run(&replaced("nothing", |builder| builder), ImportOptions::default()).1.expect("sound");
    let pre = |builder: Builder| builder.text("tokenizer.ggml.pre", "some-new-one");
    refused(&replaced("pre", pre), "tokenizer.ggml.pre", &["some-new-one", "import with --no-tokenizer"]);
    refused(&replaced("tokens", |builder| builder), "tokenizer.ggml.tokens", &["missing"]);
    refused(&replaced("tokens", |b| b.i32s("tokenizer.ggml.tokens", &[1])), "tokenizer.ggml.tokens", &["string"]);
    let seven = |b: Builder| b.texts("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e", "f", "g"]);
    refused(&replaced("tokens", seven), "tokenizer.ggml.tokens", &["1 to 6 tokens", "6 rows"]);
    refused(&replaced("merges", |builder| builder), "tokenizer.ggml.merges", &["missing"]);
    for merge in ["ab", "a  b", "", " ", "a x", "a c", "b a"] {
        let merges = move |b: Builder| b.texts("tokenizer.ggml.merges", &["a b", merge]);
        refused(&replaced("merges", merges), "tokenizer.ggml.merges", &["merge 1"]);
    }
    let types = |b: Builder| b.i32s("tokenizer.ggml.token_type", &[1, 1]);
    refused(&replaced("types", types), "tokenizer.ggml.token_type", &["6 entries"]);
    let bos = |b: Builder| b.text("tokenizer.ggml.bos_token_id", "<s>");
    refused(&replaced("bos", bos), "tokenizer.ggml.bos_token_id", &["an integer"]);
}

#[test]
fn sentence_piece_scores_must_be_numbers_one_per_token() {
    fn with(builder: Builder, scores: &[f32]) -> Builder {
        builder
            .text("tokenizer.ggml.model", "llama")
            .texts("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "b", "ab"])
            .f32s("tokenizer.ggml.scores", scores)
    }
    let sound = tiny().with(|builder| with(builder, &[0.0, 0.0, 0.0, -2.0, -3.0, -1.0])).build();
    let (folder, result) = run(&sound, ImportOptions::default());
    assert!(result.expect("sound").has_tokenizer);
    let tokenizer = json_of(&folder.path().join("out/tokenizer.json"));
    assert_eq!(tokenizer["model"]["merges"], json!([["a", "b"]]));
    let nan = tiny().with(|builder| with(builder, &[0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0])).build();
    refused(&nan, "tokenizer.ggml.scores", &["NaN for token 2"]);
    let short = tiny().with(|builder| with(builder, &[0.0, 0.0])).build();
    refused(&short, "tokenizer.ggml.scores", &["6 entries"]);
}

#[test]
fn the_output_must_not_exist_and_the_file_is_not_changed() {
    let folder = TempDir::new().expect("a folder");
    let (gguf, out) = (folder.path().join("model.gguf"), folder.path().join("out"));
    std::fs::write(&gguf, tiny().with(tokens).build()).expect("writable");
    let before = (std::fs::read(&gguf).expect("readable"), std::fs::metadata(&gguf).and_then(|m| m.modified()).ok());
    std::fs::create_dir(&out).expect("a folder");
    std::fs::write(out.join("mine"), "mine").expect("writable");
    let result = import(&gguf, &out, ImportOptions::default(), &RealDisk, &silent);
    assert!(matches!(result, Err(ImportError::Write(_))), "{result:?}");
    assert_eq!(std::fs::read_dir(&out).expect("there").count(), 1);
    let result = import(&gguf, &gguf, ImportOptions::default(), &RealDisk, &silent);
    assert!(matches!(result, Err(ImportError::Write(_))), "{result:?}");
    let after = (std::fs::read(&gguf).expect("readable"), std::fs::metadata(&gguf).and_then(|m| m.modified()).ok());
    assert!(before == after);
}

#[test]
fn every_prefix_and_many_damaged_bytes_fail_cleanly_or_import() {
    let file = tiny().with(tokens).build();
    let folder = TempDir::new().expect("a folder");
    let gguf = folder.path().join("model.gguf");
    let try_import = |bytes: &[u8], number: usize| {
        std::fs::write(&gguf, bytes).expect("writable");
        let out = folder.path().join(format!("out{number}"));
        let result = import(&gguf, &out, ImportOptions::default(), &RealDisk, &silent);
        assert_eq!(out.exists(), result.is_ok());
        result.is_ok()
    };
    for len in (0..file.len()).step_by(7) {
        assert!(!try_import(&file[..len], len), "{len} of {} bytes", file.len());
    }
    let header = unswag_checkpoint::gguf::parse(&file).expect("sound").header_bytes() as usize;
    for at in (0..header).step_by(3) {
        let mut changed = file.clone();
        changed[at] ^= 0xA5;
        try_import(&changed, file.len() + at);
    }
}
