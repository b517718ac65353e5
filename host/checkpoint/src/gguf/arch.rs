//! Which GGUF tensor is which parameter in Hugging Face's model, and what llama.cpp's converter did to it.
//!
//! Names and changes are those of `convert_hf_to_gguf.py`: it permutes the rows of q and k for Llama (its rotary
//! embedding pairs neighbours, Hugging Face's pairs halves), stores Gemma's norms as `weight + 1`, and transposes
//! GPT-2's `Conv1D` weights. Everything here is stated in terms of the metadata: a tensor of another shape, a missing one
//! or one too many is an error, never dropped.

use super::error::{GgufError, Problem};
use super::metadata::Metadata;
use super::reader::{Gguf, TensorInfo, shown};

/// Values of `general.architecture` that can be imported. Mistral models are stored as `llama`.
pub const SUPPORTED_ARCHITECTURES: [&str; 7] = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    Gpt2,
}

impl Family {
    fn of(meta: &Metadata<'_, '_>) -> Result<Self, GgufError> {
        Ok(match meta.architecture {
            // Only the model's name tells them apart. The arithmetic is the same but for Mistral's sliding window.
            "llama" => {
                let named = |key| Ok(meta.text(key)?.is_some_and(|name| name.to_lowercase().contains("mistral")));
                if named("general.basename")? || named("general.name")? { Family::Mistral } else { Family::Llama }
            }
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "gemma" => Family::Gemma,
            "gemma2" => Family::Gemma2,
            "gemma3" => Family::Gemma3,
            "gpt2" => Family::Gpt2,
            other => {
                let found = other.chars().take(100).collect();
                return Err(meta.error("general.architecture", Problem::UnsupportedArchitecture { found }));
            }
        })
    }

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
            Family::Gpt2 => "gpt2",
        }
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }
}

/// The sizes of a model, from its metadata.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub family: Family,
    pub hidden: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub intermediate: u64,
    pub context: u64,
    pub vocab: u64,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Whether q, k, v and o have a bias; Llama's option.
    pub attention_bias: bool,
    pub mlp_bias: bool,
}

impl Sizes {
    pub fn of(meta: &Metadata<'_, '_>) -> Result<Self, GgufError> {
        let gguf = meta.gguf;
        let attention_bias = gguf.tensor("blk.0.attn_q.bias").is_some();
        let mlp_bias = gguf.tensor("blk.0.ffn_gate.bias").is_some();
        let family = match Family::of(meta)? {
            // transformers' Mistral has no biases; Llama, which is otherwise the same, has.
            Family::Mistral if attention_bias || mlp_bias => Family::Llama,
            family => family,
        };
        if let Some(count) = meta.u64("split.count")?
            && count > 1
        {
            let part = meta.u64("split.no")?.unwrap_or(0).saturating_add(1);
            return Err(meta.error("split.count", Problem::Split { part, count }));
        }

        if meta.u64(".expert_count")?.is_some_and(|count| count > 0) {
            let what = "a mixture of experts".to_owned();
            let next = "take the model's own safetensors".to_owned();
            return Err(meta.error(".expert_count", Problem::Unsupported { what, next }));
        }

        let hidden = meta.needed_size(".embedding_length")?;
        let layers = meta.needed_size(".block_count")?;
        // Names are made for every layer, so their number must not be a lie.
        if layers > gguf.tensors().len() as u64 {
            let found = format!("{layers} layers in a file of {} tensors", gguf.tensors().len());
            return Err(meta.wrong(".block_count", "fewer layers than tensors", found));
        }
        let heads = meta.needed_size(".attention.head_count")?;
        let kv_heads = meta.size(".attention.head_count_kv")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(meta.wrong(".attention.head_count_kv", format!("a divisor of the {heads} heads"), kv_heads));
        }
        let head_dim = match meta.size(".attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(meta.wrong(".attention.head_count", format!("a divisor of {hidden}"), heads)),
        };
        if let Some(value_length) = meta.size(".attention.value_length")?
            && value_length != head_dim
        {
            let expected = format!("{head_dim}, the key length (these architectures have one head size)");
            return Err(meta.wrong(".attention.value_length", expected, value_length));
        }
        if let Some(rotary) = meta.size(".rope.dimension_count")?
            && rotary != head_dim
        {
            let expected = format!("{head_dim}, the head size (partial rotary embedding is not supported)");
            return Err(meta.wrong(".rope.dimension_count", expected, rotary));
        }
        if head_dim % 2 != 0 {
            return Err(meta.wrong(".attention.key_length", "an even head size", head_dim));
        }

