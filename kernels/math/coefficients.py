"""Makes the polynomial coefficients of kernels/math/mod.rs. Needs mpmath; prints Rust constants and their fit errors.

    python kernels/math/coefficients.py

Each fit is a Remez exchange in 40 digits for the weighted minimax error; the last step rounds to f32 one coefficient at
a time, lowest degree first, refitting the rest, so that the constants in the code carry their own rounding.
"""

import struct
from mpmath import mp, mpf, matrix, lu_solve, exp, erfc, sqrt, log, linspace, cos, pi, tanh

mp.dps = 40


def f32(x):
    return mpf(struct.unpack("f", struct.pack("f", float(x)))[0])


def remez(f, weight, lo, hi, degrees, rounds=6):
    """Coefficients c_d, d in degrees, of least max |weight(x) (f(x) - sum c_d x^d)| on [lo, hi], and that error."""
    n = len(degrees)
    nodes = [(lo + hi) / 2 + (hi - lo) / 2 * cos(pi * (n - k) / n) for k in range(n + 1)]
    grid = linspace(lo, hi, 700)
    for _ in range(rounds):
        a, b = matrix(n + 1), matrix(n + 1, 1)
        for i, x in enumerate(nodes):
            for j, d in enumerate(degrees):
                a[i, j] = weight(x) * x**d
            a[i, n] = (-1) ** i
            b[i] = weight(x) * f(x)
        c = lu_solve(a, b)
        error = lambda x: weight(x) * (f(x) - sum(c[j] * x**d for j, d in enumerate(degrees)))
        values = [error(x) for x in grid]
        picks, start = [], 0
        for i in range(1, len(grid) + 1):
            if i == len(grid) or values[i] * values[start] < 0:
                best = max(range(start, i), key=lambda k: abs(values[k]))
                picks.append(grid[best])
                start = i
        while len(picks) > n + 1:
            picks.pop(0 if abs(error(picks[0])) < abs(error(picks[-1])) else -1)
        if len(picks) < n + 1:
            break
        nodes = picks
    return list(c)[:n], max(abs(v) for v in values)


def rounded(f, weight, lo, hi, degrees, fixed=None):
    """As `remez`, with every coefficient an f32."""
    fixed = dict(fixed or {})
    free = [d for d in degrees if d not in fixed]
    while free:
        rest = lambda x: f(x) - sum(c * x**d for d, c in fixed.items())
        c, _ = remez(rest, weight, lo, hi, free)
        fixed[free[0]] = f32(c[0])
        free = free[1:]
    grid = linspace(lo, hi, 2000)
    worst = max(abs(weight(x) * (f(x) - sum(c * x**d for d, c in fixed.items()))) for x in grid)
    return fixed, worst


def shortest(x):
    """The shortest decimal that reads back as this f32."""
    return next(t for t in (f"{float(x):.{n}g}" for n in range(1, 12)) if f32(mpf(t)) == x)


def show(name, coefficients, worst):
    print(f"// worst error of the fit 2^{float(log(worst, 2)):.2f}")
    print(f"const {name}: [f32; {len(coefficients)}] = [")
    for d in sorted(coefficients, reverse=True):
        print(f"    {shortest(coefficients[d])},")
    print("];")


def main():
    # exp(r) = 1 + r + r^2 P(r), |r| <= ln(2)/2, relative error.
    half = log(2) / 2 + mpf("1e-6")
    coefficients, worst = rounded(exp, lambda x: exp(-x), -half, half, range(0, 7), {0: mpf(1), 1: mpf(1)})
    show("EXP", coefficients, worst)

    # Upper tail of the standard normal: Q(a) = exp(-a^2/2) t P(t), t = 1/(1 + p a), 0 <= a <= 16, relative error.
    p = f32(TAIL_P)
    tail = lambda a: erfc(a / sqrt(mpf(2))) / 2 * exp(a * a / 2)
    f = lambda t: tail((1 / t - 1) / p) / t
    lo = 1 / (1 + p * 16)
    coefficients, worst = rounded(f, lambda t: 1 / f(t), lo, mpf(1), range(0, TAIL_DEGREE + 1))
    print(f"const TAIL_P: f32 = {float(p)!r};")
    show("TAIL", coefficients, worst)

    # tanh(x) = x + x^3 P(x^2), |x| <= 0.625, relative error; u = x^2.
    ratio = lambda u: tanh(sqrt(u)) / sqrt(u)
    f = lambda u: (ratio(u) - 1) / u
    coefficients, worst = rounded(f, lambda u: u / ratio(u), mpf("1e-6"), mpf("0.625") ** 2, range(0, 5))
    show("TANH", coefficients, worst)


TAIL_P = 0.25
TAIL_DEGREE = 9

if __name__ == "__main__":
    main()
