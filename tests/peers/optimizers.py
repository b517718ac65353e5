#!/usr/bin/env python3
"""Compares the kernels' quantisation and optimizer steps with bitsandbytes' and torch's, on the CPU.

    python tests/peers/optimizers.py RESULTS.safetensors      what tests/e2e/optimizers.rs writes

The same inputs go through bitsandbytes and torch here. Compared are
  maps, levels       as bits;
  8-bit codes        equal to the package's exact path (every element against all 256 values), ties apart; and to its compiled
                     quantiser, which looks codes up at 16 bits of the value, apart from elements that near to a border,
                     where ours must be the nearer;
  NF4                packed codes and scales as bits, dequantised values as bits;
  AdamW, f32 state   against torch's fused AdamW in units in the last place (bf16: against the same in f32, rounded each step);
  8-bit optimizers   ten steps in a row with the package's exact path as quantiser: same codes, ties apart; and single steps
                     with its compiled quantiser, from the state before it.
Exit code: 0 the same, 1 different, 2 could not compare. Nothing is fetched from anywhere.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from bitsandbytes import functional as F  # noqa: E402
from bitsandbytes.backends.cpu import ops as cpu_ops  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

BLOCK, STEPS = 256, 10
MAPS = {"signed": F.create_dynamic_map(signed=True), "unsigned": F.create_dynamic_map(signed=False)}
LEARNING_RATE, EPS, DECAY = 1e-3, 1e-8, 0.01
BETAS = {"adam": (0.9, 0.999), "lion": (0.9, 0.99)}
TABLE_STEP = 2.0**-15  # of the compiled quantiser: 65,536 entries for [-1, 1]
ROUNDING = 2.0**-22  # in units of the block's scale: what two orders of f32 operations may differ by

found = []


def check(name, holds, text):
    if not holds:
        found.append(name)
        print(f"different: {name}: {text}")


def same_bits(name, ours, theirs):
    a, b = ours.contiguous().view(torch.uint8), theirs.contiguous().reshape(ours.shape).view(torch.uint8)
    check(name, ours.dtype == theirs.dtype and torch.equal(a, b), f"{int((a != b).sum())} of {a.numel()} bytes differ")


def ulps(a, b):
    """How many numbers of their type lie between, at most."""
    whole = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[a.dtype]
    a, b = (x.contiguous().view(whole).long() for x in (a, b))
    least = torch.iinfo(whole).min
    a, b = (torch.where(x < 0, least - x, x) for x in (a, b))
    return int((a - b).abs().max())


def exact_codes(x, values):
    """The package's exact path, which it keeps for types that its compiled quantiser does not take."""
    return torch.ops.bitsandbytes.quantize_blockwise(x.double(), values, BLOCK)


def per_element(absmax, count):
    return absmax.double().repeat_interleave(BLOCK)[:count]


def same_codes(name, x, values, ours, theirs, absmax, margin, differing=0.001):
    """Codes are equal, but where x lies within `margin` of the middle between both; there ours may not be farther."""
    at = (ours != theirs).nonzero().ravel()
    scaled = (x.double() / per_element(absmax, x.numel()))[at]
    a, b = values.double()[ours[at].long()], values.double()[theirs[at].long()]
    near = ((a + b) / 2 - scaled).abs() <= (a - b).abs() / 2 + margin
    near &= (a - scaled).abs() <= (b - scaled).abs() + ROUNDING
    near &= ((a - scaled).abs() - (b - scaled).abs()).abs() <= 2 * margin
    check(name, bool(near.all()), f"{int((~near).sum())} of {ours.numel()} codes, first at {at[~near][:3].tolist()}")
    check(name, at.numel() <= differing * ours.numel(), f"{at.numel()} of {ours.numel()} codes differ")
    return at.numel()


