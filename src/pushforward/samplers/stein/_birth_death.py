"""Birth-death accelerated Langevin dynamics."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._ensemble import AbstractEnsemble, EnsembleState, particle_keys, particle_normals
from ..engine._pairs import reduce_pairs
from ..pairs import RBF
from ..pairs._distance import squared_distances
from ._svgd import check_population


class BirthDeath(AbstractEnsemble):
    """Langevin particles that die where the cloud is too dense and multiply where it is too thin.

    With ``beta_i = log (K * rho)(x_i) - log p(x_i)`` minus its mean, particle i is replaced by a random other one with
    probability ``1 - exp(-rate eps beta_i)`` if beta_i is positive, and replaces one with ``1 - exp(rate eps beta_i)``
    if it is negative; then all take a Langevin step ``x += eps grad log p + sqrt(2 eps) xi``. Mass thus jumps between
    modes in proportion to their weights, without paths between them, wherever a particle has found them.

    Args:
        step_size: eps, positive; in squared units of the position.
        num_particles: at least 2; the density estimate needs many (hundreds).
        rate: of births and deaths per unit of time; 0 for plain Langevin dynamics.
        bandwidth: h of the Gaussian density estimate, in units of the position, or a rule such as
            ``Median(scale=0.1)``; by default that of `RBF`.

    Bias: of order eps, and of the density estimate: a particle alone in the tail sees itself, and dies too often, so
    that variances come out too small, the more so the larger the rate and the fewer the particles.
    The result is the final cloud: clones are no independent chains. Cost: n gradients and O(n^2 d) per step.

    Reference: Lu, Lu and Nolen, Accelerating Langevin sampling with birth-death, arXiv:1905.09863, algorithm 1.
    """

    num_particles: int = eqx.field(static=True)
    step_size: Array
    rate: Array
    kernel: RBF
    target: Target | None
    layout: Layout | None

    def __init__(
        self, step_size: float, num_particles: int = 500, *, rate: float = 1.0, bandwidth: object | None = None
    ) -> None:
        if not step_size > 0 or not rate >= 0:
            raise ValueError(
                f"BirthDeath(step_size={step_size}, rate={rate}): expected a positive step size and a rate of at "
                "least zero."
            )
        self.num_particles = check_population("BirthDeath", num_particles)
        self.step_size, self.rate = (jnp.asarray(x, jnp.result_type(float)) for x in (step_size, rate))
        self.kernel = RBF(bandwidth)  # type: ignore[arg-type]
        self.target, self.layout = None, None

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> tuple[()]:
        """See `AbstractEnsemble.prepare`."""
        return ()

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], tuple[()], Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        key_jump, key_noise = jax.random.split(key)
        x = state.particles
        at = self.evaluate(x, alive, batch)
        step_size = self.step_size.astype(x.dtype)
        weight = at.alive.astype(x.dtype)
        count = jnp.maximum(jnp.sum(weight), 1.0)
        centred = x - (weight @ x) / count
        density = reduce_pairs(
            _log_gauss, self.kernel.fit(x, at.alive), centred, centred, weight=weight, reduction="logsumexp"
        )
        excess = jnp.where(at.alive, density - at.logdensity, 0.0)
        excess = jnp.where(at.alive, excess - jnp.sum(excess) / count, 0.0)
        source, births, deaths = _jumps(key_jump, step_size * self.rate.astype(x.dtype) * excess, at.alive)
        # Dead particles are nobody's source, and stay where they are.
        moved = x[source] + step_size * at.scores[source] + jnp.sqrt(2.0 * step_size) * particle_normals(key_noise, x)
        mean_lp = jnp.sum(jnp.where(at.alive, at.logdensity, 0.0)) / count
        return moved, (), at.alive, {"mean_lp": mean_lp, "births": births / count, "deaths": deaths / count}


def _log_gauss(squared_bandwidth: Array, x: Array, y: Array, weight: Array) -> Array:
    return -0.5 * squared_distances(x, y) / squared_bandwidth


def _jumps(
    key: Key, excess: Float[Array, " n"], alive: Bool[Array, " n"]
) -> tuple[Int[Array, " n"], Float[Array, ""], Float[Array, ""]]:
    """Where each particle comes from, and how many births and deaths there were."""
    count = excess.shape[0]
    event, other = jax.vmap(lambda k: jax.random.uniform(k, (2,), excess.dtype))(particle_keys(key, count)).T
    living = jnp.sum(alive)
    order = jnp.argsort(~alive, stable=True)
    rank = jnp.cumsum(alive) - 1
    # Uniform among the other living particles.
    away = 1 + jnp.floor(other * (living - 1).astype(excess.dtype)).astype(rank.dtype)
    partner = order[jnp.mod(rank + away, jnp.maximum(living, 1))]
    happens = alive & (living > 1) & (event < -jnp.expm1(-jnp.abs(excess)))
    dies, bears = happens & (excess > 0), happens & (excess < 0)

    def visit(i: Int[Array, ""], source: Int[Array, " n"]) -> Int[Array, " n"]:
        j = partner[i]
        place = jnp.where(bears[i], j, i)
        new = jnp.where(dies[i], source[j], source[i])
        return source.at[place].set(new)

    # One after the other, as the events of a jump process are: two of them never claim the same place at once.
    source = jax.lax.fori_loop(0, count, visit, jnp.arange(count))
    return source, jnp.sum(bears).astype(excess.dtype), jnp.sum(dies).astype(excess.dtype)
