"""ArviZ, imported when it is first needed: it costs a second or two that many programs never have to pay."""

from __future__ import annotations

from typing import Any


def arviz_stats() -> Any:
    """Statistics on data trees: LOO, model comparison."""
    import arviz_stats as module

    return module


def array_stats() -> Any:
    """Statistics on arrays: R-hat, ESS, Pareto smoothing."""
    import arviz_stats.base as module

    arrays: Any = module
    return arrays.array_stats


def arviz_plots() -> Any:
    """Plots of data trees.

    Raises:
        ImportError: naming the extra to install.
    """
    try:
        import arviz_plots as module
    # An arviz-plots that is too old for the installed matplotlib fails on its attributes.
    except (ImportError, AttributeError) as error:
        raise _missing() from error
    return module


def pyplot() -> Any:
    """Plain matplotlib.

    Raises:
        ImportError: naming the extra to install.
    """
    try:
        from matplotlib import pyplot as module
    except ImportError as error:
        raise _missing() from error
    return module


def _missing() -> ImportError:
    return ImportError('Plots need arviz-plots and a matplotlib that fits it: pip install "pushforward[plots]".')
