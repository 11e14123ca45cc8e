"""Estimators: objectives and the gradients that optimise them."""

from .gradients import AbstractGradient as AbstractGradient
from .gradients import Estimate as Estimate
from .gradients import Parameters as Parameters
from .gradients import Path as Path
from .gradients import Reparam as Reparam
from .objectives import ELBO as ELBO
from .objectives import AbstractObjective as AbstractObjective
