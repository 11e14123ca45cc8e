"""Multistep rules, momentum, noise levels and few steps: stability limits, orders, and nothing that is not a number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import fast

import pushforward as pf

si = pf.interpolants
TARGET = si.GaussianMixture(
    jnp.log(jnp.array([0.3, 0.7])), jnp.array([[2.0, 0.0], [-1.0, 1.5]]), 0.4 * jnp.eye(2)[None].repeat(2, 0)
)
NOISY, VP, STRAIGHT = si.EDM(0.01, 10.0), si.VariancePreserving(), si.OneSidedLinear()


class Decay(si.AbstractFields):
    """``x' = rate x``: the test equation of stability."""

    rate: jax.Array
    path: si.AbstractPath

    def velocity(self, t, x, condition=None):
        return self.rate * x

    def score(self, t, x, condition=None):
        return -x


LIMITS = [
    (si.AdamsBashforth(1), -2.0),
    (si.AdamsBashforth(2), -1.0),
    (si.AdamsBashforth(3), -6.0 / 11.0),
    (si.AdamsBashforth(4), -0.3),
    (si.HeavyBall(0.5), -(4.0 - 1.0) / 0.5),
    (si.HeavyBall(0.8), -(4.0 - 1.6) / 0.8),
    (si.GHVB(0.5, 2), -1.5),
    (si.GHVB(0.8, 2), -1.2),
    (si.GHVB(1.0, 3), -6.0 / 11.0),
]


