"""Single operations in JAX against torch: special functions, kinks, reductions, indexing, type promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro_translation import QUICK, TOLERANCE, Gen, compare, translate

from pushforward.models.pyro._execute import Execution

Inputs = dict[str, torch.Tensor]
Operation = Callable[[Inputs], torch.Tensor]

SPECIAL: list[Operation] = [
    lambda x: x["p"].lgamma(),
    lambda x: x["p"].digamma().detach() + torch.polygamma(2, x["p"]),
    lambda x: torch.special.multigammaln(x["p"] + 2.0, 3),
    lambda x: x["r"].erf(),
    lambda x: x["r"].erfc(),
    lambda x: (2 * x["u"] - 1).erfinv(),
    lambda x: torch.special.erfcx(x["r"]),
    lambda x: torch.special.ndtr(x["r"]),
    lambda x: torch.special.ndtri(x["u"]),
    lambda x: torch.special.log_ndtr(5 * x["r"]),
    lambda x: torch.special.entr(x["u"]),
    lambda x: torch.special.i0(x["r"]),
    lambda x: torch.special.i0e(x["r"]),
    lambda x: torch.special.i1(x["p"]),
    lambda x: torch.special.i1e(x["p"]),
    lambda x: torch.special.xlogy(x["r"], x["p"]),
    lambda x: torch.special.xlog1py(x["r"], x["p"]),
    lambda x: torch.special.zeta(x["p"].detach() + 1.5, x["p"]),
    lambda x: torch.special.gammainc(x["p"].detach(), x["p"] * 2),
    lambda x: torch.special.gammaincc(x["p"].detach(), x["p"] * 2),
    lambda x: torch.logit(x["u"]),
    lambda x: torch.logit(x["u"], eps=0.2),
    lambda x: torch.sinc(x["r"]),
    lambda x: torch.logaddexp(x["r"], x["p"]),
    lambda x: torch.logaddexp2(x["r"], x["p"]),
    lambda x: torch.hypot(x["r"], x["p"]),
    lambda x: torch.atan2(x["r"], x["p"]),
    lambda x: x["p"] ** x["r"],
    lambda x: x["p"] ** 2.5 + x["r"] ** 3 + 2.0 ** x["r"] + x["p"] ** -1,
    lambda x: x["p"].log2() + x["p"].log10() + x["p"].log1p() + x["r"].expm1() + x["r"].exp2(),
    lambda x: x["r"].sinh() + x["r"].cosh() + x["r"].asinh() + (1 + x["p"]).acosh() + x["u"].atanh(),
    lambda x: x["u"].asin() + x["u"].acos() + x["r"].atan() + x["r"].tan(),
    lambda x: x["p"].rsqrt() + x["p"].sqrt() + x["p"].reciprocal() + x["r"].frac() + x["r"].sgn(),
    lambda x: torch.lerp(x["r"], x["p"], x["u"]) + torch.addcmul(x["r"], x["p"], x["u"], value=0.5),
    lambda x: torch.addcdiv(x["r"], x["p"], x["u"], value=2.0) + torch.add(x["r"], x["p"], alpha=3),
    lambda x: torch.remainder(x["r"], 0.7) + torch.fmod(x["r"], 0.7) + torch.floor_divide(x["r"].detach(), 0.7),
    lambda x: torch.div(x["r"], 0.3, rounding_mode="floor") + torch.div(x["r"], 0.3, rounding_mode="trunc"),
    lambda x: torch.nan_to_num(x["r"] / x["r"].new_zeros(())) + torch.heaviside(x["r"].detach(), x["p"].detach()),
]

REDUCTIONS: list[Operation] = [
    lambda x: x["r"].var(-1) + x["r"].std(-1, unbiased=False),
    lambda x: torch.var_mean(x["r"], (0, 1), correction=0)[0] + torch.std_mean(x["r"])[1],
    lambda x: x["r"].prod(-1) + x["r"].mean(-1, keepdim=True)[..., 0],
    lambda x: x["r"].logsumexp((0, -1)),
    lambda x: torch.logsumexp(torch.where(x["r"] > 0, x["r"], -torch.inf), 0).clamp(min=-9.0),
    lambda x: x["r"].cumsum(-1) + x["r"].cumprod(-1) + x["r"].logcumsumexp(0),
    lambda x: x["r"].cummax(-1)[0] + x["r"].cummin(0)[0],
    lambda x: x["r"].max(-1)[0] + x["r"].min(-1)[0] + x["r"].amax(-1) - x["r"].amin(-1) + x["r"].max() - x["r"].min(),
    lambda x: x["r"].sort(-1, descending=True)[0] * x["p"],
    lambda x: (
        x["r"].topk(2, -1)[0].sum() + x["r"].kthvalue(2, -1)[0].sum() + x["r"].median() + x["r"].median(-1)[0].sum()
    ),
    lambda x: x["r"].argmax(-1) + x["r"].argmin(-1) + x["r"].argsort(-1)[..., 0] + (x["r"] > 0).sum(-1),
    lambda x: (x["r"] > 0).any(-1).to(x["r"].dtype) + (x["r"] > -9).all(-1) + torch.count_nonzero(x["r"], -1),
    lambda x: x["r"].softmax(-1) + x["r"].log_softmax(0) + torch.softmax(x["r"], 1),
    lambda x: (
        x["r"].norm(dim=-1)
        + torch.linalg.vector_norm(x["r"], 3.0, -1)
        + torch.linalg.vector_norm(x["r"], float("inf"), -1)
    ),
    lambda x: torch.aminmax(x["r"], dim=-1)[1] + x["r"].nansum(-1) + torch.trapezoid(x["r"], dim=-1),
]

_ORDER = torch.tensor([[2, 0, 1]])

REARRANGING: list[Operation] = [
    lambda x: x["r"].permute(1, 0).reshape(-1).roll(1).flip(0),
    lambda x: x["r"].t() @ x["r"] + x["r"].mT @ x["p"],
    lambda x: x["r"][:, None, 1:].expand(-1, 2, -1).transpose(0, 1).contiguous().view(2, -1),
    lambda x: torch.cat([x["r"], x["p"][:1]], 0).repeat(2, 1) * 2,
    lambda x: torch.stack(x["r"].unbind(0) + tuple(x["p"].split(1, 0)[0]), -1),
    lambda x: torch.tril(x["r"]) + torch.triu(x["r"], 1) * 2,
    lambda x: torch.diag_embed(x["r"], 1).diagonal(1, -2, -1) + x["r"].repeat_interleave(2, -1)[:, ::2],
    lambda x: torch.nn.functional.pad(x["r"], (1, 2), value=3.0)[:, 1:-2] + x["r"].unfold(1, 1, 1)[..., 0],
    lambda x: x["r"][torch.arange(x["r"].shape[0]).flip(0)] + x["r"].index_select(0, torch.zeros(1, dtype=torch.long)),
    lambda x: (
        x["r"].gather(-1, x["i"])
        + x["r"].scatter(1, _ORDER.expand_as(x["i"]), x["p"])
        + x["r"].scatter_add(1, x["i"], x["p"])
    ),
    lambda x: (
        x["r"].index_add(0, torch.tensor([0, 0]), x["p"][:2]) + x["r"].index_copy(0, torch.tensor([1]), x["p"][:1])
    ),
    lambda x: x["r"].scatter_reduce(1, x["i"] * 0, x["p"], "amax") + x["r"].index_fill(1, torch.tensor([0]), 0.5),
    lambda x: x["r"].scatter_reduce(1, x["i"] * 0, x["p"], "mean", include_self=False),
    lambda x: x["r"].masked_fill(x["r"] > 0, 0.3) + torch.where(x["p"] > 1.2, x["r"], x["p"]) + x["r"].take(x["i"]),
    lambda x: torch.nn.functional.one_hot(x["i"], 3).sum(-1) * x["r"] + torch.searchsorted(x["p"][0].cumsum(0), x["r"]),
    lambda x: (
        torch.einsum("ij,kj->ik", x["r"], x["p"])
        + torch.outer(x["r"][:, 0], x["p"][:, 0])
        + torch.cdist(x["r"], x["p"])
    ),
    lambda x: torch.linalg.cross(x["r"].repeat(1, 3)[:, :3], x["p"].repeat(1, 3)[:, :3]),
]

LINEAR_ALGEBRA: list[Operation] = [
    lambda x: torch.linalg.cholesky(x["s"]) + torch.linalg.cholesky(x["s"], upper=True),
    lambda x: (
        torch.linalg.solve(x["s"], x["m"]) + torch.linalg.inv(x["s"]) + torch.linalg.solve(x["s"], x["m"], left=False)
    ),
    lambda x: torch.linalg.solve_triangular(x["l"], x["m"], upper=False) + torch.cholesky_solve(x["m"], x["l"]),
    lambda x: torch.linalg.solve_triangular(x["l"].mT, x["m"], upper=True, left=False) + torch.cholesky_inverse(x["l"]),
    lambda x: torch.linalg.det(x["s"]) + torch.linalg.slogdet(x["s"])[1] + torch.logdet(x["s"]),
    lambda x: torch.linalg.eigvalsh(x["s"]) + torch.linalg.svdvals(x["m"]),
    lambda x: torch.linalg.eigh(x["s"])[1].abs() + torch.linalg.qr(x["s"])[1].abs(),
    lambda x: torch.linalg.matrix_exp(x["m"]) + torch.matrix_power(x["m"], 3),
    lambda x: torch.linalg.lu_solve(*torch.linalg.lu_factor(x["s"].detach()), x["m"]) + torch.linalg.pinv(x["s"]),
    lambda x: torch.trace(x["m"]) + torch.linalg.matrix_norm(x["m"]) + torch.kron(x["m"], x["s"]).sum(),
    lambda x: torch.addmm(x["m"], x["s"], x["l"], beta=0.5, alpha=2.0) + torch.addr(x["m"], x["m"][0], x["m"][1]),
]

PROMOTION: list[Operation] = [
    lambda x: x["i"] + x["r"],
    lambda x: x["i"] * 1.5,
    lambda x: x["i"] / 2,
    lambda x: x["i"] // 2 - x["i"] % 2 + x["i"] ** 2,
    lambda x: (x["i"] > 1) * x["r"] + (x["i"] > 1).long() * 3,
    lambda x: x["i"].sum() + x["i"].to(torch.int32).sum(),
    lambda x: x["i"].to(x["r"].dtype).mean() + x["i"].exp(),
    lambda x: x["r"] + torch.tensor(2.5, dtype=torch.float64),
    lambda x: x["r"] * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float32),
    lambda x: torch.where(x["r"] > 0, x["r"], 0),
    lambda x: ((x["r"] > 0) & (x["p"] > 1) | ~(x["i"] == 1)) ^ (x["r"] < 1),
    lambda x: torch.maximum(x["r"], x["r"].new_tensor(0.2)) + x["i"].clamp(min=1, max=2),
    lambda x: x["i"].bitwise_and(3) + (x["i"] << 1) + torch.full_like(x["i"], 7),
    lambda x: torch.zeros(3, dtype=torch.long) + x["i"] + torch.arange(3),
    lambda x: x["r"].double() + x["r"].float(),
]

GROUPS = {
    "special": SPECIAL,
    "reductions": REDUCTIONS,
    "rearranging": REARRANGING,
    "linear_algebra": LINEAR_ALGEBRA,
    "promotion": PROMOTION,
}


def _inputs(seed: int, rows: int, dtype: torch.dtype) -> Inputs:
    g = Gen(seed, dtype)
    return {
        "r": g.real(rows, 3),
        "p": g.positive(rows, 3),
        "u": g.unit(rows, 3),
        "i": g.ints(3, rows, 3),
        "s": g.spd(3, 3),
        "l": g.tril(3, 3),
        "m": g.real(3, 3),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("group", sorted(GROUPS))
@QUICK
@given(rows=st.integers(2, 4), seed=st.integers(0, 2**16))
def test_operations(group: str, dtype: torch.dtype, rows: int, seed: int) -> None:
    def all_of(x: Inputs) -> tuple[torch.Tensor, ...]:
        return tuple(operation(x) for operation in GROUPS[group])

    torch.set_default_dtype(dtype)
    points = [_inputs(seed + i, rows, dtype) for i in range(2)]
    compared = compare(all_of, points[0], points[1], TOLERANCE[dtype])
    assert len(compared.outputs) == len(GROUPS[group])
    assert set(compared.gradients) == {name for name, value in points[1].items() if value.is_floating_point()}


def test_digamma_and_trigamma() -> None:
    """Against mathematical identities: torch's own trigamma has nine digits."""
    execution = translate(lambda x: (x["x"].digamma(), torch.polygamma(1, x["x"])), {"x": torch.ones(3)})

    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        running = Execution(execution[0], {"x": x}, execution[1])
        return running.output("0"), running.output("1")

    x = jnp.array([0.5, 1.0, 2.0])
    digamma, trigamma = run(x)
    euler = 0.5772156649015329
    np.testing.assert_allclose(digamma, [-euler - 2 * np.log(2), -euler, 1 - euler], rtol=1e-13)
    np.testing.assert_allclose(trigamma, [np.pi**2 / 2, np.pi**2 / 6, np.pi**2 / 6 - 1], rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda v: run(jnp.full(3, v))[0][0]))(x), trigamma, rtol=1e-13)
    # Reflection: psi1(1 - x) + psi1(x) = (pi / sin(pi x))^2.
    left = jax.grad(lambda v: run(jnp.full(3, v))[0][0])(jnp.asarray(-0.3))
    right = run(jnp.full(3, 1.3))[1][0]
    np.testing.assert_allclose(left + right, (np.pi / np.sin(0.3 * np.pi)) ** 2, rtol=1e-12)


