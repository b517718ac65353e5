"""Adapters of every family between unswag and PEFT, in both directions.

    python peft_adapters.py FOLDER OUT.json

FOLDER has a folder for each case: `base` (a checkpoint), `ours` (an adapter that unswag wrote) and `merged` (both, as unswag merged
them). For each the script loads `ours` with PEFT, and where a file `wants_theirs` is there it makes an adapter of its own beside it,
`theirs`, whose values are random.
OUT.json: for each case the logits of one row of tokens (40 of them, 37 i + 11 modulo 256) of the base, of the base with `ours`, of
`merged` and of the base with `theirs`, and the keys that PEFT missed in `ours` or did not know.
"""

import json
import logging
import pathlib
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open

IDS = torch.tensor([[(37 * at + 11) % 256 for at in range(40)]])
# PEFT warns that a tied matrix is trained as a copy, which is what these cases are about.
TIED = dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
THEIRS = {
    "llama": dict(
        target_modules=["q_proj", "down_proj", "lm_head"], rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 3},
        alpha_pattern={"down_proj": 5}, use_rslora=True,
    ),
    "mistral": dict(target_modules=["q_proj", "v_proj"], layers_to_transform=[1], use_dora=True),
    "qwen2": dict(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    "qwen3": dict(target_modules=r".*\.(q_proj|o_proj)", exclude_modules=["layers.0.self_attn.o_proj"]),
    "gemma": TIED,
    "gemma2": dict(target_modules=["q_proj", "lm_head"]),
    "gemma3_text": TIED | dict(ensure_weight_tying=True),
    "opt": dict(target_modules=["fc1"], modules_to_save=["embed_tokens", "lm_head"]),
    "gpt2": dict(target_modules=["c_attn", "c_proj"]),
}


def base_of(folder, name="base"):
    return transformers.AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits[0].flatten().tolist()


def keys_of(folder):
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return set(file.keys())


def theirs(folder, model_type):
    model = base_of(folder)
    settings = dict(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules="all-linear") | THEIRS[model_type]
    model = get_peft_model(model, LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "theirs")
    return logits(model)


def case(folder):
    model = base_of(folder)
    page = dict(plain=logits(model))
    model = PeftModel.from_pretrained(model, folder / "ours").eval()
    loaded, saved = set(get_peft_model_state_dict(model)), keys_of(folder / "ours")
    # PEFT would save the base's own weight beside a LoRA on the head.
    page |= dict(ours=logits(model), unknown=sorted(saved - loaded), missing=sorted(loaded - saved))
    page["missing"] = [key for key in page["missing"] if ".base_layer." not in key]
    page["merged"] = logits(base_of(folder, "merged"))
    if (folder / "wants_theirs").exists():
        page["theirs"] = theirs(folder, model.config.model_type)
    return page


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.write_text(json.dumps({path.name: case(path) for path in sorted(folder.iterdir()) if path.is_dir()}))


if __name__ == "__main__":
    main()
