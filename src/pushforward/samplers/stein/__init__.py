"""Deterministic particle flows."""

from ._annealing import Annealing as Annealing
from ._birth_death import BirthDeath as BirthDeath
from ._flow import AbstractParticleFlow as AbstractParticleFlow
from ._ksd_descent import CoinKSDD as CoinKSDD
from ._ksd_descent import KSDDescent as KSDDescent
from ._lawgd import LAWGD as LAWGD
from ._lawgd import CoinLAWGD as CoinLAWGD
from ._mirror import Mirror as Mirror
from ._mirrored import AbstractMirrored as AbstractMirrored
from ._mirrored import CoinMirroredSVGD as CoinMirroredSVGD
from ._mirrored import MirroredSVGD as MirroredSVGD
from ._mmd_flow import MMDFlow as MMDFlow
from ._preconditioner import AbstractPreconditioner as AbstractPreconditioner
from ._preconditioner import AverageHessian as AverageHessian
from ._preconditioner import EnsembleCovariance as EnsembleCovariance
from ._svgd import SVGD as SVGD
from ._svgd import CoinSVGD as CoinSVGD
from ._svmd import SVMD as SVMD
from ._svmd import CoinSVMD as CoinSVMD
from ._svng import SVNG as SVNG
from ._update import AbstractUpdate as AbstractUpdate
from ._update import Coin as Coin
from ._update import Optax as Optax
