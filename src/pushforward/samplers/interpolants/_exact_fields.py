"""Fields of interpolants between Gaussian mixtures, in closed form."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractFields
from ._mixture import GaussianMixture
from ._path import AbstractPath, check_path, combine


class MixtureFields(AbstractFields):
    """Exact fields of a path whose ends are independent Gaussian mixtures.

    At each time x_t has a mixture of one component per choice of a component of every end, whose mean and covariance
    are those of the sum. Cost: a Cholesky factor per component and time, shared by all points of that time.

    Args:
        path: the path.
        ends: one mixture per end of the path, base first.

    Raises:
        ValueError: where their number or their dimensions do not fit.
    """

    path: AbstractPath
    mixtures: tuple[GaussianMixture, ...]

    def __init__(self, path: AbstractPath, *ends: GaussianMixture) -> None:
        check_path(path)
        for end in ends:
            if not isinstance(end, GaussianMixture):
                raise ValueError(f"An end is {type(end).__name__}: expected GaussianMixture(log_weights, means, covs).")
        if len(ends) != path.num_ends:
            raise ValueError(
                f"{len(ends)} mixtures for {type(path).__name__}: expected {path.num_ends}, one for every end that is "
                "not the noise, base first."
            )
        if len({end.dim for end in ends}) != 1:
            raise ValueError(f"ends have dimensions {[end.dim for end in ends]}: expected the same for all.")
        self.path, self.mixtures = path, ends

    def law(self, t: Float[Array, ""]) -> GaussianMixture:
        """The law of x_t. At an end without noise that is that end."""
        weights, variance = self.path.coefficients(t), self.path.variance(t)
        logits, means, covariances = self._parts()
        total = (variance * jnp.eye(means.shape[-1], dtype=means.dtype))[None]
        return GaussianMixture(
            logits, jnp.einsum("e,ekd->kd", weights, means), jnp.einsum("e,ekij->kij", weights**2, covariances) + total
        )

    def log_prob(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of x_t."""
        return self.law(t).log_prob(x)

    def velocity(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> Float[Array, " d"]:
        """See `AbstractFields.velocity`: of a component, ``m' + C' C^-1 (x - m) / 2``."""
        return self._velocity(t, *self.law(t).responsibilities(x))

    def score(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> Float[Array, " d"]:
        """See `AbstractFields.score`."""
        return self.law(t).score(x)

    def drift(
        self,
        t: Float[Array, ""],
        x: Float[Array, " d"],
        condition: PyTree = None,
        *,
        level: Float[Array, ""],
    ) -> Float[Array, " d"]:
        """See `AbstractFields.drift`: one law for both terms.

        With a law of its own for each point, two of them would be factorised at once. XLA on a processor with two cores
        then stops for good: either batch of factors holds one of two threads and waits for the other.
        """
        chance, solved = self.law(t).responsibilities(x)
        return self._velocity(t, chance, solved) - level * (chance @ solved)

    def end_velocity(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> Float[Array, " d"]:
        """See `AbstractFields.end_velocity`: from the conditional expectation of the ends."""
        return combine(self.path.rates(t), self.ends(t, x))

    def ends(self, t: Float[Array, ""], x: Float[Array, " d"], condition: PyTree = None) -> tuple[Array, ...]:
        """See `AbstractFields.ends`; exact at the ends of time too."""
        chance, solved = self.law(t).responsibilities(x)
        weights = self.path.coefficients(t)
        _, means, covariances = self._parts()
        given = means + weights[:, None, None] * jnp.einsum("ekij,kj->eki", covariances, solved)
        return tuple(chance @ each for each in given)

    def _velocity(self, t: Array, chance: Array, solved: Array) -> Array:
        """From the responsibilities of a point and ``C_k^-1 (x - m_k)``."""
        rates = self.path.rates(t)
        _, means, covariances = self._parts()
        half = self.path.coefficients(t) * rates
        change = jnp.einsum("e,ekij,kj->ki", half, covariances, solved) + self.path.spreading(t) * solved
        return chance @ (jnp.einsum("e,ekd->kd", rates, means) + change)

    def _parts(self) -> tuple[Array, Array, Array]:
        """Log-weights (k,), means (end, k, d) and covariances (end, k, d, d) of all choices of components."""
        counts = [len(end.log_weights) for end in self.mixtures]
        choices = jnp.stack([axis.ravel() for axis in jnp.meshgrid(*(jnp.arange(c) for c in counts), indexing="ij")])
        logits = jnp.stack([end.log_weights[c] for end, c in zip(self.mixtures, choices, strict=True)]).sum(axis=0)
        means = jnp.stack([end.means[choice] for end, choice in zip(self.mixtures, choices, strict=True)])
        covariances = [end.covariances[choice] for end, choice in zip(self.mixtures, choices, strict=True)]
        return logits, means, jnp.stack(covariances)
