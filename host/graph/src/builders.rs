//! Turns a `config.json` and the names, dtypes and shapes of a checkpoint's tensors into a module graph.
//!
//! Each supported family has a small file that reads its config, with transformers' own defaults for the fields it leaves
//! out, and writes the nodes. Every tensor ends up in exactly one place of [`Built`]: claimed by a parameter, or listed as
//! a repeated tied matrix, a buffer, or unclaimed.
//!
//! **Paths.** A node's path is its module's path in transformers' causal language model (`model.layers.3.mlp.up_proj`,
//! `transformer.h.3.mlp.c_fc`), also where the file spells its tensors without the root or behind another one; a
//! parameter's name is the file's own. What transformers does without a module has a path of its own beside them:
//! `model.layers.3.self_attn.rope` and `.attn`, `model.layers.3.add_attn` and `.add_mlp` (the residual sums),
//! `model.rotary_emb_local` (gemma3's second embedding), `transformer.add_positions`, `logits_softcap`.
//!
//! **Dtypes.** A parameter has its tensor's dtype. Hidden values have the weights' dtype; where the weights have several,
//! the one the config names (`dtype`, `torch_dtype`) if it is among them, else the one that most elements have.
//!
//! Input comes from files and is not trusted. Nothing here may panic, overflow, or allocate by a number that the config
//! states before the tensors have borne it out.

mod activation;
mod config;
mod decoder;
mod error;
mod gemma;
mod gpt2;
mod infer;
mod llama;
mod mistral;
mod opt;
mod qwen;
mod rope;
mod sample;
mod tensors;
mod writer;

use serde_json::Value as Json;
use unswag_abi::doc::{Attrs, Dtype, Graph};

use config::Fields;
pub use error::BuildError;
pub use infer::{Inferred, infer};
pub use sample::{FAMILIES, sample_config, sample_graph};
use tensors::Tensors;
use writer::Writer;

/// What a builder needs to know of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [u64],
}

/// A graph, and where the tensors went that it does not use.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub graph: Graph,
    /// Tensors that repeat a tied parameter (`lm_head.weight`), each with the parameter that the graph uses.
    pub duplicates: Vec<(String, String)>,
    /// Tensors that the model computes for itself (`attn.masked_bias`, `rotary_emb.inv_freq`), in file order.
    pub buffers: Vec<String>,
    /// Tensors that nothing uses, in file order.
    pub unclaimed: Vec<String>,
    /// What a user should know, in sentences.
    pub notes: Vec<String>,
}

/// A tensor that an architecture has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub name: String,
    pub shape: Vec<u64>,
    /// Path of the node that uses it; the first one where several do.
    pub node: String,
}

/// Builds the graph of a checkpoint. A second copy of a tied output matrix is taken for what its name says; to compare the
/// two, see [`build_with`].
///
/// `config` is `config.json` as it is. `tensors` come in the file's order, each name once.
///
/// # Errors
/// The model is of no supported family, a field has the wrong type or range or asks for something a graph cannot express,
/// or a tensor is missing, has another shape, or is quantised. The error names the field or the tensor.
pub fn build<'a>(config: &Attrs, tensors: impl IntoIterator<Item = TensorInfo<'a>>) -> Result<Built, BuildError> {
    build_with(config, tensors, |_, _| true)
}

/// As [`build`]; `same_data` says whether two tensors hold the same bytes. It is asked at most once, for `lm_head.weight`
/// beside the embedding that the config ties it to: where they differ both become parameters, as in transformers.
///
/// # Errors
/// As [`build`].
pub fn build_with<'a>(
    config: &Attrs,
    tensors: impl IntoIterator<Item = TensorInfo<'a>>,
    mut same_data: impl FnMut(&str, &str) -> bool,
) -> Result<Built, BuildError> {
    let family = Family::of(config)?;
    let (writer, logits) = family.write(config, Tensors::of_file(tensors)?, &mut same_data)?;
    let finished = writer.finish(family.model_type, config, logits, dtype_of(config));
    let (buffers, unclaimed) = finished.tensors.leftovers(family.is_buffer);
    Ok(Built { graph: finished.graph, duplicates: finished.duplicates, buffers, unclaimed, notes: finished.notes })
}

/// The tensors that a checkpoint with this config has, in the order in which the graph uses them. Buffers are not among
/// them, nor is a tied output matrix.
///
/// # Errors
/// As [`build`], for what can be wrong with the config alone; also a config of more than 4096 layers.
pub fn expected(config: &Attrs) -> Result<Vec<Expected>, BuildError> {
    let family = Family::of(config)?;
    let mut same_data = |_: &str, _: &str| true;
    let (writer, logits) = family.write(config, Tensors::imagined(Dtype::F32), &mut same_data)?;
    let claimed_by = writer.claimed_by.clone();
    let graph = writer.finish(family.model_type, config, logits, None).graph;
    let shape = |name: &str| graph.params.get(name).map(|param| param.shape.clone()).unwrap_or_default();
    Ok(claimed_by.into_iter().map(|(name, node)| Expected { shape: shape(&name), name, node }).collect())
}

/// Every `model_type` that [`build`] takes.
pub fn supported_model_types() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|family| family.model_type)
}

