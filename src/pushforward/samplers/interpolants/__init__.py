"""Stochastic interpolants: paths between laws, their fields, and what to do along them."""

from ._exact_fields import MixtureFields as MixtureFields
from ._fields import AbstractFields as AbstractFields
from ._gamma import AbstractGamma as AbstractGamma
from ._gamma import Brownian as Brownian
from ._gamma import Bump as Bump
from ._gamma import NoNoise as NoNoise
from ._gamma import Parabolic as Parabolic
from ._gamma import SineSquared as SineSquared
from ._log_prob import LogProb as LogProb
from ._log_prob import log_prob as log_prob
from ._mixture import GaussianMixture as GaussianMixture
from ._ode import flow as flow
from ._one_sided import EDM as EDM
from ._one_sided import Cosine as Cosine
from ._one_sided import OneSidedLinear as OneSidedLinear
from ._one_sided import OneSidedTrigonometric as OneSidedTrigonometric
from ._one_sided import VarianceExploding as VarianceExploding
from ._one_sided import VariancePreserving as VariancePreserving
from ._path import AbstractPath as AbstractPath
from ._sde import diffuse as diffuse
from ._two_sided import EncodingDecoding as EncodingDecoding
from ._two_sided import Linear as Linear
from ._two_sided import Mirror as Mirror
from ._two_sided import Trigonometric as Trigonometric
