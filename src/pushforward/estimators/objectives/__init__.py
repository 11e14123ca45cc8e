"""Objectives: scalar functions of log-weights."""

from ._base import AbstractObjective as AbstractObjective
from ._cubo import CUBO as CUBO
from ._custom import CustomObjective as CustomObjective
from ._custom import objective as objective
from ._elbo import ELBO as ELBO
from ._forward_kl import ForwardKL as ForwardKL
from ._iwelbo import IWELBO as IWELBO
from ._power import log_power_mean as log_power_mean
from ._renyi import Renyi as Renyi
from ._tvo import TVO as TVO
from ._vis import VIS as VIS
