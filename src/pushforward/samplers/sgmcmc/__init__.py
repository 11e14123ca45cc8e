"""Stochastic-gradient Markov chain Monte Carlo."""

from ._baoab import BAOAB as BAOAB
from ._base import AbstractStochasticGradientSampler as AbstractStochasticGradientSampler
from ._control_variate import ControlVariate as ControlVariate
from ._cyclical import CyclicalSGLD as CyclicalSGLD
from ._entropy import EntropyMCMC as EntropyMCMC
from ._gradients import AbstractGradientEstimate as AbstractGradientEstimate
from ._gradients import Minibatch as Minibatch
from ._psgld import PSGLD as PSGLD
from ._sghmc import SGHMC as SGHMC
from ._sgld import SGLD as SGLD
from ._sgnht import SGNHT as SGNHT
from ._structured import StructuredSGLD as StructuredSGLD
from ._svrg import SVRG as SVRG
