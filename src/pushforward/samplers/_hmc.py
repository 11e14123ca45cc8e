"""Hamiltonian Monte Carlo: NumPyro's transition and adaptation on our target."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from numpyro.infer.hmc import hmc

from ..models import Target
from ..models._layout import Layout
from ..models._types import Batch, Key
from ._base import AbstractSampler


class HMCInfo(NamedTuple):
    """One transition."""

    acceptance_rate: Float[Array, ""]
    """Mean Metropolis acceptance probability along the trajectory."""
    diverging: Array
    """Whether the energy error exceeded 1000."""
    num_leapfrog: Array
    """Leapfrog steps taken."""
    step_size: Float[Array, ""]
    energy: Float[Array, ""]


class Adaptation(eqx.Module):
    """Settings that HMC and NUTS share.

    Args:
        step_size: positive leapfrog step; None adapts it during warm-up by dual averaging.
        target_accept: acceptance probability that the adaptation aims at.
        dense_mass: adapt a dense mass matrix instead of a diagonal one.
        inverse_mass_matrix: starting value, of shape (dim,) or (dim, dim).
    """

    step_size: float | None = eqx.field(static=True)
    target_accept: float = eqx.field(static=True)
    dense_mass: bool = eqx.field(static=True)
    inverse_mass_matrix: Array | None


class NUTS(AbstractSampler):
    """No-U-Turn sampler with adapted step size and mass matrix.

    Targets the density exactly; correlated draws. Cost: 2**depth - 1 gradients per draw. The transition and the
    adaptation are NumPyro's, so the answer does not depend on which front end the model came from.

    Args:
        step_size: positive leapfrog step; None adapts it during warm-up by dual averaging.
        target_accept: acceptance probability that the adaptation aims at; raise it where transitions diverge.
        max_tree_depth: at most 2**max_tree_depth - 1 leapfrog steps per draw.
        dense_mass: adapt a dense mass matrix; worth its O(dim**2) where the posterior is strongly correlated.
        inverse_mass_matrix: starting value, of shape (dim,) or (dim, dim); None starts at the identity.

    Reference: Hoffman and Gelman, The no-U-turn sampler, arXiv:1111.4246, algorithm 6; Betancourt, arXiv:1701.02434.
    """

    adaptation: Adaptation
    max_tree_depth: int = eqx.field(static=True)
    target: Target | None
    layout: Layout | None
    num_warmup: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        step_size: float | None = None,
        target_accept: float = 0.8,
        max_tree_depth: int = 10,
        dense_mass: bool = False,
        inverse_mass_matrix: Array | None = None,
    ) -> None:
        if max_tree_depth < 1:
            raise ValueError(f"NUTS(max_tree_depth={max_tree_depth}): expected at least 1; 10 is usual.")
        self.adaptation = _adaptation("NUTS", step_size, target_accept, dense_mass, inverse_mass_matrix)
        self.max_tree_depth = max_tree_depth
        self.target, self.layout, self.num_warmup = None, None, 0

    def bind(self, target: Target, num_warmup: int) -> NUTS:
        """See `AbstractSampler.bind`."""
        return _bind(self, target, num_warmup)

    def with_inverse_mass_matrix(self, matrix: Array) -> NUTS:
        """The same sampler, starting its adaptation from this matrix."""
        return _with_matrix(self, matrix)

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> Any:
        """See `AbstractKernel.init`."""
        return _machinery(self, "NUTS", {"max_tree_depth": self.max_tree_depth}, key, position)[0]

    def step(self, key: Key, state: Any, batch: Batch | None = None) -> tuple[Any, HMCInfo]:
        """See `AbstractKernel.step`."""
        return _advance(_machinery(self, "NUTS", {"max_tree_depth": self.max_tree_depth}, key, state.z)[1], key, state)

    def position(self, state: Any) -> Array:
        """See `AbstractSampler.position`."""
        return state.z

    def statistics(self, state: Any, info: HMCInfo) -> dict[str, Array]:
        """See `AbstractSampler.statistics`."""
        depth = jnp.floor(jnp.log2(jnp.maximum(info.num_leapfrog, 1).astype(float))).astype(jnp.int32) + 1
        return {**_statistics(state, info), "tree_depth": depth, "reached_max_treedepth": depth >= self.max_tree_depth}

    def health(self, state: Any, info: HMCInfo) -> PyTree:
        """Position and its energy."""
        return state.z, state.potential_energy

    def summary(self, records: PyTree) -> dict[str, str]:
        """Step size, acceptance and divergences of the last chunk."""
        return _summary(records)


class HMC(AbstractSampler):
    """Hamiltonian Monte Carlo with a fixed trajectory length or number of leapfrog steps.

    Targets the density exactly; correlated draws. `NUTS` chooses the length by itself and is the better default.

    Args:
        step_size: as in `NUTS`.
        num_leapfrog: leapfrog steps per draw; None derives them from the trajectory length.
        trajectory_length: integration time per draw in units of the whitened position; default 2 pi.
        target_accept: as in `NUTS`.
        dense_mass: as in `NUTS`.
        inverse_mass_matrix: as in `NUTS`.

    Reference: Neal, MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 5.3.
    """

    adaptation: Adaptation
    num_leapfrog: int | None = eqx.field(static=True)
    trajectory_length: float | None = eqx.field(static=True)
    target: Target | None
    layout: Layout | None
    num_warmup: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        step_size: float | None = None,
        num_leapfrog: int | None = None,
        trajectory_length: float | None = None,
        target_accept: float = 0.8,
        dense_mass: bool = False,
        inverse_mass_matrix: Array | None = None,
    ) -> None:
        if num_leapfrog is not None and trajectory_length is not None:
            raise ValueError(
                "HMC takes num_leapfrog or trajectory_length, not both: one follows from the other and the step size."
            )
        if num_leapfrog is not None and num_leapfrog < 1:
            raise ValueError(f"HMC(num_leapfrog={num_leapfrog}): expected at least 1.")
        self.adaptation = _adaptation("HMC", step_size, target_accept, dense_mass, inverse_mass_matrix)
        self.num_leapfrog = num_leapfrog
        self.trajectory_length = (
            trajectory_length if num_leapfrog is not None or trajectory_length is not None else 2 * math.pi
        )
        self.target, self.layout, self.num_warmup = None, None, 0

    def bind(self, target: Target, num_warmup: int) -> HMC:
        """See `AbstractSampler.bind`."""
        return _bind(self, target, num_warmup)

    def with_inverse_mass_matrix(self, matrix: Array) -> HMC:
        """The same sampler, starting its adaptation from this matrix."""
        return _with_matrix(self, matrix)

    def init(self, key: Key, position: PyTree, batch: Batch | None = None) -> Any:
        """See `AbstractKernel.init`."""
        return _machinery(self, "HMC", self._length(), key, position)[0]

    def step(self, key: Key, state: Any, batch: Batch | None = None) -> tuple[Any, HMCInfo]:
        """See `AbstractKernel.step`."""
        return _advance(_machinery(self, "HMC", self._length(), key, state.z)[1], key, state)

    def position(self, state: Any) -> Array:
        """See `AbstractSampler.position`."""
        return state.z

    def statistics(self, state: Any, info: HMCInfo) -> dict[str, Array]:
        """See `AbstractSampler.statistics`."""
        return _statistics(state, info)

    def health(self, state: Any, info: HMCInfo) -> PyTree:
        """Position and its energy."""
        return state.z, state.potential_energy

    def summary(self, records: PyTree) -> dict[str, str]:
        """Step size, acceptance and divergences of the last chunk."""
        return _summary(records)

    def _length(self) -> dict[str, Any]:
        return {"trajectory_length": self.trajectory_length, "num_steps": self.num_leapfrog}


def _adaptation(
    name: str, step_size: float | None, target_accept: float, dense_mass: bool, matrix: Array | None
) -> Adaptation:  # noqa: FBT001
    if step_size is not None and not step_size > 0:
        raise ValueError(
            f"{name}(step_size={step_size}): expected a positive leapfrog step, or None to adapt it during warm-up."
        )
    if not 0 < target_accept < 1:
        raise ValueError(
            f"{name}(target_accept={target_accept}): expected a probability strictly between 0 and 1, e.g. 0.8."
        )
    return Adaptation(
        step_size, float(target_accept), dense_mass or (matrix is not None and jnp.ndim(matrix) == 2), matrix
    )


def _bind(sampler: Any, target: Target, num_warmup: int) -> Any:
    name = type(sampler).__name__
    if num_warmup == 0 and sampler.adaptation.step_size is None:
        raise ValueError(
            f"{name} adapts its step size and mass matrix during warm-up, and num_warmup is 0. Expected "
            f"num_warmup=1000 or so, or {name}(step_size=..., inverse_mass_matrix=...) to sample without adaptation."
        )
    if target.subsampled:
        raise ValueError(
            f"{name} needs the exact density, but {target.program.source} declares minibatches for "
            f"{[p.name for p in target.program.plates if p.subsample_size is not None]}. Expected plates without "
            "subsample_size; build the target with all data, or use a stochastic-gradient sampler."
        )
    matrix = sampler.adaptation.inverse_mass_matrix
    if matrix is not None and matrix.shape not in ((target.dim,), (target.dim, target.dim)):
        raise ValueError(
            f"{name}: inverse_mass_matrix has shape {matrix.shape}, expected ({target.dim},) or ({target.dim}, "
            f"{target.dim})."
        )
    return eqx.tree_at(
        lambda s: (s.target, s.layout),
        _with_warmup(sampler, num_warmup),
        (target, Layout.of(target.example)),
        is_leaf=lambda x: x is None,
    )


def _with_warmup(sampler: Any, num_warmup: int) -> Any:
    new = object.__new__(type(sampler))
    for name in sampler.__dataclass_fields__:
        object.__setattr__(new, name, num_warmup if name == "num_warmup" else getattr(sampler, name))
    return new


def _with_matrix(sampler: Any, matrix: Array) -> Any:
    adaptation = Adaptation(
        sampler.adaptation.step_size,
        sampler.adaptation.target_accept,
        sampler.adaptation.dense_mass or matrix.ndim == 2,
        matrix,
    )
    return eqx.tree_at(lambda s: s.adaptation, sampler, adaptation)


def _machinery(sampler: Any, algorithm: str, length: dict[str, Any], key: Key, position: Array) -> tuple[Any, Any]:
    """NumPyro's initial state and transition. Both are needed in one trace: the first sets up the second's closure."""
    if sampler.target is None:
        raise ValueError(
            f"{algorithm}() is not bound to a target. Expected pf.sample(target, pf.{algorithm}(), ...), which binds "
            "it."
        )

    def potential(x: Array) -> Array:
        return -sampler.target.logdensity(sampler.layout.unravel(x))

    settings = sampler.adaptation
    init_kernel, sample_kernel = hmc(potential, algo=algorithm)
    state = init_kernel(
        position,
        sampler.num_warmup,
        step_size=1.0 if settings.step_size is None else settings.step_size,
        inverse_mass_matrix=settings.inverse_mass_matrix,
        adapt_step_size=settings.step_size is None,
        adapt_mass_matrix=sampler.num_warmup > 0,
        dense_mass=settings.dense_mass,
        target_accept_prob=settings.target_accept,
        rng_key=key,
        **length,
    )
    return _without_keys(state), sample_kernel


def _advance(sample_kernel: Any, key: Key, state: Any) -> tuple[Any, HMCInfo]:
    key_transition, key_adapt = jax.random.split(key)
    new = sample_kernel(
        state._replace(rng_key=key_transition, adapt_state=state.adapt_state._replace(rng_key=key_adapt))
    )
    info = HMCInfo(new.accept_prob, new.diverging, new.num_steps, new.adapt_state.step_size, new.energy)
    return _without_keys(new), info


def _without_keys(state: Any) -> Any:
    """Keys come from the loop, one per step; none is carried in the state."""
    return state._replace(rng_key=None, adapt_state=state.adapt_state._replace(rng_key=None))


def _statistics(state: Any, info: HMCInfo) -> dict[str, Array]:
    return {
        "lp": -state.potential_energy,
        "diverging": info.diverging,
        "acceptance_rate": info.acceptance_rate,
        "n_steps": info.num_leapfrog,
        "step_size": info.step_size,
        "energy": info.energy,
    }


def _summary(records: PyTree) -> dict[str, str]:
    if records["lp"].shape[0] == 0:
        return {}
    return {
        "step size": f"{float(np.mean(records['step_size'][-1])):.3g}",
        "accept": f"{float(np.mean(records['acceptance_rate'])):.2f}",
        "divergent": str(int(np.sum(records["diverging"]))),
    }
