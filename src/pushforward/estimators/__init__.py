"""Estimators: objectives and the gradients that optimise them."""

from .gradients import AbstractGradient as AbstractGradient
from .gradients import Adaptive as Adaptive
from .gradients import AffineControl as AffineControl
from .gradients import Estimate as Estimate
from .gradients import LearnedBaseline as LearnedBaseline
from .gradients import Parameters as Parameters
from .gradients import Path as Path
from .gradients import Price as Price
from .gradients import Reparam as Reparam
from .gradients import Score as Score
from .objectives import CUBO as CUBO
from .objectives import ELBO as ELBO
from .objectives import IWELBO as IWELBO
from .objectives import TVO as TVO
from .objectives import VIS as VIS
from .objectives import AbstractObjective as AbstractObjective
from .objectives import ForwardKL as ForwardKL
from .objectives import Renyi as Renyi
from .objectives import objective as objective
from .sites import Enumerate as Enumerate
from .sites import Implicit as Implicit
from .sites import MeasureValued as MeasureValued
from .sites import Rejection as Rejection
from .sites import Relax as Relax
