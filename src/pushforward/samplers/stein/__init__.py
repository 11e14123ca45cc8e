"""Deterministic particle flows."""

from ._annealing import Annealing as Annealing
from ._flow import AbstractParticleFlow as AbstractParticleFlow
from ._preconditioner import AbstractPreconditioner as AbstractPreconditioner
from ._preconditioner import AverageHessian as AverageHessian
from ._preconditioner import EnsembleCovariance as EnsembleCovariance
from ._svgd import SVGD as SVGD
from ._svgd import CoinSVGD as CoinSVGD
from ._update import AbstractUpdate as AbstractUpdate
from ._update import Coin as Coin
from ._update import Optax as Optax
