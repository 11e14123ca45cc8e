"""Entropic barycenters of histograms on a common support, and of clouds by moving points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._checks import as_array, check_count, check_flag, check_positive
from ._arguments import make_geometry, make_points, make_weights
from ._geometry import AbstractGeometry
from ._problem import log_weights
from ._solve import solve

_COARSEST = 0.2
"""First regularisation, as a share of the scale of the costs."""
_WARM_SWEEPS = 5
"""Sweeps on each halving of it."""


class Barycenter(eqx.Module):
    """A histogram between histograms.

    Attributes:
        weights: the barycenter, shape (n,), of sum one.
        error: largest summed absolute deviation of what the plans bring to the support from the barycenter, and of what
            the debiasing plan does.
        tolerance: what it was to reach.
        num_sweeps: sweeps over all histograms.
    """

    weights: Float[Array, " n"]
    error: Float[Array, ""]
    tolerance: Float[Array, ""]
    num_sweeps: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the error is at most the tolerance."""
        return self.error <= self.tolerance


def barycenter(
    histograms: Any,
    points: Any,
    *,
    weights: Any = None,
    cost: Any = "sqeuclidean",
    epsilon: Any,
    debiased: bool = True,
    tolerance: Any = None,
    max_sweeps: int = 5000,
) -> Barycenter:
    """Find ``argmin_p sum_k w_k S(p, h_k)`` over histograms p on the same support, by alternating Bregman projections.

    S is the Sinkhorn divergence. Without debiasing it is ``<C, P> + epsilon sum P log P`` at the best plan, whose
    barycenters are blurred: those of equal Gaussians of variance v have variance ``v + epsilon / 2`` for the squared
    distance, where the debiased one has v.

    Cost: two passes over all pairs a sweep and histogram and one for debiasing; for a `Grid` axis by axis. The number
    of sweeps grows as epsilon falls; epsilon is halved towards its value on the way. Not differentiable in reverse.

    Accuracy: where the debiased barycenter has bins that are empty, or is cut off by the support, the objective is
    flat. Weights are then known to about the square root of the error only, which falls as the square of the sweeps.

    Args:
        histograms: shape (k, n), each of sum one. Zeros are allowed.
        points: support, (n, d), or a `Grid` with its nodes in row-major order.
        weights: shape (k,), of sum one; None for equal ones.
        cost: as for `solve`, symmetric; or a matrix (n, n) with ``points=None``.
        epsilon: regularisation, in units of the cost.
        debiased: whether to correct for the regularisation.
        tolerance: largest error. By default 1e-6 in float64 and 1e-4 in float32.
        max_sweeps: most sweeps at the final epsilon.

    Raises:
        ValueError: for histograms that are negative, do not sum to one or do not fit the support.

    Reference: Janati, Cuturi and Gramfort, Debiased Sinkhorn barycenters, arXiv:2006.02575, algorithm 1; without
    debiasing Benamou et al., arXiv:1412.5154, section 3.2.
    """
    geometry = make_geometry(points, points, cost, ("points", "points"))
    (n, other), dtype = geometry.shape, geometry.dtype
    if n != other:
        raise ValueError(
            f"cost has shape {geometry.shape}: expected a square matrix, costs between points of one support."
        )
    histograms = as_array("histograms", histograms, f"an array of real numbers of shape (k, {n})")
    shape = histograms.shape
    if len(shape) != 2 or shape[1] != n or shape[0] == 0:
        raise ValueError(f"histograms has shape {shape}: expected (k, {n}), one row per histogram on the support.")
    rows = jnp.stack(
        [make_weights(f"histograms[{k}]", row, n, dtype, any_mass=False) for k, row in enumerate(histograms)]
    )
    shares = make_weights("weights", weights, shape[0], dtype, any_mass=False)
    default = 1e-6 if dtype == jnp.float64 else 1e-4
    wanted = check_positive("tolerance", default if tolerance is None else tolerance, dtype, "shares of the mass")
    level, corrected = check_positive("epsilon", epsilon, dtype), check_flag("debiased", debiased)
    return _barycenter(geometry, rows, shares, level, wanted, corrected, check_count("max_sweeps", max_sweeps, 1))


class _Scalings(NamedTuple):
    log_b: Float[Array, "k n"]
    """Logarithms of the scalings on the side of the barycenter."""
    log_d: Float[Array, " n"]
    """That of the debiasing kernel."""
    log_mean: Float[Array, " n"]
    error: Float[Array, ""]
    num_sweeps: Int[Array, ""]


