"""The one result of every algorithm: draws with names, a verdict, and what can be done with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from ..models._types import Key, Position, Values
from . import _display, _loo, _predict
from ._streaming import stream_draws
from ._summary import chain_statistic, check_sites, require_chains, summarise
from ._tree import stacked_draws
from ._verdict import Verdict, diagnose

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ..models import Target

Kind = Literal["variational", "mcmc", "particles", "point"]


class Posterior:
    """What `fit` and `sample` return: an ``xarray.DataTree`` in the ArviZ schema, plus the means to use it.

    ``.data`` works with ``arviz_stats`` and ``arviz_plots`` as it is. Predictions and log-likelihoods are added to it
    when they are asked for. Printing a posterior shows its table and its verdict.
    """

    data: xr.DataTree
    """Groups posterior, unconstrained_posterior, sample_stats, optimization, observed_data, constant_data, ..."""

    def __init__(self, data: xr.DataTree, parts: Mapping[str, Any]) -> None:
        """Wrap a data tree.

        Args:
            data: a tree as `build_posterior` makes it.
            parts: ``target``, ``guide``, ``state`` and ``position_names``; each an object, or a stored part that is
                restored when it is first needed.
        """
        self.data = data
        self._parts = dict(parts)

    def _part(self, name: str) -> Any:
        from ._storage import StoredPart

        part = self._parts.get(name)
        if isinstance(part, StoredPart):
            part = self._parts[name] = part.restore()
        return part

    @property
    def target(self) -> Target:
        """The target of the run. After `load` it is unpickled on first use: only open files that you trust."""
        target = self._part("target")
        if target is None:
            raise ValueError(
                "This result holds no target (its model could not be stored), so nothing new can be computed from the "
                "model. The draws, .summary() and .diagnose() work; to predict, build the target again and refit or "
                "reload."
            )
        return target

    @property
    def guide(self) -> Any:
        """The fitted guide, or None. After `load` it is unpickled on first use: only open files that you trust."""
        return self._part("guide")

    @property
    def state(self) -> Any:
        """The final state of the algorithm, or None; unpickled like `guide`."""
        return self._part("state")

    @property
    def kind(self) -> Kind:
        """How the draws were made: ``variational``, ``mcmc``, ``particles`` or ``point``."""
        return self.data.attrs["sampler_kind"]

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last `diagnose`, first made when the result was built."""
        return Verdict.from_json(self.data.attrs["verdict"])

    @property
    def positions(self) -> Position:
        """The draws on unconstrained space, structured as positions; leaves of shape (chain, draw, ...)."""
        names = self._part("position_names")
        group = self.data["unconstrained_posterior"]
        if names is None:
            names = {str(name): str(name) for name in group.data_vars}
        return jax.tree.map(lambda name: group[name].values, names)

    def diagnose(self) -> Verdict:
        """Check the result again, store the verdict and return it. See `pushforward.diagnose` for the checks."""
        verdict = diagnose(self.data)
        self.data.attrs["verdict"] = verdict.to_json()
        return verdict

    def summary(
        self, var_names: Sequence[str] | str | None = None, ci: float = 0.9, *, diagnostics: bool | None = None
    ) -> pd.DataFrame:
        """Table of mean, sd, equal-tailed interval and Monte Carlo error per scalar.

        Args:
            var_names: sites to show; None shows all.
            ci: probability of the interval.
            diagnostics: whether to add ``ess_bulk``, ``ess_tail`` and ``r_hat``; None adds them for Markov chains.

        Raises:
            ValueError: for unknown sites, a bad ``ci``, or R-hat and ESS of independent draws.
        """
        return summarise(self.data, var_names, ci=ci, diagnostics=diagnostics)

    def rhat(self, var_names: Sequence[str] | str | None = None) -> dict[str, np.ndarray]:
        """Rank-normalised split R-hat by site (arXiv:1903.08008).

        Raises:
            ValueError: for draws that are not Markov chains.
        """
        return self._chain_statistic("rhat", var_names)

    def ess(
        self, var_names: Sequence[str] | str | None = None, *, method: Literal["bulk", "tail"] = "bulk"
    ) -> dict[str, np.ndarray]:
        """Effective sample size by site (arXiv:1903.08008).

        Raises:
            ValueError: for draws that are not Markov chains, or an unknown method.
        """
        if method not in ("bulk", "tail"):
            raise ValueError(f"method must be 'bulk' or 'tail', got {method!r}.")
        return self._chain_statistic(method, var_names)

    def _chain_statistic(self, which: str, var_names: Sequence[str] | str | None) -> dict[str, np.ndarray]:
        require_chains(self.kind)
        dataset = self.data["posterior"].to_dataset()
        return {
            name: chain_statistic(stacked_draws(dataset, name), which).reshape(dataset[name].shape[2:])
            for name in check_sites(dataset, var_names)
        }

    def draws(self, site: str) -> np.ndarray:
        """Draws of one site in the user's space, shape (chain * draw, ...).

        Raises:
            ValueError: for an unknown site.
        """
        dataset = self.data["posterior"].to_dataset()
        (name,) = check_sites(dataset, [site])
        values = dataset[name].values
        return values.reshape(-1, *values.shape[2:])

    def sample(self, key: Key, num_draws: int) -> dict[str, np.ndarray]:
        """Draw anew from the fitted guide, in the user's space; leaves of shape (num_draws, ...).

        Raises:
            ValueError: if there is no guide to draw from.
        """
        _predict.check_key(key)
        if isinstance(num_draws, bool) or not isinstance(num_draws, int) or num_draws < 1:
            raise ValueError(f"num_draws must be a positive integer, got {num_draws!r}.")
        if self.guide is None:
            raise ValueError(
                f"A {self.kind} result of {self.data.attrs.get('algorithm')} has no guide to draw from. Use .draws."
            )
        placeholder = np.zeros((num_draws,), np.uint8)
        return stream_draws(_draw_from_guide, (self.target, self.guide), placeholder, key=key)

    def log_likelihood(self, *, batch_size: int | Literal["auto"] = "auto") -> xr.Dataset:
        """Log-likelihood of each observation at each draw; also stored as the group ``log_likelihood``.

        Args:
            batch_size: draws evaluated at once; ``"auto"`` bounds the memory of a block.

        Raises:
            ValueError: if the model has no observed site. MemoryError: if draws x observations do not fit in memory.
        """
        return _predict.pointwise_log_likelihood(self, block_size=_block_size(batch_size))

    def loo(self, site: str | None = None) -> Any:
        """Leave-one-out predictive accuracy (PSIS-LOO, arXiv:1507.04544), an ``arviz_stats`` ELPDData.

        For a variational result the weights also correct for the guide, by log p and log q of each draw
        (arXiv:1904.10679).

        Args:
            site: the observed site to leave out from; needed when there are several.

        Raises:
            ValueError: for a point estimate, an unknown or ambiguous site, or a non-finite log-likelihood.
        """
        return _loo.loo(self, site)

    def predict(
        self,
        key: Key,
        *new_args: Any,
        num_draws: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        **new_kwargs: Any,
    ) -> xr.Dataset:
        """Draw data from the posterior predictive distribution, in bounded memory.

        Without arguments of the model the observed sites are redrawn and stored as ``posterior_predictive``. With new
        arguments (None where data is to be predicted) the model runs on them, and every site that it draws and every
        deterministic is stored as ``predictions``.

        Args:
            key: a typed key. Draw i uses ``fold_in(key, i)``, so that results do not depend on ``batch_size``.
            *new_args: the model's positional arguments.
            num_draws: posterior draws to use, all chains together, evenly spaced; None uses all.
            batch_size: draws simulated at once; ``"auto"`` bounds the memory of a block.
            **new_kwargs: the model's keyword arguments.

        Returns:
            Dataset with dims (chain, draw, ...).

        Raises:
            ValueError: for a bad key, count or argument. MemoryError: if the result does not fit in memory.
        """
        return _predict.predict_draws(
            self, key, new_args, new_kwargs, num_draws=num_draws, block_size=_block_size(batch_size)
        )

    def prior_predictive(
        self, key: Key, num_draws: int = 1000, *, batch_size: int | Literal["auto"] = "auto"
    ) -> xr.Dataset:
        """Draw parameters and data from the prior, stored as ``prior`` and ``prior_predictive``; return the data.

        Raises:
            ValueError: for a bad key or count, or an improper prior.
        """
        return _predict.prior_draws(self, key, num_draws, block_size=_block_size(batch_size))[1]

    def plot(self, kind: str = "auto", **kwargs: Any) -> Any:
        """Plot the result with arviz-plots (extra ``plots``).

        Args:
            kind: ``auto`` (trace for chains, else dist), ``dist``, ``trace``, ``rank``, ``pair``, ``forest``,
                ``energy``, ``predictive`` or ``loss``.
            **kwargs: passed on, for example ``var_names``.

        Raises:
            ImportError: naming the extra. ValueError: for a plot that this result cannot have.
        """
        return _display.plot(self, kind, **kwargs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one netCDF file; see `pushforward.load`. The file is replaced only once it is complete.

        Raises:
            OSError: if the path cannot be written; an existing file is left as it was.
        """
        from ._storage import save

        save(self, path)

    def store(self, group: str, dataset: xr.Dataset) -> None:
        """Put a group into ``.data``, replacing one of that name."""
        import xarray as xr

        self.data[group] = xr.DataTree(dataset)

    def __repr__(self) -> str:
        return _display.as_text(self)

    def _repr_html_(self) -> str:
        return _display.as_html(self)


def _draw_from_guide(operand: tuple[Target, Any], placeholder: jax.Array, key: Key) -> Values:
    del placeholder
    target, guide = operand
    return target.constrain(guide.sample_and_log_prob(key)[0])


def _block_size(batch_size: int | Literal["auto"]) -> int | None:
    return None if batch_size == "auto" else batch_size
