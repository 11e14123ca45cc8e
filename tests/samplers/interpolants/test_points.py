"""Points, conditions, densities and settings that make no sense are refused by name, in compiled code too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pushforward as pf

si = pf.interpolants
NORMAL = si.GaussianMixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
TARGET = si.GaussianMixture(jnp.zeros(2), jnp.array([[2.0, 0.0], [-1.0, 1.5]]), 0.4 * jnp.eye(2)[None].repeat(2, 0))
PLANE, NOISY = si.MixtureFields(si.Linear(), NORMAL, TARGET), si.MixtureFields(si.EDM(0.01, 10.0), TARGET)


class Pulled(si.AbstractFields):
    """Towards zero: fields that take no time to compile."""

    path: si.AbstractPath

    def velocity(self, t, x, condition=None):
        return -x

    def score(self, t, x, condition=None):
        return -x


SIMPLE = Pulled(si.EDM(0.01, 10.0))
KEY, POINTS = jax.random.key(0), np.random.default_rng(0).normal(size=(3, 2))
MOVERS = {
    "flow": lambda f, x, **k: si.flow(f, x, num_steps=2, **k),
    "diffuse": lambda f, x, **k: si.diffuse(KEY, f, x, num_steps=2, **k),
    "edm": lambda f, x, **k: si.edm(KEY, f, x, num_steps=2, **k),
    "flow_adaptive": si.flow_adaptive,
    "diffuse_adaptive": lambda f, x, **k: si.diffuse_adaptive(KEY, f, x, **k),
    "log_prob": lambda f, x, **k: si.log_prob(f, NORMAL.log_prob, x, num_steps=2, **k),
    "weighted": lambda f, x, **k: si.weighted(
        KEY, f, x, log_base=NORMAL.log_prob, log_target=TARGET.log_prob, num_steps=2, **k
    ),
    "reflow": lambda f, x, **k: si.reflow(f, x, num_steps=2, **k),
    "straightness": lambda f, x, **k: si.straightness(f, x, num_steps=2, **k),
}


@pytest.mark.parametrize("mover", MOVERS.values(), ids=MOVERS)
def test_points_that_are_none(mover):
    """Before anything is compiled: no fields, no array, integers, one point, no points, conditions of others."""
    for fields in (None, si.Linear(), (1, 2)):
        with pytest.raises(ValueError, match=r"fields is \w+: expected fields.*train\(...\).fields"):
            mover(fields, POINTS)
    for x in ("points", None):
        with pytest.raises(ValueError, match=r"x is \w+: expected an array of points"):
            mover(NOISY, x)
    for x in (np.zeros((3, 2), int), np.zeros(2), 0.0, np.zeros((0, 2)), np.zeros((3, 2), complex)):
        with pytest.raises(ValueError, match=r"x has shape .* expected at least .* point\(s\)"):
            mover(NOISY, x)
    for condition in (np.zeros(4), 1.0, {"a": np.zeros((2, 3))}):
        with pytest.raises(ValueError, match=r"condition has an array of shape .* for 3 points"):
            mover(NOISY, POINTS, condition=condition)
    with pytest.raises(ValueError, match="An entry of condition is str"):
        mover(NOISY, POINTS, condition="label")


@pytest.mark.parametrize("mover", [v for k, v in MOVERS.items() if k != "weighted"], ids=lambda _: "")
def test_points_that_are_not_finite(mover):
    """By number. To `weighted` they are particles without weight."""
    with pytest.raises(ValueError, match="not finite, the first in point 1"):
        mover(NOISY, np.array([[0.0, 1.0], [np.nan, 0.0], [np.inf, 0.0]]))


@pytest.mark.parametrize("mover", MOVERS.values(), ids=MOVERS)
def test_points_of_other_fields(mover):
    """Coordinates too many or too few, and another precision."""
    for x in (np.zeros((3, 1)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match=r"A point has shape \(\d,\): expected \(2,\)"):
            mover(NOISY, x)
    with pytest.raises(ValueError, match=r"dtype float32 has shape \(2,\) and dtype float64.*astype"):
        mover(NOISY, POINTS.astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: si.Linear(0.1), r"noise is float: expected Brownian\(scale\)"),
        (lambda: si.EDM(80.0, 0.002), "sigma_min=80 and sigma_max=0.002: expected the first to be smaller"),
        (lambda: si.MixtureFields(None, NORMAL), "path is NoneType"),
        (lambda: si.MixtureFields(si.EDM(), NORMAL.means), r"expected GaussianMixture\("),
        (lambda: NORMAL.sample(0, 3), "typed key"),
        (lambda: NORMAL.sample(KEY, -1), "num=-1"),
        (lambda: si.HeavyBall(None), "beta=None"),
        (lambda: si.GHVB(1.5), "beta=1.5: expected a number above 0 and at most 1"),
        (lambda: si.spaced_times(NOISY, 5), "path is MixtureFields: expected a path"),
        (lambda: si.edm(KEY, NOISY, POINTS, highest=None), "highest=None"),
        (lambda: si.edm(KEY, NOISY, POINTS, lowest=5.0, highest=1.0), "lowest=5 and highest=1"),
        (lambda: si.diffuse(KEY, PLANE, POINTS, epsilon=lambda t: t - 0.6), r"epsilon\(0.25\) is -0.35"),
        (lambda: si.diffuse(KEY, PLANE, POINTS, epsilon=lambda t: jnp.ones(2)), r"epsilon\(t\) has shape \(2,\)"),
        (lambda: si.diffuse_adaptive(KEY, PLANE, POINTS, start=None), r"start=None: expected a time in \[0, 1\]"),
        (lambda: si.flow_adaptive(PLANE, POINTS, solver="Tsit5"), "expected a solver of diffrax"),
        (lambda: si.log_prob(PLANE, None, POINTS), "log_base is NoneType: expected a function of one point"),
        (lambda: si.log_prob(PLANE, lambda x: x, POINTS), r"log_base of a point of shape \(2,\) has shape \(2,\)"),
        (lambda: si.posterior(KEY, NOISY.path, TARGET.log_prob, dim=2), "fields is EDM"),
        (lambda: si.posterior(KEY, NOISY, lambda x: x, dim=2), r"log_likelihood of a point .* expected one number"),
        (lambda: si.posterior(KEY, NOISY, TARGET.log_prob, dim=2, times=[0.1, 1.5]), r"times=.*within \[0, 1\]"),
        (lambda: si.dps(KEY, NOISY, lambda x: x, dim=2), "log_likelihood of a point"),
        (lambda: si.dps(KEY, NOISY, TARGET.log_prob, dim=2, times=[-0.1, 0.5]), r"times=.*within \[0, 1\]"),
        (lambda: si.red_diff(KEY, NOISY, None, POINTS), "log_likelihood is NoneType"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_settings_that_make_no_sense(call, message):
    """With what was expected."""
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "run",
    [
        lambda x: si.flow(SIMPLE, x, times=si.spaced_times(SIMPLE.path, 4), rule=si.DPMSolver()),
        lambda x: si.flow(SIMPLE, x, num_steps=4, rule=si.GHVB(0.5, 3), coordinate="straight"),
        lambda x: si.edm(KEY, SIMPLE, x, num_steps=4),
        lambda x: si.dps(KEY, SIMPLE, TARGET.log_prob, dim=2, num_particles=3, num_steps=4) + x,
    ],
    ids=["spaced_times", "momentum", "edm", "dps"],
)
def test_steps_are_planned_in_compiled_code_too(run):
    """From constants of it; bad ones are refused there as well."""
    np.testing.assert_allclose(jax.jit(run)(POINTS), run(jnp.asarray(POINTS)), atol=1e-9)
    with pytest.raises(ValueError, match="increasing"):
        jax.jit(lambda x: si.flow(SIMPLE, x, times=np.array([0.0, 0.7, 0.3])))(POINTS)


def test_what_cannot_be_planned_in_compiled_code():
    """A path that is an argument has no numbers yet."""
    with pytest.raises(ValueError, match="compute the times outside"):
        jax.jit(lambda sigma: si.spaced_times(si.EDM(sigma, 10.0), 5))(0.1)
    with pytest.raises(ValueError, match="constants of it"):
        jax.jit(lambda sigma: si.edm(KEY, si.MixtureFields(si.EDM(sigma, 10.0), TARGET), POINTS))(0.1)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "run",
    [
        lambda x: si.flow(PLANE, x, num_steps=4, rule=si.GHVB(0.5, 3)),
        lambda x: si.diffuse(KEY, PLANE, x, num_steps=2),
        lambda x: MOVERS["weighted"](PLANE, x, resample=0.5).log_weights,
        pytest.param(
            lambda x: si.posterior(KEY, NOISY, TARGET.log_prob, dim=2, num_particles=3, num_steps=2).log_weights,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["flow", "diffuse", "weighted", "posterior"],
)
def test_no_implicit_promotion(run):
    """Of ranks or dtypes, in exact fields and what moves along them."""
    assert np.isfinite(run(jnp.asarray(POINTS))).all()
