"""Stochastic-gradient Markov chain Monte Carlo."""

from ._base import AbstractStochasticGradientSampler as AbstractStochasticGradientSampler
from ._gradients import AbstractGradientEstimate as AbstractGradientEstimate
from ._gradients import Minibatch as Minibatch
from ._sgld import SGLD as SGLD
