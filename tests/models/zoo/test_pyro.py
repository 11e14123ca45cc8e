"""The Pyro programs of the zoo have the density of their NumPyro twins, by torch itself and once compiled. About 60 s.

The Stein identity is one family of 2 x 54 = 108 tests over the eight programs with published draws; its false-alarm
rate is 1 %.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

from pushforward.models import Target, zoo

from . import cases
from .stein import stein_check

torch = pytest.importorskip("torch")
poutine = pytest.importorskip("pyro.poutine")

NUM_POINTS = 20
TOLERANCE = 1e-10
PUBLISHED = tuple(name for name in zoo.pyro_names() if zoo.load(name).draws_kind == "published")
NUM_TESTS = 2 * sum(zoo.load(name).dim for name in PUBLISHED)


def test_eight_programs_have_published_draws() -> None:
    assert len(PUBLISHED) == 8
    assert NUM_TESTS == 108


FAST = ("eight_schools_noncentered", "german_credit", "kidiq")


@pytest.mark.parametrize("name", fast(zoo.pyro_names(), *FAST))
def test_log_density_and_gradient_equal_the_numpyro_program(name: str) -> None:
    """At 20 points, ten of them posterior draws: against torch directly, and against the compiled program."""
    target, compiled = cases.target(name), cases.pyro_target(name)
    positions = _positions(name, target)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(target.logdensity)))(positions)
    for other, (other_value, other_gradient) in {
        "torch": _torch_value_and_grad(name, target, positions),
        "compiled": jax.jit(jax.vmap(jax.value_and_grad(compiled.logdensity)))(positions),
    }.items():
        # Rounding is relative to the terms that are summed: the bound scales with the larger of the log-densities.
        size = np.maximum(1.0, np.maximum(np.abs(value), abs(value[0])))
        difference = (np.asarray(other_value) - other_value[0]) - (np.asarray(value) - value[0])
        assert np.max(np.abs(difference) / size) < TOLERANCE, f"log density: {other}"
        for site, expected in gradient.items():
            flat, other_flat = (np.asarray(g).reshape(NUM_POINTS, -1) for g in (expected, other_gradient[site]))
            size = np.maximum(1.0, np.max(np.abs(flat), axis=1, keepdims=True))
            assert np.max(np.abs(other_flat - flat) / size) < TOLERANCE, f"gradient of '{site}': {other}"


def _positions(name: str, target: Target) -> dict[str, jax.Array]:
    near = {site: jnp.asarray(value[: NUM_POINTS // 2]) for site, value in cases.latent_draws(name).items()}
    near = jax.jit(jax.vmap(lambda values: target.program.invert(values)[0]))(near)
    far = target.initial(jax.random.key(3), NUM_POINTS // 2)
    return {site: jnp.concatenate([near[site], far[site]]) for site in near}


def _torch_value_and_grad(
    name: str, target: Target, positions: dict[str, jax.Array]
) -> tuple[np.ndarray, dict[str, jax.Array]]:
    """Value and gradient in the user's space by torch, pulled back to unconstrained space."""
    model, args, kwargs = zoo.load(name).pyro()

    def change_of_variables(position: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        evaluation = target.program.evaluate(position)
        return evaluation.values, sum(evaluation.log_dets.values(), jnp.zeros(()))

    def pull_back(position: dict[str, jax.Array], cotangent: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.vjp(change_of_variables, position)[1]((cotangent, jnp.ones(())))[0]

    constrained, log_det = jax.jit(jax.vmap(change_of_variables))(positions)
    values, gradients = [], []
    for i in range(NUM_POINTS):
        leaves = {site: torch.tensor(np.asarray(value[i]), requires_grad=True) for site, value in constrained.items()}
        value = _torch_log_joint(model, args, kwargs, leaves)
        gradients.append([g.numpy() for g in torch.autograd.grad(value, list(leaves.values()))])
        values.append(value.item())
    cotangents = {site: jnp.stack(g) for site, g in zip(constrained, zip(*gradients, strict=True), strict=True)}
    return np.asarray(values) + np.asarray(log_det), jax.jit(jax.vmap(pull_back))(positions, cotangents)


def _torch_log_joint(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], values: dict[str, Any]) -> Any:
    return poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs).log_prob_sum()


@pytest.mark.parametrize("name", zoo.pyro_names())
def test_compiled_values_and_labels(name: str) -> None:
    entry, target, compiled = zoo.load(name), cases.target(name), cases.pyro_target(name)
    assert compiled.dim == entry.dim
    for site in entry.reference:
        assert compiled.dims[site] == target.dims[site]
    values = {site: value[3] for site, value in cases.latent_draws(name).items()}
    constrained = jax.jit(compiled.constrain)(compiled.unconstrain(values))
    for site, value in entry.draws().items():
        np.testing.assert_allclose(constrained[site], value[3], rtol=2e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_compiled_score_at_published_draws(name: str) -> None:
    target, draws = cases.pyro_target(name), cases.latent_draws(name)
    check = stein_check(target, draws, false_alarm_rate=0.01, num_tests=NUM_TESTS)
    assert check.passes, f"z-scores {np.round(check.z, 1)} beyond {check.threshold:.2f}"
