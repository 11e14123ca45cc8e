"""Optimal transport between clouds of points, histograms and laws in closed form."""

from ._divergence import Divergence as Divergence
from ._divergence import sinkhorn_divergence as sinkhorn_divergence
from ._exact import ExactTransport as ExactTransport
from ._exact import exact as exact
from ._solution import Status as Status
from ._solution import Transport as Transport
from ._solve import solve as solve
