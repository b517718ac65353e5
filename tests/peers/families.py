"""The graph builders against transformers: makes the golden files of host/graph/tests/families, and checks logits.

    python tests/peers/families.py golden            # writes host/graph/tests/families/*.json
    python tests/peers/families.py logits DIRECTORY   # runs DIRECTORY/<case>.json against transformers' models

`golden` builds a small random model of every family in several variants and records what transformers itself says of it:
the config as saved, as complete as it gets and in the spelling of older releases; the tensors of the saved file; each
leaf module in the order in which it ran, with its shapes and where its input came from; what every attention was really
called with; the rotary frequencies. A `defaults` case of each family has a config that states nothing but the number of
layers, on torch's meta device: no weights, so no trace.

`logits` takes graphs that the builders wrote for those configs, runs them node by node in plain torch (f32, no cache), and
compares with the model's own logits. The interpreter below is written from the node kinds' definitions and shares nothing
with transformers.
"""

import json
import math
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

SEED = 20240607
BATCH, SEQ = 2, 5
GOLDEN = pathlib.Path(__file__).parents[2] / "host/graph/tests/families"

SMALL = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-2, pad_token_id=None, bos_token_id=None, eos_token_id=None,
)
SMALL_OPT = dict(
    vocab_size=50, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    word_embed_proj_dim=32,
)
SMALL_GPT2 = dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64)
GEMMA3 = SMALL | dict(
    num_hidden_layers=3, head_dim=16, sliding_window=3, sliding_window_pattern=2, query_pre_attn_scalar=24,
)
VISION = dict(
    model_type="siglip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    image_size=28, patch_size=14,
)


def rope(**parameters):
    return dict(rope_parameters=parameters)


