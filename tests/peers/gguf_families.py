"""Small random models of every family the GGUF import knows, as llama.cpp would store them.

    python gguf_families.py make DIR     # DIR/<case>/model.gguf, hf/ (what it was made from), tokens.json
    python gguf_families.py check DIR    # compares DIR/<case>/out, which the import wrote, with hf/

The way from Hugging Face to GGUF is written here from llama.cpp's conventions (names, row permutation of q and k in Llama,
Gemma's norms plus one, GPT-2's transposes, rotary factors of Llama 3), so the import is checked against the models
themselves and not against another reading of the same file. Weights are f32 throughout: what comes back must be the bits
that went in. tokens.json holds how transformers encodes with the tokenizer it rebuilds from each file.
"""

import functools
import json
import math
import shutil
import sys
import unicodedata
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf_tokens import TEXTS, encodings
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

SEED = 20240607
TOKENS = 700

SPLIT = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

BASE = dict(
    vocab_size=TOKENS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
)
WIDE_HEADS = BASE | dict(head_dim=32)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# name: (architecture in the file, model_type, config, tokenizer, further metadata)
CASES = {
    "llama": ("llama", "llama", BASE | dict(tie_word_embeddings=False), "llama-bpe", {}),
    "llama_biases": ("llama", "llama", BASE | dict(attention_bias=True, mlp_bias=True), "gpt-2", {}),
    "llama_sentencepiece": ("llama", "llama", BASE, "spm", {}),
    "llama3_rope": ("llama", "llama", BASE | dict(head_dim=32, rope_parameters=LLAMA3), "llama-bpe", {}),
    "llama_linear_rope": (
        "llama", "llama", BASE | dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        "smollm", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "mistral": ("llama", "mistral", BASE | dict(sliding_window=None, tie_word_embeddings=False), "tekken", {}),
    "qwen2": ("qwen2", "qwen2", BASE, "qwen2", {}),
    "qwen3": ("qwen3", "qwen3", WIDE_HEADS, "qwen2", {}),
    "gemma": ("gemma", "gemma", WIDE_HEADS, "spm", {}),
    "gemma2": (
        "gemma2", "gemma2", WIDE_HEADS | dict(sliding_window=8, query_pre_attn_scalar=32), "spm",
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": ("gemma3", "gemma3_text", WIDE_HEADS | dict(
        num_hidden_layers=7, sliding_window=8, query_pre_attn_scalar=32,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        },
    ), "spm", {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    "gpt2": ("gpt2", "gpt2", dict(
        vocab_size=TOKENS, n_embd=64, n_layer=2, n_head=4, n_positions=128, n_ctx=128, n_inner=96, tie_word_embeddings=True,
    ), "gpt-2", {}),
}


# ---- models ----------------------------------------------------------------------------------------------------------


def build_model(model_type, fields):
    config = AutoConfig.for_model(model_type, bos_token_id=1, eos_token_id=2, pad_token_id=None, **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            # Fractions that survive `+ 1 - 1` in f32.
            parameter.data = torch.randint(-512, 512, parameter.shape) / 1024
        else:
            parameter.data = torch.randn(parameter.shape) * 0.1
    return model


def gguf_name(name, family):
    if name.startswith("transformer."):
        renames = {
            "transformer.wte.": "token_embd.", "transformer.wpe.": "position_embd.", "transformer.ln_f.": "output_norm.",
            "transformer.h.": "blk.", ".ln_1.": ".attn_norm.", ".ln_2.": ".ffn_norm.", ".attn.c_attn.": ".attn_qkv.",
            ".attn.c_proj.": ".attn_output.", ".mlp.c_fc.": ".ffn_up.", ".mlp.c_proj.": ".ffn_down.",
        }
    else:
        renames = {
            "model.embed_tokens.": "token_embd.", "model.norm.": "output_norm.", "lm_head.": "output.",
            "model.layers.": "blk.", ".input_layernorm.": ".attn_norm.", ".self_attn.q_norm.": ".attn_q_norm.",
            ".self_attn.k_norm.": ".attn_k_norm.", ".self_attn.q_proj.": ".attn_q.", ".self_attn.k_proj.": ".attn_k.",
            ".self_attn.v_proj.": ".attn_v.", ".self_attn.o_proj.": ".attn_output.", ".mlp.gate_proj.": ".ffn_gate.",
            ".mlp.up_proj.": ".ffn_up.", ".mlp.down_proj.": ".ffn_down.",
            ".pre_feedforward_layernorm.": ".ffn_norm.", ".post_feedforward_layernorm.": ".post_ffw_norm.",
        }
        after = ".post_attention_norm." if family in ("gemma2", "gemma3") else ".ffn_norm."
        renames[".post_attention_layernorm."] = after
    for old, new in renames.items():
        name = name.replace(old, new)
    return name


def stored(name, tensor, family, config):
    """What llama.cpp's converter does to a tensor."""
    if family == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if family == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return tensor.T
    return tensor


def llama3_factors(config):
    rope, dims = config.rope_parameters, config.head_dim
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for wavelength in (2 * math.pi / frequencies).tolist():
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    assert len(set(factors)) > 2, "the table should hold all three kinds"
    return np.array(factors, np.float32)


def write_gguf(path, name, case, model, tokenizer):
    family, _, _, _, extra = case
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_name(f"Tiny {name}")
    add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.n_inner if family == "gpt2" else config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
    }
    if family == "gpt2":
        keys["attention.layer_norm_epsilon"] = config.layer_norm_epsilon
    else:
        rope = config.rope_parameters
        keys["attention.head_count_kv"] = config.num_key_value_heads
        keys["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
        keys["rope.freq_base"] = float(rope.get("full_attention", rope)["rope_theta"])
        if family in ("qwen3", "gemma", "gemma2", "gemma3"):
            keys["attention.key_length"] = keys["attention.value_length"] = config.head_dim
        if family == "llama":
            keys["rope.dimension_count"] = config.hidden_size // config.num_attention_heads
            keys["vocab_size"] = config.vocab_size
            if getattr(config, "head_dim", None):
                keys["rope.dimension_count"] = config.head_dim
                keys["attention.key_length"] = keys["attention.value_length"] = config.head_dim
        if family in ("gemma2", "gemma3"):
            keys["attention.sliding_window"] = config.sliding_window
    for key, value in (keys | extra).items():
        add[type(value)](f"{family}.{key}", value)
    tokenizer.write(writer)

    if getattr(config, "rope_parameters", None) and config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name, tensor in model.state_dict().items():
        if name not in tied:
            data = stored(name, tensor, family, config).contiguous().numpy()
            writer.add_tensor(gguf_name(name, family), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- tokenizers ------------------------------------------------------------------------------------------------------


class ByteLevel:
    """A byte-level BPE trained on the test texts, cut as `pre` says."""

    CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    USER_DEFINED = ["<think>"]

    def __init__(self, pre):
        self.pre, self.adds_bos = pre, pre in ("llama-bpe", "tekken")
        self.backend = Tokenizer(models.BPE(ignore_merges=self.adds_bos))
        if pre in SPLIT:
            words = [
                pre_tokenizers.Split(Regex(SPLIT[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
            self.backend.pre_tokenizer = pre_tokenizers.Sequence(words)
        elif pre == "smollm":
            words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            self.backend.pre_tokenizer = pre_tokenizers.Sequence(words)
        else:
            self.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=TOKENS - len(self.USER_DEFINED), special_tokens=self.CONTROL, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        self.backend.train_from_iterator(TEXTS * 3, trainer)
        self.backend.add_tokens([AddedToken(token, normalized=False) for token in self.USER_DEFINED])

    def write(self, writer):
        vocab = self.backend.get_vocab()
        tokens = sorted(vocab, key=vocab.get)
        types = [3 if t in self.CONTROL else 4 if t in self.USER_DEFINED else 1 for t in tokens]
        padding = TOKENS - len(tokens)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(tokens + [f"[PAD{len(tokens) + i}]" for i in range(padding)])
        writer.add_token_types(types + [5] * padding)
        merges = json.loads(self.backend.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(self.adds_bos)

    def ids(self, text):
        """The ids of the tokenizer itself, before it went through a GGUF."""
        return [1] * self.adds_bos + self.backend.encode(text).ids


class SentencePiece:
    """A BPE over characters with `▁` for space and bytes for the rest; scores are the negated ranks of the merges."""

    def __init__(self, gemma):
        self.gemma = gemma
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
        trainer = trainers.BpeTrainer(vocab_size=TOKENS - 260 - 40, show_progress=False, limit_alphabet=120)
        backend.train_from_iterator(TEXTS * 3, trainer)
        vocab = backend.get_vocab()
        learned = sorted(vocab, key=vocab.get)
        if gemma:
            special, self.bos, self.eos, self.unk = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], 2, 1, 3
        else:
            special, self.bos, self.eos, self.unk = ["<unk>", "<s>", "</s>"], 1, 2, 0
        self.tokens = special + [f"<0x{byte:02X}>" for byte in range(256)] + ["<start_of_turn>"]
        self.types = [2 if token == "<unk>" else 3 for token in special] + [6] * 256 + [4]
        merged = [token for token in learned if len(token) > 1]
        single = [token for token in learned if len(token) == 1]
        runs = ["▁" * count for count in range(2, 9)]
        merged = [token for token in merged if token not in runs]
        ordered = runs + merged + single
        self.scores = [0.0] * len(self.tokens) + [-float(rank) for rank in range(len(ordered))]
        self.tokens += ordered
        self.types += [1] * len(ordered)
        padding = TOKENS - len(self.tokens)
        self.tokens += [f"<unused{index}>" for index in range(padding)]
        self.scores += [-10000.0] * padding
        self.types += [5] * padding

    def write(self, writer):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        tokens = self.tokens
        if self.gemma:
            tokens = [t.replace("▁", " ") if set(t) == {"▁"} and len(t) > 1 else t for t in tokens]
        writer.add_token_list(tokens)
        writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        writer.add_bos_token_id(self.bos)
        writer.add_eos_token_id(self.eos)
        writer.add_unk_token_id(self.unk)
        writer.add_add_bos_token(True)
        if self.gemma:
            writer.add_add_space_prefix(False)

    ids = None  # ours and transformers' are both derived from scores


# ---- the two commands ------------------------------------------------------------------------------------------------


@functools.cache
def make_tokenizer(kind, gemma):
    """One of each kind per run: training breaks ties as it likes."""
    return SentencePiece(gemma) if kind == "spm" else ByteLevel(kind)


def make(folder):
    torch.manual_seed(SEED)
    for name, case in CASES.items():
        family, model_type, fields, tokenizer, _ = case
        here = folder / name
        here.mkdir(parents=True)
        tokenizer = make_tokenizer(tokenizer, family.startswith("gemma"))
        model = build_model(model_type, fields)
        model.save_pretrained(here / "hf")
        write_gguf(here / "model.gguf", name, case, model, tokenizer)
        if tokenizer.ids:
            cases = [{"text": text, "ids": tokenizer.ids(text)} for text in TEXTS]
            (here / "tokens.json").write_text(json.dumps({"cases": cases, "from": "the tokenizer itself"}))
        elif family != "gemma":
            (here / "tokens.json").write_text(json.dumps(encodings(here / "model.gguf")))
    # transformers has no GGUF loader for the first Gemma; this one's tokenizer is the second's.
    shutil.copy(folder / "gemma2/tokens.json", folder / "gemma/tokens.json")


@torch.no_grad()
def check(folder):
    for name, (family, model_type, _, _, _) in CASES.items():
        here = folder / name
        ours, theirs = load_file(here / "out/model.safetensors"), load_file(here / "hf/model.safetensors")
        assert set(ours) == set(theirs), f"{name}: {set(ours) ^ set(theirs)}"
        for tensor, expected in theirs.items():
            found = ours[tensor]
            assert found.dtype == torch.float32 and found.shape == expected.shape, f"{name}: {tensor}: {found.shape}"
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32)), f"{name}: {tensor}: other bits"
        a = AutoModelForCausalLM.from_pretrained(here / "out", dtype=torch.float32).eval()
        b = AutoModelForCausalLM.from_pretrained(here / "hf", dtype=torch.float32).eval()
        assert a.config.model_type == model_type, f"{name}: {a.config.model_type}"
        ids = torch.randint(0, TOKENS, (2, 40))
        assert torch.equal(a(ids).logits, b(ids).logits), f"{name}: other logits"
        tokenizer = AutoTokenizer.from_pretrained(here / "out")
        for expected in json.loads((here / "tokens.json").read_text())["cases"]:
            text, found = expected["text"], tokenizer(expected["text"]).input_ids
            # transformers puts Qwen's own normalisation (NFC) over any tokenizer.json of that model; no GGUF states it.
            if not (model_type.startswith("qwen") and unicodedata.normalize("NFC", text) != text):
                assert found == expected["ids"], f"{name}: {text!r}: {found}, expected {expected['ids']}"
        print(f"{name}: {len(ours)} tensors, the logits and the tokens are the same")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
