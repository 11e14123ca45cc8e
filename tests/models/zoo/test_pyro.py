"""The Pyro programs of the zoo have the density of their NumPyro twins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.models import zoo

from . import cases

torch = pytest.importorskip("torch")
poutine = pytest.importorskip("pyro.poutine")

NUM_POINTS = 20


def _points(name: str) -> dict[str, np.ndarray]:
    """Half posterior draws, half far from the posterior: values of the latent sites."""
    target = cases.target(name)
    far = jax.jit(jax.vmap(lambda p: target.program.evaluate(p).values))(
        target.initial(jax.random.key(3), NUM_POINTS // 2)
    )
    near = {site: value[: NUM_POINTS // 2] for site, value in cases.latent_draws(name).items()}
    return {site: np.concatenate([near[site], np.asarray(far[site])]) for site in near}


def _torch_log_joint(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], values: dict[str, Any]) -> Any:
    return poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs).log_prob_sum()


@pytest.mark.parametrize("name", zoo.pyro_names())
def test_log_density_and_gradient_equal_the_numpyro_program(name: str) -> None:
    """In the user's space and by torch itself: no conversion is involved."""
    target = cases.target(name)

    def log_joint(values: dict[str, jax.Array]) -> jax.Array:
        position, log_dets = target.program.invert(values)
        return target.logdensity(position) - sum(log_dets.values())

    points = _points(name)
    expected, expected_gradient = jax.jit(jax.vmap(jax.value_and_grad(log_joint)))(
        {k: jnp.asarray(v) for k, v in points.items()}
    )
    model, args, kwargs = zoo.load(name).pyro()
    values, gradients = [], []
    for i in range(NUM_POINTS):
        leaves = {
            site: torch.tensor(value[i], dtype=torch.float64, requires_grad=True) for site, value in points.items()
        }
        value = _torch_log_joint(model, args, kwargs, leaves)
        gradients.append(dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True)))
        values.append(value.item())
    _assert_equal_up_to_constant(np.asarray(values), np.asarray(expected))
    for site, gradient in expected_gradient.items():
        actual = np.stack([g[site].numpy() for g in gradients])
        _assert_close(actual, np.asarray(gradient))


def _assert_equal_up_to_constant(actual: np.ndarray, expected: np.ndarray) -> None:
    # Rounding is relative to the terms that are summed: the bound scales with the larger of the two log-densities.
    scale = np.maximum(1.0, np.maximum(np.abs(expected), np.abs(expected[0])))
    np.testing.assert_array_less(np.abs((actual - actual[0]) - (expected - expected[0])) / scale, 1e-10)


def _assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    scale = np.maximum(1.0, np.max(np.abs(expected), axis=tuple(range(1, expected.ndim)), keepdims=True))
    np.testing.assert_array_less(np.abs(actual - expected) / scale, 1e-10)