def compare_quantised(t, dtype):
    x = t[f"{dtype}.x"]
    for name, values in MAPS.items():
        name = f"{dtype}.{name}"
        ours, absmax, y = t[f"{name}.codes"], t[f"{name}.absmax"], t[f"{name}.y"]
        codes, exact_absmax = exact_codes(x, values)
        same_bits(f"{name}.absmax", absmax, exact_absmax)
        ties = same_codes(f"{name}.codes", x.float(), values, ours, codes, absmax, ROUNDING)
        compiled, compiled_absmax = torch.ops.bitsandbytes.quantize_blockwise(x, values, BLOCK)
        same_bits(f"{name}.absmax", absmax, compiled_absmax)
        coarse = same_codes(f"{name}.codes", x.float(), values, ours, compiled, absmax, TABLE_STEP, 0.05)
        same_bits(f"{name}.y", y, torch.ops.bitsandbytes.dequantize_blockwise(ours, absmax, values, BLOCK, x.dtype))
        print(f"{name}: {ties} codes differ from the exact path, {coarse} from the compiled one, of {x.numel()}")

    name = f"{dtype}.nf4"
    packed, state = F.quantize_4bit(x, blocksize=64, quant_type="nf4")
    same_bits(f"{name}.packed", t[f"{name}.packed"], packed.ravel())
    same_bits(f"{name}.absmax", t[f"{name}.absmax"], state.absmax)
    same_bits(f"{name}.y", t[f"{name}.y"], F.dequantize_4bit(packed, state).ravel())
    packed, state = F.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    codes, nested, offset = (t[f"{name}.double.{part}"] for part in ("codes", "absmax", "offset"))
    check(f"{name}.double.offset", ulps(offset, state.offset.reshape(1)) <= 8, f"{offset.item()} and {state.offset.item()}")
    centred = t[f"{name}.absmax"] - state.offset
    exact, exact_nested = exact_codes(centred, MAPS["signed"])
    gap = (nested - exact_nested).abs().max()
    check(f"{name}.double.absmax", gap <= 8 * 2.0**-24 * state.offset, f"differ by {gap}")
    margin = 8 * 2.0**-24 * float(state.offset / nested.min())
    differ = same_codes(f"{name}.double.codes", centred, MAPS["signed"], codes, exact, nested, ROUNDING + margin, 0.01)
    y, theirs = t[f"{name}.double.y"].float(), F.dequantize_4bit(packed, state).ravel().float()
    gap = float((y - theirs).norm() / theirs.norm())
    check(f"{name}.double.y", gap < 2e-3, f"relative difference {gap}")
    print(f"{name}: {differ} of {codes.numel()} codes of scales differ from the exact path; values differ by {gap:.1e} of their norm")


def compare_nf4_edges(t, dtype):
    names = [name.removesuffix(".x") for name in t if name.startswith(f"{dtype}.nf4_edge.") and name.endswith(".x")]
    check(f"{dtype}.nf4_edge", len(names) == 4, f"{len(names)} cases")
    for name in names:
        packed, state = F.quantize_4bit(t[f"{name}.x"], blocksize=64, quant_type="nf4")
        same_bits(f"{name}.packed", t[f"{name}.packed"], packed.ravel())
        ours, theirs = t[f"{name}.absmax"], state.absmax.clone()
        # Of a last block that is not full the package's CPU path writes down 1e-38 where the scale is less; of others it does not.
        if t[f"{name}.x"].numel() % 64 and ours[-1] < 1e-38:
            check(f"{name}.absmax", theirs[-1] == torch.tensor(1e-38), f"the last is {theirs[-1]}")
            theirs[-1] = ours[-1]
        same_bits(f"{name}.absmax", ours, theirs)
        same_bits(f"{name}.y", t[f"{name}.y"], F.dequantize_4bit(packed, state).ravel())