        let embedding = gguf.tensor("token_embd.weight").map(TensorInfo::shape);
        let vocab = match (embedding.as_deref(), meta.size(".vocab_size")?) {
            (Some(&[0, _]), _) => return Err(meta.wrong("tokenizer.ggml.tokens", "at least one token", "none")),
            (Some(&[rows, _]), Some(stated)) if rows != stated => {
                let expected = format!("{rows}, the rows of token_embd.weight");
                return Err(meta.wrong(".vocab_size", expected, stated));
            }
            (Some(&[rows, _]), _) => rows,
            // The missing or misshapen tensor is reported with all others.
            (_, stated) => stated.unwrap_or(0),
        };
        Ok(Self {
            family,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            intermediate: meta.needed_size(".feed_forward_length")?,
            context: meta.needed_size(".context_length")?,
            vocab,
            tied: gguf.tensor("output.weight").is_none(),
            attention_bias,
            mlp_bias,
        })
    }
}

/// What must be undone to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Rows of each head, `[pair, half]` in the file, become `[half, pair]`.
    Unpermute {
        heads: u64,
    },
    /// `weight + 1` is stored.
    MinusOne,
    /// `[out, in]` is stored, `[in, out]` is wanted.
    Transpose,
}

/// One tensor of the output and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Weight<'a> {
    pub name: String,
    /// As Hugging Face has it.
    pub shape: Vec<u64>,
    pub source: TensorInfo<'a>,
    pub change: Change,
}

/// Every tensor of the model, in the order of its modules.
pub(super) fn weights<'a>(gguf: &Gguf<'a>, sizes: &Sizes) -> Result<Vec<Weight<'a>>, GgufError> {
    let mut list = List { gguf, model_type: sizes.family.model_type(), weights: Vec::new() };
    match sizes.family {
        Family::Gpt2 => gpt2(&mut list, sizes)?,
        _ => decoder(&mut list, sizes)?,
    }
    list.refuse_leftovers(sizes)?;
    Ok(list.weights)
}

fn decoder(list: &mut List<'_, '_>, sizes: &Sizes) -> Result<(), GgufError> {
    let Sizes { family, hidden, heads, kv_heads, head_dim, intermediate, vocab, .. } = *sizes;
    let norm = if family.is_gemma() { Change::MinusOne } else { Change::None };
    let permuted = |heads| match family {
        Family::Llama | Family::Mistral => Change::Unpermute { heads },
        _ => Change::None,
    };
    let (qkv_bias, o_bias) = match family {
        Family::Qwen2 => (true, false),
        Family::Llama => (sizes.attention_bias, sizes.attention_bias),
        _ => (false, false),
    };
    let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);

    list.add("token_embd.weight", "model.embed_tokens.weight", &[vocab, hidden], Change::None)?;
    for layer in 0..sizes.layers {
        let mut add = |from: &str, to: &str, shape: &[u64], change| {
            list.add(&format!("blk.{layer}.{from}"), &format!("model.layers.{layer}.{to}"), shape, change)
        };
        add("attn_norm.weight", "input_layernorm.weight", &[hidden], norm)?;
        for (leaf, rows, change) in
            [("q", q_rows, permuted(heads)), ("k", kv_rows, permuted(kv_heads)), ("v", kv_rows, Change::None)]
        {
            let (from, to) = (format!("attn_{leaf}"), format!("self_attn.{leaf}_proj"));
            add(&format!("{from}.weight"), &format!("{to}.weight"), &[rows, hidden], change)?;
            if qkv_bias {
                add(&format!("{from}.bias"), &format!("{to}.bias"), &[rows], change)?;
            }
        }
        add("attn_output.weight", "self_attn.o_proj.weight", &[hidden, q_rows], Change::None)?;
        if o_bias {
            add("attn_output.bias", "self_attn.o_proj.bias", &[hidden], Change::None)?;
        }
        if matches!(family, Family::Qwen3 | Family::Gemma3) {
            add("attn_q_norm.weight", "self_attn.q_norm.weight", &[head_dim], norm)?;
            add("attn_k_norm.weight", "self_attn.k_norm.weight", &[head_dim], norm)?;
        }
        if matches!(family, Family::Gemma2 | Family::Gemma3) {
            add("post_attention_norm.weight", "post_attention_layernorm.weight", &[hidden], norm)?;
            add("ffn_norm.weight", "pre_feedforward_layernorm.weight", &[hidden], norm)?;
            add("post_ffw_norm.weight", "post_feedforward_layernorm.weight", &[hidden], norm)?;
        } else {
            add("ffn_norm.weight", "post_attention_layernorm.weight", &[hidden], norm)?;
        }
        for (leaf, shape) in
            [("gate", [intermediate, hidden]), ("up", [intermediate, hidden]), ("down", [hidden, intermediate])]
        {
            let (from, to) = (format!("ffn_{leaf}"), format!("mlp.{leaf}_proj"));
            add(&format!("{from}.weight"), &format!("{to}.weight"), &shape, Change::None)?;
            if sizes.mlp_bias && family == Family::Llama {
                add(&format!("{from}.bias"), &format!("{to}.bias"), &shape[..1], Change::None)?;
            }
        }
    }
    list.add("output_norm.weight", "model.norm.weight", &[hidden], norm)?;
    if !sizes.tied {
        list.add("output.weight", "lm_head.weight", &[vocab, hidden], Change::None)?;
    }
    Ok(())
}

