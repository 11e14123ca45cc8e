"""Fifteen real posteriors with published references: models, data, moments and draws, with their licences."""

from ._entry import Entry as Entry
from ._entry import Reference as Reference
from ._registry import load as load
from ._registry import names as names
from ._registry import pyro_names as pyro_names
