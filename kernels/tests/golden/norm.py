"""Writes norm.bin: what transformers' norms and torch's give in bf16, for kernels/tests/norm.rs. Needs torch, transformers.

    python kernels/tests/golden/norm.py

Little endian, one after the other, all bf16: x [ROWS, HIDDEN], weight [HIDDEN], bias [HIDDEN], LlamaRMSNorm(x),
Gemma2RMSNorm(x), LayerNorm(x), each [ROWS, HIDDEN]; eps is 1e-6.
"""

from pathlib import Path

import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

ROWS, HIDDEN, EPS = 13, 123, 1e-6

torch.manual_seed(0)
scale = torch.logspace(-3, 3, ROWS)[:, None]
x = (torch.randn(ROWS, HIDDEN) * scale).bfloat16()
weight = torch.randn(HIDDEN).bfloat16()
bias = torch.randn(HIDDEN).bfloat16()
llama, gemma = LlamaRMSNorm(HIDDEN, EPS).bfloat16(), Gemma2RMSNorm(HIDDEN, EPS).bfloat16()
layer = torch.nn.LayerNorm(HIDDEN, EPS).bfloat16()
with torch.no_grad():
    for module in (llama, gemma, layer):
        module.weight.copy_(weight)
    layer.bias.copy_(bias)
    tensors = [x, weight, bias, llama(x), gemma(x), layer(x)]
assert all(t.dtype == torch.bfloat16 for t in tensors)
data = b"".join(t.contiguous().view(torch.int16).numpy().astype("<i2").tobytes() for t in tensors)
Path(__file__).with_suffix(".bin").write_bytes(data)
