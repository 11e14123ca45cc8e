"""Simulation from Pyro programs, other data, persistence, and what building leaves untouched."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pushforward.models.pyro import from_pyro


def model(x: torch.Tensor, y: torch.Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.deterministic("double", 2 * w)
    with pyro.plate("rows", x.shape[0]):
        z = pyro.sample("z", dist.Bernoulli(0.25), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(x @ w + 10.0 * z, scale), obs=y)


RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(6, 2)), RNG.normal(size=6)


def test_prior_and_predictive() -> None:
    target = from_pyro(model, X, Y)
    a, b, c = (target.prior(jax.random.key(k)) for k in (0, 0, 1))
    assert set(a) == {"w", "scale", "double", "z", "y"}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert not np.allclose(a["w"], c["w"])
    held = {"w": jnp.array([0.5, -1.0]), "scale": jnp.asarray(1e-8)}
    draws = [target.program.simulate(jax.random.key(k), held) for k in range(200)]
    z = np.stack([d["z"] for d in draws])
    np.testing.assert_allclose(np.stack([d["y"] for d in draws]), X @ [0.5, -1.0] + 10 * z, atol=1e-6)
    # 1,200 Bernoulli draws: five standard errors.
    assert abs(z.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / z.size)


def test_improper_prior_cannot_be_drawn() -> None:
    def improper() -> None:
        x = pyro.sample("slope", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(0.5))

    target = from_pyro(improper)
    with pytest.raises(ValueError, match="site 'slope' has no sampler"):
        target.prior(jax.random.key(0))
    held = target.program.simulate(jax.random.key(0), {"slope": jnp.asarray(3.0)})
    assert held["slope"] == 3.0


def test_rebind_predicts_new_rows() -> None:
    target = from_pyro(model, X, Y)
    new = target.rebind(np.ones((3, 2)))
    position = target.initial(jax.random.key(0))
    predicted = new.predict(jax.random.key(1), position)
    assert predicted["y"].shape == (3,)
    assert new.observed() == {}
    other = target.rebind(X, Y + 1.0)
    np.testing.assert_allclose(
        other.logdensity(position), from_pyro(model, X, Y + 1.0).logdensity(position), rtol=1e-12
    )


def test_observed_constants_and_labels() -> None:
    target = from_pyro(model, X, Y, coords={"rows": list("abcdef")}, dims={"w": ("feature",)})
    np.testing.assert_array_equal(target.observed()["y"], Y)
    assert set(target.constants()) == {"x"}
    assert target.dims["y"] == ("rows",)
    assert target.dims["w"] == ("feature",)
    assert target.coords["rows"] == tuple("abcdef")


def test_pickled_program_runs_without_torch(tmp_path: Path) -> None:
    target = from_pyro(model, X, Y)
    position = target.initial(jax.random.key(0))
    path = tmp_path / "target.pkl"
    path.write_bytes(cloudpickle.dumps((target, position)))
    code = f"""
import sys, cloudpickle, jax
jax.config.update("jax_enable_x64", True)
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pyro"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
target, position = cloudpickle.load(open({str(path)!r}, "rb"))
print(float(jax.jit(target.logdensity)(position)).hex())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float.fromhex(out) == float(jax.jit(target.logdensity)(position))
    reloaded = cloudpickle.loads(path.read_bytes())[0]
    # The same program is the same pytree structure: compiled code is shared and checkpoints match.
    assert jax.tree.structure(reloaded) == jax.tree.structure(target)
    np.testing.assert_array_equal(reloaded.prior(jax.random.key(3))["y"], target.prior(jax.random.key(3))["y"])


def test_large_data_are_leaves_and_not_part_of_the_program_text() -> None:
    big = np.random.default_rng(0).normal(size=(500, 2))
    target = from_pyro(model, big, big[:, 0])
    leaves = [x.size for x in jax.tree.leaves(target)]
    assert 1000 in leaves
    assert 500 in leaves
    assert all(literal.value.size <= 16 for literal in target.program.full.literals.values())


def test_building_leaves_global_state_alone() -> None:
    pyro.get_param_store()["kept"] = torch.tensor(1.0)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    target = from_pyro(model, X, Y)
    target.prior(jax.random.key(0))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert list(pyro.get_param_store().keys()) == ["kept"]
    assert torch.distributions.Distribution._validate_sample.__module__ == "torch.distributions.distribution"
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, -1.0)


def test_single_precision() -> None:
    torch.set_default_dtype(torch.float32)
    with jax.enable_x64(False):
        target = from_pyro(model, X, Y)
        position = target.initial(jax.random.key(0))
        value, gradient = jax.value_and_grad(target.logdensity)(position)
        assert value.dtype == jnp.float32
        assert {g.dtype for g in gradient.values()} == {np.dtype(np.float32)}
    torch.set_default_dtype(torch.float64)
    exact = from_pyro(model, X, Y)
    wide = {k: jnp.asarray(np.asarray(v), jnp.float64) for k, v in position.items()}
    np.testing.assert_allclose(float(value), float(exact.logdensity(wide)), rtol=1e-4)
