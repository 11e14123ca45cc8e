"""Flow guides: invertible layers on standard normal noise."""

from ._bijection import AbstractBijection as AbstractBijection
from ._bijection import Chain as Chain
from ._bijection import Reverse as Reverse
from ._bijection import Shuffle as Shuffle
from ._bijection import Stack as Stack
from ._coupling import AbstractCoupling as AbstractCoupling
from ._flow import AbstractFlow as AbstractFlow
from ._flowjax import FlowjaxBijection as FlowjaxBijection
from ._flowjax import FlowjaxGuide as FlowjaxGuide
from ._flowjax import flow_guide as flow_guide
from ._iaf import IAF as IAF
from ._iaf import MaskedAffine as MaskedAffine
from ._planar import Planar as Planar
from ._planar import PlanarLayer as PlanarLayer
from ._radial import Radial as Radial
from ._radial import RadialLayer as RadialLayer
from ._realnvp import AffineCoupling as AffineCoupling
from ._realnvp import RealNVP as RealNVP
from ._spline_flow import SplineCoupling as SplineCoupling
from ._spline_flow import SplineFlow as SplineFlow
