"""Optimal transport between clouds of points, histograms and laws in closed form."""

from ._assignment import Assignment as Assignment
from ._assignment import assignment as assignment
from ._barycenter import Barycenter as Barycenter
from ._barycenter import FreeBarycenter as FreeBarycenter
from ._barycenter import barycenter as barycenter
from ._barycenter import free_barycenter as free_barycenter
from ._couplings import coupling as coupling
from ._divergence import Divergence as Divergence
from ._divergence import sinkhorn_divergence as sinkhorn_divergence
from ._exact import ExactTransport as ExactTransport
from ._exact import exact as exact
from ._gaussian import GaussianTransport as GaussianTransport
from ._gaussian import bures_wasserstein as bures_wasserstein
from ._gaussian import gaussian_transport as gaussian_transport
from ._grid import Grid as Grid
from ._lightsb import LightSB as LightSB
from ._one_dimensional import one_dimensional as one_dimensional
from ._partial import PartialTransport as PartialTransport
from ._partial import partial as partial
from ._sliced import sliced_wasserstein as sliced_wasserstein
from ._solution import Status as Status
from ._solution import Transport as Transport
from ._solve import solve as solve
from ._sparse_plan import SparsePlan as SparsePlan
