"""Guides: variational families."""

from ._base import AbstractGuide as AbstractGuide
from ._base import AbstractLocationScale as AbstractLocationScale
from ._delta import Delta as Delta
from ._fullrank import FullRank as FullRank
from ._laplace import Laplace as Laplace
from ._lowrank import LowRank as LowRank
from ._meanfield import MeanField as MeanField
from ._program import ProgramGuide as ProgramGuide
from ._program import program_guide as program_guide
from ._whitened import Whitened as Whitened
from .flows import IAF as IAF
from .flows import AbstractFlow as AbstractFlow
from .flows import Planar as Planar
from .flows import Radial as Radial
from .flows import RealNVP as RealNVP
from .flows import SplineFlow as SplineFlow
from .flows import flow_guide as flow_guide