def compare_f32_states(t, dtype):
    """torch's fused AdamW and bitsandbytes' 32-bit Lion, in f32; a bf16 parameter is rounded after each step."""
    beta1, beta2 = BETAS["adam"]
    stored = t[f"{dtype}.start"]
    m, v = torch.zeros(stored.numel()), torch.zeros(stored.numel())
    worst = {"p": 0, "m": 0, "v": 0}
    for step in range(1, STEPS + 1):
        p = stored.float().clone()
        torch._fused_adamw_(
            [p], [t[f"{dtype}.{step}.g"].float()], [m], [v], [], [torch.tensor(float(step))], lr=LEARNING_RATE, beta1=beta1,
            beta2=beta2, weight_decay=DECAY, eps=EPS, amsgrad=False, maximize=False,
        )
        stored = p.to(stored.dtype)
        for part, theirs in (("p", stored), ("m", m), ("v", v)):
            distance = ulps(t[f"{dtype}.{step}.adamw.{part}"], theirs)
            worst[part] = max(worst[part], distance)
            check(f"{dtype}.{step}.adamw.{part}", distance <= 4, f"{distance} ulp from torch's fused AdamW")
    print(f"{dtype}: AdamW is {worst} ulp from torch's fused one after {STEPS} steps")
    if dtype == "f32":
        plain = torch.nn.Parameter(t[f"{dtype}.start"].clone())
        optimizer = torch.optim.AdamW([plain], lr=LEARNING_RATE, betas=(beta1, beta2), eps=EPS, weight_decay=DECAY)
        for step in range(1, STEPS + 1):
            plain.grad = t[f"{dtype}.{step}.g"].clone()
            optimizer.step()
        gap = float((plain.detach() - t[f"{dtype}.{STEPS}.adamw.p"]).abs().max())
        check(f"{dtype}.{STEPS}.adamw.p", gap < 2e-6, f"differs from torch.optim.AdamW by {gap}")

    beta1, beta2 = BETAS["lion"]
    p, m = t[f"{dtype}.start"].clone(), torch.zeros(stored.numel())
    for step in range(1, STEPS + 1):
        F.optimizer_update_32bit(
            "lion", t[f"{dtype}.{step}.g"], p, m, beta1, EPS, step, LEARNING_RATE, None, beta2, weight_decay=DECAY
        )
        for part, theirs in (("p", p), ("m", m)):
            distance = ulps(t[f"{dtype}.{step}.lion.{part}"], theirs)
            check(f"{dtype}.{step}.lion.{part}", distance <= 1, f"{distance} ulp from bitsandbytes' Lion")


def update_8bit(kind, grad, p, states, absmaxes, step):
    beta1, beta2 = BETAS[kind]
    maps = [MAPS["signed"], MAPS["unsigned"]]
    second = (states[1], absmaxes[1], maps[1]) if len(states) == 2 else (None, None, None)
    F.optimizer_update_8bit_blockwise(
        kind, grad, p, states[0], second[0], beta1, beta2, 0.0, 0.0, EPS, step, LEARNING_RATE, maps[0], second[2],
        absmaxes[0], second[1], weight_decay=DECAY,
    )


def moments_of(kind):
    return {"adam": (("m", "signed"), ("v", "unsigned")), "lion": (("m", "signed"),)}[kind]


