"""Compares an imported folder with transformers' own reading of the same GGUF file.

    python gguf_logits.py MODEL.gguf FOLDER

Exits with 0 when: every tensor in FOLDER is the bf16 rounding of what transformers dequantises, bit for bit; both models in
bf16 give the same logits, bit for bit; the configs agree; and the greedy continuation is the one this model is known for.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "The capital of France is"
CONTINUATION = " Paris"
# What a config says of where it came from, not of the model.
PROVENANCE = {"_name_or_path", "_model_name_or_path", "transformers_version", "architectures", "dtype"}
PROVENANCE |= {"quantization_config", "unk_token_id"}


def bits(tensor):
    return tensor.contiguous().view(torch.int16)


def main(gguf, folder):
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    expected = theirs.state_dict()
    found = load_file(folder / "model.safetensors")
    tied = {"lm_head.weight"} if theirs.config.tie_word_embeddings else set()
    assert set(found) == set(expected) - tied, set(found) ^ (set(expected) - tied)
    for name, ours in found.items():
        assert ours.dtype == torch.bfloat16, (name, ours.dtype)
        assert torch.equal(bits(ours), bits(expected[name].to(torch.bfloat16))), f"{name}: other bits"

    ours = AutoModelForCausalLM.from_pretrained(folder)
    assert ours.dtype == torch.bfloat16, "config.json should say what the weights are"
    # Loaded anew: casting a whole model would round its rotary frequencies too.
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    a, b = ours.config.to_dict(), theirs.config.to_dict()
    for key in set(a) | set(b) - PROVENANCE:
        if key in PROVENANCE:
            continue
        x, y = a.get(key), b.get(key)
        # The file has f32; ours says it in the fewest digits.
        same = abs(x - y) <= 1e-7 * abs(y) if isinstance(x, float) and isinstance(y, float) else x == y
        assert same, f"config: {key}: {x!r}, expected {y!r}"

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    random_ids = torch.randint(0, ours.config.vocab_size, (2, 96))
    for batch in (ids, random_ids):
        logits = ours(batch).logits
        assert torch.isfinite(logits).all()
        assert torch.equal(bits(logits), bits(theirs(batch).logits)), "other logits"
    made = ours.generate(ids, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(ids))
    text = tokenizer.decode(made[0, ids.shape[1] :])
    assert text.startswith(CONTINUATION), f"continued with {text!r}"
    print(f"{len(found)} tensors and the logits are the same bits; {PROMPT!r} goes on with {text!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
