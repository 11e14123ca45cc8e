"""Labels of components: a mixture whose labels are known, a given reference, and what cannot be told apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

CENTRES = jnp.asarray([[-4.0, 0.0, 0.2], [0.0, 3.0, 0.5], [0.5, -3.0, 0.1], [5.0, 1.0, 0.2]])


def switched(noise):
    """Draws of four components around their centres, in random orders that are returned too."""
    to_noise, to_order = jax.random.split(jax.random.key(0))
    draws = CENTRES + noise * jnp.asarray([1.0, 1.0, 0.05]) * jax.random.normal(to_noise, (300, *CENTRES.shape))
    orders = jax.vmap(lambda k: jax.random.permutation(k, 4))(jax.random.split(to_order, 300))
    return draws, jnp.take_along_axis(draws, orders[:, :, None], axis=1), orders


def test_known_labels_come_back():
    truth, mixed, orders = switched(0.5)
    # Averages of what is switched mean nothing.
    assert np.abs(mixed.mean(0) - mixed.mean((0, 1))).max() < 1.0
    found = pf.transport.relabel(mixed)
    assert found.converged
    np.testing.assert_array_equal(jnp.take_along_axis(mixed, found.permutations[:, :, None], axis=1), found.draws)
    # In one order: that of the first draw.
    np.testing.assert_allclose(found.draws, truth[:, orders[0]])
    np.testing.assert_allclose(found.reference, found.draws.mean(0), rtol=1e-12)
    scaled = (found.draws - found.reference) / found.scale
    np.testing.assert_allclose(found.cost, (scaled**2).sum((1, 2)).mean(), rtol=1e-12)


def test_given_reference_and_compiled_code():
    truth, mixed, _ = switched(0.5)
    found = jax.jit(lambda d: pf.transport.relabel(d, reference=CENTRES))(mixed)
    np.testing.assert_allclose(found.draws, truth)
    np.testing.assert_allclose(found.reference, CENTRES)


def test_rounds_lower_the_cost_where_components_overlap():
    """The order is never worse than that of the first round, nor than the true one."""
    truth, mixed, _ = switched(2.0)
    first, last = (pf.transport.relabel(mixed, max_rounds=r) for r in (1, 50))
    assert not first.converged
    assert last.converged
    assert last.cost < first.cost
    spread = (((truth - truth.mean(0)) / last.scale) ** 2).sum((1, 2)).mean()
    assert last.cost <= spread


def test_bad_input():
    draws = jnp.zeros((5, 3, 2))
    for given, said in [
        ({"draws": draws[0]}, "n, k, d"),
        ({"draws": draws.at[0, 0, 0].set(jnp.inf)}, "finite"),
        ({"draws": draws, "reference": jnp.zeros((2, 2))}, "one row per component"),
        ({"draws": draws, "max_rounds": 0}, "max_rounds"),
    ]:
        with pytest.raises(ValueError, match=said):
            pf.transport.relabel(**given)
