"""Models: front ends that turn probabilistic programs into targets, and the variational families (guides)."""

from ._forward_map import from_forward_map as from_forward_map
from ._likelihood import likelihood as likelihood
from ._logdensity import from_logdensity as from_logdensity
from ._marginal import marginal as marginal
from ._normalize import normalize as normalize
from ._numpyro import from_numpyro as from_numpyro
from ._precision import enable_x64 as enable_x64
from ._target import Target as Target
from .pyro import from_pyro as from_pyro
from .pyro import register_lowering as register_lowering
