"""Targets and draws of the zoo, built once per test session."""

from __future__ import annotations

import functools

import numpy as np

from pushforward.models import Target, zoo


@functools.cache
def target(name: str) -> Target:
    return zoo.load(name).target()


@functools.cache
def pyro_target(name: str) -> Target:
    return zoo.load(name).pyro_target()


@functools.cache
def latent_draws(name: str) -> dict[str, np.ndarray]:
    return zoo.load(name).latent_draws()
