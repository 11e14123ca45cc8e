"""Turn positions into a result with names, statistics, provenance and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..models._types import Position, Values
from ._online import with_quantiles
from ._posterior import Kind, Posterior
from ._provenance import as_attr, collect_provenance, library_attrs
from ._streaming import count_draws, stream_draws
from ._tree import (
    Labels,
    build_dataset,
    clean_name,
    host_array,
    optimization_dataset,
    position_names,
    unconstrained_dataset,
)

if TYPE_CHECKING:
    import xarray as xr

    from ..models import Target


def build_posterior(
    target: Target,
    positions: Position,
    *,
    kind: Kind,
    algorithm: str,
    sample_stats: Mapping[str, Any] | None = None,
    optimization: Mapping[str, tuple[Sequence[str], Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    guide: Any = None,
    state: Any = None,
    provenance: Mapping[str, Any] | None = None,
    online: xr.Dataset | None = None,
) -> Posterior:
    """Turn positions into a result with names, statistics and a verdict.

    Args:
        target: the target of the run.
        positions: unconstrained positions, leaves of shape (chain, draw, ...).
        kind: how the draws were made; decides the checks.
        algorithm: name for tables, such as ``"MeanField"``.
        sample_stats: arrays of shape (chain, draw, ...) by ArviZ name. ``lp`` (and, for variational draws, ``log_q``
            from ``guide``) is computed where absent.
        optimization: ``{name: (dims, array)}``. The checks read ``converged`` (restart), ``restart_elbo`` (restart),
            ``restart_elbo_se``, ``restart_mean`` and ``restart_sd`` (restart, parameter), ``best_restart``; a variable
            ``parameter`` of dims ("parameter",) labels the parameters; ``loss`` is plotted.
        attrs: more attributes of the result.
        guide: the fitted guide.
        state: the final state, kept for `resume`.
        provenance: seed, configuration, wall time; versions, device and dtype are added.
        online: figures of all steps of a run that kept only some, by which the checks go then.

    Returns:
        The posterior, diagnosed.

    Raises:
        ValueError: for an unknown kind, positions without draws, or statistics of the wrong shape.

    Cost: one evaluation of the program per draw, in blocks of bounded memory.
    """
    import xarray as xr

    if kind not in ("variational", "mcmc", "particles", "point"):
        raise ValueError(f"kind must be 'variational', 'mcmc', 'particles' or 'point', got {kind!r}.")
    positions = jax.tree.map(host_array, positions)
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(positions)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"The leaves of positions must all begin with the axes (chain, draw), got leading shapes {shapes}."
        )
    shape: tuple[int, int] = shapes.pop()
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), positions)
    count_draws(flat)
    stats = {name: host_array(value) for name, value in (sample_stats or {}).items()}
    score_q = kind == "variational" and "log_q" not in stats
    if score_q and guide is None:
        raise ValueError("A variational result needs log_q per draw: pass sample_stats={'log_q': ...} or the guide.")
    operand = (target, guide if score_q else None)
    computed = stream_draws(_constrain if "lp" in stats else _constrain_and_score, operand, flat)
    computed = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), computed)
    values: Values = _in_program_order(target, computed.pop("values"))
    stats = {**computed, **stats}

    observed = target.observed()
    labels = Labels(target, [*values, *jax.tree.leaves(position_names(positions)), *stats])
    stat_dims = {name: [f"{name}_dim_{axis}" for axis in range(array.ndim - 2)] for name, array in stats.items()}
    groups = {
        "posterior": build_dataset(values, labels, sample_shape=shape),
        "unconstrained_posterior": unconstrained_dataset(target, positions, labels, shape),
        "sample_stats": build_dataset(stats, labels, sample_shape=shape, dims=stat_dims),
        "observed_data": build_dataset(observed, labels),
        "constant_data": build_dataset(target.constants(observed), labels),
    }
    if optimization:
        groups["optimization"] = optimization_dataset(optimization)
    if online is not None:
        groups["online"] = with_quantiles(online, groups["posterior"])
    params = _named_leaves(target.program.param_values())
    if params:
        groups["model_parameters"] = build_dataset(params, labels)
    tree = xr.DataTree.from_dict(
        {name: group for name, group in groups.items() if group.data_vars or name == "posterior"}
    )
    tree.attrs = {
        **library_attrs(),
        "sampler_kind": kind,
        "algorithm": algorithm,
        "model": target.program.source,
        **collect_provenance(positions, provenance),
        **({"site_weights": _shown_weights(target)} if target.weights else {}),
        **{name: as_attr(value) for name, value in (attrs or {}).items()},
    }
    for name in ("posterior", "sample_stats"):
        tree[name].attrs["sampler_kind"] = kind
    example = jax.tree.map(lambda leaf: leaf[0, 0], positions)
    parts = {"target": target, "guide": guide, "state": state, "position_names": position_names(example)}
    posterior = Posterior(tree, parts)
    posterior.diagnose()
    return posterior


def _in_program_order(target: Target, values: Values) -> Values:
    """Latent sites as the program meets them, then the deterministic ones: the order of tables.

    Sites that only carry the noise of an estimated density are left to the unconstrained group.
    """
    sites = sorted(target.program.sites, key=lambda site: site.kind != "latent")
    ordered = [site.name for site in sites if site.name in values]
    hidden = {site.name for site in sites if site.auxiliary}
    names = [*ordered, *(name for name in values if name not in ordered)]
    return {name: values[name] for name in names if name not in hidden}


def _shown_weights(target: Target) -> str:
    """Site weights, for a reader."""
    return ", ".join(
        f"{name} x {float(weight):g}" if weight.ndim == 0 else f"{name} x an array"
        for name, weight in target.weights.items()
    )


def _constrain(operand: tuple[Target, Any], position: Position) -> dict[str, Any]:
    target, guide = operand
    computed: dict[str, Any] = {"values": target.constrain(position)}
    if guide is not None:
        computed["log_q"] = guide.log_prob(position)
    return computed


def _constrain_and_score(operand: tuple[Target, Any], position: Position) -> dict[str, Any]:
    return {**_constrain(operand, position), "lp": operand[0].logdensity(position)}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """Array leaves of the learnable parameters, by path."""
    arrays = eqx.filter(tree, eqx.is_array)
    return {
        clean_name(jax.tree_util.keystr(path, simple=True, separator=".")): leaf
        for path, leaf in jax.tree.leaves_with_path(arrays)
    }
