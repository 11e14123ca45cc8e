"""Whose mean gradient the laboratory believes: a wrong estimator without noise must not condemn the right ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import pushforward as pf
from pushforward.infer._gradient_moments import Moments
from pushforward.infer._judge import choose_judge, p_value, z_scores


def moments(mean, variance, num=1000):
    mean = np.atleast_1d(np.asarray(mean, float))
    return Moments(num, mean, np.full(mean.shape, float(variance)), 0.0, 0.0, 0.0, 0.0, 1e-3)


@pytest.mark.parametrize("truth", [moments(0.7, 0.0), moments([0.7, 0.0], 0.0), moments(0.7, 0.01)])
def test_a_constant_that_is_wrong_has_a_large_z(truth):
    constant = moments(0.0 * truth.mean, 0.0)
    for one, other in ((constant, truth), (truth, constant)):
        difference, z = z_scores(one, other)
        assert np.abs(difference).max() == 0.7
        assert np.abs(z).max() > 100
        assert p_value(z, 1000) == 0.0
    assert np.all(z_scores(truth, truth)[1] == 0)
    assert np.all(z_scores(constant, constant)[1] == 0)


@pytest.mark.parametrize(
    ("heard", "anchor", "judge", "disagree"),
    [
        ({"reparam": moments(1.0, 1.0), "path": moments(1.01, 0.1)}, "reparam", "path", []),
        ({"reparam": moments(1.0, 1.0), "off": moments(0.0, 0.0)}, "reparam", "reparam", ["reparam", "off"]),
        (
            {"reparam": moments(1.0, 1.0), "off": moments(0.0, 0.0), "path": moments(1.01, 0.1)},
            "reparam",
            "path",
            ["reparam", "off", "path"],
        ),
        # Within the noise of the anchor, but not of one another: the anchor's own word.
        (
            {"reparam": moments(1.0, 1.0), "off": moments(0.95, 0.0), "path": moments(1.01, 0.01)},
            "reparam",
            "reparam",
            ["off", "path"],
        ),
        ({"off": moments(0.0, 0.0), "score": moments(1.0, 4.0)}, None, "score", ["off", "score"]),
        (
            {"off": moments(0.0, 0.0), "score": moments(1.0, 4.0), "enumerate": moments(1.01, 1.0)},
            None,
            "enumerate",
            ["off", "score", "enumerate"],
        ),
        ({"off": moments(0.0, 0.0)}, None, "off", []),
    ],
)
def test_whose_word_is_taken(heard, anchor, judge, disagree):
    assert choose_judge(heard, anchor, 1e-3) == (judge, disagree)


@pytest.mark.parametrize("others", [{}, {"reparam": pf.Reparam}])
def test_a_constant_of_the_library_does_not_condemn_the_others(monkeypatch, others):
    """`Price` broken to return nothing but zeros: no variance, and wrong."""
    right = pf.Price.value_and_grad

    def broken(self, *args, **kwargs):
        estimate, gradient = right(self, *args, **kwargs)
        return estimate, jax.tree.map(jnp.zeros_like, gradient)

    monkeypatch.setattr(pf.Price, "value_and_grad", broken)
    target = registry.gaussian_target()
    guide = registry.GUIDES["MeanField"].build(target)
    measured = pf.compare_estimators(
        target,
        guide,
        {"zero": pf.Price(), "path": pf.Path(), **others},
        objective=pf.ELBO,
        num_particles=2,
        num_repeats=400,
        key=jax.random.key(2),
    )
    assert set(measured.biased) == {"zero"}
    assert measured.recommendation.startswith("The estimators disagree: the mean gradients of ['zero', 'path'")
    # Far from the optimum `Path` is the noisier of the two that agree.
    assert f"takes the word of {[*others, 'pf.Reparam()'][:1]}" in measured.recommendation
