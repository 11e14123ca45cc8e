"""Learnable parameters, modules and buffers of Pyro programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pushforward.models.pyro import from_pyro

X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)
Y = np.array([0.1, -0.2, 0.3, 0.5])


def gaussian(y: np.ndarray, loc: np.ndarray, scale: float) -> float:
    return float(np.sum(-0.5 * ((y - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)))


def test_param_statements_with_constraints() -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        weights = pyro.param("weights", torch.tensor([0.2, 0.3, 0.5]), constraint=dist.constraints.simplex)
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        with pyro.plate("n", 4):
            pyro.sample("y", dist.Normal(z + x @ weights, scale), obs=y)

    target = from_pyro(model, X, Y)
    assert set(target.program.params) == {"loc", "scale", "weights"}
    np.testing.assert_allclose(target.program.params["scale"], np.log(2.0))
    np.testing.assert_allclose(target.program.param_values()["weights"], [0.2, 0.3, 0.5])
    moved = target.with_params({"loc": jnp.asarray(1.0), "scale": jnp.asarray(0.0), "weights": jnp.zeros(2)})
    weights = np.asarray(moved.program.param_values()["weights"])
    expected = gaussian(np.asarray(0.7), np.asarray(1.0), 1.0) + gaussian(Y, 0.7 + X @ weights, 1.0)
    np.testing.assert_allclose(moved.logdensity({"z": jnp.asarray(0.7)}), expected, rtol=1e-12)

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return target.with_params(params).logdensity({"z": jnp.asarray(0.7)})

    gradient = jax.grad(loss)(moved.program.params)
    for name, value in moved.program.params.items():
        step = 1e-6 * jnp.eye(value.size)[0].reshape(value.shape)
        up, down = (loss({**moved.program.params, name: value + s * step}) for s in (1, -1))
        np.testing.assert_allclose(gradient[name].reshape(-1)[0], (up - down) / 2e-6, rtol=1e-5, atol=1e-7)


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def _forward(network: nn.Module, params: dict[str, jax.Array]) -> np.ndarray:
    weights = [np.asarray(p) for p in params.values()]
    return (np.tanh(X @ weights[0].T + weights[1]) @ weights[2].T + weights[3])[:, 0]


@pytest.mark.parametrize("registered", [True, False])
def test_network_is_learnable_if_registered(registered: bool) -> None:
    network = _network()

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        if registered:
            pyro.module("net", network)
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("n", 4):
            pyro.sample("y", dist.Normal(network(x)[:, 0], scale), obs=y)

    target = from_pyro(model, X, Y)
    at = {"scale": jnp.asarray(0.0)}
    prior = 0.5 * np.log(2 / np.pi) - 0.5
    if not registered:
        assert target.program.params == {}
        weights = dict(enumerate(p.detach().numpy() for p in network.parameters()))
        np.testing.assert_allclose(
            target.logdensity(at), prior + gaussian(Y, _forward(network, weights), 1.0), rtol=1e-12
        )
        return
    assert list(target.program.params) == [f"net$$${n}" for n, _ in network.named_parameters()]
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    moved = {k: v + 0.1 for k, v in target.program.params.items()}
    np.testing.assert_allclose(
        target.with_params(moved).logdensity(at), prior + gaussian(Y, _forward(network, moved), 1.0), rtol=1e-12
    )
    predicted = target.with_params(moved).program.simulate(jax.random.key(0), {"scale": jnp.asarray(1e-9)})
    np.testing.assert_allclose(predicted["y"], _forward(network, moved), atol=1e-7)
    for n, p in network.named_parameters():
        assert torch.equal(p, before[n])
        assert p.grad is None


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.scale = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)
        self.shift = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        loc = self.linear(x)[:, 0] + self.shift
        with pyro.plate("n", x.shape[0]):
            return pyro.sample("y", dist.Normal(loc, self.scale), obs=y)


def test_pyro_module() -> None:
    torch.manual_seed(0)
    model = Regression()
    target = from_pyro(model, X, y=Y)
    assert set(target.example) == {"linear.weight"}
    assert set(target.program.params) == {"linear.bias", "scale", "shift"}
    w = np.array([[0.3, -0.1, 0.2]])
    params = {"linear.bias": jnp.array([0.7]), "scale": jnp.log(0.3), "shift": jnp.asarray(-0.2)}
    expected = gaussian(w, 0.0, 1.0) + gaussian(Y, (X @ w.T)[:, 0] + 0.5, 0.3)
    np.testing.assert_allclose(
        target.with_params(params).logdensity({"linear.weight": jnp.asarray(w)}), expected, rtol=1e-12
    )


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("offset", torch.tensor(0.5))
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(self.norm(x) @ self.weight + self.offset + z, 1.0).to_event(1), obs=y)


def test_plain_module_as_model_with_batch_statistics() -> None:
    model = Plain().double()
    target = from_pyro(model, X, Y)
    assert list(target.program.params) == ["weight"]
    x = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    expected = gaussian(np.asarray(0.1), 0.0, 1.0) + gaussian(Y, x @ np.array([1.0, 2.0, 3.0]) + 0.6, 1.0)
    np.testing.assert_allclose(target.logdensity({"z": jnp.asarray(0.1)}), expected, rtol=1e-12)
    # Training mode updates running statistics in torch; building and simulating must not.
    target.prior(jax.random.key(0))
    assert torch.equal(model.norm.running_mean, torch.zeros(3))
    assert model.norm.num_batches_tracked == 0


def test_initial_params_are_random_only_where_the_program_draws_them() -> None:
    def model() -> None:
        a = pyro.param("a", lambda: torch.randn(()))
        b = pyro.param("b", torch.tensor(2.0))
        pyro.sample("x", dist.Normal(a, b.abs()))

    program = from_pyro(model).program
    first, again, other = (program.initial_params(jax.random.key(k)) for k in (1, 1, 2))
    assert first["a"] == again["a"] != other["a"]
    assert first["b"] == other["b"] == 2.0
    assert len(pyro.get_param_store()) == 0
