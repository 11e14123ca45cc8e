"""What a function computes is counted without running it, and bounds the checks after a fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf
from pushforward.infer import _fit_result
from pushforward.infer._work import numbers_computed


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.sum(x * x), 101),
        (lambda x: jax.lax.scan(lambda c, y: (c + y, None), 0.0, x)[0], 100),
        (lambda x: jax.jit(lambda y: y + 1.0)(x), 100),
        (lambda x: jax.lax.cond(x[0] > 0, lambda y: y * 2.0, lambda y: y * 2.0 + 1.0, x), 200),
    ],
)
def test_numbers_computed(function, expected):
    """Exact up to the few scalars of comparisons and conversions."""
    assert expected <= numbers_computed(function, jnp.ones(100)) <= expected + 105


def test_an_expensive_target_gets_fewer_draws_in_its_checks(getkey, monkeypatch):
    """The budget bounds the draws for k-hat, and never falls below the draws that are returned."""
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(3))
    cost = numbers_computed(_fit_result.guide_log_weight, target, pf.MeanField(target), jax.random.key(0))
    settings = {"num_steps": 100, "num_restarts": 1, "num_draws": 200, "progress": False}
    for budget, expected in ((5000 * cost, 5000), (10 * cost, None)):
        monkeypatch.setattr(_fit_result, "_WEIGHT_NUMBERS", budget)
        posterior = pf.fit(target, pf.MeanField(), key=getkey(), **settings)
        record = posterior.data["optimization"]
        if expected is None:
            assert "log_weights" not in record
        else:
            assert np.isclose(record.sizes["weight_draw"], expected, rtol=0.2)