# Case: (model_type, config, whether the model is saved without its head).
CASES = {
    "llama": ("llama", SMALL, False),
    "llama_tied": ("llama", SMALL | dict(tie_word_embeddings=True), False),
    "llama_biases": ("llama", SMALL | dict(attention_bias=True, mlp_bias=True, head_dim=16), False),
    "llama_one_kv_head": ("llama", SMALL | dict(num_key_value_heads=1, rms_norm_eps=1e-6), False),
    "llama_relu": ("llama", SMALL | dict(hidden_act="relu"), False),
    "llama_relu2": ("llama", SMALL | dict(hidden_act="relu2"), False),
    "llama_gelu": ("llama", SMALL | dict(hidden_act="gelu"), False),
    "llama_theta": ("llama", SMALL | rope(rope_type="default", rope_theta=100000.0), False),
    "llama_rope_linear": ("llama", SMALL | rope(rope_type="linear", factor=4.0, rope_theta=20000.0), False),
    "llama_rope_dynamic": ("llama", SMALL | rope(rope_type="dynamic", factor=2.0, rope_theta=10000.0), False),
    "llama_rope_llama3": (
        "llama",
        # Heads of 32 and this context put frequencies below, inside and above the band between the two factors.
        SMALL | dict(head_dim=32) | rope(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=32, rope_theta=5000.0,
        ),
        False,
    ),
    "llama_rope_yarn": (
        "llama",
        SMALL | dict(head_dim=32) | rope(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=512, rope_theta=100.0,
        ),
        False,
    ),
    "llama_rope_yarn_mscale": (
        "llama",
        SMALL | dict(head_dim=32) | rope(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=256, rope_theta=100.0, beta_fast=16.0,
            beta_slow=2.0, mscale=1.2, mscale_all_dim=0.7, truncate=False,
        ),
        False,
    ),
    "llama_rope_longrope": (
        "llama",
        SMALL | rope(
            rope_type="longrope", short_factor=[1.0, 1.25, 1.5, 2.0], long_factor=[1.5, 2.0, 4.0, 8.0],
            original_max_position_embeddings=32, rope_theta=10000.0,
        ),
        False,
    ),
    # Longer than the trained context, which the positions of `inputs` are.
    "llama_rope_dynamic_grown": (
        "llama",
        SMALL | dict(max_position_embeddings=6) | rope(rope_type="dynamic", factor=2.0, rope_theta=10000.0),
        False,
    ),
    "llama_rope_longrope_grown": (
        "llama",
        SMALL | rope(
            rope_type="longrope", short_factor=[1.0, 1.25, 1.5, 2.0], long_factor=[1.5, 2.0, 4.0, 8.0], factor=3.0,
            original_max_position_embeddings=6, rope_theta=10000.0,
        ),
        False,
    ),
    "llama_base_model": ("llama", SMALL | dict(tie_word_embeddings=True), True),
    "mistral": ("mistral", SMALL | dict(sliding_window=3), False),
    "mistral_no_window": ("mistral", SMALL | dict(sliding_window=None, head_dim=16), False),
    "qwen2": ("qwen2", SMALL, False),
    "qwen2_windows": (
        "qwen2",
        SMALL | dict(use_sliding_window=True, sliding_window=3, max_window_layers=1, tie_word_embeddings=True),
        False,
    ),
    "qwen2_layer_types": (
        "qwen2",
        SMALL | dict(
            use_sliding_window=True, sliding_window=2, layer_types=["sliding_attention", "full_attention"],
        ),
        False,
    ),
    "qwen3": ("qwen3", SMALL | dict(head_dim=16), False),
    "qwen3_biases": (
        "qwen3",
        SMALL | dict(
            head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=4, max_window_layers=0,
            tie_word_embeddings=True,
        ),
        False,
    ),
    "gemma": ("gemma", SMALL | dict(head_dim=16, num_key_value_heads=1), False),
    "gemma_old_gelu": ("gemma", SMALL | dict(head_dim=16, hidden_act="gelu", tie_word_embeddings=False), False),
    "gemma2": ("gemma2", SMALL | dict(head_dim=16, sliding_window=3, query_pre_attn_scalar=24), False),
    "gemma2_no_caps": (
        "gemma2",
        SMALL | dict(
            head_dim=16, sliding_window=3, attn_logit_softcapping=None, final_logit_softcapping=None,
            layer_types=["full_attention", "sliding_attention"], attention_bias=True,
        ),
        False,
    ),
    "gemma3_text": ("gemma3_text", GEMMA3, False),
    "gemma3_text_stretched": (
        "gemma3_text",
        GEMMA3 | dict(
            final_logit_softcapping=20.0,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        ),
        False,
    ),
    "gemma3": ("gemma3", dict(text_config=GEMMA3, vision_config=VISION, mm_tokens_per_image=4), False),
    "opt": ("opt", SMALL_OPT, False),
    "opt_projected": ("opt", SMALL_OPT | dict(word_embed_proj_dim=16, do_layer_norm_before=False, dropout=0.0), False),
    "opt_no_biases": ("opt", SMALL_OPT | dict(enable_bias=False, activation_function="gelu"), False),
    "opt_no_final_norm": ("opt", SMALL_OPT | dict(_remove_final_layer_norm=True), False),
    "opt_base_model": ("opt", SMALL_OPT, True),
    "gpt2": ("gpt2", SMALL_GPT2, False),
    "gpt2_scales": (
        "gpt2",
        SMALL_GPT2 | dict(
            n_inner=40, scale_attn_by_inverse_layer_idx=True, layer_norm_epsilon=1e-3, activation_function="gelu",
            tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
        False,
    ),
    "gpt2_unscaled": ("gpt2", SMALL_GPT2 | dict(scale_attn_weights=False, activation_function="relu"), False),
    "gpt2_base_model": ("gpt2", SMALL_GPT2, True),
}

# One layer of each sort, every other field as the configuration class has it.
DEFAULTS = {
    "llama": 1, "mistral": 1, "qwen2": 1, "qwen3": 1, "gemma": 1, "gemma2": 2, "gemma3_text": 6, "opt": 1, "gpt2": 1,
}

calls = []


def recorded_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **extra):
    """Attention as the plain formula has it, which writes down what it was called with."""
    # OPT multiplies q by its scale beforehand and asks for 1.
    before = module.scaling if type(module).__name__ == "OPTAttention" else 1.0
    visible = key.shape[-2] if attention_mask is None else int((attention_mask[0, 0, -1] == 0).sum())
    calls.append(
        dict(
            module=module, num_heads=query.shape[1], num_key_value_heads=key.shape[1], head_dim=query.shape[-1],
            scale=scaling * before, softcap=softcap, sliding_window=extra.get("sliding_window"),
            keys_seen_by_last_query=visible, causal=bool(getattr(module, "is_causal", True)),
        )
    )
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + (attention_mask if attention_mask is not None else causal_mask(SEQ, None))
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("recorded", recorded_attention)
AttentionMaskInterface.register("recorded", eager_mask)


def causal_mask(seq, window):
    query, key = torch.arange(seq)[:, None], torch.arange(seq)[None, :]
    hidden = key > query
    if window is not None:
        hidden |= query - key >= window
    return torch.zeros(seq, seq).masked_fill(hidden, float("-inf"))


