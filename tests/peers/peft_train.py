"""LoRA training with transformers and PEFT as their users do it, timed: the peer of `unswag train`.

    python tests/peers/peft_train.py MODEL TEXT --seq 2048 --dtype bfloat16 [--checkpointing] [--steps 3]

r = 16 on all seven projections, alpha 32, batch 1, torch's AdamW at 2e-4, clipping at 1; rows are the first tokens of TEXT, one
after the other. Prints JSON: `losses`, `seconds` of each step, `peak_bytes` (the most that was resident, VmHWM) and
`gemm_flops_per_s`, what this process's matrix products reach.
"""

import argparse
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def gemm_flops_per_s(dtype):
    """The best of a few products of the model's largest shape."""
    a, b = torch.randn(2048, 576, dtype=dtype), torch.randn(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048 * 576 * 1536 / best


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--checkpointing", action="store_true")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    needed = arguments.seq * arguments.steps
    text = open(arguments.text, encoding="utf-8").read(needed * 12)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    rows = [ids[step * arguments.seq :][: arguments.seq].unsqueeze(0) for step in range(arguments.steps)]

    gemm = gemm_flops_per_s(dtype)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
    if arguments.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    losses, seconds = [], []
    for row in rows:
        start = time.perf_counter()
        loss = model(input_ids=row, labels=row, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    print(json.dumps(dict(losses=losses, seconds=seconds, peak_bytes=peak_bytes(), gemm_flops_per_s=gemm)))


if __name__ == "__main__":
    main()
