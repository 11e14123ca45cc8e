"""Everything that Pyro lets a program do around its sites."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from pushforward.models.pyro import from_pyro

LOG_2PI = float(np.log(2 * np.pi))


def normal(x: float, loc: float = 0.0, scale: float = 1.0) -> float:
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * LOG_2PI


def base(y: torch.Tensor) -> torch.Tensor:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    x = pyro.sample("x", dist.Normal(mu, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(x, 0.5), obs=y)
    return x


Y = torch.tensor([0.3, -0.2], dtype=torch.float64)
X = torch.tensor(0.7, dtype=torch.float64)
LIKELIHOOD = sum(normal(float(v), 0.7, 0.5) for v in Y)


@pytest.mark.parametrize(
    ("model", "position", "expected"),
    [
        (base, {"mu": 0.4, "x": 0.7}, normal(0.4, 0, 2) + normal(0.7, 0.4) + LIKELIHOOD),
        (poutine.condition(base, {"x": X}), {"mu": 0.4}, normal(0.4, 0, 2) + normal(0.7, 0.4) + LIKELIHOOD),
        (poutine.do(base, {"x": X}), {"mu": 0.4, "x": 0.1}, normal(0.4, 0, 2) + normal(0.1, 0.4) + LIKELIHOOD),
        (
            poutine.scale(base, scale=0.5),
            {"mu": 0.4, "x": 0.7},
            0.5 * (normal(0.4, 0, 2) + normal(0.7, 0.4) + LIKELIHOOD),
        ),
        (poutine.mask(base, mask=False), {"mu": 0.4, "x": 0.7}, 0.0),
        (
            poutine.mask(base, mask=torch.tensor([True, False])),
            {"mu": 0.4, "x": 0.7},
            # A mask broadcasts over scalar sites, as in Pyro: once for each of its entries that is true.
            normal(0.4, 0, 2) + normal(0.7, 0.4) + normal(0.3, 0.7, 0.5),
        ),
        (
            poutine.reparam(base, config={"x": LocScaleReparam(0.0)}),
            {"mu": 0.4, "x_decentered": 0.3},
            normal(0.4, 0, 2) + normal(0.3) + LIKELIHOOD,
        ),
        (poutine.block(base, hide=["y"]), {"mu": 0.4, "x": 0.7}, normal(0.4, 0, 2) + normal(0.7, 0.4)),
    ],
    ids=["plain", "condition", "do", "scale", "mask-off", "mask", "reparam", "block"],
)
def test_handler(model: object, position: dict[str, float], expected: float) -> None:
    target = from_pyro(model, Y)  # type: ignore[arg-type]
    at = {k: jnp.asarray(v) for k, v in position.items()}
    assert set(target.example) == set(at)
    np.testing.assert_allclose(target.logdensity(at), expected, rtol=1e-12)


def test_factor_deterministic_delta_and_unit_interval_mask() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        twice = pyro.deterministic("twice", 2 * x)
        pyro.sample("point", dist.Delta(x + 1.0, log_density=torch.tensor(-0.5)))
        pyro.factor("tilt", -(twice**2))
        with poutine.mask(mask=x.detach() > 0):
            pyro.sample("z", dist.Normal(x, 1.0), obs=torch.tensor(0.2))

    target = from_pyro(model)
    values = target.constrain({"x": jnp.asarray(0.6)})
    np.testing.assert_allclose(values["twice"], 1.2)
    np.testing.assert_allclose(values["point"], 1.6)
    np.testing.assert_allclose(
        target.logdensity({"x": jnp.asarray(0.6)}), normal(0.6) - 0.5 - 1.44 + normal(0.2, 0.6), rtol=1e-12
    )
    np.testing.assert_allclose(target.logdensity({"x": jnp.asarray(-0.6)}), normal(-0.6) - 0.5 - 1.44, rtol=1e-12)


def test_partly_observed_data() -> None:
    y, mask = torch.tensor([0.5, 0.0, -1.0]), torch.tensor([True, False, True])

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 3):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=mask)

    target = from_pyro(model)
    assert set(target.example) == {"mu", "y_unobserved"}
    position = {"mu": jnp.asarray(0.3), "y_unobserved": jnp.asarray([9.0, 0.4, 9.0])}
    expected = normal(0.3) + normal(0.5, 0.3) + normal(-1.0, 0.3) + normal(0.4, 0.3)
    np.testing.assert_allclose(target.logdensity(position), expected, rtol=1e-12)
    np.testing.assert_allclose(target.constrain(position)["y"], [0.5, 0.4, -1.0])


def test_sequential_plate_and_explicit_subsample() -> None:
    y = torch.tensor([0.5, 0.1, -1.0, 2.0])

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in pyro.plate("loop", 2):
            pyro.sample(f"a_{i}", dist.Normal(mu, 1.0), obs=y[i])
        with pyro.plate("part", 4, subsample=torch.tensor([1, 3])) as chosen:
            pyro.sample("b", dist.Normal(mu, 1.0), obs=y[chosen])

    at = {"mu": jnp.asarray(0.3)}
    expected = normal(0.3) + normal(0.5, 0.3) + normal(0.1, 0.3) + 2 * (normal(0.1, 0.3) + normal(2.0, 0.3))
    np.testing.assert_allclose(from_pyro(model).logdensity(at), expected, rtol=1e-12)


def test_subsampled_argument_and_local_parameter() -> None:
    data = torch.arange(6.0)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 6, subsample_size=2):
            weight = pyro.param("weight", lambda: torch.ones(6), event_dim=0, constraint=dist.constraints.positive)
            x = pyro.subsample(data, event_dim=0)
            pyro.sample("y", dist.Normal(mu, weight), obs=x)

    target = from_pyro(model)
    at = {"mu": jnp.asarray(0.3)}
    target = target.with_params({"weight": jnp.log(jnp.arange(1.0, 7.0))})
    full = normal(0.3) + sum(normal(float(i), 0.3, i + 1.0) for i in range(6))
    np.testing.assert_allclose(target.logdensity(at), full, rtol=1e-12)
    batch = {"n": jnp.array([1, 4])}
    part = normal(0.3) + 3 * (normal(1.0, 0.3, 2.0) + normal(4.0, 0.3, 5.0))
    np.testing.assert_allclose(target.logdensity(at, batch), part, rtol=1e-12)


def test_in_place_operations_and_data_that_steers_python() -> None:
    def model(x: torch.Tensor, lengths: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        total = torch.zeros(3)
        for t in range(int(lengths.max())):
            total[t] = w[t] * x[t]
            total[t] += 1.0
        keep = x > 0.5
        keep &= x < 2.5
        pyro.sample("y", dist.Normal(total[keep], 1.0).to_event(1), obs=torch.ones(int(keep.sum())))

    target = from_pyro(model, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2]))
    w = np.array([0.5, -0.3, 2.0])
    expected = sum(normal(v) for v in w) + normal(1.0, 1 + 0.5) + normal(1.0, 1 - 0.6)
    np.testing.assert_allclose(target.logdensity({"w": jnp.asarray(w)}), expected, rtol=1e-12)


def test_vmap_jit_and_second_derivatives() -> None:
    target = from_pyro(base, Y)
    positions = target.initial(jax.random.key(0), 5)
    together = jax.jit(jax.vmap(target.logdensity))(positions)
    one_by_one = [target.logdensity(jax.tree.map(lambda x, i=i: x[i], positions)) for i in range(5)]
    np.testing.assert_allclose(together, np.asarray(one_by_one), rtol=1e-12)
    hessian = jax.hessian(target.logdensity)(jax.tree.map(lambda x: x[0], positions))
    np.testing.assert_allclose(hessian["x"]["x"], -1.0 - 2 / 0.25, rtol=1e-10)


def test_writes_to_tensors_from_outside_stay_inside() -> None:
    outside, order = torch.zeros(3), torch.tensor([2, 0, 1])

    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(3)
        buffer = torch.zeros_like(outside)
        buffer.copy_(x[inverse])
        buffer[0] += 1.0
        pyro.sample("y", dist.Normal(buffer, 1.0).to_event(1), obs=torch.zeros(3))

    target = from_pyro(model)
    x = np.array([0.3, -0.5, 1.2])
    expected = sum(normal(v) for v in x) + sum(normal(0.0, v) for v in (x[1] + 1.0, x[2], x[0]))
    np.testing.assert_allclose(target.logdensity({"x": jnp.asarray(x)}), expected, rtol=1e-12)
    assert torch.equal(outside, torch.zeros(3))
    assert torch.equal(order, torch.tensor([2, 0, 1]))


def test_normalising_flow_with_learnable_weights() -> None:
    torch.manual_seed(0)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def model(y: torch.Tensor) -> None:
        pyro.module("flow", flow)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.TransformedDistribution(base, [flow]), obs=y + shift)

    y = np.array([[0.1, -0.4], [0.9, 0.3]])
    target = from_pyro(model, y)
    assert len(target.program.params) == len(list(flow.parameters()))
    with torch.no_grad():
        data = torch.as_tensor(y) + 0.25
        x = flow.inv(data)
        expected = dist.Normal(0.0, 1.0).log_prob(x).sum() - flow.log_abs_det_jacobian(x, data).sum()
    at = {"shift": jnp.asarray(0.25)}
    np.testing.assert_allclose(target.logdensity(at), float(expected) + normal(0.25), rtol=1e-12)
    gradient = jax.grad(lambda p: target.with_params(p).logdensity(at))(target.program.params)
    assert all(float(jnp.abs(g).max()) > 0 for name, g in gradient.items() if name.endswith("bias"))
