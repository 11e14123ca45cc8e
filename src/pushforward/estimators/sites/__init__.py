"""Strategies for single random sites."""

from ._base import AbstractSiteStrategy as AbstractSiteStrategy
from ._base import Outcome as Outcome
