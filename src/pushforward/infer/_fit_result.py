"""From the last state of a fit to its posterior, or to an error that says what went wrong."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from ..estimators import Parameters
from ..models import Target
from ..models._layout import Layout
from ..models._types import Key
from ..models.guides import AbstractGuide, AbstractLocationScale, Whitened
from ..samplers import Variational
from ..samplers._variational import VariationalState
from ..samplers._warm_start import evaluation_block
from ..samplers.engine import NonFiniteError, RunResult, step_keys
from ._build import build_posterior
from ._execution import Execution
from ._posterior import Posterior
from ._work import numbers_computed

_SELECTION_DRAWS = 1000
_SELECTION_NUMBERS = 2**31
"""Numbers that may be computed to judge one candidate: some seconds of one core."""
_WEIGHT_DRAWS = 2**14
_WEIGHT_NUMBERS = 2**33
"""Numbers that may be computed for k-hat."""
_SOBOL_DIMENSIONS = 21_201
"""Dimensions for which direction numbers are published (Joe and Kuo, 2008)."""


class _Judged(NamedTuple):
    """One candidate's ELBO and unconstrained moments."""

    score: Float[Array, ""]
    """Minus the loss of the objective that was optimised, by which candidates are compared."""
    elbo: Float[Array, ""]
    error: Float[Array, ""]
    mean: Float[Array, " dim"]
    sd: Float[Array, " dim"]


def fitted_posterior(
    kernel: Variational,
    result: RunResult,
    key: Key,
    num_draws: int,
    guide_name: str,
    how: Execution,
) -> Posterior:
    """Choose the best parameters of every restart and the best restart, draw from it, and judge it."""
    state: VariationalState = result.state
    count = state.first_loss.shape[0]
    key_select, key_draws, key_weights = jax.random.split(key, 3)
    judged, chosen = _choose(kernel, state, key_select)
    scores = np.where(np.asarray(state.failed_step) >= 0, -np.inf, np.asarray(judged.score))
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    best = int(np.argmax(scores)) if np.isfinite(scores).any() else 0
    target, guide = kernel.joined(_take(chosen, best), _take(state.frozen, best))
    target = target.with_params(target.program.params) if target.program.params else target
    guide = guide.unwhiten() if isinstance(guide, Whitened) else guide
    guide = guide.finish(target)
    positions, log_p, log_q = draw_guide(target, guide, key_draws, num_draws if guide.has_density else 1)
    layout = Layout.of(target.template)
    weights = {}
    num_weights = max(num_draws, _affordable(_WEIGHT_DRAWS, _WEIGHT_NUMBERS, guide_log_weight, target, guide))
    if guide.has_density and num_weights > num_draws:
        # k-hat is about tails: it gets more draws than are kept.
        _, weighted_log_p, weighted_log_q = draw_guide(target, guide, key_weights, num_weights, keep=False)
        weights = {"log_weights": (("weight_draw",), np.asarray(weighted_log_p - weighted_log_q))}
    failed = np.asarray(state.failed_step)
    optimization = {
        "loss": (("step", "restart"), np.asarray(result.records)),
        "restart_elbo": (("restart",), np.asarray(judged.elbo)),
        "restart_elbo_se": (("restart",), np.asarray(judged.error)),
        "restart_mean": (("restart", "parameter"), np.asarray(judged.mean)),
        "restart_sd": (("restart", "parameter"), np.asarray(judged.sd)),
        "parameter": (("parameter",), np.asarray(layout.coordinate_names(), dtype=str)),
        "converged": (("restart",), np.asarray(kernel.converged(state))),
        "restart_steps": (("restart",), np.asarray(state.ledger.steps)),
        "failed_step": (("restart",), failed),
        "best_restart": ((), np.asarray(best)),
        "first_loss": (("restart",), np.asarray(state.first_loss)),
        **weights,
    }
    return build_posterior(
        target,
        jax.tree.map(lambda x: np.asarray(x)[None], positions),
        kind="variational" if guide.has_density else "point",
        algorithm=guide_name,
        sample_stats={"lp": np.asarray(log_p)[None], "log_q": np.asarray(log_q)[None]},
        optimization=optimization,
        attrs={"num_steps": int(result.step), "num_restarts": count},
        guide=guide,
        state=state,
        provenance=how.finished(),
    )


