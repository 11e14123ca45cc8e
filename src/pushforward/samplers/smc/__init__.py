"""Sequential Monte Carlo."""

from .._tempering import effective_sample_size as effective_sample_size
from ._resampling import resample as resample
from ._smc import SMC as SMC
from ._start import AbstractStart as AbstractStart
