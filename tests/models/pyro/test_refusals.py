"""What cannot be compiled is refused with its place and the remedy; the callback backend takes it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pushforward.models.pyro import from_pyro, register_lowering
from pushforward.models.pyro.lowerings._registry import unregister_lowering


def _branch() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    scale = 1.0 if x > 0 else 2.0
    pyro.sample("y", dist.Normal(x, scale), obs=torch.tensor(0.3))


def _float() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(float(x), 1.0), obs=torch.tensor(0.3))


def _noise() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x + torch.randn(()), 1.0), obs=torch.tensor(0.3))


def _dropout() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    pyro.sample("y", dist.Normal(torch.nn.functional.dropout(x).sum(), 1.0), obs=torch.tensor(0.3))


def _hidden_value() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(torch.as_tensor(np.sin(x.detach().numpy())), 1.0), obs=torch.tensor(0.3))


def _hidden_data() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.data * 2.0, 1.0), obs=torch.tensor(0.3))


def _discrete() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.3))


def _count() -> None:
    pyro.sample("k", dist.Poisson(3.0), infer={"enumerate": "parallel"})


def _sphere() -> None:
    pyro.sample("x", dist.ProjectedNormal(torch.ones(3)))


def _unknown_op() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(torch.special.bessel_j0(x), 1.0), obs=torch.tensor(0.3))


def _sequential() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    for i in pyro.plate("rows", 5, subsample_size=2):
        pyro.sample(f"y_{i}", dist.Normal(x, 1.0), obs=torch.tensor(0.3))


def _shapes(y: torch.Tensor) -> None:
    with pyro.plate("rows", 5):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


REFUSED: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (_branch, (), r"reads the value .* site 'x' \(LINE 2\).*callback"),
    (_float, (), r"reads the value .* site 'x' \(LINE 2\)"),
    (_noise, (), r"Randomness inside the log density: aten.randn.default at site 'x' \(LINE 2\)"),
    (_dropout, (), r"Randomness inside the log density: .* at site 'x' \(LINE 2\)"),
    (_hidden_value, (), r"cannot be compiled|differs from torch"),
    (_hidden_data, (), r"differs from torch"),
    (_discrete, (), r"Site 'z' \(Bernoulli\) is a discrete latent.*config_enumerate"),
    (_count, (), r"Site 'k' \(Poisson\) is a discrete latent.*no finite enumeration"),
    (_sphere, (), r"Site 'x' \(ProjectedNormal\) cannot be a latent site"),
    (_unknown_op, (), r"aten.special_bessel_j0.default at site 'x' \(LINE 2\).*register_lowering.*callback"),
    (_sequential, (), r"Plate 'rows' is a sequential plate .* with subsample_size"),
    (_shapes, (np.zeros(4),), r"failed at or after site 'y'.*got shapes"),
    (_shapes, (np.zeros(0),), r"empty array"),
    (_shapes, (), r"arguments do not fit"),
    (_shapes, (None,), r"no observed site|discrete|left at None"),
]


@pytest.mark.parametrize(
    ("model", "args", "message"), REFUSED, ids=[f"{m.__name__}-{i}" for i, (m, _, _) in enumerate(REFUSED)]
)
def test_refused(model: Callable[..., Any], args: tuple[Any, ...], message: str) -> None:
    # "LINE k" stands for the k-th line of the model's body.
    first = model.__code__.co_firstlineno
    message = re.sub(r"LINE (\d+)", lambda m: f"test_refusals.py:{first + int(m[1])}", message)
    with pytest.raises(ValueError, match=message) as caught:
        from_pyro(model, *args)
    assert "\n" not in str(caught.value).strip()


def test_float64_model_needs_x64() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0))

    with jax.enable_x64(False), pytest.raises(ValueError, match=r"float64 .* pf.enable_x64\(\)"):
        from_pyro(model)


def test_registered_lowering_is_used_and_checked() -> None:
    def bessel_j0(x: jax.Array) -> jax.Array:
        # Series that is exact to rounding for |x| < 5.
        term = total = jnp.ones_like(x)
        for k in range(1, 40):
            term = -term * (x / 2) ** 2 / k**2
            total = total + term
        return total

    try:
        register_lowering("aten.special_bessel_j0", bessel_j0)
        # Torch has no derivative of this function, so compare at a site where none is needed.
        target = from_pyro(_j0_of_data)
        expected = -0.5 * (0.3 - 0.7651976865579665) ** 2 - 0.5 * np.log(2 * np.pi)
        terms = target.site_log_probs({"x": jnp.asarray(0.0)})
        np.testing.assert_allclose(terms["y"], expected, rtol=1e-12)
        register_lowering("aten.special_bessel_j0", lambda x: x)
        with pytest.raises(ValueError, match="differs from torch in the log-probability of site 'y'"):
            from_pyro(_j0_of_data)
        register_lowering("aten.special_bessel_j0", lambda x: x[None])
        with pytest.raises(ValueError, match="returned shape"):
            from_pyro(_j0_of_data)
    finally:
        unregister_lowering("aten.special_bessel_j0")
    with pytest.raises(ValueError, match="namespace.op"):
        register_lowering("bessel", bessel_j0)


def _j0_of_data() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(torch.special.bessel_j0(1.0 + 0.0 * x.detach()), 1.0), obs=torch.tensor(0.3))


def test_a_wrong_lowering_is_caught_by_its_gradient() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(torch.tanh(x), 1.0), obs=torch.tensor(0.3))

    from_pyro(model)
    try:
        register_lowering("aten.tanh", lambda x: jax.lax.stop_gradient(jnp.tanh(x)))
        with pytest.raises(ValueError, match="differs from torch in the gradient with respect to latent x"):
            from_pyro(model)
    finally:
        unregister_lowering("aten.tanh")


def test_callback_backend() -> None:
    def model(y: torch.Tensor) -> None:
        x = pyro.sample("x", dist.Uniform(0.0, 2.0))
        z = pyro.sample("z", dist.Uniform(-x, x))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("n", 6, subsample_size=2) as i:
            pyro.sample("y", dist.Normal(z, scale), obs=y[i])

    y = np.linspace(-1.0, 1.0, 6)
    with pytest.warns(UserWarning, match="runs in torch at every evaluation"):
        slow = from_pyro(model, y, backend="callback")
    fast = from_pyro(model, y)
    positions = fast.initial(jax.random.key(0), 3)
    batch = fast.minibatch(jax.random.key(1))
    for indices in (None, batch):
        both = [
            jax.jit(jax.vmap(jax.value_and_grad(lambda p, t=t, i=indices: t.logdensity(p, i))))(positions)
            for t in (slow, fast)
        ]
        np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-12)
        for name in positions:
            np.testing.assert_allclose(both[0][1][name], both[1][1][name], rtol=1e-9, atol=1e-10)
    at = jax.tree.map(lambda v: v[0], positions)
    gradients = [
        jax.grad(lambda p, t=t: t.with_params(p).logdensity(at))({"scale": jnp.asarray(0.3)}) for t in (slow, fast)
    ]
    np.testing.assert_allclose(gradients[0]["scale"], gradients[1]["scale"], rtol=1e-10)


def test_callback_backend_takes_value_dependent_branches() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = from_pyro(_branch, backend="callback")
    for x, scale in ((0.5, 1.0), (-0.5, 2.0)):
        expected = -0.5 * x**2 - 0.5 * ((0.3 - x) / scale) ** 2 - np.log(scale) - np.log(2 * np.pi)
        np.testing.assert_allclose(target.logdensity({"x": jnp.asarray(x)}), expected, rtol=1e-12)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="Unknown backend 'torch'"):
        from_pyro(_float, backend="torch")  # type: ignore[arg-type]
