"""Writes rope.bin: what transformers' rotary embeddings give in bf16, for kernels/tests/rope.rs. Needs torch, transformers.

    python kernels/tests/golden/rope.py

Little endian, one after the other, all bf16. Llama (halves): q [TOKENS, HEADS, HEAD_DIM], cos, sin [TOKENS, HEAD_DIM], the
turned q, then dy and the gradient of q by autograd. GLM (neighbours, the first DIM only): the same with cos, sin
[TOKENS, DIM].
"""

from pathlib import Path

import torch
from transformers.models.glm import modeling_glm as glm
from transformers.models.llama import modeling_llama as llama

TOKENS, HEADS, HEAD_DIM, DIM = 7, 3, 80, 40

torch.manual_seed(0)
tensors = []
for module, dim in ((llama, HEAD_DIM), (glm, DIM)):
    q = torch.randn(1, HEADS, TOKENS, HEAD_DIM).bfloat16().requires_grad_()
    dy = torch.randn(1, HEADS, TOKENS, HEAD_DIM).bfloat16()
    inverse = 10000.0 ** -(torch.arange(0, dim, 2) / dim)
    angles = torch.arange(TOKENS)[:, None] * 37 * inverse
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos().bfloat16()[None], angles.sin().bfloat16()[None]
    y, _ = module.apply_rotary_pos_emb(q, q, cos, sin)
    y.backward(dy)
    tensors += [q, cos, sin, y, dy, q.grad]
# Tokens before heads.
tensors = [t.transpose(1, 2) if t.dim() == 4 else t for t in tensors]
assert all(t.dtype == torch.bfloat16 for t in tensors)
data = b"".join(t.detach().contiguous().view(torch.int16).numpy().astype("<i2").tobytes() for t in tensors)
Path(__file__).with_suffix(".bin").write_bytes(data)
