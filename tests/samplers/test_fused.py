"""The fused GPU kernel of the Stein force: in interpret mode against the blocked form, and compiled for CUDA."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pushforward.samplers.pairs import IMQ, RBF, Laplace, fused_force, stein_force


def cloud(getkey, dim):
    """150 particles, which no block divides, of which the last ten do not count."""
    x, scores = jax.random.normal(getkey(), (150, dim)), jax.random.normal(getkey(), (150, dim))
    return x - x[:140].mean(0), scores, jnp.where(jnp.arange(150) < 140, 1.0, 0.0)


# Laplace in one dimension is for the blocked form only: close pairs cancel in the product form.
@pytest.mark.parametrize(("kernel", "dim"), [(RBF(0.9), 1), (RBF(0.9), 20), (IMQ(0.9), 3), (Laplace(0.9), 20)])
def test_equals_the_blocked_form(kernel, dim, getkey):
    x, scores, weight = cloud(getkey, dim)
    squared, repulsion = jnp.asarray(0.81), jnp.asarray(0.7)
    exact = stein_force(kernel, squared, x, scores, weight, repulsion=repulsion)
    found = fused_force(kernel, squared, x, x, scores, weight, repulsion, interpret=True) / 140
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", [RBF(0.9), IMQ(0.9), Laplace(0.9)])
def test_compiles_for_cuda(kernel, getkey):
    """Down to the call that holds the GPU program; no GPU is needed for that."""
    with jax.enable_x64(False):
        x, scores, weight = (v.astype(jnp.float32) for v in cloud(getkey, 10))

        def force(x, scores, weight):
            return fused_force(kernel, jnp.float32(0.81), x, x, scores, weight, jnp.float32(1.0))

        lowered = jax.jit(force).trace(x, scores, weight).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()
