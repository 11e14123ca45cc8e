"""Labels of exchangeable components that agree from draw to draw.

A posterior of a mixture has one mode for each order of its components; a chain or a cloud that visits several of them
has averages that mean nothing until every draw uses the same order.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import check_floats
from ._assignment import assignment


class Relabelled(eqx.Module):
    """Draws whose components have been put in a common order.

    Attributes:
        draws: shape (n, k, d).
        permutations: component of the original draw at each place, shape (n, k): for other arrays of the same draws
            ``jnp.take_along_axis(other, permutations, axis=1)``.
        reference: means of the components over the draws, shape (k, d); the given reference where there was one.
        cost: mean over draws of the squared distances to ``reference``, coordinates in units of ``scale``.
        scale: what coordinates were divided by, shape (d,).
        converged: whether the last round changed no order.
    """

    draws: Float[Array, "n k d"]
    permutations: Int[Array, "n k"]
    reference: Float[Array, "k d"]
    cost: Float[Array, ""]
    scale: Float[Array, " d"]
    converged: Array


def relabel(draws: Any, *, reference: Any = None, max_rounds: int = 50) -> Relabelled:
    """Permute the components of every draw to agree with a reference, by exact assignment.

    Without a reference, components are in turn assigned to the means of the last round and averaged anew, from the
    order of the first draw: neither half can raise the summed squared distance, so that the rounds end, at a local
    optimum (that of k-means whose clusters take one component of each draw). Components that the data do not tell apart
    stay mixed, whatever the order.

    Args:
        draws: what describes each component, floating point, shape (n, k, d): locations, with weights and scales as
            further coordinates if they help. Coordinates are divided by their standard deviation over all draws and
            components.
        reference: shape (k, d), such as the components of a mode; None for an iterated one.
        max_rounds: most rounds without a reference.

    Returns:
        A `Relabelled`.

    Raises:
        ValueError: for draws or a reference that do not fit or are not finite.

    Cost: O(n k^2 (k + d)) a round. Works inside compiled code; not differentiable in reverse.

    Reference: Stephens, Dealing with label switching in mixture models, 2000, section 4 (there with another loss).

    Example:
        >>> import jax.numpy as jnp
        >>> found = relabel(jnp.array([[[0.0], [5.0]], [[5.1], [0.1]]]))
        >>> found.permutations.tolist()
        [[0, 1], [1, 0]]
    """
    draws = check_floats("draws", draws, "n, k, d")
    if not isinstance(max_rounds, int) or isinstance(max_rounds, bool) or max_rounds < 1:
        raise ValueError(f"max_rounds={max_rounds!r}: expected a whole number of at least one.")
    if reference is None:
        return _relabel(draws, draws[0], max_rounds, fixed=False)
    reference = check_floats("reference", reference, "k, d").astype(draws.dtype)
    if reference.shape != draws.shape[1:]:
        raise ValueError(
            f"reference has shape {reference.shape} and draws {draws.shape}: expected a reference of shape "
            f"{draws.shape[1:]}, one row per component."
        )
    return _relabel(draws, reference, 1, fixed=True)


@eqx.filter_jit
def _relabel(draws: Array, start: Array, max_rounds: int, *, fixed: bool) -> Relabelled:
    deviation = jnp.std(draws, axis=(0, 1))
    scale = jnp.where(deviation > 0, deviation, 1.0)
    scaled = draws / scale[None, None, :]

    def assign(reference: Array) -> Array:
        def one(draw: Array) -> Array:
            # Differences, not norms: components of a draw may be close.
            return assignment(jnp.sum((reference[:, None, :] - draw[None, :, :]) ** 2, axis=2)).columns

        return jax.vmap(one)(scaled)

    def ordered(order: Array) -> Array:
        return jnp.take_along_axis(scaled, order[:, :, None], axis=1)

    def body(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        order, reference, rounds, _ = state
        new = assign(reference)
        means = reference if fixed else jnp.mean(ordered(new), axis=0)
        return new, means, rounds + 1, jnp.any(new != order)

    first = assign(start / scale[None, :])
    means = start / scale[None, :] if fixed else jnp.mean(ordered(first), axis=0)
    begin = first, means, jnp.ones((), jnp.int32), jnp.ones((), bool)
    unfinished = lambda state: state[3] & (state[2] < max_rounds)  # noqa: E731
    order, reference, _, changed = jax.lax.while_loop(unfinished, body, begin)
    cost = jnp.mean(jnp.sum((ordered(order) - reference[None]) ** 2, axis=(1, 2)))
    found = jnp.take_along_axis(draws, order[:, :, None], axis=1)
    return Relabelled(found, order, reference * scale[None, :], cost, scale, jnp.asarray(fixed) | ~changed)
