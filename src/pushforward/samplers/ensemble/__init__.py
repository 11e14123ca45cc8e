"""Ensembles that interact through their moments: Langevin systems, consensus, Kalman methods."""

from ._aldi import ALDI as ALDI
from ._cbo import CBO as CBO
from ._cbs import CBS as CBS
from ._kalman import EKI as EKI
from ._kalman import EKS as EKS
