"""Samplers: kernels that move positions or parameters, and the engine that runs them."""

from ._base import AbstractKernel as AbstractKernel
from ._base import AbstractSampler as AbstractSampler
from ._base import Chains as Chains
from ._ensemble import AbstractEnsemble as AbstractEnsemble
from ._hmc import HMC as HMC
from ._hmc import NUTS as NUTS
from ._variational import Variational as Variational
from .ensemble import ALDI as ALDI
from .sgmcmc import BAOAB as BAOAB
from .sgmcmc import PSGLD as PSGLD
from .sgmcmc import SGHMC as SGHMC
from .sgmcmc import SGLD as SGLD
from .sgmcmc import SGNHT as SGNHT
from .sgmcmc import SVRG as SVRG
from .sgmcmc import ControlVariate as ControlVariate
from .sgmcmc import CyclicalSGLD as CyclicalSGLD
from .sgmcmc import EntropyMCMC as EntropyMCMC
from .sgmcmc import StructuredSGLD as StructuredSGLD
from .smc import SMC as SMC
from .stein import SVGD as SVGD
from .stein import CoinSVGD as CoinSVGD