type Build = fn(&Fields<'_>, &mut Writer<'_>) -> Result<String, BuildError>;

struct Family {
    model_type: &'static str,
    /// The class that `architectures` names, for configs without `model_type`.
    architecture: &'static str,
    build: Build,
    is_buffer: fn(&str) -> bool,
}

static REGISTRY: [Family; 10] = [
    family("llama", "LlamaForCausalLM", llama::build, is_rotary_buffer),
    family("mistral", "MistralForCausalLM", mistral::build, is_rotary_buffer),
    family("qwen2", "Qwen2ForCausalLM", qwen::build_qwen2, is_rotary_buffer),
    family("qwen3", "Qwen3ForCausalLM", qwen::build_qwen3, is_rotary_buffer),
    family("gemma", "GemmaForCausalLM", gemma::build_gemma, is_rotary_buffer),
    family("gemma2", "Gemma2ForCausalLM", gemma::build_gemma2, is_rotary_buffer),
    family("gemma3_text", "Gemma3ForCausalLM", gemma::build_gemma3_text, is_rotary_buffer),
    family("gemma3", "Gemma3ForConditionalGeneration", gemma::build_gemma3_multimodal, is_rotary_buffer),
    family("opt", "OPTForCausalLM", opt::build, opt::is_buffer),
    family("gpt2", "GPT2LMHeadModel", gpt2::build, gpt2::is_buffer),
];

const fn family(
    model_type: &'static str,
    architecture: &'static str,
    build: Build,
    is_buffer: fn(&str) -> bool,
) -> Family {
    Family { model_type, architecture, build, is_buffer }
}

/// The frequencies, which early releases of transformers saved with every layer.
fn is_rotary_buffer(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

impl Family {
    fn of(config: &Attrs) -> Result<&'static Self, BuildError> {
        let fields = Fields::new(config);
        let supported = || supported_model_types().collect::<Vec<_>>().join(", ");
        if !fields.states("model_type") {
            let stated = config.get("architectures").and_then(Json::as_array).and_then(|list| list.first());
            let by_class = REGISTRY.iter().find(|family| stated.and_then(Json::as_str) == Some(family.architecture));
            return by_class.ok_or_else(|| BuildError::NoModelType { supported: supported() });
        }
        let model_type = fields.text("model_type", "")?;
        REGISTRY.iter().find(|family| family.model_type == model_type).ok_or_else(|| BuildError::UnknownModelType {
            found: error::printable(model_type),
            supported: supported(),
            nearest: nearest_model_type(model_type).map(str::to_owned),
        })
    }

    fn write<'a>(
        &self,
        config: &Attrs,
        tensors: Tensors<'a>,
        same_data: &'a mut dyn FnMut(&str, &str) -> bool,
    ) -> Result<(Writer<'a>, String), BuildError> {
        let fields = Fields::new(config);
        refuse_what_no_family_has(&fields)?;
        let mut writer = Writer::new(tensors, same_data);
        let logits = (self.build)(&fields, &mut writer)?;
        Ok((writer, logits))
    }
}

/// Only where it is close: offering llama to someone who has mamba helps nobody.
fn nearest_model_type(found: &str) -> Option<&'static str> {
    const LONGEST: usize = 32;
    let found = found.to_lowercase();
    if found.len() > LONGEST {
        return None;
    }
    supported_model_types()
        .map(|name| (strsim::levenshtein(&found, name), name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name)
}

/// What changes the meaning of a config whatever the family.
fn refuse_what_no_family_has(fields: &Fields<'_>) -> Result<(), BuildError> {
    if fields.states("quantization_config") {
        let quantization = fields.nested("quantization_config")?;
        let method = quantization.text("quant_method", "an unnamed method")?;
        let next = "surgery needs plain weights: load the model in transformers, dequantise it, and save it";
        return Err(fields.unsupported("quantization_config", error::printable(method), next));
    }
    for name in ["num_local_experts", "num_experts", "n_routed_experts"] {
        let value = fields.get(name).unwrap_or(&Json::Null);
        // Dense members of a family that also has mixtures say 0 or 1.
        if !value.is_null() && !matches!(value.as_u64(), Some(0 | 1)) {
            let found = format!("a mixture of experts ({})", error::printable(&value.to_string()));
            return Err(fields.unsupported(name, found, "the builders write dense MLPs"));
        }
    }
    if fields.flag("is_encoder_decoder", false)? {
        let next = "the builders write decoders that stand alone";
        return Err(fields.unsupported("is_encoder_decoder", "true", next));
    }
    Ok(())
}

/// The dtype that the config names, if it is one to compute in.
fn dtype_of(config: &Attrs) -> Option<Dtype> {
    let text = ["dtype", "torch_dtype"].iter().find_map(|name| config.get(*name).and_then(Json::as_str));
    let text = text.or_else(|| {
        let nested = config.get("text_config").and_then(Json::as_object)?;
        ["dtype", "torch_dtype"].iter().find_map(|name| nested.get(*name).and_then(Json::as_str))
    })?;
    Some(match text.trim_start_matches("torch.") {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        _ => return None,
    })
}
