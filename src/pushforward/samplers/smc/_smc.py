"""Sequential Monte Carlo by tempering."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...models import Target
from ...models._layout import Layout
from ...models._types import Batch, Key
from .._base import AbstractSampler
from .._ensemble import FILLING, AbstractEnsemble, EnsembleInfo, EnsembleState, bound, particle_keys, require_bound
from .._tempering import effective_sample_size, largest_power
from ..ensemble._cbs import CBS
from ..ensemble._moments import logdensities, lower_root, moments, softmax_weights, uniform_weights
from ..sgmcmc import CyclicalSGLD, EntropyMCMC, StructuredSGLD
from ..stein._svgd import check_population
from ._leapfrog import Leapfrog
from ._resampling import Scheme, check_scheme, resample
from ._start import resolve_start
from ._tempered import Tempered

_SMALLEST_SCALE = 1e-4
_RATE = 1.0
"""How much the logarithm of the scale changes per unit of acceptance off its aim, at every move."""
_DENSE_LIMIT = 200
"""Dimensions up to which moves see the cloud's correlations; beyond, its standard deviations."""
_OTHER_LAWS = (CBS, CyclicalSGLD, EntropyMCMC, StructuredSGLD)
"""What leaves another law than the target's invariant, at any step size."""


class SMCMemory(NamedTuple):
    """What is carried from temperature to temperature."""

    temperature: Float[Array, ""]
    log_target: Float[Array, " n"]
    log_start: Float[Array, " n"]
    log_evidence: Float[Array, ""]
    relative_variance: Float[Array, ""]
    """Estimated variance of the evidence, relative to its square."""
    ancestor: Int[Array, " n"]
    """The particle of the start that each descends from."""
    scale: Float[Array, ""]
    """Factor of the moves' step size."""