def guide_log_weight(target: Target, guide: AbstractGuide, key: Key) -> tuple[Any, Array]:
    """One draw of the guide with its log-weight log p - log q."""
    position, log_q = guide.sample_and_log_prob(key)
    return position, target.logdensity(position, jacobian=guide.jacobian) - log_q


def _affordable(wanted: int, numbers: int, function: Any, target: Target, guide: AbstractGuide) -> int:
    """Draws that are wanted, fewer where one costs so much that the check would take longer than the fit."""
    return min(wanted, numbers // numbers_computed(function, target, guide, jax.random.key(0)))


def draw_guide(
    target: Target, guide: AbstractGuide, key: Key, num_draws: int, *, keep: bool = True
) -> tuple[Any, Array, Array]:
    """Draws of a guide with log p and log q of each, evaluated in blocks; ``keep=False`` drops the positions.

    Location-scale guides push a scrambled Sobol sequence, so that means and standard deviations of the draws have far
    less Monte Carlo error than independent draws (whose standard errors, as reported, are then upper bounds). Other
    guides are drawn from independently, draw i with ``fold_in(key, i)``.
    """
    if isinstance(guide, AbstractLocationScale) and 0 < guide.noise_dim <= _SOBOL_DIMENSIONS:
        return _push_many(target, guide, normal_sobol(key, num_draws, guide.noise_dim), keep)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_draws))
    return _draw_many(target, guide, keys, keep)


def normal_sobol(key: Key, num_draws: int, dim: int) -> Float[Array, "draw dim"]:
    """A scrambled Sobol sequence pushed to standard normals."""
    from scipy.stats import qmc  # half a second of import, needed only here

    seed = np.random.SeedSequence([int(x) for x in np.asarray(jax.random.key_data(key)).ravel()])
    engine = qmc.Sobol(dim, scramble=True, rng=np.random.default_rng(seed))
    uniform = engine.random_base2(max(1, int(np.ceil(np.log2(num_draws)))))[:num_draws]
    eps = np.finfo(float).eps
    return jnp.asarray(special.ndtri(np.clip(uniform, eps, 1 - eps)), jnp.result_type(float))


@functools.partial(jax.jit, static_argnames="keep")
def _push_many(target: Target, guide: AbstractLocationScale, noise: Array, keep: bool) -> tuple[Any, Array, Array]:  # noqa: FBT001
    def one(eps: Array) -> tuple[Any, Array, Array]:
        position, log_q = guide.from_noise(eps.astype(guide.layout.dtype))
        return position if keep else None, target.logdensity(position), log_q

    return jax.lax.map(one, noise, batch_size=min(len(noise), evaluation_block(target)))


@functools.partial(jax.jit, static_argnames="keep")
def _draw_many(target: Target, guide: AbstractGuide, keys: Key, keep: bool) -> tuple[Any, Array, Array]:  # noqa: FBT001
    def one(key: Key) -> tuple[Any, Array, Array]:
        position, log_q = guide.sample_and_log_prob(key)
        return position if keep else None, target.logdensity(position), log_q

    return jax.lax.map(one, keys, batch_size=min(len(keys), evaluation_block(target)))


@jax.jit
def _choose(kernel: Variational, state: VariationalState, key: Key) -> tuple[_Judged, Parameters]:
    """Per restart, the best of: averaged iterates, best window, last iterate. Judged on common draws and all data."""

    def one(state: VariationalState) -> tuple[_Judged, Parameters]:
        average = jax.tree.map(
            lambda a, p: jnp.where(state.ledger.averaged > 0, a, p), state.ledger.average, state.parameters
        )
        candidates = jax.tree.map(lambda *x: jnp.stack(x), average, state.ledger.best, state.parameters)
        judged = jax.lax.map(lambda p: _judge(kernel, p, state.frozen, key), candidates)
        pick = jnp.argmax(jnp.where(jnp.isfinite(judged.score), judged.score, -jnp.inf))
        return jax.tree.map(lambda x: x[pick], (judged, candidates))

    return jax.lax.map(one, state._replace(step=jnp.broadcast_to(state.step, state.first_loss.shape)))


