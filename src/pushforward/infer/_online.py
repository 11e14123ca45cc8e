"""Figures over all steps of a run that keeps only some of its draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..models import Target
from ..models._layout import Layout
from ..samplers import AbstractEnsemble, Chains
from ..samplers.engine import Online, OnlineState, figures, without_chains
from ._tree import Labels, host_array

if TYPE_CHECKING:
    import xarray as xr

STATISTICS = ("mean", "sd", "ess", "r_hat")
QUANTILES = {"5%": 0.05, "50%": 0.5, "95%": 0.95}
"""Of the kept draws, which are spread evenly over the run."""


class Constrained(eqx.Module):
    """All values of the user's sites, flat, of every chain (every particle of an ergodic ensemble)."""

    target: Target
    layout: Layout

    def __call__(self, record: PyTree) -> Float[Array, "chain d"]:
        """See `Online.values`."""
        flat = jnp.reshape(record["position"], (-1, self.layout.dim))
        return jax.vmap(lambda x: _ravel(self.target.constrain(self.layout.unravel(x))))(flat)


def keep_figures(chains: Chains, target: Target, max_draws: int, num_warmup: int) -> Online:
    """The chains, keeping at most ``max_draws`` draws each.

    Raises:
        ValueError: if ``max_draws`` is odd or below 8, or the sampler has no draws before its end.
    """
    if isinstance(max_draws, bool) or not isinstance(max_draws, int) or max_draws < 8 or max_draws % 2:
        raise ValueError(
            f"max_draws={max_draws!r}: expected an even number of at least 8 draws per chain, such as 1000."
        )
    if isinstance(chains.sampler, AbstractEnsemble) and not chains.sampler.ergodic:
        raise ValueError(
            f"max_draws={max_draws}, but the particles of {type(chains.sampler).__name__} are draws at the end only: "
            "nothing else is stored. Expected max_draws=None."
        )
    return Online(chains, Constrained(target, Layout.of(target.example)), max_draws, num_warmup)


def kept_records(state: OnlineState) -> PyTree:
    """The draws that were kept, in order, on the host."""
    count = int(state.thinned.filled)
    return jax.tree.map(lambda x: np.asarray(x)[:count], state.thinned.draws)


def online_dataset(chains: Chains, target: Target, state: OnlineState) -> xr.Dataset:
    """The group ``online``: mean, sd, effective sample size and R-hat of every scalar over all steps of all chains.

    Variables have the sites' names and dims after a dim ``statistic``; ``covariance`` has dims (scalar, scalar_1).
    Chains and particles that were put aside are left out; there is no ``covariance`` then, because it is summed over
    all of them as the run goes.
    """
    import xarray as xr

    kept = _sound(chains, state)
    found = jax.tree.map(np.asarray, figures(without_chains(state.moments, jnp.asarray(kept))))
    values = jax.eval_shape(target.constrain, target.example)
    labels = Labels(target, list(values))
    sd = np.sqrt(found.variance)
    table = dict(zip(STATISTICS, (found.mean, sd, found.ess, found.r_hat), strict=True))
    variables: dict[str, Any] = {}
    names: list[str] = []
    sizes: dict[str, int] = {}
    start = 0
    for site in sorted(values):
        shape = tuple(values[site].shape)
        size = int(np.prod(shape))
        dims = labels.dims(site, shape)
        sizes |= dict(zip(dims, shape, strict=True))
        stacked = np.stack([table[name][start : start + size].reshape(shape) for name in STATISTICS])
        variables[site.replace("/", ".")] = (("statistic", *dims), host_array(stacked))
        names += [f"{site}[{','.join(map(str, i))}]" if shape else site for i in np.ndindex(*shape)]
        start += size
    coords: dict[str, Any] = {"statistic": list(STATISTICS), **labels.coords(sizes)}
    if len(kept) == state.moments.mean.shape[0]:
        variables["covariance"] = (("scalar", "scalar_1"), found.covariance)
        coords |= {"scalar": names, "scalar_1": names}
    return xr.Dataset(variables, coords=coords, attrs={"num_steps": int(found.steps)})


def with_quantiles(online: xr.Dataset, posterior: xr.Dataset) -> xr.Dataset:
    """The figures with three quantiles of the kept draws under them; NaN for sites that are not among the draws."""
    import xarray as xr

    variables: dict[str, Any] = {}
    for name, figure in online.data_vars.items():
        values = figure.values
        if "statistic" in figure.dims:
            shape = (len(QUANTILES), *values.shape[1:])
            found = np.full(shape, np.nan)
            if name in posterior:
                found = np.quantile(posterior[name].values.astype(np.float64), list(QUANTILES.values()), axis=(0, 1))
            values = np.concatenate([values, found.astype(values.dtype)])
        variables[str(name)] = (figure.dims, values)
    coords = {str(name): coord.values for name, coord in online.coords.items()}
    coords["statistic"] = np.asarray([*STATISTICS, *QUANTILES])
    return xr.Dataset(variables, coords=coords, attrs=online.attrs)


def _sound(chains: Chains, state: OnlineState) -> np.ndarray:
    """Rows of the moments whose chain, or particle, was never put aside."""
    count = state.moments.mean.shape[0]
    if isinstance(chains.sampler, AbstractEnsemble):
        failed = np.asarray(chains.inner(state.inner).failed_step)[:, : chains.sampler.num_particles].ravel()
    else:
        failed = np.asarray(state.inner.failed_step) if chains.sampler.isolates else np.full(count, -1)
    return np.flatnonzero(failed < 0)


def _ravel(values: dict[str, Array]) -> Array:
    dtype = jnp.result_type(float)
    return jnp.concatenate([jnp.ravel(values[name]).astype(dtype) for name in sorted(values)])