def test_derivatives_at_kinks_are_those_of_torch() -> None:
    at = {"x": torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]), "y": torch.tensor([-1.0, 0.0, 0.5, 2.0, 1.0])}

    def kinks(x: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        a, b = x["x"], x["y"]
        return (
            a.abs(),
            torch.nn.functional.logsigmoid(a),
            torch.nn.functional.binary_cross_entropy_with_logits(a, b),
            torch.linalg.vector_norm(a, 1),
            a.clamp(0.0, 1.0),
            a.clamp(min=b),
            torch.maximum(a, b),
            torch.minimum(a, b),
            a.relu(),
            torch.nn.functional.hardtanh(a),
            torch.xlogy(a.clamp(min=0.0), b.clamp(min=0.0)),
            a**0,
            a.clamp(min=0.0) ** b.clamp(min=0.0),
            (a * 0.0).norm(),
            torch.where(a > 0, a, b),
            (a * 0 + 1.0).max(),
            a.sign() + a.round() + a.floor() + a.ceil() + a.trunc(),
        )

    compared = compare(kinks, {k: v + 0.1 for k, v in at.items()}, at, 1e-12)
    assert len(compared.outputs) == len(kinks(at))
    assert set(compared.gradients) == {"x", "y"}


def test_detached_parts_and_gradient_free_blocks_have_no_gradient() -> None:
    def function(x: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            scale = x["x"].exp()
        return x["x"] * scale + x["x"].detach() ** 2

    x = torch.tensor([0.7], dtype=torch.float64)
    compared = compare(function, {"x": x - 0.4}, {"x": x}, 1e-12)
    np.testing.assert_allclose(compared.outputs[0], [0.7 * np.exp(0.7) + 0.49], rtol=1e-14)
    # Only the first factor counts: the derivative is exp(x), not (1 + x) exp(x) + 2 x.
    np.testing.assert_allclose(compared.gradients["x"], [0.5 * np.exp(0.7)], rtol=1e-14)