@pytest.mark.parametrize(("rule", "limit"), LIMITS, ids=lambda v: str(v) if isinstance(v, float) else type(v).__name__)
def test_stability_limits(rule, limit):
    """1e-3 inside of the limit everything decays, 1e-3 outside it grows, between 10,000 and 20,000 steps."""
    count = 20_000

    @jax.jit
    def sizes(product):
        fields = Decay(rate=product * count, path=si.Linear(si.NoNoise()))
        times = jnp.arange(count + 1) / count
        half = si.flow(fields, jnp.ones((1, 1)), times=times[: count // 2 + 1], rule=rule)
        return jnp.abs(half)[0, 0], jnp.abs(si.flow(fields, jnp.ones((1, 1)), times=times, rule=rule))[0, 0]

    before, after = sizes(jnp.asarray(limit + 1e-3))
    assert after < before
    before, after = sizes(jnp.asarray(limit - 1e-3))
    assert not after < 1e3 * before


ORDERS = [
    (NOISY, "heun", "noise", 2),
    (NOISY, "heun", "straight", 2),
    (NOISY, "euler", "straight", 1),
    (NOISY, si.DPMSolver(1), "time", 1),
    (NOISY, si.DPMSolver(2), "time", 2),
    (NOISY, si.DPMSolver(3), "time", 3),
    (NOISY, si.AdamsBashforth(2), "straight", 2),
    (NOISY, si.GHVB(0.8, 2), "straight", 2),
    (NOISY, si.HeavyBall(0.8), "straight", 1),
    (STRAIGHT, si.AdamsBashforth(3), "time", 3),
    (STRAIGHT, si.GHVB(0.6, 3), "time", 3),
    (STRAIGHT, si.AdamsBashforth(2), "straight", 2),
    (si.Linear(), si.AdamsBashforth(2), "time", 2),
    (si.Linear(), si.GHVB(0.8, 2), "time", 2),
]


def title(value):
    if isinstance(value, si.AbstractPath | si.AbstractMultistep):
        return type(value).__name__ + str(getattr(value, "order", ""))
    return str(value)


def exact(path, target=TARGET):
    """Fields of a path from a standard normal law, where the path does not bring its own."""
    normal = si.GaussianMixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    return si.MixtureFields(path, *([normal] * (path.num_ends - 1)), target)


@pytest.mark.parametrize(
    ("path", "rule", "coordinate", "order"), fast(ORDERS, ORDERS[4], ORDERS[10], several=True), ids=title
)
def test_orders(path, rule, coordinate, order, figure):
    """Errors fall with the order of the rule, over unequal steps where noise levels make them so."""
    fields = exact(path)
    scale = jnp.maximum(path.gamma(jnp.zeros(())), 1.0)
    start = scale * jnp.linspace(-1.0, 1.0, 6)[:, None] * jnp.array([1.0, 0.5])
    truth = si.flow(fields, start, num_steps=8_000 if order == 3 else 2_000, rule="rk4")
    spacing = "log-ratio" if path is NOISY else "time"
    # Third order in the log-ratio is seen late: 3.5 to 3.9 below 160 steps, where terms of fourth order prevail.
    counts = np.array([320, 640, 1280] if isinstance(rule, si.DPMSolver) and order == 3 else [40, 80, 160])
    errors = []
    for count in counts:
        times = si.spaced_times(path, int(count), spacing=spacing)
        found = si.flow(fields, start, times=times, rule=rule, coordinate=coordinate)
        errors.append(np.abs(found - truth).max())
    slope = float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    figure(f"Solvers of order {order}: order less {order}", -slope - order, "within 0.2")
    assert slope == pytest.approx(-order, abs=0.2)


@pytest.mark.slow
def test_fourth_order_after_short_first_steps():
    """With equal steps the start limits the order to three; steps that double from a short one lift that."""

    def error(count, graded):
        h = 1.0 / count
        head = np.cumsum(h ** (4.0 / 3.0) * 2.0 ** np.arange(20)) if graded else np.zeros(0)
        head = np.concatenate([[0.0], head[head < 2.0 * h]])
        times = np.concatenate([head, np.linspace(head[-1], 1.0, count)[1:]])
        found = si.flow(
            Decay(rate=jnp.array(-2.0), path=si.Linear()), jnp.ones((1, 1)), times=times, rule=si.AdamsBashforth(4)
        )
        return abs(float(found[0, 0]) - np.exp(-2.0))

    counts = np.array([50, 100, 200])
    slope = np.polyfit(np.log(counts), np.log([error(count, True) for count in counts]), 1)[0]
    assert slope == pytest.approx(-4.0, abs=0.2)
    assert error(200, True) < error(200, False)


def test_first_order_is_one_sampler():
    """DPM-Solver++ of order 1 and Euler's method in either coordinate are DDIM."""
    x = 3.0 * jax.random.normal(jax.random.key(0), (5, 2))
    times = si.spaced_times(VP, 7)
    first = si.flow(exact(VP), x, times=times, rule=si.DPMSolver(1))
    for coordinate in ("noise", "straight"):
        np.testing.assert_allclose(
            si.flow(exact(VP), x, times=times, rule="euler", coordinate=coordinate), first, atol=1e-9
        )
    one = si.AdamsBashforth(1)
    np.testing.assert_allclose(si.flow(exact(VP), x, times=times, rule=one, coordinate="straight"), first, atol=1e-9)


@pytest.mark.slow
def test_second_order_weights_are_those_of_the_paper():
    """Equal steps h of the log-ratio: the published ``D + (D - D_before) / 2`` up to terms of third order."""
    h = 0.01
    start = jnp.log(NOISY.sigma_max)
    ratios = np.exp(-np.arange(4) * h + float(start))
    times = np.array([(10.0 ** (1 / 7) - r ** (1 / 7)) / (10.0 ** (1 / 7) - 0.01 ** (1 / 7)) for r in ratios])
    times[0] = 0.0
    fields, x = exact(NOISY), 8.0 * jnp.ones((1, 2))

    def data(t, x):
        return fields.ends(jnp.asarray(t), x[0])[0][None]

    before = data(times[0], x)
    by_hand = np.exp(-h) * x - np.expm1(-h) * before
    for t in times[1:-1]:
        now = data(t, by_hand)
        by_hand = np.exp(-h) * by_hand - np.expm1(-h) * (now + 0.5 * (now - before))
        before = now
    found = si.flow(fields, x, times=times, rule=si.DPMSolver(2))
    change = float(jnp.abs(data(times[2], found) - data(times[1], found)).max())
    assert np.abs(found - by_hand).max() < 0.05 * h * change
    first = si.flow(fields, x, times=times, rule=si.DPMSolver(1))
    assert np.abs(first - by_hand).max() > 0.25 * h * change


PATHS = [VP, STRAIGHT, si.Cosine(), si.Cosine(0.0), si.OneSidedTrigonometric(), si.EDM(), si.VarianceExploding()]
RULES = [("euler", "time"), ("heun", "time"), ("rk4", "time"), ("heun", "straight"), (si.DPMSolver(1), "time")]
RULES += [(si.DPMSolver(3), "time"), (si.AdamsBashforth(4), "straight"), (si.GHVB(0.5, 3), "straight")]
FINITE = [(path, *rule) for path in PATHS for rule in RULES]


@pytest.mark.parametrize(("path", "rule", "coordinate"), fast(FINITE, FINITE[29], several=True), ids=title)
def test_finite_in_single_precision(path, rule, coordinate):
    """One step or few, to where no noise is left and from where there are no data: numbers, in the dtype given."""
    path = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), path)
    fields = exact(path, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), TARGET))
    x = path.gamma(jnp.zeros((), jnp.float32)) * jax.random.normal(jax.random.key(0), (3, 2), jnp.float32)
    for count, spacing in ((1, "time"), (2, "log-ratio"), (5, "log-ratio")):
        times = si.spaced_times(path, count, spacing=spacing)
        found = si.flow(fields, x, times=times, rule=rule, coordinate=coordinate)
        assert found.dtype == jnp.float32
        assert jnp.isfinite(found).all(), (count, spacing)