def _judge(kernel: Variational, parameters: Parameters, frozen: Any, key: Key) -> _Judged:
    target, guide = kernel.joined(parameters, frozen)
    layout = Layout.of(target.template)

    def one(key: Key) -> tuple[Array, Array]:
        position, log_weight = guide_log_weight(target, guide, key)
        return layout.ravel(position), log_weight

    num_draws = max(128, _affordable(_SELECTION_DRAWS, _SELECTION_NUMBERS, guide_log_weight, target, guide))
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_draws))
    draws, weights = jax.lax.map(one, keys, batch_size=min(250, evaluation_block(target)))
    sd = jnp.std(draws, 0)
    if isinstance(guide, Whitened) and guide.point:
        # A point mass has no spread; restarts are compared in units of the local curvature.
        sd = guide.scale if guide.scale.ndim == 1 else jnp.sqrt(jnp.sum(guide.scale**2, -1))
    # The objective sees as many log-weights at a time as it did while it was optimised.
    count = min(kernel.num_particles, num_draws)
    groups = weights[: len(weights) // count * count].reshape(-1, count)
    score = -jnp.mean(jax.vmap(kernel.objective.guide_loss)(groups))
    return _Judged(score, jnp.mean(weights), jnp.std(weights) / num_draws**0.5, jnp.mean(draws, 0), sd)


def explain_failure(kernel: Variational, error: NonFiniteError, key: Key) -> NonFiniteError:
    """Replay the first failing step and say at which site it happened."""
    _, info_state = kernel, error.state
    failed = np.asarray(info_state.failed_step)
    bad_steps = failed[failed >= 0]
    step = int(bad_steps.min()) if bad_steps.size else error.step
    restart = int(np.argmax(failed == step)) if bad_steps.size else 0
    kernel_key, batch_key = step_keys(key, step)
    target, guide = kernel.joined(_take(info_state.parameters, restart), _take(info_state.frozen, restart))
    batch = kernel.minibatch(batch_key)
    particle_key = jax.random.fold_in(kernel_key, restart)
    sites, position = _failing_sites(target, guide, particle_key, kernel.num_particles, batch)
    best = info_state.ledger.best_loss[restart]
    kept = (
        f"the best parameters so far have loss {float(best):.4g}"
        if bool(jnp.isfinite(best))
        else "no window of steps was completed before"
    )
    values = {
        k: np.asarray(v).ravel()[:3].round(4).tolist() for k, v in jax.jit(Target.constrain)(target, position).items()
    }
    message = (
        f"The fit stopped at step {step} (restart {restart}): {sites} Last good state: {kept} (error.state). Values at "
        f"the draw: {values}. Replay key: {jax.random.key_data(kernel_key).tolist()}. Remedy: a smaller learning rate "
        "(or the default optimizer), a proper prior and a support that keep the site finite, or cleaned data."
    )
    return NonFiniteError(message, step=step, key=kernel_key, state=error.state, records=error.records)


def _failing_sites(target: Target, guide: AbstractGuide, key: Key, num_particles: int, batch: Any) -> tuple[str, Any]:
    worst, worst_position, worst_value = "", None, np.inf
    for k in range(num_particles):
        position, _ = guide.sample_and_log_prob(jax.random.fold_in(key, k), batch)
        bad = target.nonfinite_sites(position, batch)
        if bad:
            listed = ", ".join(f"site '{name}' has log-probability {value}" for name, value in bad.items())
            return f"{listed}.", position
        values = {name: float(v) for name, v in jax.jit(Target.site_log_probs)(target, position, batch).items()}
        name = min(values, key=lambda n: values[n])
        if values[name] < worst_value:
            worst, worst_position, worst_value = name, position, values[name]
    return (
        f"the loss exploded or its gradient is not finite; the lowest log-probability is {worst_value:.4g} at site "
        f"'{worst}'.",
        worst_position,
    )


def _take(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)
