"""Draws of data and pointwise log-likelihoods, streamed in blocks of draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..models._types import Key, Position, Values
from ._streaming import host_draws, stream_draws
from ._tree import Labels, build_dataset, group

if TYPE_CHECKING:
    import xarray as xr

    from ..models import Target
    from ._posterior import Posterior


def predict_draws(
    posterior: Posterior,
    key: Key,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    num_draws: int | None,
    block_size: int | None,
) -> xr.Dataset:
    """Draw data given posterior draws and store it; see `Posterior.predict`."""
    check_key(key)
    anew = bool(args or kwargs)
    target = posterior.target.rebind(*args, **kwargs) if anew else posterior.target
    observed = {site.name for site in target.program.sites if site.kind == "observed"}
    if not anew and not observed:
        raise ValueError(
            f"{target.program.source} has no observed site to redraw. Call .predict(key, *args) with the model's "
            "arguments (None where data is to be predicted)."
        )
    kept = group(posterior.data, "posterior")
    chosen = _thin(kept.sizes["draw"], kept.sizes["chain"], num_draws)
    positions = jax.tree.map(lambda leaf: leaf[:, chosen], posterior.positions)
    if target.program.traceable_simulation:
        values, shape = _stream(_predict_one, (posterior.target, target), positions, key=key, block_size=block_size)
    else:
        latents, _ = _stream(_latents_one, posterior.target, positions, block_size=block_size)
        values, shape = _stream(_simulate_one, target, latents, key=key, compiled=False)
    if not anew:
        # Deterministics of the same data are in the posterior group already.
        values = {name: value for name, value in values.items() if name in observed}
    labels = Labels(target, list(values))
    coords = {
        "chain": kept["chain"].values,
        "draw": kept["draw"].values[chosen],
    }
    dataset = build_dataset(values, labels, sample_shape=shape, sample_coords=coords)
    posterior.store("predictions" if anew else "posterior_predictive", dataset)
    if anew:
        posterior.store("predictions_constant_data", build_dataset(target.constants(), Labels(target, ())))
    return dataset


def prior_draws(
    posterior: Posterior, key: Key, num_draws: int, *, block_size: int | None
) -> tuple[xr.Dataset, xr.Dataset]:
    """Draw from the generative process; see `Posterior.prior_predictive`."""
    check_key(key)
    if isinstance(num_draws, bool) or not isinstance(num_draws, int) or num_draws < 1:
        raise ValueError(f"num_draws must be a positive integer, got {num_draws!r}.")
    target = posterior.target
    # The draw's index stands in for a position: a draw from the prior has none.
    index = np.zeros((1, num_draws), np.uint8)
    compiled = target.program.traceable_simulation
    values, shape = _stream(_prior_one, target, index, key=key, block_size=block_size, compiled=compiled)
    observed = {site.name for site in target.program.sites if site.kind == "observed"}
    labels = Labels(target, list(values))
    latent, data = (
        build_dataset({k: v for k, v in values.items() if (k in observed) is seen}, labels, sample_shape=shape)
        for seen in (False, True)
    )
    posterior.store("prior", latent)
    posterior.store("prior_predictive", data)
    return latent, data


def pointwise_log_likelihood(posterior: Posterior, *, block_size: int | None = None) -> xr.Dataset:
    """Evaluate the log-likelihood of each observation at each draw and store it; see `Posterior.log_likelihood`."""
    target = posterior.target
    if not any(site.kind == "observed" for site in target.program.sites):
        raise ValueError(
            f"{target.program.source} has no observed site, so there is no pointwise log-likelihood. A plain "
            "log-density does not say which part of it is data; write the model as a program with observed sites."
        )
    values, shape = _stream(_log_likelihood_one, target, posterior.positions, block_size=block_size)
    dataset = build_dataset(values, Labels(target, list(values)), sample_shape=shape)
    kept = group(posterior.data, "posterior")
    dataset = dataset.assign_coords({axis: kept[axis].values for axis in ("chain", "draw")})
    posterior.store("log_likelihood", dataset)
    return dataset


def check_key(key: Any) -> None:
    """Refuse anything but one typed key.

    Raises:
        ValueError: saying what was given.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        got = f"an array of dtype {key.dtype} and shape {key.shape}" if isinstance(key, jax.Array) else repr(key)
        raise ValueError(f"key must be one typed key such as jax.random.key(0), got {got}.")


def _stream(
    function: Any,
    operand: PyTree,
    positions: PyTree,
    *,
    key: Key | None = None,
    block_size: int | None = None,
    compiled: bool = True,
) -> tuple[Values, tuple[int, int]]:
    leaves = jax.tree.leaves(positions)
    shape: tuple[int, int] = leaves[0].shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), positions)
    if compiled:
        values = stream_draws(function, operand, flat, key=key, block_size=block_size)
    else:
        assert key is not None
        values = host_draws(function, operand, flat, key=key)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), values), shape


def _thin(num_draws: int, num_chains: int, wanted: int | None) -> np.ndarray:
    """Evenly spaced draws of each chain, ``wanted`` in all."""
    if wanted is None:
        return np.arange(num_draws)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 < wanted <= num_draws * num_chains:
        raise ValueError(
            f"num_draws must be an integer from 1 to {num_draws * num_chains}, the draws kept; got {wanted!r}."
        )
    if wanted % num_chains:
        raise ValueError(f"num_draws counts all chains: expected a multiple of the {num_chains} chains, got {wanted}.")
    return np.linspace(0, num_draws - 1, wanted // num_chains).round().astype(int)


def _predict_one(targets: tuple[Target, Target], position: Position, key: Key) -> Values:
    fitted, target = targets
    # The density of the new target may be undefined (its data is missing): the latents are the fitted target's.
    latents = fitted.program.evaluate(position).values
    return {name: value for name, value in target.program.simulate(key, latents).items() if name not in latents}


def _latents_one(target: Target, position: Position) -> Values:
    return target.program.evaluate(position).values


def _simulate_one(target: Target, latents: Values, key: Key) -> Values:
    return {name: value for name, value in target.program.simulate(key, latents).items() if name not in latents}


def _prior_one(target: Target, position: Position, key: Key) -> Values:
    del position
    return target.prior(key)


def _log_likelihood_one(target: Target, position: Position) -> Values:
    return target.log_likelihood(position)