@pytest.mark.slow
def test_few_steps_where_data_are_fine():
    """Modes of width 0.05: with 20 evaluations, the log-ratio leaves an eighth of the error of even times."""
    start = jax.random.normal(jax.random.key(1), (200, 2))
    fields = exact(VP, si.GaussianMixture(TARGET.log_weights, TARGET.means, TARGET.covariances / 160.0))
    truth = si.flow(fields, start, num_steps=2_000, rule="rk4")

    def error(found):
        return float(jnp.median(jnp.linalg.norm(found - truth, axis=1)))

    few = error(si.flow(fields, start, times=si.spaced_times(VP, 20), rule=si.DPMSolver()))
    assert few < 0.2 * error(si.flow(fields, start, num_steps=20, rule="euler"))
    assert few < 0.1 * error(si.flow(fields, start, num_steps=10, rule="heun"))


def test_spacings():
    """Power spacing of the path of Karras et al. is even in its own time; the log-ratio is even in the log-ratio."""
    np.testing.assert_allclose(si.spaced_times(NOISY, 8, spacing="power"), np.arange(9) / 8, atol=1e-12)
    times = jnp.asarray(si.spaced_times(VP, 9, cut=0.01))
    ratio = jnp.log(jax.vmap(VP.gamma)(times) / jax.vmap(VP.coefficients)(times)[:, 0])
    np.testing.assert_allclose(np.diff(ratio[:-1]), np.diff(ratio[:-1])[0], atol=1e-9)
    assert times[-2] == pytest.approx(0.99)
    assert times[-1] == 1.0
    with pytest.raises(ValueError, match="two ends"):
        si.spaced_times(si.Linear(), 5)
    with pytest.raises(ValueError, match="does not fall"):
        si.spaced_times(si.Mirror(), 5)


@pytest.mark.slow
def test_stochastic_sampler_of_karras():
    """Without churn the deterministic one; with it the law stays that of the target."""
    law = si.GaussianMixture(jnp.zeros(1), jnp.array([[1.0, -2.0]]), jnp.diag(jnp.array([0.5, 2.0]))[None])
    path = si.EDM(0.01, 20.0)
    fields = exact(path, law)
    times = si.spaced_times(path, 40, spacing="power")
    start = fields.law(jnp.zeros(())).sample(jax.random.key(0), 20_000)
    plain = si.edm(jax.random.key(1), fields, start, times=times, churn=0.0)
    np.testing.assert_allclose(plain, si.flow(fields, start, times=times, coordinate="noise"), atol=1e-9)
    found = np.asarray(si.edm(jax.random.key(1), fields, start, times=times, churn=20.0))
    assert np.corrcoef(found[:, 0], np.asarray(plain)[:, 0])[0, 1] < 0.9
    # Six standard errors of a mean and of a variance; the path stops at a noise of variance 1e-4.
    z = (found.mean(axis=0) - np.array([1.0, -2.0])) / np.sqrt(np.array([0.5, 2.0]) / len(found))
    assert np.abs(z).max() < 6.0
    spread = (found.var(axis=0) / np.array([0.5, 2.0]) - 1.0) / np.sqrt(2.0 / len(found))
    assert np.abs(spread).max() < 6.0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rule": si.DPMSolver(), "path": si.Linear()}, "two ends"),
        ({"rule": si.DPMSolver(), "reverse": True}, "cannot"),
        ({"coordinate": "noise", "path": STRAIGHT}, "straight"),
        ({"coordinate": "sigma"}, "expected one of"),
        ({"rule": "rk4", "coordinate": "straight"}, "coordinate='time'"),
    ],
    ids=["two ends", "reverse", "no data", "unknown", "rk4"],
)
def test_refused(settings, match):
    """With the remedy."""
    path = settings.pop("path", VP)
    with pytest.raises(ValueError, match=match):
        si.flow(exact(path), jnp.zeros((2, 2)), num_steps=3, **settings)


def test_settings_out_of_range():
    """Of the rules themselves."""
    with pytest.raises(ValueError, match=r"beta=0.*above 0 and at most 1"):
        si.GHVB(0.0)
    with pytest.raises(ValueError, match="order=4: expected at most 3"):
        si.DPMSolver(4)
    with pytest.raises(ValueError, match="order=0"):
        si.AdamsBashforth(0)
