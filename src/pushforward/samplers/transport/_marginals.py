"""How strictly a plan's marginals are held to the given weights.

In the dual problem a constraint is a concave function of the potential: with potentials f and g the dual value is
``sum_i a_i phi(f_i) + sum_j b_j psi(g_j) - epsilon sum_ij a_i b_j (exp((f_i + g_j - C_ij) / epsilon) - 1)``.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractMarginal(eqx.Module):
    """A concave function phi of one of the two potentials."""

    @abc.abstractmethod
    def update(self, soft: Float[Array, " n"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        """The potential that maximises the dual, given the one that would make the marginal exact."""

    @abc.abstractmethod
    def value(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """The function itself."""

    @abc.abstractmethod
    def slope(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """phi', the share of the weight that an optimal plan moves."""

    @abc.abstractmethod
    def curvature(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """-phi''."""


class Exact(AbstractMarginal):
    """The plan's marginal is the weights."""

    def update(self, soft: Float[Array, " n"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        """See `AbstractMarginal.update`."""
        return soft

    def value(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.value`."""
        return potential

    def slope(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.slope`."""
        return jnp.ones_like(potential)

    def curvature(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.curvature`."""
        return jnp.zeros_like(potential)


class Soft(AbstractMarginal):
    """A deviation of the plan's marginal p from the weights a costs ``strength KL(p | a)``.

    Reference: Chizat et al., Scaling algorithms for unbalanced transport problems, arXiv:1607.05816, table 1.
    """

    strength: Float[Array, ""]

    def update(self, soft: Float[Array, " n"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        """See `AbstractMarginal.update`."""
        return soft * (self.strength / (self.strength + epsilon))

    def value(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.value`."""
        return -self.strength * jnp.expm1(-potential / self.strength)

    def slope(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.slope`."""
        return jnp.exp(-potential / self.strength)

    def curvature(self, potential: Float[Array, " n"]) -> Float[Array, " n"]:
        """See `AbstractMarginal.curvature`."""
        return jnp.exp(-potential / self.strength) / self.strength