def compare_8bit(t, dtype, kind):
    optimizer = {"adam": "adamw_8bit", "lion": "lion_8bit"}[kind]
    count = t[f"{dtype}.start"].numel()
    moments = moments_of(kind)
    seen = {}

    def exactly(values, code, absmax_out, codes_out, blocksize):
        codes, absmax = exact_codes(values, code)
        codes_out.copy_(codes)
        absmax_out.copy_(absmax)
        seen[code.data_ptr()] = values.clone()

    # Ten steps in a row with the exact path: what differs by a tie once may go on to differ, so all that is asked of
    # differing codes is that they are few, and what they stand for near.
    compiled = cpu_ops._quant_blockwise_fp32_direct
    cpu_ops._quant_blockwise_fp32_direct = exactly
    p = t[f"{dtype}.start"].clone()
    states = [torch.zeros(count, dtype=torch.uint8) for _ in moments]
    absmaxes = [torch.zeros(-(-count // BLOCK)) for _ in moments]
    for step in range(1, STEPS + 1):
        update_8bit(kind, t[f"{dtype}.{step}.g"], p, states, absmaxes, step)
    cpu_ops._quant_blockwise_fp32_direct = compiled
    for (part, map_name), codes, absmax in zip(moments, states, absmaxes):
        name = f"{dtype}.{STEPS}.{optimizer}.{part}"
        ours = t[f"{name}.codes"]
        apart = (MAPS[map_name][ours.long()] - MAPS[map_name][codes.long()]).abs().max()
        differ = int((ours != codes).sum())
        near = apart <= 0.015 and differ <= count // 1000
        check(f"{name}.codes", near, f"{differ} of {count} codes differ, by at most {apart} of the block's scale")
        gap = ((t[f"{name}.absmax"] - absmax).abs() / absmax).max()
        check(f"{name}.absmax", gap < 1e-5, f"differ by {gap} of their size")
        print(f"{name}: {differ} of {count} codes differ after {STEPS} steps in a row")
    gap = float((p.float() - t[f"{dtype}.{STEPS}.{optimizer}.p"].float()).abs().max())
    few_units = 2 * torch.finfo(p.dtype).eps * float(p.abs().max())
    check(f"{dtype}.{STEPS}.{optimizer}.p", gap <= few_units, f"differs by {gap} after {STEPS} steps in a row")

    # Some steps alone, from our state before it, with the quantiser that the package ships.
    for step in (1, 2, STEPS):
        before = f"{dtype}.{step - 1}.{optimizer}"
        if step == 1:
            p = t[f"{dtype}.start"].clone()
            states = [torch.zeros(count, dtype=torch.uint8) for _ in moments]
            absmaxes = [torch.zeros(-(-count // BLOCK)) for _ in moments]
        else:
            p = t[f"{before}.p"].clone()
            states = [t[f"{before}.{part}.codes"].clone() for part, _ in moments]
            absmaxes = [t[f"{before}.{part}.absmax"].clone() for part, _ in moments]
        exact = [[x.clone() for x in states], [x.clone() for x in absmaxes]]
        cpu_ops._quant_blockwise_fp32_direct = exactly
        update_8bit(kind, t[f"{dtype}.{step}.g"], p.clone(), *exact, step)
        cpu_ops._quant_blockwise_fp32_direct = compiled
        update_8bit(kind, t[f"{dtype}.{step}.g"], p, states, absmaxes, step)
        name = f"{dtype}.{step}.{optimizer}"
        distance = ulps(t[f"{name}.p"], p)
        check(f"{name}.p", close(t[f"{name}.p"], p), f"{distance} ulp from bitsandbytes'")
        for at, (part, map_name) in enumerate(moments):
            values, codes = MAPS[map_name], t[f"{name}.{part}.codes"]
            absmax = t[f"{name}.{part}.absmax"]
            check(f"{name}.{part}.absmax", ulps(absmax, absmaxes[at]) <= 2, "scales differ by more than 2 ulp")
            before_coding = seen[values.data_ptr()]
            same_codes(f"{name}.{part}.codes", before_coding, values, codes, exact[0][at], absmax, ROUNDING)
            same_codes(f"{name}.{part}.codes", before_coding, values, codes, states[at], absmax, TABLE_STEP, 1.0)


def close(a, b):
    """To two units of their type, or of what was added: a parameter near zero is the rest of a sum that cancelled."""
    a32, b32 = a.float(), b.float()
    return bool(((a32 - b32).abs() <= 2 * torch.finfo(a.dtype).eps * b32.abs() + 2.0**-20 * LEARNING_RATE).all())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        t = load_file(sys.argv[1])
    except Exception as error:
        print(f"optimizers: {sys.argv[1]}: {error}", file=sys.stderr)
        return 2
    for name, values in MAPS.items():
        same_bits(f"map.{name}", t[f"map.{name}"], values)
    same_bits("nf4.levels", t["nf4.levels"], F.get_4bit_type("nf4", device="cpu"))
    for dtype in ("f32", "bf16"):
        compare_quantised(t, dtype)
        compare_nf4_edges(t, dtype)
        compare_f32_states(t, dtype)
        for kind in ("adam", "lion"):
            compare_8bit(t, dtype, kind)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
