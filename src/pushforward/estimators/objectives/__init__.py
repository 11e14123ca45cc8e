"""Objectives: scalar functions of log-weights."""

from ._base import AbstractObjective as AbstractObjective
from ._elbo import ELBO as ELBO