@eqx.filter_jit
def _barycenter(
    geometry: AbstractGeometry,
    histograms: Float[Array, "k n"],
    shares: Float[Array, " k"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    debiased: bool,
    max_sweeps: int,
) -> Barycenter:
    k, n = histograms.shape
    log_h = jax.vmap(log_weights)(histograms)
    nothing = jnp.zeros((n,), geometry.dtype)

    def spread_out(log: Array, level: Array, towards: AbstractGeometry) -> Array:
        return towards.log_marginal(nothing, nothing, log, level)

    def sweep(state: _Scalings, level: Array) -> _Scalings:
        def brought(log_h: Array, log_b: Array) -> Array:
            log_a = log_h - spread_out(log_b, level, geometry)
            return spread_out(log_a, level, geometry.transposed)

        log_q = jax.vmap(brought)(log_h, state.log_b)
        log_mean = state.log_d + shares @ log_q
        mean = jnp.exp(log_mean)
        error = jnp.max(jnp.sum(jnp.abs(jnp.exp(state.log_b + log_q) - mean[None, :]), axis=1))
        log_d = state.log_d
        if debiased:
            log_k = spread_out(log_d, level, geometry)
            error = jnp.maximum(error, jnp.sum(jnp.abs(jnp.exp(log_d + log_k) - mean)))
            log_d = 0.5 * (log_d + log_mean - log_k)
        return _Scalings(log_mean[None, :] - log_q, log_d, log_mean, error, state.num_sweeps + 1)

    def warm(state: tuple[Array, _Scalings]) -> tuple[Array, _Scalings]:
        level, scalings = state
        scalings = jax.lax.fori_loop(0, _WARM_SWEEPS, lambda _, s: sweep(s, level), scalings)
        below = jnp.maximum(0.5 * level, epsilon)
        # Potentials, epsilon times these logarithms, hardly change with epsilon.
        ratio = level / below
        return below, scalings._replace(log_b=ratio * scalings.log_b, log_d=ratio * scalings.log_d)

    uniform = jnp.full((n,), 1.0 / n, geometry.dtype)
    first = jnp.maximum(_COARSEST * geometry.spread(uniform, uniform), epsilon)
    infinite = jnp.full((), jnp.inf, geometry.dtype)
    start = _Scalings(jnp.zeros((k, n), geometry.dtype), nothing, nothing, infinite, jnp.zeros((), jnp.int32))
    _, scalings = jax.lax.while_loop(lambda state: state[0] > epsilon, warm, (first, start))
    before = scalings.num_sweeps

    def unfinished(state: _Scalings) -> Array:
        # An error that is no number ends the sweeps.
        return (state.error > tolerance) & (state.num_sweeps - before < max_sweeps)

    # Known at another epsilon: one sweep before any comparison.
    end = jax.lax.while_loop(unfinished, lambda state: sweep(state, epsilon), sweep(scalings, epsilon))
    mean = jnp.exp(end.log_mean)
    return Barycenter(mean / jnp.sum(mean), end.error, tolerance, end.num_sweeps)


class FreeBarycenter(eqx.Module):
    """A cloud between clouds.

    Attributes:
        points: the barycenter's, shape (n, d).
        weights: theirs, as given.
        movement: root mean square distance that the points moved in the last step.
        tolerance: what it was to reach, in units of the points.
        num_steps: steps made.
        plans_converged: whether all transport problems of the last step were solved to their tolerance.
    """

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]
    movement: Float[Array, ""]
    tolerance: Float[Array, ""]
    num_steps: int
    plans_converged: bool

    @property
    def converged(self) -> bool:
        """Whether the points stand still and the plans say so."""
        return bool(self.movement <= self.tolerance) and self.plans_converged