class SMC(AbstractEnsemble):
    """Sequential Monte Carlo: particles are carried from a start to the target by tempering.

    The densities ``start^(1 - t) target^t`` are visited in order of t. At each, particles are weighted by
    ``(target / start)^(t' - t)``, resampled, and moved by a sampler that leaves the new density invariant. The product
    of the mean weights estimates the evidence ``int exp(target.logdensity)``: the attributes ``log_evidence`` and
    ``log_evidence_error`` of the result (for several clouds that of their average, which is again unbiased).

    Args:
        num_particles: at least 2; also the number of draws in the end.
        move: any Markov kernel of the library with a fixed step size, as it would be chosen for a standard Gaussian:
            it acts in coordinates in which the cloud is round, and the scale of its moves is lowered where it rejects
            too much. By default Hamiltonian trajectories of 8 leapfrog steps, a quarter of a period. An unadjusted one
            (`SGLD`) brings its own bias. An ensemble (`ALDI`) has as many particles as this.
        num_moves: moves per temperature.
        start: what is normalised at t = 0: None for the prior of the program (a plain density, or a program with an
            improper site, has none: a Gaussian of standard deviation 3 around zero on unconstrained space), a fitted
            guide or the result of `fit`, or another standard deviation. ``pf.sample(init=posterior)`` gives it too.
            Positions given as ``init`` must be draws of the start.
        ess_fraction: temperatures are as far apart as leaves the weights this effective fraction of the particles.
        temperatures: a fixed increasing sequence that ends in 1, instead.
        resampling: "systematic", "stratified", "residual", "multinomial", or "transport": parents are drawn from an
            optimal plan, near each particle; unbiased too, O(n^2) in time and memory. The error of the evidence, read
            off common descent, is then overestimated, by a factor of two in one dimension.
        adapt: move in coordinates, and with a scale, taken from the cloud. False moves in those of the target with the
            kernel's own step size.
        target_accept: acceptance probability of moves below which their scale is lowered.

    Give ``num_steps`` generously: the run ends when t = 1 is reached, and is reported as not converged where it was
    not.

    Bias: of expectations, O(1 / n). The evidence (not its logarithm) is unbiased with fixed ``temperatures`` and
    ``adapt=False``; what is adapted to the cloud biases it by O(1 / n). Cost per temperature: n (num_moves moves and
    one density); memory O(n d).

    Reference: Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers, 2006, section 3; Beskos, Jasra, Kantas and
    Thiery, On the convergence of adaptive sequential Monte Carlo methods, arXiv:1306.6462; error of the evidence from
    one run: Lee and Whiteley, Variance estimation in the particle filter, arXiv:1509.00394.
    """

    num_particles: int = eqx.field(static=True)
    kernel: AbstractSampler
    num_moves: int = eqx.field(static=True)
    start: Any
    ess_fraction: Array
    temperatures: Array | None
    resampling: Scheme = eqx.field(static=True)
    adapt: bool = eqx.field(static=True)
    target_accept: Array
    target: Target | None
    layout: Layout | None

    def __init__(
        self,
        num_particles: int = 1000,
        *,
        move: AbstractSampler | None = None,
        num_moves: int = 3,
        start: Any = None,
        ess_fraction: float = 0.5,
        temperatures: Any = None,
        resampling: Scheme = "systematic",
        adapt: bool = True,
        target_accept: float = 0.8,
    ) -> None:
        self.num_particles = check_population("SMC", num_particles)
        self.kernel = _check_move(move, num_particles)
        if num_moves < 1:
            raise ValueError(f"SMC(num_moves={num_moves}): expected at least 1; 3 is usual.")
        for name, value in (("ess_fraction", ess_fraction), ("target_accept", target_accept)):
            if not 0 < value < 1:
                raise ValueError(f"SMC({name}={value}): expected a number strictly between 0 and 1.")
        self.num_moves, self.start = num_moves, start
        self.ess_fraction = jnp.asarray(ess_fraction, jnp.result_type(float))
        self.temperatures = None if temperatures is None else _check_temperatures(temperatures)
        self.resampling = check_scheme("SMC", resampling)
        self.adapt = adapt
        self.target_accept = jnp.asarray(target_accept, jnp.result_type(float))
        self.target, self.layout = None, None

    def bind(self, target: Target, num_warmup: int) -> Self:
        """See `AbstractSampler.bind`.

        Raises:
            ValueError: if the target is seen through minibatches, or the start does not fit.
        """
        if target.subsampled:
            plates = [p.name for p in target.program.plates if p.subsample_size is not None]
            raise ValueError(
                f"SMC weights particles by the exact density, but {target.program.source} declares minibatches for "
                f"{plates}. Expected plates without subsample_size, or a stochastic-gradient sampler."
            )
        start = resolve_start(self.start, target)
        kernel = self.kernel.bind(Tempered(target, start), 0)
        where = lambda s: (s.start, s.kernel)  # noqa: E731
        return bound(eqx.tree_at(where, self, (start, kernel), is_leaf=lambda x: x is None), target)

    def draw_start(self, key: Key, target: Target, count: int) -> Float[Array, "count d"]:
        """See `AbstractEnsemble.draw_start`."""
        return resolve_start(self.start, target).draw(key, count)

    def starting_from(self, guide: Any) -> Self:
        """See `AbstractEnsemble.starting_from`."""
        return eqx.tree_at(lambda s: s.start, self, guide, is_leaf=lambda x: x is None)

    def prepare(self, key: Key, particles: Float[Array, "n d"]) -> SMCMemory:
        """See `AbstractEnsemble.prepare`. ``particles`` are draws of the start."""
        zero = jnp.zeros((), particles.dtype)
        log_target, log_start = self._densities(particles)
        lineage = jnp.arange(particles.shape[0], dtype=jnp.int32)
        return SMCMemory(zero, log_target, log_start, zero, zero, lineage, jnp.ones((), particles.dtype))

    def step(self, key: Key, state: EnsembleState, batch: Batch | None = None) -> tuple[EnsembleState, EnsembleInfo]:
        """One temperature; nothing once t = 1 is reached (where other clouds go on)."""
        new, info = super().step(key, state, batch)
        over = self.done(state)
        return jax.tree.map(lambda a, b: jnp.where(over, b, a), new, state), info

    def move(
        self, key: Key, state: EnsembleState, alive: Bool[Array, " n"], batch: Batch | None
    ) -> tuple[Float[Array, "n d"], SMCMemory, Bool[Array, " n"], dict[str, Array]]:
        """See `AbstractEnsemble.move`."""
        key_resample, key_move = jax.random.split(key)
        old, count = state.memory, state.particles.shape[0]
        alive = alive & ~jnp.isnan(old.log_target) & (old.log_target < jnp.inf) & jnp.isfinite(old.log_start)
        ratio = jnp.where(alive, old.log_target - old.log_start, -jnp.inf)
        temperature = self._next_temperature(old.temperature, ratio, state.step)
        gain = temperature - old.temperature
        logits = jnp.where(jnp.isfinite(ratio), gain * jnp.where(jnp.isfinite(ratio), ratio, 0.0), -jnp.inf)
        logits = jnp.where(gain > 0, logits, jnp.where(alive, 0.0, -jnp.inf))
        weights = softmax_weights(logits, alive)
        living = jnp.maximum(jnp.sum(alive), 1).astype(logits.dtype)
        log_evidence = old.log_evidence + jax.nn.logsumexp(logits) - jnp.log(living)
        ess = effective_sample_size(logits)
        # Particles of the same descent: what they weigh together varies as if they were one.
        families = jax.ops.segment_sum(weights, old.ancestor, num_segments=count)
        # Multinomial resampling makes some brothers by chance alone, at every stage; other schemes make hardly any.
        stages = (state.step + 1).astype(logits.dtype) if self.resampling == "multinomial" else 1.0
        apart = jnp.exp(stages * jnp.log(living / jnp.maximum(living - 1.0, 1.0))) * (1.0 - jnp.sum(families**2))
        parents = resample(self.resampling, key_resample, weights, alive, state.particles)
        tempered = self._coordinates(state.particles, weights, ess, temperature)
        moved, scale, acceptance = self._moves(key_move, tempered, state.particles[parents], alive, old.scale)
        new_target, new_start = self._densities(moved)
        # All weights zero: there is nothing to go on with.
        sound = alive & jnp.isfinite(log_evidence) & ~jnp.isnan(new_target)
        keep = sound & jnp.all(jnp.isfinite(moved), axis=1)
        memory = SMCMemory(
            temperature,
            jnp.where(keep, new_target, old.log_target),
            jnp.where(keep, new_start, old.log_start),
            log_evidence,
            1.0 - apart,
            old.ancestor[parents],
            scale,
        )
        statistics = {
            "temperature": temperature,
            "ess": ess,
            "log_evidence": log_evidence,
            "acceptance_rate": acceptance,
            "scale": scale,
        }
        return moved, memory, keep, statistics

    def done(self, state: EnsembleState) -> Array:
        """See `AbstractKernel.done`."""
        return state.memory.temperature >= 1

    def outcome(self, state: EnsembleState) -> dict[str, Array]:
        """See `AbstractEnsemble.outcome`."""
        memory = state.memory
        return {
            "log_evidence": memory.log_evidence,
            "relative_variance": memory.relative_variance,
            "converged": memory.temperature >= 1,
        }

    def summary(self, records: PyTree) -> dict[str, str]:
        """Temperature, evidence and acceptance."""
        if records["temperature"].shape[0] == 0:
            return {}
        last = {name: float(np.mean(x[-1])) for name, x in records.items()}
        return {
            "t": f"{last['temperature']:.3g}",
            "log evidence": f"{last['log_evidence']:.4g}",
            "accept": f"{last['acceptance_rate']:.2f}",
        }

    def _densities(self, particles: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        target, layout = require_bound(self)
        value, _ = logdensities(target, layout, particles, jnp.ones(particles.shape[:1], bool), None)
        return value.astype(particles.dtype), jax.vmap(self.start.log_prob)(particles).astype(particles.dtype)

    def _next_temperature(self, now: Array, ratio: Float[Array, " n"], step: Int[Array, ""]) -> Float[Array, ""]:
        if self.temperatures is not None:
            last = self.temperatures.shape[0] - 1
            return self.temperatures[jnp.minimum(step, last)].astype(now.dtype)
        gain = largest_power(ratio, self.ess_fraction.astype(now.dtype), 1.0 - now)
        # However small the gain, the temperature rises; the last is exactly one.
        risen = jnp.maximum(now + gain, jnp.nextafter(now, jnp.ones((), now.dtype)))
        return jnp.where(gain >= 1.0 - now, 1.0, jnp.minimum(risen, 1.0))

    def _coordinates(
        self, particles: Float[Array, "n d"], weights: Float[Array, " n"], ess: Array, temperature: Array
    ) -> Tempered:
        tempered: Tempered = self.kernel.target  # type: ignore[attr-defined]
        dim, one = particles.shape[1], jnp.ones((), particles.dtype)
        if not self.adapt:
            return tempered.at(temperature, tempered.loc, tempered.root, one)
        cloud = moments(particles, weights)
        variance = jnp.diagonal(cloud.covariance)
        variance = jnp.diag(jnp.where(variance > 0, variance, 1.0))
        if dim > _DENSE_LIMIT:
            return tempered.at(temperature, cloud.mean, jnp.sqrt(variance), one)
        # Few effective particles say little about correlations.
        trust = ess / (ess + dim + 1.0)
        covariance = trust * cloud.covariance + (1.0 - trust) * variance
        return tempered.at(temperature, cloud.mean, lower_root(covariance), one)

    def _moves(
        self, key: Key, tempered: Tempered, particles: Float[Array, "n d"], alive: Bool[Array, " n"], scale: Array
    ) -> tuple[Float[Array, "n d"], Float[Array, ""], Float[Array, ""]]:
        """Particles after ``num_moves`` moves, the scale that they have led to, and the last acceptance rate."""
        share = uniform_weights(alive, particles.dtype)

        def once(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
            particles, scale = carry
            seen = tempered.at(tempered.temperature, tempered.loc, tempered.root, scale)
            kernel = eqx.tree_at(lambda k: k.target, self.kernel, seen)
            z = seen.inverse(particles)
            key_init, key_step = jax.random.split(key)
            if isinstance(kernel, AbstractEnsemble):
                whole = kernel.init(key_init, z)
                # Who does not count here counts nowhere.
                whole = whole._replace(failed_step=jnp.where(alive, whole.failed_step, FILLING))
                new, accepted = kernel.step(key_step, whole)[0].particles, None
            else:
                start = jax.vmap(kernel.init)(particle_keys(key_init, z.shape[0]), z)
                states, infos = jax.vmap(kernel.step)(particle_keys(key_step, z.shape[0]), start)
                new = jax.vmap(kernel.position)(states)
                accepted = jax.vmap(kernel.statistics)(states, infos).get("acceptance_rate")
            moved = seen.outer(new)
            if accepted is None:
                return (moved, scale), jnp.full((), jnp.nan, scale.dtype)
            rate = jnp.sum(jnp.where(alive, share * accepted.astype(scale.dtype), 0.0))
            if not self.adapt:
                return (moved, scale), rate
            lowered = scale * jnp.exp(_RATE * (rate - self.target_accept.astype(scale.dtype)))
            return (moved, jnp.clip(lowered, _SMALLEST_SCALE, 1.0)), rate

        (moved, scale), rates = jax.lax.scan(once, (particles, scale), jax.random.split(key, self.num_moves))
        return moved, scale, rates[-1]


def _check_move(move: AbstractSampler | None, num_particles: int) -> AbstractSampler:
    """A Markov kernel with a step size of its own; an ensemble must be one of all particles.

    Raises:
        ValueError: if it is none.
    """
    if move is None:
        return Leapfrog(np.pi / 16, 8)
    flow = isinstance(move, AbstractEnsemble) and not move.ergodic
    if not isinstance(move, AbstractSampler) or flow or isinstance(move, _OTHER_LAWS):
        name = getattr(move, "__name__", type(move).__name__)
        raise ValueError(
            f"SMC(move={name}): expected a Markov kernel that leaves the tempered density invariant, "
            "such as pf.HMC(step_size=0.2, num_leapfrog=8) or pf.NUTS(step_size=0.5). A flow of particles does not, "
            "nor does a sampler that draws from another density by design."
        )
    if isinstance(move, AbstractEnsemble) and move.num_particles != num_particles:
        name = type(move).__name__
        raise ValueError(
            f"SMC(num_particles={num_particles}, move=pf.{name}({move.num_particles})): the move acts on all particles "
            f"at once. Expected as many of them, pf.{name}({num_particles})."
        )
    adaptation = getattr(move, "adaptation", None)
    if adaptation is not None and adaptation.step_size is None:
        name = type(move).__name__
        raise ValueError(
            f"SMC(move=pf.{name}()): expected a fixed step size, as for a standard Gaussian, such as "
            f"pf.{name}(step_size=0.2): SMC adapts the scale of moves to the cloud itself, and has no warm-up."
        )
    return move


def _check_temperatures(temperatures: Any) -> Array:
    """An increasing sequence in (0, 1] that ends in 1.

    Raises:
        ValueError: if it is none.
    """
    values = np.asarray(temperatures, np.float64)
    if values.ndim != 1 or values.size == 0 or values[0] <= 0 or values[-1] != 1 or (np.diff(values) <= 0).any():
        raise ValueError(
            f"SMC(temperatures={temperatures!r}): expected an increasing sequence of positive numbers that ends in 1, "
            "such as np.linspace(0, 1, 21)[1:] ** 2."
        )
    return jnp.asarray(values, jnp.result_type(float))
