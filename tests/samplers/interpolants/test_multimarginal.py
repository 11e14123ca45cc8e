"""Routes between several laws: in closed form between normal ones."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

si = pf.interpolants
DIM = 16
SPREADS = (1.0, 1.0, 1.0)


def laws() -> list[si.GaussianMixture]:
    """Isotropic normal laws: two next to each other, one far off."""
    means = np.zeros((3, DIM))
    means[:, 0], means[1, 1] = (-0.5, 0.0, 0.5), 5.0
    return [si.GaussianMixture([0.0], m[None], (s**2 * np.eye(DIM))[None]) for m, s in zip(means, SPREADS, strict=True)]


@pytest.mark.slow
def test_path_optimisation_saves_what_it_can(figure):
    """The cost is the energy of (mean, sqrt(d) spread): no route through the far law saves any, the right speed does.

    On the edge the mean goes at rate one and ``spread^2 = (1 - t)^2 + t^2``, whose squared rate integrates to
    ``2 - pi / 2``. At the best speed the energy is the squared length of that curve.
    """
    ends = [law.sample(jax.random.key(k), 8000) for k, law in enumerate(laws())]
    # Exact moments, so that the costs are not those of a sample.
    ends = [(e - e.mean(0)) @ jnp.linalg.inv(jnp.linalg.cholesky(jnp.cov(e.T))).T for e in ends]
    ends = [e + law.means[0] for e, law in zip(ends, laws(), strict=True)]
    u = (np.arange(10**5) + 0.5) / 10**5
    length = np.sqrt(1.0 + DIM * (2 * u - 1) ** 2 / ((1 - u) ** 2 + u**2)).mean()
    before, analytic = 1.0 + DIM * (2.0 - np.pi / 2), 1.0 + DIM * (2.0 - np.pi / 2) - length**2
    path = si.SimplexPath(3, 0, 2)
    found = si.shorten(jax.random.key(3), lambda p: si.MixtureFields(p, *laws()), path, ends)
    share = float((found.before - found.after) / analytic)
    figure("Multimarginal: cut of the transport cost over the analytic one", share, "within 2 % of 1")
    np.testing.assert_allclose(found.before, before, rtol=0.01)
    assert abs(share - 1.0) <= 0.02
    corners = jax.vmap(found.path.coefficients)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(corners, [[1, 0, 0], [0, 0, 1]], atol=1e-12)
    inside = jax.vmap(found.path.coefficients)(jnp.linspace(0, 1, 50))
    np.testing.assert_allclose(inside.sum(axis=1), 1.0, rtol=1e-12)
    assert inside.min() >= 0


class Affine(eqx.Module):
    """The conditional expectations of `laws`, as a function of the simplex."""

    def __call__(self, a, x):
        means, variances = jnp.stack([law.means[0] for law in laws()]), jnp.asarray(SPREADS) ** 2
        return means + (a * variances / (a**2 @ variances))[:, None] * (x - a @ means)


@pytest.mark.slow
def test_fields_of_the_simplex_are_those_of_mixtures():
    path = eqx.tree_at(lambda p: p.waves, si.SimplexPath(3, 0, 2), jnp.ones((3, 6)) * 0.1)
    known, mine = si.MixtureFields(path, *laws()), si.SimplexFields(path, Affine())
    x = jnp.linspace(-1.0, 2.0, DIM)
    for t in jnp.array([0.0, 0.3, 0.9, 1.0]):
        np.testing.assert_allclose(mine.velocity(t, x), known.velocity(t, x), atol=1e-10)
    with pytest.raises(ValueError, match="standard normal"):
        mine.score(jnp.array(0.5), x)
    moved = si.flow(mine, laws()[0].sample(jax.random.key(0), 4000), num_steps=40)
    np.testing.assert_allclose(moved.mean(axis=0), laws()[2].means[0], atol=5 / 4000**0.5)
    np.testing.assert_allclose(np.cov(moved.T), np.eye(DIM), atol=5 * (2 / 4000) ** 0.5)


@pytest.mark.slow
def test_loss_is_least_at_conditional_expectations():
    ends = [law.sample(jax.random.key(k), 20000) for k, law in enumerate(laws())]
    loss = lambda given: float(si.simplex_loss(jax.random.key(9), given, ends))  # noqa: E731
    best = loss(Affine())
    for off in (0.2, -0.2):
        assert loss(lambda a, x, off=off: Affine()(a, x) + off) > best
        assert loss(lambda a, x, off=off: (1 + off) * Affine()(a, x)) > best


@pytest.mark.parametrize(
    ("settings", "message"),
    [((3, 1, 1), "two different indices"), ((2, 0, 2), "below num_ends=2"), ((1, 0, 0), "num_ends=1")],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        si.SimplexPath(*settings)