def model_of(case):
    model_type, arguments, _ = CASES[case]
    config = AutoConfig.for_model(model_type, **arguments)
    config._attn_implementation = "recorded"
    for part in (getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        if part is not None:
            part._attn_implementation = "recorded"
    torch.manual_seed(SEED)
    if model_type == "gemma3":
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="recorded")
    # Weights large enough that a wrong scale, window or frequency shows in the logits.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return model.eval()


def inputs():
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, 50, (BATCH, SEQ), generator=generator)
    # Not from zero, and the same in both rows: OPT and gpt2 then show an off-by-one in their tables.
    return ids, torch.arange(3, 3 + SEQ).expand(BATCH, SEQ).contiguous()


def run(model):
    ids, positions = inputs()
    calls.clear()
    with torch.no_grad():
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits


def trace_of(model):
    """Each leaf module in the order in which it ran."""
    rows, producer, alive = [], {}, []
    names = {id(module): name for name, module in model.named_modules()}

    def hook(module, arguments, keywords, output):
        tensors = [a for a in (*arguments, *keywords.values()) if isinstance(a, torch.Tensor)]
        outputs = [output] if isinstance(output, torch.Tensor) else list(output)
        alive.extend(tensors + outputs)
        path, source = names[id(module)], tensors[0]
        # OPT's positions come by keyword, beside a mask; a rotary embedding takes x for its dtype alone.
        if type(module).__name__ == "OPTLearnedPositionalEmbedding":
            source = keywords["position_ids"]
        rows.append(
            dict(
                path=path, type=type(module).__name__, input=list(source.shape),
                outputs=[list(o.shape) for o in outputs], source=producer.get((source.data_ptr(), source.numel())),
            )
        )
        for o in outputs:
            producer[(o.data_ptr(), o.numel())] = path

    leaves = [m for name, m in model.named_modules() if not list(m.children()) and "vision" not in name]
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in leaves]
    run(model)
    for handle in handles:
        handle.remove()
    attention = []
    for call in calls:
        path = names[id(call.pop("module"))]
        attention.append(dict(path=path) | call)
    return rows, attention


def rotaries_of(model):
    """The frequencies of each rotary embedding, as the module holds them."""
    found = []
    for module in model.modules():
        if not type(module).__name__.endswith("RotaryEmbedding"):
            continue
        for name, buffer in module.named_buffers():
            if name.endswith("inv_freq") and "original" not in name:
                layer_type = name.removesuffix("inv_freq").rstrip("_")
                scaling = getattr(module, f"{layer_type}_attention_scaling" if layer_type else "attention_scaling")
                found.append(dict(layer_type=layer_type, inv_freq=buffer.tolist(), attention_scaling=scaling))
    return found


