"""Fields of an interpolant from networks that predict some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractFields, away_from_zero
from ._gamma import NoNoise
from ._path import AbstractPath
from ._preconditioning import Preconditioner
from ._times import inside

Quantity: TypeAlias = Literal["velocity", "end_velocity", "score", "noise", "data"]
"""What a network can predict; "data" is the expectation of the last end."""
Network: TypeAlias = Callable[[Array, Array, PyTree], Array]
"""``network(t, x, condition)`` of one time and one point."""
_DRIFTS, _SCORES = ("velocity", "end_velocity"), ("score", "noise")


class LearnedFields(AbstractFields):
    """Fields computed from predictions of expectations given x_t.

    Expectations of the ends, the score and the position are tied by linear equations whose coefficients are those of
    the path. Whatever a network predicts, velocity and score follow by solving them. One prediction is enough on paths
    with one end, two are needed with two ends; a velocity alone is enough for `flow` and `log_prob`. The coefficients
    of conversions that are singular at an end of time are those of a nearby time inside (1.5e-8 from the end in double,
    3e-4 in single precision).

    What to predict: velocities are bounded at both ends of the common paths, and so is what follows from them, except
    the score where it is infinite itself. A velocity that follows from predicted noise is a division by the coefficient
    of the data, and one that follows from predicted data a division by gamma: errors are amplified at that end.

    Args:
        path: the path.
        predicts: names of what the networks predict, in order.
        networks: one per name, each with outputs of the shape of a point; or a single one with outputs of shape
            (len(predicts), *event), which is cheaper.
        preconditioner: scales what networks see and predict; None for none.

    Raises:
        ValueError: for unknown names, for a set from which nothing follows on this path, or for a number of networks
            that does not fit.
    """

    path: AbstractPath
    networks: tuple[Any, ...]
    preconditioner: Preconditioner | None
    predicts: tuple[Quantity, ...] = eqx.field(static=True)

    def __init__(
        self,
        path: AbstractPath,
        predicts: Quantity | Sequence[Quantity],
        *networks: Network,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self.path, self.networks, self.preconditioner = path, networks, preconditioner
        self.predicts = check_predicts(path, predicts)
        if len(networks) not in (1, len(self.predicts)):
            raise ValueError(
                f"{len(networks)} networks for the {len(self.predicts)} predictions {self.predicts}: expected one for "
                "each, or a single one with outputs of shape (predictions, *event)."
            )

    def predictions(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, "quantity *event"]:
        """What the networks predict at one time and point, in the order of ``predicts``."""
        seen = x if self.preconditioner is None else self.preconditioner.standardise(self.path, t, x)
        outputs = [jnp.asarray(network(t, seen, condition)) for network in self.networks]
        shape = (len(self.predicts) // len(outputs), *x.shape)
        for output in outputs:
            if output.shape != shape and (shape[0] > 1 or output.shape != x.shape):
                raise ValueError(
                    f"A network returned an array of shape {output.shape} for a point of shape {x.shape}: expected "
                    f"{x.shape if shape[0] == 1 else shape}, as it predicts {list(self.predicts)}."
                )
        raw = jnp.concatenate([jnp.reshape(output, shape) for output in outputs]).astype(x.dtype)
        if self.preconditioner is None:
            return raw
        return self.preconditioner.restore(self.path, self.predicts, t, x, raw)

    def velocity(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """See `AbstractFields.velocity`."""
        known = self._known(t, x, condition)
        if "velocity" in known:
            return known["velocity"]
        if "end_velocity" in known:
            return known["end_velocity"] - self.path.spreading(t) * self.score(t, x, condition)
        return self._solved("velocity", t, x, known)

    def score(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """See `AbstractFields.score`.

        Raises:
            ValueError: where only the velocity of a path with two ends is predicted, from which no score follows.
        """
        known = self._known(t, x, condition)
        if "score" in known:
            return known["score"]
        if "noise" in known:
            return -known["noise"] / self.path.gamma(inside(t))
        if len(known) < self.path.num_ends:
            raise ValueError(
                f"These fields predict {list(self.predicts)} of a path with two ends, from which no score follows: "
                "train with predicts=('velocity', 'noise') on a path with noise, or use `flow`, which needs no score."
            )
        return self._solved("score", t, x, known)

    def noise(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """See `AbstractFields.noise`."""
        known = self._known(t, x, condition)
        return known["noise"] if "noise" in known else -self.path.gamma(t) * self.score(t, x, condition)

    def end_velocity(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> Float[Array, " *event"]:
        """See `AbstractFields.end_velocity`."""
        known = self._known(t, x, condition)
        if "end_velocity" in known:
            return known["end_velocity"]
        velocity = self.velocity(t, x, condition)
        if isinstance(getattr(self.path, "noise", None), NoNoise):
            return velocity
        return velocity + self.path.spreading(t) * self.score(t, x, condition)

    def ends(
        self, t: Float[Array, ""], x: Float[Array, " *event"], condition: PyTree = None
    ) -> tuple[Float[Array, " *event"], ...]:
        """See `AbstractFields.ends`."""
        known = self._known(t, x, condition)
        if "data" not in known:
            return super().ends(t, x, condition)
        if self.path.num_ends == 1:
            return (known["data"],)
        clean = x + self.path.variance(t) * self.score(t, x, condition)
        weights = self.path.coefficients(inside(t))
        return (clean - weights[1] * known["data"]) / away_from_zero(weights[0]), known["data"]

    def _known(self, t: Array, x: Array, condition: PyTree) -> dict[str, Array]:
        return dict(zip(self.predicts, self.predictions(t, x, condition), strict=True))

    def _solved(self, wanted: Quantity, t: Array, x: Array, known: dict[str, Array]) -> Array:
        """A quantity as the combination of what is known that has its coefficients."""
        rows = equations(self.path, inside(t))
        matrix = jnp.stack([rows["position"], *(rows[name] for name in known)])
        weights = rows[wanted] @ inverse(matrix)
        return sum((weights[k] * value for k, value in enumerate([x, *known.values()])), jnp.zeros((), x.dtype))


def check_predicts(path: AbstractPath, predicts: Any) -> tuple[Quantity, ...]:
    """Names of predictions from which the fields of a path follow."""
    names = (predicts,) if not isinstance(predicts, list | tuple) else tuple(predicts)
    if not names or len(set(names)) != len(names) or any(name not in get_args(Quantity) for name in names):
        raise ValueError(f"predicts={predicts!r}: expected different names out of {list(get_args(Quantity))}.")
    drift, score = set(names) & set(_DRIFTS), set(names) & set(_SCORES)
    still = isinstance(getattr(path, "noise", None), NoNoise)
    fields = cast(tuple[Quantity, ...], names)
    if still and score:
        raise ValueError(
            f"predicts={predicts!r} on a path without noise: expected predicts='velocity', as there is no score."
        )
    if names == ("velocity",) and path.num_ends == 2:
        return fields
    if len(names) == 2 and drift and score:
        return fields
    enough = len(names) == path.num_ends
    if enough:
        with jax.ensure_compile_time_eval():
            volumes = np.asarray(_volumes(path, names))
        enough = bool((np.abs(volumes) > 1e-6).all() and ((volumes > 0).all() or (volumes < 0).all()))
    if not enough:
        remedy = "'noise'" if path.num_ends == 1 else "('velocity', 'noise')"
        raise ValueError(
            f"predicts={predicts!r}: velocity and score of {type(path).__name__} do not follow from that at all times. "
            f"Expected {path.num_ends} quantities that determine them, such as predicts={remedy}."
        )
    return fields


def default_predicts(path: AbstractPath) -> tuple[Quantity, ...]:
    """What networks predict unasked: velocities where they are enough, and the noise."""
    if path.num_ends == 2:
        return ("velocity",) if isinstance(getattr(path, "noise", None), NoNoise) else ("velocity", "noise")
    try:
        return check_predicts(path, "velocity")
    except ValueError:
        return ("noise",)


def equations(path: AbstractPath, t: Float[Array, ""]) -> dict[str, Float[Array, " unknown"]]:
    """Coefficients of each quantity, and of the position, in the expectations of the ends and the score."""
    weights, rates = path.coefficients(t), path.rates(t)
    zero, one = jnp.zeros_like(t)[None], jnp.ones_like(t)[None]
    return {
        "position": jnp.concatenate([weights, -path.variance(t)[None]]),
        "velocity": jnp.concatenate([rates, -path.spreading(t)[None]]),
        "end_velocity": jnp.concatenate([rates, zero]),
        "score": jnp.concatenate([jnp.zeros_like(weights), one]),
        "noise": jnp.concatenate([jnp.zeros_like(weights), -path.gamma(t)[None]]),
        "data": jnp.concatenate([jnp.zeros_like(weights[1:]), one, zero]),
    }


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a 2 x 2 or 3 x 3 matrix by its minors: no library call in the inner loop of a sampler."""
    return _minors(matrix) / determinant(matrix)


def determinant(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Determinant of a 2 x 2 or 3 x 3 matrix."""
    return matrix[0] @ _minors(matrix)[:, 0]


def _minors(matrix: Array) -> Array:
    if matrix.shape[0] == 2:
        (a, b), (c, d) = matrix
        return jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])])
    first, second, third = matrix
    return jnp.stack([jnp.cross(second, third), jnp.cross(third, first), jnp.cross(first, second)], axis=1)


@eqx.filter_jit
def _volumes(path: AbstractPath, names: tuple[str, ...]) -> Array:
    """Determinants of the equations of position and predictions, each scaled to norm one, at times inside."""

    def at(t: Array) -> Array:
        rows = equations(path, t)
        matrix = jnp.stack([rows["position"], *(rows[name] for name in names)])
        size = jnp.prod(jnp.linalg.norm(matrix, axis=1))
        return jnp.where(size == 0, 0.0, determinant(matrix) / jnp.where(size == 0, 1.0, size))

    return jax.vmap(at)(jnp.linspace(0.02, 0.98, 49))