def free_barycenter(
    clouds: Sequence[Any],
    initial: Any,
    *,
    weights: Any = None,
    cloud_weights: Sequence[Any] | None = None,
    a: Any = None,
    epsilon: Any,
    debiased: bool = True,
    tolerance: Any = None,
    max_steps: int = 200,
) -> FreeBarycenter:
    """Move points to where ``sum_k w_k S(points, cloud_k)`` is stationary, for the squared distance.

    Each step sends every point to the weighted mean of its barycentric images in the clouds and, debiased, away from
    its image in the cloud itself: ``x_i + sum_k w_k T_k(x_i) - T(x_i)``. Without debiasing the points are drawn
    together: for equal Gaussians of variance v the result has variance ``v - epsilon / 2``.

    Cost: a transport problem for each cloud and step, started from the last one's potentials, and one more debiased.
    Not for compiled code.

    Accuracy: the mean is right from the first step on. Where points lie closer than about ``sqrt(epsilon)`` transport
    does not tell them apart, and they settle slowly: movement says little about how they are arranged on that scale.

    Args:
        clouds: arrays (m_k, d).
        initial: points to start from, (n, d). The result depends on them: the problem is not convex.
        weights: of the clouds, shape (k,), of sum one; None for equal ones.
        cloud_weights: for each cloud weights (m_k,) or None.
        a: weights (n,) of the barycenter's points.
        epsilon: regularisation, in units of the squared distance.
        debiased: whether to take the divergence for S or the entropic cost.
        tolerance: of the root mean square movement. By default 1e-4 times the root mean square distance between initial
            points and their mean.
        max_steps: most steps.

    Raises:
        ValueError: for no clouds, clouds of other dimensions, or what `solve` refuses.

    Reference: Cuturi and Doucet, Fast computation of Wasserstein barycenters, arXiv:1310.4375, section 4.2; the
    debiasing term is the gradient of the divergence of Feydy et al., arXiv:1810.08278.
    """
    clouds, each, points = _checked_clouds(clouds, cloud_weights, initial)
    dtype, most = points.dtype, check_count("max_steps", max_steps, 1)
    check_flag("debiased", debiased)
    shares = make_weights("weights", weights, len(clouds), dtype, any_mass=False)
    own = make_weights("a", a, points.shape[0], dtype, any_mass=False)
    if tolerance is None:
        size = jnp.sqrt(jnp.sum(own[:, None] * (points - (own @ points)[None, :]) ** 2))
        tolerance = 1e-4 * jnp.where(size > 0, size, 1.0)
    wanted = check_positive("tolerance", tolerance, dtype, "units of the points")
    potentials: list[Any] = [None] * (len(clouds) + 1)
    movement, well, steps = jnp.full((), jnp.inf, dtype), True, 0
    while steps < most and bool(movement > wanted):
        well, step = True, jnp.zeros_like(points)
        targets = [*zip(clouds, each, shares, strict=True)]
        if debiased:
            targets.append((points, own, jnp.asarray(-1.0, dtype)))
        else:
            step = -points
        for k, (cloud, weight, share) in enumerate(targets):
            found = solve(points, cloud, a=own, b=weight, epsilon=epsilon, initial=potentials[k])
            potentials[k] = found.potentials[1]
            well = well and bool(found.converged)
            step = step + share * found.conditional_mean(cloud)
        points = points + step
        movement = jnp.sqrt(jnp.sum(own[:, None] * step**2))
        steps += 1
    return FreeBarycenter(points, own, movement, wanted, steps, well)


def _checked_clouds(clouds: Any, cloud_weights: Any, initial: Any) -> tuple[list[Array], list[Any], Array]:
    """Clouds, weights for each or None, and initial points, all of one dimension and dtype."""
    if isinstance(clouds, str | None) or not hasattr(clouds, "__iter__"):
        raise ValueError(f"clouds is {type(clouds).__name__}: expected a sequence of arrays (m_k, d).")
    found = [make_points(f"clouds[{k}]", cloud) for k, cloud in enumerate(clouds)]
    if not found:
        raise ValueError("clouds is empty: expected at least one array (m_k, d).")
    points = make_points("initial", initial)
    for k, cloud in enumerate(found):
        if cloud.shape[1] != points.shape[1]:
            raise ValueError(
                f"clouds[{k}] has shape {cloud.shape} and initial {points.shape}: expected points of one dimension."
            )
    each = [None] * len(found) if cloud_weights is None else list(cloud_weights)
    if len(each) != len(found):
        raise ValueError(f"cloud_weights has {len(each)} entries for {len(found)} clouds: expected one for each.")
    dtype = jnp.result_type(points, *found)
    weights = [
        None if w is None else make_weights(f"cloud_weights[{k}]", w, cloud.shape[0], dtype, any_mass=False)
        for k, (w, cloud) in enumerate(zip(each, found, strict=True))
    ]
    return [cloud.astype(dtype) for cloud in found], weights, points.astype(dtype)
