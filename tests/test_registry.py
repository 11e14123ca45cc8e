"""The registry holds every public final algorithm."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import registry
import tiers

import pushforward as pf
from pushforward.estimators import AbstractGradient, AbstractObjective, sites
from pushforward.estimators.sites import AbstractSiteStrategy
from pushforward.models import guides
from pushforward.models.guides import AbstractGuide
from pushforward.samplers import AbstractSampler


def public(base, *modules):
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value):
                found[value.__name__] = name
    return set(found)


@pytest.mark.parametrize(
    ("base", "table", "modules"),
    [
        (AbstractGuide, registry.GUIDES, (pf, guides)),
        (AbstractObjective, registry.OBJECTIVES, (pf,)),
        (AbstractGradient, registry.GRADIENTS, (pf,)),
        (AbstractSiteStrategy, registry.SITE_STRATEGIES, (pf, sites)),
        (AbstractSampler, registry.KERNELS, (pf,)),
    ],
)
def test_registry_complete(base, table, modules):
    assert public(base, *modules) == set(table)


def test_every_test_of_the_slow_table_exists():
    """A renamed test would return to the fast tier unseen."""
    files = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        files.setdefault(path.name, []).append(path.read_text())
    for name in tiers.SLOW:
        file, test = name.split("[")[0].split("::")
        assert any(f"def {test}(" in text for text in files[file]), name
