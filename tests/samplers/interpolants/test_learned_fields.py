"""Fields from predictions: exact predictions give exact fields, whatever is predicted."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf

si = pf.interpolants
TWO_ENDS = [("velocity", "noise"), ("end_velocity", "score"), ("velocity", "data"), ("data", "noise")]
TWO_ENDS += [("end_velocity", "data"), ("velocity", "score"), ("end_velocity", "noise"), ("score", "data")]
ONE_END = [("velocity",), ("noise",), ("score",), ("data",), ("velocity", "noise")]
PATHS = [si.Linear(), si.Trigonometric(si.Parabolic())]
DIFFUSIONS = [si.OneSidedLinear(), si.OneSidedTrigonometric(), si.VariancePreserving(), si.Cosine(), si.EDM(0.01, 5.0)]
CASES = [(path, names) for path in PATHS for names in TWO_ENDS]
CASES += [(path, names) for path in DIFFUSIONS for names in ONE_END]
CASES += [(si.Mirror(), names) for names in ONE_END[1:]]
X = jnp.array([0.3, -0.7])


def label(value) -> str:
    return "+".join(value) if isinstance(value, tuple) else type(value).__name__


def exact_of(path, diagonal=False) -> si.MixtureFields:
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(path.num_ends):
        num = 1 if diagonal else 2
        covariances = np.stack([np.diag(0.2 + rng.random(2)) for _ in range(num)])
        ends.append(si.GaussianMixture(rng.normal(size=num), rng.normal(size=(num, 2)), covariances))
    return si.MixtureFields(path, *ends)


def predictors(exact, names):
    def predict(t, x, condition):
        known = {"velocity": exact.velocity, "end_velocity": exact.end_velocity, "score": exact.score}
        known |= {"noise": exact.noise, "data": lambda t, x: exact.ends(t, x)[-1]}
        found = jnp.stack([known[name](t, x) for name in names])
        return found if len(names) > 1 else found[0]

    return predict


TIMES = jnp.array([0.3, 0.0, 1e-6, 1.0 - 1e-6, 1.0])


@eqx.filter_jit
def all_fields(*several):
    """Of each: velocity, end velocity, score, noise and ends at all times; shape (time, field, 2)."""

    def one(fields, t):
        drifts = fields.velocity(t, X), fields.end_velocity(t, X)
        return jnp.stack([*drifts, fields.score(t, X), fields.noise(t, X), *fields.ends(t, X)])

    return [jax.vmap(lambda t, fields=fields: one(fields, t))(TIMES) for fields in several]


@pytest.mark.parametrize(("path", "names"), fast(CASES, CASES[2], CASES[16], several=True), ids=label)
def test_exact_predictions_give_exact_fields(path, names):
    """Inside to rounding, times what a conversion amplifies it by; at the ends finite, and b = v - gamma gamma' s."""
    exact = exact_of(path)
    learned = si.LearnedFields(path, names, predictors(exact, names))
    found, truth = (np.asarray(values) for values in all_fields(learned, exact))
    np.testing.assert_allclose(found[0], truth[0], rtol=1e-8, atol=1e-8)
    assert np.isfinite(found).all()
    spreading = np.asarray(jax.vmap(path.spreading)(TIMES))[:, None]
    scale = 1.0 + np.abs(found[:, :3]).max(axis=(1, 2))[:, None]
    assert np.max(np.abs(found[:, 0] - found[:, 1] + spreading * found[:, 2]) / scale) < 1e-10


