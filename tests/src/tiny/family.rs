//! The families' names, shapes and configs, as transformers writes them.

use serde_json::{Value, json};

const VOCAB: usize = 256;
const HIDDEN: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
/// Not a multiple of 64, so that code that assumes so fails.
const INTERMEDIATE: usize = 168;
const POSITIONS: usize = 128;

/// An architecture that checkpoints are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    Opt,
    Gpt2,
}

pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub fill: Fill,
}

#[derive(Clone, Copy)]
pub enum Fill {
    /// Around 0.
    Weight,
    NormAroundOne,
}

impl Family {
    pub const ALL: [Family; 9] = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Gemma,
        Family::Gemma2,
        Family::Gemma3,
        Family::Opt,
        Family::Gpt2,
    ];

    /// transformers' `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma => "gemma",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3_text",
            Family::Opt => "opt",
            Family::Gpt2 => "gpt2",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Gemma => "GemmaForCausalLM",
            Family::Gemma2 => "Gemma2ForCausalLM",
            Family::Gemma3 => "Gemma3ForCausalLM",
            Family::Opt => "OPTForCausalLM",
            Family::Gpt2 => "GPT2LMHeadModel",
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    pub fn config(self) -> Value {
        let mut config = match self {
            Family::Gpt2 => json!({
                "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS, "n_inner": null,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
            }),
            Family::Opt => json!({
                "hidden_size": HIDDEN, "ffn_dim": INTERMEDIATE, "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS, "max_position_embeddings": POSITIONS, "word_embed_proj_dim": HIDDEN,
                "activation_function": "relu", "do_layer_norm_before": true, "tie_word_embeddings": true,
                "enable_bias": true, "layer_norm_elementwise_affine": true, "pad_token_id": 1,
            }),
            _ => json!({
                "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
                "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                "hidden_act": "silu", "tie_word_embeddings": self.is_gemma(),
            }),
        };
        config["model_type"] = json!(self.model_type());
        config["architectures"] = json!([self.class()]);
        config["vocab_size"] = json!(VOCAB);
        config["bos_token_id"] = json!(0);
        config["eos_token_id"] = json!(0);
        if self.is_gemma() {
            config["hidden_act"] = json!("gelu_pytorch_tanh");
            config["hidden_activation"] = json!("gelu_pytorch_tanh");
        }
        if matches!(self, Family::Gemma2 | Family::Gemma3) {
            config["query_pre_attn_scalar"] = json!(HEAD_DIM);
            config["sliding_window"] = json!(32);
            config["layer_types"] = json!(["sliding_attention", "full_attention"]);
        }
        if self == Family::Gemma2 {
            config["attn_logit_softcapping"] = json!(50.0);
            config["final_logit_softcapping"] = json!(30.0);
        }
        config
    }

    pub fn tensors(self) -> Vec<Tensor> {
        let mut list = List(Vec::new());
        match self {
            Family::Gpt2 => gpt2(&mut list),
            Family::Opt => opt(&mut list),
            _ => self.decoder(&mut list),
        }
        list.0
    }

    /// Llama and what came after it.
    fn decoder(self, list: &mut List) {
        list.weight("model.embed_tokens", &[VOCAB, HIDDEN]);
        for layer in 0..LAYERS {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let norm = |list: &mut List, name: &str, size| list.norm(&at(name), size, !self.is_gemma());
            for (name, outputs) in [("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)] {
                let path = at(&format!("self_attn.{name}"));
                list.weight(&path, &[outputs * HEAD_DIM, HIDDEN]);
                if self == Family::Qwen2 {
                    list.bias(&path, outputs * HEAD_DIM);
                }
            }
            list.weight(&at("self_attn.o_proj"), &[HIDDEN, HEADS * HEAD_DIM]);
            if matches!(self, Family::Qwen3 | Family::Gemma3) {
                norm(list, "self_attn.q_norm", HEAD_DIM);
                norm(list, "self_attn.k_norm", HEAD_DIM);
            }
            list.weight(&at("mlp.gate_proj"), &[INTERMEDIATE, HIDDEN]);
            list.weight(&at("mlp.up_proj"), &[INTERMEDIATE, HIDDEN]);
            list.weight(&at("mlp.down_proj"), &[HIDDEN, INTERMEDIATE]);
            norm(list, "input_layernorm", HIDDEN);
            norm(list, "post_attention_layernorm", HIDDEN);
            if matches!(self, Family::Gemma2 | Family::Gemma3) {
                norm(list, "pre_feedforward_layernorm", HIDDEN);
                norm(list, "post_feedforward_layernorm", HIDDEN);
            }
        }
        list.norm("model.norm", HIDDEN, !self.is_gemma());
        if !self.is_gemma() {
            list.weight("lm_head", &[VOCAB, HIDDEN]);
        }
    }
}

fn opt(list: &mut List) {
    list.weight("model.decoder.embed_tokens", &[VOCAB, HIDDEN]);
    // The first two rows are for padding.
    list.weight("model.decoder.embed_positions", &[POSITIONS + 2, HIDDEN]);
    list.layer_norm("model.decoder.final_layer_norm");
    for layer in 0..LAYERS {
        let at = |name: &str| format!("model.decoder.layers.{layer}.{name}");
        for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            list.linear(&at(&format!("self_attn.{name}")), HIDDEN, HIDDEN);
        }
        list.layer_norm(&at("self_attn_layer_norm"));
        list.linear(&at("fc1"), INTERMEDIATE, HIDDEN);
        list.linear(&at("fc2"), HIDDEN, INTERMEDIATE);
        list.layer_norm(&at("final_layer_norm"));
    }
}

fn gpt2(list: &mut List) {
    list.weight("transformer.wte", &[VOCAB, HIDDEN]);
    list.weight("transformer.wpe", &[POSITIONS, HIDDEN]);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("transformer.h.{layer}.{name}");
        list.layer_norm(&at("ln_1"));
        list.conv1d(&at("attn.c_attn"), HIDDEN, 3 * HIDDEN);
        list.conv1d(&at("attn.c_proj"), HIDDEN, HIDDEN);
        list.layer_norm(&at("ln_2"));
        list.conv1d(&at("mlp.c_fc"), HIDDEN, 4 * HIDDEN);
        list.conv1d(&at("mlp.c_proj"), 4 * HIDDEN, HIDDEN);
    }
    list.layer_norm("transformer.ln_f");
}

struct List(Vec<Tensor>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.0.push(Tensor { name, shape: shape.to_vec(), fill });
    }

    fn weight(&mut self, path: &str, shape: &[usize]) {
        self.push(format!("{path}.weight"), shape, Fill::Weight);
    }

    fn bias(&mut self, path: &str, size: usize) {
        self.push(format!("{path}.bias"), &[size], Fill::Weight);
    }

    fn linear(&mut self, path: &str, outputs: usize, inputs: usize) {
        self.weight(path, &[outputs, inputs]);
        self.bias(path, outputs);
    }

    /// GPT-2 keeps its matrices transposed.
    fn conv1d(&mut self, path: &str, inputs: usize, outputs: usize) {
        self.weight(path, &[inputs, outputs]);
        self.bias(path, outputs);
    }

    /// Gemma multiplies by `1 + weight`, so its weights lie around 0.
    fn norm(&mut self, path: &str, size: usize, is_around_one: bool) {
        let fill = if is_around_one { Fill::NormAroundOne } else { Fill::Weight };
        self.push(format!("{path}.weight"), &[size], fill);
    }

    fn layer_norm(&mut self, path: &str) {
        self.norm(path, HIDDEN, true);
        self.bias(path, HIDDEN);
    }
}
