"""Checks of arguments that every entry point shares."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..estimators import ELBO, AbstractObjective
from ..models import Target
from ..models.guides import AbstractFlow, AbstractGuide


def check_target(target: Any) -> Target:
    """A target, or an error that says how to make one."""
    if not isinstance(target, Target):
        raise ValueError(
            f"Expected a target, got {type(target).__name__}: build one with pf.from_numpyro(model, *args), "
            "pf.from_pyro(model, *args) or pf.from_logdensity(fn, example)."
        )
    return target


def check_objective(objective: Any) -> AbstractObjective:
    """An objective from itself or its class (None is the ELBO), or an error that says what one is."""
    if objective is None:
        return ELBO()
    if isinstance(objective, type) and issubclass(objective, AbstractObjective):
        objective = objective()
    if not isinstance(objective, AbstractObjective):
        raise ValueError(
            f"objective={objective!r}: expected pf.ELBO() or another objective; a function of log-weights becomes one "
            "by @pf.objective above its definition."
        )
    return objective


def check_learnable(target: Target, guide: AbstractGuide) -> None:
    """Refuse a guide and a model without a number to learn."""
    if isinstance(guide, AbstractFlow):  # its layers are drawn later
        return
    if not jax.tree.leaves(eqx.filter(guide, guide.trainable())) and not target.program.params:
        raise ValueError(
            f"Neither the guide nor {target.program.source} has parameters to learn: expected a numpyro.param in the "
            "guide at least, e.g. loc = numpyro.param('loc', 0.0)."
        )


def check_key(key: Any) -> None:
    """A typed JAX key, or an error that says how to make one."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        raise ValueError(
            f"key={key!r}: expected one typed key, jax.random.key(0); integers and raw uint32 keys are not accepted."
        )


def check_count(name: str, value: Any, least: int) -> int:
    """An integer of at least ``least``, or an error."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        and not (hasattr(value, "__index__"))
        or int(value) < least
    ):
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")
    return int(value)
