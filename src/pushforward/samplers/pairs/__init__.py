"""Pairs of particles: positive-definite kernels, their bandwidths, and what is summed over all pairs."""

from ._bandwidth import AbstractBandwidth as AbstractBandwidth
from ._bandwidth import Fixed as Fixed
from ._bandwidth import Median as Median
from ._base import AbstractRadialKernel as AbstractRadialKernel
from ._base import AbstractSteinKernel as AbstractSteinKernel
from ._base import Profile as Profile
from ._force import stein_force as stein_force
from ._fused import fused_force as fused_force
from ._graphical import Graphical as Graphical
from ._matrix_valued import MatrixValued as MatrixValued
from ._radial import IMQ as IMQ
from ._radial import RBF as RBF
from ._radial import Laplace as Laplace
from ._random_batch import random_batch_force as random_batch_force
from ._stein_kernel import stein_kernel_rows as stein_kernel_rows