@pytest.mark.parametrize("path", fast([*PATHS, *DIFFUSIONS, si.Mirror()], PATHS[0]), ids=label)
def test_preconditioner_is_exact_for_gaussians(path):
    """A network that gives zero, with the means and variances of Gaussian ends, is their exact fields."""
    exact = exact_of(path, diagonal=True)
    means = jnp.concatenate([end.means for end in exact.mixtures])
    variances = jnp.stack([jnp.diag(end.covariances[0]) for end in exact.mixtures])
    held = si.Preconditioner(means, variances)
    names = ("velocity", "noise") if path.num_ends == 2 else ("noise",)
    zero = si.LearnedFields(path, names, lambda t, x, c: jnp.zeros((len(names), 2)), preconditioner=held)
    found, truth = (values[0] for values in all_fields(zero, exact))
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-8)
    every = ("velocity", "end_velocity", "score", "noise", "data")
    predictions = jnp.stack([truth[0], truth[1], truth[2], truth[3], truth[-1]])
    raw = held.restore(path, every, jnp.asarray(0.3), X, jnp.zeros((5, 2)))
    np.testing.assert_allclose(raw, predictions, rtol=1e-8, atol=1e-8)


def test_scales_are_conditional_deviations():
    """Of noise, data and end velocity given x_t, for Gaussian ends: from the joint covariance of all of them."""
    path, t = si.Linear(), jnp.asarray(0.3)
    held = si.Preconditioner(jnp.zeros((2, 1)), jnp.array([[0.4], [2.0]]))
    weights, rates = np.asarray(path.coefficients(t)), np.asarray(path.rates(t))
    variances, gamma = np.array([0.4, 2.0, 1.0]), float(path.gamma(t))
    position = np.array([*weights, gamma])
    for name, row in [("end_velocity", [*rates, 0.0]), ("noise", [0.0, 0.0, 1.0]), ("data", [0.0, 1.0, 0.0])]:
        crossed = np.sum(np.array(row) * position * variances) ** 2 / np.sum(position**2 * variances)
        expected = np.sum(np.array(row) ** 2 * variances) - crossed
        np.testing.assert_allclose(held.scales(path, (name,), t)[0, 0] ** 2, expected, rtol=1e-10)


def test_network_depends_on_everything_it_is_given():
    """Time, point and condition; in the dtype of the point; and an error where their sizes do not fit."""
    network = si.FieldNetwork(jax.random.key(0), (2,), 2, condition_size=3, width=8, depth=2, num_frequencies=4)
    network = eqx.tree_at(lambda n: n.weights[-1], network, jnp.ones_like(network.weights[-1]))
    condition = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    value = network(jnp.asarray(0.2), X, condition)
    assert value.shape == (2, 2)
    others = [network(jnp.asarray(0.3), X, condition), network(jnp.asarray(0.2), 2.0 * X, condition)]
    others.append(network(jnp.asarray(0.2), X, {"a": jnp.ones(2), "b": jnp.zeros(())}))
    assert all(np.abs(np.asarray(other - value)).min() > 0 for other in others)
    with pytest.raises(ValueError, match="features"):
        network(jnp.asarray(0.2), X, None)


def test_refusals():
    """Sets from which nothing follows are refused with what would be enough; missing scores when they are asked for."""

    def network(t, x, condition):
        return x

    for path, names, match in [
        (si.Mirror(), "velocity", "do not follow"),
        (si.VarianceExploding(), "end_velocity", "do not follow"),
        (si.Linear(), ("velocity", "end_velocity"), "do not follow"),
        (si.Linear(), "noise", "do not follow"),
        (si.Linear(si.NoNoise()), ("velocity", "noise"), "no score"),
        (si.Linear(), ("velocity", "drift"), "out of"),
        (si.Linear(), (), "out of"),
    ]:
        with pytest.raises(ValueError, match=match):
            si.LearnedFields(path, names, network)
    with pytest.raises(ValueError, match="3 networks"):
        si.LearnedFields(si.Linear(), ("velocity", "noise"), network, network, network)
    flow_only = si.LearnedFields(si.Linear(), "velocity", network)
    assert flow_only.velocity(jnp.asarray(0.2), X).shape == (2,)
    with pytest.raises(ValueError, match="no score"):
        flow_only.score(jnp.asarray(0.2), X)
    wrong = si.LearnedFields(si.Linear(), ("velocity", "noise"), network)
    with pytest.raises(ValueError, match="shape"):
        wrong.velocity(jnp.asarray(0.2), X)
