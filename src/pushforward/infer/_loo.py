"""Leave-one-out predictive accuracy by Pareto-smoothed importance sampling."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arviz import arviz_stats
from ._tree import clean_name, group

if TYPE_CHECKING:
    from ._posterior import Posterior


def loo(posterior: Posterior, site: str | None = None) -> Any:
    """Estimate the expected log predictive density of one observed site; see `Posterior.loo`."""
    if posterior.kind == "point":
        raise ValueError(
            "LOO needs draws, and a point estimate has none: leaving one observation out would not change it. Use "
            "pf.Laplace, another guide, or pf.sample."
        )
    if "log_likelihood" not in posterior.data.children:
        posterior.log_likelihood()
    pointwise = group(posterior.data, "log_likelihood")
    name = choose_site([str(v) for v in pointwise.data_vars], site)
    bad = int(np.sum(~np.isfinite(pointwise[name].values)))
    if bad:
        raise ValueError(
            f"{bad} pointwise log-likelihoods of '{name}' are not finite, so LOO is not defined. An observation is "
            "impossible under some draws: check its support, or use a likelihood with heavier tails."
        )
    with warnings.catch_warnings():
        if pointwise[name].size == pointwise.sizes["chain"] * pointwise.sizes["draw"]:
            # One observation: its elpd is the sum.
            warnings.filterwarnings("ignore", message="The point-wise LOO is the same with the sum LOO")
        if posterior.kind == "variational":
            stats = group(posterior.data, "sample_stats")
            return arviz_stats().loo_approximate_posterior(
                posterior.data, log_p=stats["lp"], log_q=stats["log_q"], var_name=name, pointwise=True
            )
        # Particles are treated as equally informative draws; only a chain has an efficiency to estimate.
        reff = None if posterior.kind == "mcmc" else 1.0
        return arviz_stats().loo(posterior.data, var_name=name, pointwise=True, reff=reff)


def choose_site(names: list[str], site: str | None) -> str:
    """The observed site to score.

    Raises:
        ValueError: if the name is unknown, or there are several and none was named.
    """
    if site is None:
        if len(names) == 1:
            return names[0]
        raise ValueError(f"The model observes several sites {names}: choose the one to leave out from with site=...")
    if clean_name(site) not in names:
        raise ValueError(f"Unknown observed site {site!r}: expected one of {names}.")
    return clean_name(site)