fn gpt2(list: &mut List<'_, '_>, sizes: &Sizes) -> Result<(), GgufError> {
    let Sizes { hidden, intermediate, context, vocab, .. } = *sizes;
    list.add("token_embd.weight", "transformer.wte.weight", &[vocab, hidden], Change::None)?;
    list.add("position_embd.weight", "transformer.wpe.weight", &[context, hidden], Change::None)?;
    for layer in 0..sizes.layers {
        for (from, to, shape) in [
            ("attn_norm", "ln_1", [0, hidden]),
            ("attn_qkv", "attn.c_attn", [hidden, 3 * hidden]),
            ("attn_output", "attn.c_proj", [hidden, hidden]),
            ("ffn_norm", "ln_2", [0, hidden]),
            ("ffn_up", "mlp.c_fc", [hidden, intermediate]),
            ("ffn_down", "mlp.c_proj", [intermediate, hidden]),
        ] {
            let (from, to) = (format!("blk.{layer}.{from}"), format!("transformer.h.{layer}.{to}"));
            let (weight, change): (&[u64], _) =
                if shape[0] == 0 { (&shape[1..], Change::None) } else { (&shape, Change::Transpose) };
            list.add(&format!("{from}.weight"), &format!("{to}.weight"), weight, change)?;
            list.add(&format!("{from}.bias"), &format!("{to}.bias"), &shape[1..], Change::None)?;
        }
    }
    list.add("output_norm.weight", "transformer.ln_f.weight", &[hidden], Change::None)?;
    list.add("output_norm.bias", "transformer.ln_f.bias", &[hidden], Change::None)?;
    if !sizes.tied {
        list.add("output.weight", "lm_head.weight", &[vocab, hidden], Change::None)?;
    }
    Ok(())
}

/// Llama 3's rotary factors, which become `rope_scaling` in config.json.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

struct List<'g, 'a> {
    gguf: &'g Gguf<'a>,
    model_type: &'static str,
    weights: Vec<Weight<'a>>,
}

impl List<'_, '_> {
    fn add(&mut self, from: &str, to: &str, shape: &[u64], change: Change) -> Result<(), GgufError> {
        let mut stored = shape.to_vec();
        if change == Change::Transpose {
            stored.reverse();
        }
        let source = *self.gguf.tensor(from).ok_or_else(|| {
            let problem = Problem::MissingTensor { expected: stored.clone(), model_type: self.model_type };
            GgufError::unplaced(format!("tensor {from}"), problem)
        })?;
        let refused = |problem| GgufError::new(source.listed_at, format!("tensor {from}"), problem);
        let found = source.shape();
        if found != stored {
            return Err(refused(Problem::Shape { expected: stored, found }));
        }
        if !source.dtype.is_supported() {
            return Err(refused(Problem::UnsupportedType { dtype: source.dtype }));
        }
        self.weights.push(Weight { name: to.to_owned(), shape: shape.to_vec(), source, change });
        Ok(())
    }

    fn refuse_leftovers(&self, sizes: &Sizes) -> Result<(), GgufError> {
        let mut used: Vec<&str> = self.weights.iter().map(|weight| weight.source.name).collect();
        used.sort_unstable();
        let rope_freqs = matches!(sizes.family, Family::Llama | Family::Mistral);
        for tensor in self.gguf.tensors() {
            if used.binary_search(&tensor.name).is_err() && !(rope_freqs && tensor.name == ROPE_FREQS) {
                let problem = Problem::UnknownTensor { model_type: self.model_type };
                return Err(GgufError::new(tensor.listed_at, format!("tensor {}", shown(tensor.name)), problem));
            }
        }
        Ok(())
    }
}
