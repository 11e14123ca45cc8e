"""Gradient estimators."""

from ._base import AbstractGradient as AbstractGradient
from ._base import Estimate as Estimate
from ._base import Parameters as Parameters
from ._base import join as join
from ._base import log_weights as log_weights
from ._base import split as split
from ._path import Path as Path
from ._reparam import Reparam as Reparam
