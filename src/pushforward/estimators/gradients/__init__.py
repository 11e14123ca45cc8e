"""Gradient estimators."""

from ._adaptive import Adaptive as Adaptive
from ._affine_control import AffineControl as AffineControl
from ._base import AbstractGradient as AbstractGradient
from ._base import Estimate as Estimate
from ._base import Parameters as Parameters
from ._base import join as join
from ._base import log_weights as log_weights
from ._base import over_particles as over_particles
from ._base import particle_keys as particle_keys
from ._base import split as split
from ._base import with_own as with_own
from ._baselines import LearnedBaseline as LearnedBaseline
from ._path import Path as Path
from ._price import Price as Price
from ._reparam import Reparam as Reparam
from ._resolve import resolve_gradient as resolve_gradient
from ._score import Score as Score
from ._sites import SiteGradients as SiteGradients
