"""Pyro programs and their NumPyro twins are the same density on the same position space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as pd
import pytest
import torch
from numpyro.distributions import constraints as nc
from tiers import fast

from pushforward.models import Target, from_numpyro
from pushforward.models.pyro import from_pyro

KEYS = [jax.random.key(i) for i in range(3)]


def assert_same(a: Target, b: Target, *, tolerance: float = 1e-10, batch: Any = None) -> None:
    """Equal log density (not only up to a constant) and gradient at the same positions."""
    assert jax.tree.map(jnp.shape, a.example) == jax.tree.map(jnp.shape, b.example)
    first, second = (jax.jit(jax.value_and_grad(lambda p, t=t: t.logdensity(p, batch))) for t in (a, b))
    for key in KEYS:
        position = b.initial(key)
        (x, dx), (y, dy) = first(position), second(position)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
        for name in dy:
            np.testing.assert_allclose(dx[name], dy[name], rtol=tolerance, atol=tolerance * 10, err_msg=name)


def T(x: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(x, float))


_L = np.array([[1.0, 0.0], [0.4, 0.8]])

SUPPORTS: dict[str, tuple[Any, Any]] = {
    "real": (lambda: pd.Normal(0.0, 2.0), lambda: nd.Normal(0.0, 2.0)),
    "positive": (lambda: pd.Gamma(2.0, 1.5), lambda: nd.Gamma(2.0, 1.5)),
    "unit_interval": (lambda: pd.Beta(2.0, 1.5), lambda: nd.Beta(2.0, 1.5)),
    "interval": (lambda: pd.Uniform(-1.0, 3.0), lambda: nd.Uniform(-1.0, 3.0)),
    "greater_than": (lambda: pd.Pareto(T(1.5), T(2.0)), lambda: nd.Pareto(1.5, 2.0)),
    "simplex": (lambda: pd.Dirichlet(T([1.0, 2.0, 3.0])), lambda: nd.Dirichlet(jnp.array([1.0, 2.0, 3.0]))),
    "corr_cholesky": (lambda: pd.LKJCholesky(3, 2.0), lambda: nd.LKJCholesky(3, 2.0)),
    "positive_definite": (
        lambda: pd.Wishart(T(4.0), scale_tril=T(_L)),
        lambda: nd.Wishart(4.0, scale_tril=jnp.asarray(_L)),
    ),
    "real_vector": (
        lambda: pd.MultivariateNormal(torch.zeros(2), scale_tril=T(_L)),
        lambda: nd.MultivariateNormal(jnp.zeros(2), scale_tril=jnp.asarray(_L)),
    ),
    "circular": (lambda: pd.VonMises(T(0.3), T(2.0)), lambda: nd.VonMises(0.3, 2.0)),
    "independent": (
        lambda: pd.Exponential(torch.ones(2, 3)).to_event(2),
        lambda: nd.Exponential(jnp.ones((2, 3))).to_event(2),
    ),
    "transformed": (
        lambda: pd.LogNormal(0.0, 1.0).expand([3]).to_event(1),
        lambda: nd.LogNormal(0.0, 1.0).expand([3]).to_event(1),
    ),
}


@pytest.mark.parametrize("name", fast(sorted(SUPPORTS), "circular", "positive", "simplex"))
def test_support(name: str) -> None:
    mine, twin = SUPPORTS[name]
    a = from_pyro(lambda: pyro.sample("x", mine()))
    b = from_numpyro(lambda: numpyro.sample("x", twin()))
    # Torch's normaliser of the von Mises density is a polynomial of nine digits.
    assert_same(a, b, tolerance=1e-8 if name == "circular" else 1e-10)
    position = b.initial(KEYS[0])
    value = a.constrain(position)
    np.testing.assert_allclose(value["x"], b.constrain(position)["x"], rtol=1e-12)
    np.testing.assert_allclose(a.unconstrain(value)["x"], position["x"], rtol=1e-9)


IMPROPER = {
    "ordered_vector": (pd.constraints.ordered_vector, nc.ordered_vector, (3,)),
    "positive_ordered_vector": (pd.constraints.positive_ordered_vector, nc.positive_ordered_vector, (3,)),
    "lower_cholesky": (pd.constraints.lower_cholesky, nc.lower_cholesky, (3, 3)),
    "softplus_positive": (pd.constraints.softplus_positive, nc.softplus_positive, ()),
    "softplus_lower_cholesky": (pd.constraints.softplus_lower_cholesky, nc.softplus_lower_cholesky, (2, 2)),
    "corr_matrix": (pd.constraints.corr_matrix, nc.corr_matrix, (3, 3)),
    "less_than": (pd.constraints.less_than(2.0), nc.less_than(2.0), ()),
    "greater_than": (pd.constraints.greater_than(-1.0), nc.greater_than(-1.0), ()),
}


@pytest.mark.parametrize("name", fast(sorted(IMPROPER), "less_than", "ordered_vector", "lower_cholesky"))
def test_improper_support(name: str) -> None:
    mine, twin, shape = IMPROPER[name]

    def model() -> None:
        x = pyro.sample("x", pd.ImproperUniform(mine, (), shape))
        pyro.factor("tilt", -(x**2).sum())

    def twin_model() -> None:
        x = numpyro.sample("x", nd.ImproperUniform(twin, (), shape))
        numpyro.factor("tilt", -(x**2).sum())

    assert_same(from_pyro(model), from_numpyro(twin_model))


def test_bounds_that_depend_on_other_sites() -> None:
    def model() -> None:
        x = pyro.sample("x", pd.Uniform(0.0, 1.0))
        with pyro.plate("i", 3):
            y = pyro.sample("y", pd.Uniform(0.0, 1.0 - x))
            pyro.sample("z", pd.Uniform(-y, y + 2.0 * x))

    def twin() -> None:
        x = numpyro.sample("x", nd.Uniform(0.0, 1.0))
        with numpyro.plate("i", 3):
            y = numpyro.sample("y", nd.Uniform(0.0, 1.0 - x))
            numpyro.sample("z", nd.Uniform(-y, y + 2.0 * x))

    a, b = from_pyro(model), from_numpyro(twin)
    assert_same(a, b)
    position = b.initial(KEYS[1])
    found = a.unconstrain(a.constrain(position))
    for name in position:
        np.testing.assert_allclose(found[name], position[name], rtol=1e-9)


def _regression(sample: Any, plate: Any, d: Any, x: Any, y: Any, size: int | None) -> None:
    w = sample("w", d.Normal(0.0, 1.0).expand([2]).to_event(1))
    with plate("groups", 3, dim=-2):
        shift = sample("shift", d.Normal(0.0, 0.5))
        with plate("rows", x.shape[0], subsample_size=size, dim=-1) as i:
            local = sample("local", d.HalfNormal(2.0))
            loc = (x[i] * w).sum(-1) + shift
            sample("y", d.Normal(loc, local), obs=y[:, i])


@pytest.mark.parametrize("size", [None, 4])
def test_nested_plates_and_minibatches(size: int | None) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 2)), rng.normal(size=(3, 10))
    a = from_pyro(lambda x, y: _regression(pyro.sample, pyro.plate, pd, x, y, size), x, y)
    b = from_numpyro(lambda x, y: _regression(numpyro.sample, numpyro.plate, nd, x, y, size), x, y)
    assert a.dims == b.dims
    assert {p.name: p for p in a.program.plates} == {p.name: p for p in b.program.plates}
    assert_same(a, b)
    if size is not None:
        batch = b.minibatch(KEYS[0])
        assert_same(a, b, batch=batch)
        # Over all minibatches of one (no repetition), the estimate is unbiased.
        position = b.initial(KEYS[2])
        chunks = [{"rows": jnp.roll(jnp.arange(10), -s)[:4]} for s in range(10)]
        estimates = [a.logdensity(position, c) for c in chunks]
        np.testing.assert_allclose(np.mean(estimates), a.logdensity(position), rtol=1e-10)


def test_condition_replaces_minibatched_data() -> None:
    rng = np.random.default_rng(0)
    x, y, other = rng.normal(size=(10, 2)), rng.normal(size=(3, 10)), rng.normal(size=(3, 10))
    a = from_pyro(lambda x, y: _regression(pyro.sample, pyro.plate, pd, x, y, 4), x, y).condition({"y": other})
    b = from_numpyro(lambda x, y: _regression(numpyro.sample, numpyro.plate, nd, x, y, 4), x, other)
    assert_same(a, b)
    assert_same(a, b, batch=b.minibatch(KEYS[0]))
    np.testing.assert_array_equal(a.observed()["y"], other)


@pytest.mark.parametrize("inside", [False, True])
def test_enumeration(inside: bool) -> None:
    y = np.array([-1.0, 0.2, 2.5, 3.0])

    def body(sample: Any, plate: Any, d: Any, y: Any, infer: Any, ones: Any) -> None:
        p = sample("p", d.Dirichlet(ones))
        with plate("components", 3):
            mu = sample("mu", d.Normal(0.0, 3.0))
        if inside:
            with plate("data", 4):
                z = sample("z", d.Categorical(p), infer=infer)
                k = sample("k", d.Bernoulli(0.3), infer=infer)
                sample("y", d.Normal(mu[z] + k, 1.0), obs=y)
        else:
            z = sample("z", d.Categorical(p), infer=infer)
            with plate("data", 4):
                sample("y", d.Normal(mu[z], 1.0), obs=y)

    mark = {"enumerate": "parallel"}
    a = from_pyro(lambda y: body(pyro.sample, pyro.plate, pd, y, mark, torch.ones(3)), y)
    b = from_numpyro(lambda y: body(numpyro.sample, numpyro.plate, nd, y, mark, jnp.ones(3)), y)
    assert {n: c for n, _, c in a.program.enumerated} == {n: c for n, _, c in b.program.enumerated}
    assert_same(a, b)


def test_enumeration_with_onehot_and_config_enumerate() -> None:
    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", pd.Normal(0.0, 3.0).expand([3]).to_event(1))
        with pyro.plate("data", 4):
            z = pyro.sample("z", pd.OneHotCategorical(T([0.2, 0.3, 0.5])))
            pyro.sample("y", pd.Normal((z * mu).sum(-1), 1.0), obs=y)

    y = np.array([-1.0, 0.2, 2.5, 3.0])
    target = from_pyro(pyro.infer.config_enumerate(model), y)
    mu = np.array([-1.0, 0.5, 2.0])
    density = sum(
        w * np.exp(-0.5 * (y - m) ** 2) / np.sqrt(2 * np.pi) for w, m in zip([0.2, 0.3, 0.5], mu, strict=True)
    )
    expected = np.log(density).sum() + (-0.5 * (mu / 3) ** 2 - np.log(3 * np.sqrt(2 * np.pi))).sum()
    np.testing.assert_allclose(target.logdensity({"mu": jnp.asarray(mu)}), expected, rtol=1e-12)


@pytest.mark.slow
def test_markov_chain_is_enumerated() -> None:
    transition, y = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0.1, 1.9, 2.2, -0.3, 0.4])

    def model(y: torch.Tensor) -> None:
        loc = pyro.sample("loc", pd.Normal(0.0, 1.0).expand([2]).to_event(1))
        z = torch.tensor(0)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", pd.Categorical(T(transition)[z]), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", pd.Normal(loc[z], 1.0), obs=y[t])

    loc = np.array([0.3, 1.8])
    emission = np.exp(-0.5 * (y[:, None] - loc) ** 2) / np.sqrt(2 * np.pi)
    forward = np.array([1.0, 0.0])
    for t in range(5):
        forward = (forward @ transition) * emission[t]
    expected = np.log(forward.sum()) + (-0.5 * loc**2 - 0.5 * np.log(2 * np.pi)).sum()
    np.testing.assert_allclose(from_pyro(model, y).logdensity({"loc": jnp.asarray(loc)}), expected, rtol=1e-12)
