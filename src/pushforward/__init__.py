"""Probabilistic inference on JAX for NumPyro and Pyro programs. Import as ``import pushforward as pf``.

This file re-exports public names and holds no logic.
"""

from __future__ import annotations

from importlib.metadata import version as _version

from .models import Target as Target
from .models import from_logdensity as from_logdensity
from .models import from_numpyro as from_numpyro

__version__ = _version("pushforward")
