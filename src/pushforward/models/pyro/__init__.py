"""Pyro front end: a Pyro program's log density, traced in torch and compiled to JAX."""

from ._frontend import from_pyro as from_pyro
from ._program import PyroProgram as PyroProgram
from .lowerings import register_lowering as register_lowering