def old_spelling(config, arguments):
    """The config as releases before `rope_parameters` and `layer_types` wrote it."""
    config = json.loads(json.dumps(config))
    if "text_config" in config:
        config["text_config"] = old_spelling(config["text_config"], arguments["text_config"])
        return config
    if "layer_types" not in arguments:
        config.pop("layer_types", None)
    parameters = config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype", None)
    if parameters is None:
        return config
    if "full_attention" in parameters:
        config["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
        parameters = parameters["full_attention"]
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    return config


def read_as_before(config, old):
    """transformers reads the old spelling to the same config, so the golden file may claim that it is one."""
    again = AutoConfig.for_model(**json.loads(json.dumps(old)))
    new, again = (side.to_dict().get("text_config") or side.to_dict() for side in (config, again))
    for field in ("rope_parameters", "layer_types"):
        assert new.get(field) == again.get(field), f"{new.get(field)} != {again.get(field)}"


def without_defaults(config, default):
    """The fields that differ from the configuration class's own defaults."""
    kept = {"model_type": config["model_type"]}
    for key, value in config.items():
        if key == "text_config":
            kept[key] = without_defaults(value, transformers.Gemma3TextConfig().to_dict())
        elif key not in default or value != default[key]:
            kept[key] = value
    return kept


def defaults(model_type):
    """What a config that states only a number of layers stands for."""
    sparse = dict(model_type=model_type, num_hidden_layers=DEFAULTS[model_type])
    config = AutoConfig.for_model(**sparse)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    attention = []
    # Mistral's attention reads its window from the config, the others from a field of their own.
    window = config.sliding_window if model_type == "mistral" else None
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Attention"):
            attention.append(
                dict(
                    path=name, head_dim=module.head_dim, scale=module.scaling,
                    sliding_window=getattr(module, "sliding_window", window),
                    softcap=module.attn_logit_softcapping if model_type == "gemma2" else None,
                )
            )
    names = {id(parameter): name for name, parameter in reversed(list(model.named_parameters()))}
    return dict(
        case=f"defaults_{model_type}",
        made_by="tests/peers/families.py golden",
        versions=dict(transformers=transformers.__version__, torch=torch.__version__),
        base_model=False,
        text_parameters=model.num_parameters(),
        configs=dict(sparse=sparse, full=json.loads(config.to_json_string(use_diff=False))),
        rotaries=[],
        attention=attention,
        trace=[],
        tensors=[[names[id(p)], "F32", list(p.shape)] for p in model.parameters()],
    )


def golden(case):
    model = model_of(case)
    # Before anything runs: two of the types change their frequencies with the context.
    rotaries = rotaries_of(model)
    trace, attention = trace_of(model)
    _, arguments, base = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        (model.base_model if base else model).save_pretrained(folder)
        saved = json.loads((pathlib.Path(folder) / "config.json").read_text())
        tensors = []
        with safe_open(pathlib.Path(folder) / "model.safetensors", "pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                tensors.append([name, part.get_dtype(), part.get_shape()])
    full = json.loads(model.config.to_json_string(use_diff=False))
    old = old_spelling(full, arguments)
    read_as_before(model.config, old)
    sparse = without_defaults(full, json.loads(type(model.config)().to_json_string(use_diff=False)))
    return dict(
        case=case,
        made_by="tests/peers/families.py golden",
        versions=dict(transformers=transformers.__version__, torch=torch.__version__),
        seed=SEED,
        base_model=base,
        num_parameters=model.num_parameters(),
        text_parameters=sum(p.numel() for name, p in model.named_parameters() if not is_of_images(name)),
        configs=dict(saved=saved, full=full, sparse=sparse, old=old),
        rotaries=rotaries,
        attention=attention,
        trace=trace,
        tensors=tensors,
    )


def is_of_images(name):
    return "vision" in name or "multi_modal" in name


def one_line_per_row(document):
    """JSON whose lists of rows have one row a line, so that a difference can be read."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n".join("    " + json.dumps(row) for row in value)
            text = f"[\n{rows}\n  ]" if value else "[]"
        elif key == "configs":
            rows = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in value.items())
            text = f"{{\n{rows}\n  }}"
        else:
            text = json.dumps(value)
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# The interpreter of `logits`.


def frequencies(attrs, length):
    """Inverse frequencies and the factor on cos and sin, of a `rotary_embedding` node over a context of this length.

    Su et al. 2021, eq. 15; Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE)."""
    dim, theta, kind = attrs["dim"], attrs["theta"], attrs["rope_type"]
    freq = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    factor = attrs.get("factor")
    if kind == "linear":
        return freq / factor, 1.0
    if kind == "llama3":
        context, low, high = (
            attrs[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        turns = context * freq / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return freq * (smooth + (1 - smooth) / factor), 1.0
    if kind == "yarn":
        context = attrs["original_max_position_embeddings"]
        at = lambda turns: dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
        low, high = at(attrs["beta_fast"]), at(attrs["beta_slow"])
        if attrs["truncate"]:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / ((high - low) or 0.001)).clamp(0, 1)
        return freq * ((1 - ramp) + ramp / factor), attrs["attention_factor"]
    if kind == "longrope":
        factors = attrs["long_factor" if length > attrs["original_max_position_embeddings"] else "short_factor"]
        return freq / torch.tensor(factors, dtype=torch.float64), attrs["attention_factor"]
    if kind == "dynamic":
        stretch = max(length / attrs["max_position_embeddings"], 1.0)
        base = theta * (factor * stretch - (factor - 1)) ** (dim / (dim - 2))
        return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim), 1.0
    assert kind == "default", kind
    return freq, 1.0


def heads(x, head_dim):
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def turn(x, cos, sin, head_dim):
    x = heads(x, head_dim)
    first, second = x.chunk(2, dim=-1)
    return (x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]).transpose(1, 2).flatten(2)


def gelu(x, attrs):
    return torch.nn.functional.gelu(x, approximate=attrs.get("approximate", "none"))


def compute(kind, attrs, params, xs):
    x = xs[0]
    weight, bias = params.get("weight"), params.get("bias")
    match kind:
        case "embedding":
            return weight[x + attrs.get("offset", 0)] * attrs.get("scale", 1.0)
        case "linear":
            y = x @ (weight if attrs.get("transposed") else weight.T)
            return y if bias is None else y + bias
        case "rms_norm":
            grouped = x.unflatten(-1, (-1, attrs.get("group", x.shape[-1])))
            normed = grouped * (grouped.pow(2).mean(-1, keepdim=True) + attrs["eps"]).rsqrt()
            return (normed * (weight + (1.0 if attrs.get("unit_offset") else 0.0))).flatten(-2)
        case "layer_norm":
            centred = x - x.mean(-1, keepdim=True)
            return centred * (centred.pow(2).mean(-1, keepdim=True) + attrs["eps"]).rsqrt() * weight + bias
        case "rotary_embedding":
            freq, scaling = frequencies(attrs, int(x.max()) + 1)
            angles = x[..., None].double() * freq
            angles = torch.cat((angles, angles), -1)
            return [(angles.cos() * scaling).float(), (angles.sin() * scaling).float()]
        case "rope":
            q, k, cos, sin = xs
            return [turn(q, cos, sin, attrs["head_dim"]), turn(k, cos, sin, attrs["head_dim"])]
        case "split":
            return list(x.split(attrs["sizes"], dim=-1))
        case "attention":
            q, k, v = (heads(part, attrs["head_dim"]) for part in xs)
            assert (q.shape[1], k.shape[1]) == (attrs["num_heads"], attrs["num_key_value_heads"]) and attrs["causal"]
            k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
            scores = q @ k.transpose(-1, -2) * attrs["scale"]
            if cap := attrs.get("logit_softcap"):
                scores = cap * torch.tanh(scores / cap)
            scores = scores + causal_mask(x.shape[1], attrs.get("sliding_window"))
            return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        case "silu":
            return x * x.sigmoid()
        case "gelu":
            return gelu(x, attrs)
        case "relu":
            return x.clamp(min=0)
        case "relu2":
            return x.clamp(min=0) ** 2
        case "swiglu":
            return x * x.sigmoid() * xs[1]
        case "geglu":
            return gelu(x, attrs) * xs[1]
        case "reglu":
            return x.clamp(min=0) * xs[1]
        case "add":
            return x + xs[1]
        case "mul":
            return x * xs[1]
        case "softcap":
            return attrs["cap"] * torch.tanh(x / attrs["cap"])
        case "dropout":
            return x
    raise NotImplementedError(kind)


def interpret(graph, tensors):
    ids, positions = inputs()
    values = {"input_ids": ids, "position_ids": positions}
    sizes = {"batch": BATCH, "seq": SEQ}
    for node in graph["nodes"]:
        params = {role: tensors[name] for role, name in node.get("params", {}).items()}
        out = compute(node["kind"], node.get("attrs", {}), params, [values[name] for name in node["inputs"]])
        for name, value in zip(node["outputs"], out if isinstance(out, list) else [out], strict=True):
            stated = [sizes.get(dim, dim) for dim in graph["values"][name]["shape"]]
            assert list(value.shape) == stated, f"{name}: the graph says {stated}, it is {list(value.shape)}"
            values[name] = value
    return values[graph["outputs"][0]]


def logits(folder):
    failed = 0
    for case in CASES:
        model = model_of(case)
        expected = run(model)
        graph = json.loads((pathlib.Path(folder) / f"{case}.json").read_text())
        _, _, base = CASES[case]
        with tempfile.TemporaryDirectory() as saved, torch.no_grad():
            (model.base_model if base else model).save_pretrained(saved)
            tensors = {}
            with safe_open(pathlib.Path(saved) / "model.safetensors", "pt") as file:
                for name in file.keys():
                    tensors[name] = file.get_tensor(name).float()
            got = interpret(graph, tensors)
        # Sums of f32 in another order differ by up to 1e-6 of the largest logit, a wrong attribute by 1e-3 and more.
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        failed += not error < 3e-6
        print(f"{'ok  ' if error < 3e-6 else 'FAIL'} {case}: largest difference {error:.1e} of the largest logit")
    sys.exit(1 if failed else 0)


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    match sys.argv[1:]:
        case ["golden"]:
            GOLDEN.mkdir(parents=True, exist_ok=True)
            for case in CASES:
                (GOLDEN / f"{case}.json").write_text(one_line_per_row(golden(case)))
                print(case)
            for family in DEFAULTS:
                (GOLDEN / f"defaults_{family}.json").write_text(one_line_per_row(defaults(family)))
        case ["logits", folder]:
            logits(folder)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
