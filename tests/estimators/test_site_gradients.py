"""Strategies per site of a program guide, against exact gradients."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import pushforward as pf
from pushforward.estimators.gradients import _sites, resolve_gradient


def square():
    b = numpyro.sample("b", dist.Bernoulli(0.5))
    numpyro.factor("loss", -((b - 0.499) ** 2))


def coin():
    # Even odds: a start where NumPyro's own log-probability has a kink.
    numpyro.sample("b", dist.Bernoulli(logits=numpyro.param("logit", jnp.asarray(0.0))))


def mixture(y):
    """A discrete site, a continuous one that depends on it, and one before both."""
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    k = numpyro.sample("k", dist.Bernoulli(0.4))
    z = numpyro.sample("z", dist.Normal(m + k, 1.0))
    numpyro.sample("y", dist.Normal(z, 0.7), obs=y)


def mixture_guide(y):
    a = numpyro.param("a", jnp.asarray([0.2, 0.3, -0.4, 0.8, 0.5]))
    m = numpyro.sample("m", dist.Normal(a[0], 0.8))
    k = numpyro.sample("k", dist.Bernoulli(logits=a[1] + 0.5 * m))
    numpyro.sample("z", dist.Normal(a[2] + a[3] * k + 0.3 * m, jnp.exp(a[4])))


def plated(y):
    with numpyro.plate("n", 4, subsample_size=2) as index:
        k = numpyro.sample("k", dist.Bernoulli(0.3))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z + k, 0.6), obs=y[index])


def plated_guide(y):
    a = numpyro.param("a", jnp.asarray([0.2, 0.6, -0.3]))
    with numpyro.plate("n", 4, subsample_size=2) as index:
        numpyro.sample("k", dist.Bernoulli(logits=a[0] + y[index]))
        numpyro.sample("z", dist.Normal(a[1] * y[index], jnp.exp(a[2])))


Y = jnp.asarray([0.3, -0.8, 1.4, 0.1])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def estimates(model: Any, guide: Any, gradient: Any, objective: Any, count: int, args: Any = (), repeats: int = 4000):
    """Gradients with respect to the guide's one parameter, one row per repeat."""
    target = pf.from_numpyro(model, *args)
    bound = pf.program_guide(guide).bind(target)
    estimator = resolve_gradient(gradient, bound, objective)
    estimator.check(objective, target, bound, count)
    estimator = estimator.bind(target, bound)

    @jax.jit
    def run(keys: Any) -> Any:
        def one(key: Any) -> Any:
            batch = target.minibatch(jax.random.fold_in(key, 1)) if target.subsampled else None
            estimate, out = estimator.value_and_grad(key, objective, target, bound, count, batch)
            (leaf,) = out.guide.params.values()
            return jnp.atleast_1d(leaf), estimate.value

        return jax.lax.map(one, keys, batch_size=500)

    out, values = run(jax.random.split(jax.random.key(5), repeats))
    return np.asarray(out), np.asarray(values)


def z_score(draws: Any, exact: Any) -> float:
    error = draws.std(0) / len(draws) ** 0.5 + 1e-9
    return float(np.max(np.abs(draws.mean(0) - np.asarray(exact)) / error))


def exact_mixture(objective: Any) -> Any:
    """Two particles: sums over k and Gauss-Hermite quadrature over m and z of each."""
    m, z = (x.ravel() for x in np.meshgrid(NODES, NODES))
    w = np.outer(WEIGHTS, WEIGHTS).ravel()

    def log_weight(a: Any, k: int) -> tuple[Any, Any]:
        mm = a[0] + 0.8 * m
        q_k = dist.Bernoulli(logits=a[1] + 0.5 * mm)
        loc = a[2] + a[3] * k + 0.3 * mm
        zz = loc + jnp.exp(a[4]) * z
        log_p = (
            dist.Normal(0.0, 1.0).log_prob(mm)
            + dist.Bernoulli(0.4).log_prob(k)
            + dist.Normal(mm + k, 1.0).log_prob(zz)
            + dist.Normal(zz, 0.7).log_prob(1.3)
        )
        log_q = dist.Normal(a[0], 0.8).log_prob(mm) + q_k.log_prob(k) + dist.Normal(loc, jnp.exp(a[4])).log_prob(zz)
        return log_p - log_q, w * jnp.exp(q_k.log_prob(k))

    def value(a: Any) -> Any:
        parts = [log_weight(a, k) for k in (0, 1)]
        logs, probs = jnp.concatenate([p[0] for p in parts]), jnp.concatenate([p[1] for p in parts])
        pairs = jax.vmap(lambda x: jax.vmap(lambda y: objective.guide_gain(jnp.stack([x, y])))(logs))(logs)
        return -probs @ pairs @ probs

    return jax.grad(value)(jnp.asarray([0.2, 0.3, -0.4, 0.8, 0.5]))


STRATEGIES = {
    "measure-valued, path": {"k": pf.MeasureValued()},
    "enumerate, reparam": {"k": pf.Enumerate(), "m": pf.Reparam(), "z": pf.Reparam()},
    "score": pf.Score(),
    "score, path": {"k": pf.Score("average")},
    "score, global": pf.Score(signal="global"),
    "all measure-valued": pf.MeasureValued(),
}


@pytest.mark.parametrize("objective", [pf.ELBO(), pf.IWELBO()], ids=["ELBO", "IWELBO"])
@pytest.mark.parametrize("name", [n if n == "score" else pytest.param(n, marks=pytest.mark.slow) for n in STRATEGIES])
def test_unbiased(name: str, objective: Any) -> None:
    draws, _ = estimates(mixture, mixture_guide, STRATEGIES[name], objective, 2, (jnp.asarray(1.3),), 20_000)
    assert z_score(draws, exact_mixture(objective)) < norm.isf(0.005 / (12 * 5))


def plated_value(objective: Any) -> Any:
    """The objective of every plate element with two particles, summed, as a function of the guide's parameters."""
    nodes, w = NODES, WEIGHTS

    def datum(a: Any, y: Any) -> Any:
        logs, probs = [], []
        for k in (0, 1):
            zz = a[1] * y + jnp.exp(a[2]) * nodes
            q_k = dist.Bernoulli(logits=a[0] + y).log_prob(k)
            log_p = dist.Bernoulli(0.3).log_prob(k) + dist.Normal(0.0, 1.0).log_prob(zz)
            log_p = log_p + dist.Normal(zz + k, 0.6).log_prob(y)
            logs.append(log_p - q_k - dist.Normal(a[1] * y, jnp.exp(a[2])).log_prob(zz))
            probs.append(w * jnp.exp(q_k))
        logs, probs = jnp.concatenate(logs), jnp.concatenate(probs)
        both = jax.vmap(lambda x: jax.vmap(lambda v: objective.guide_gain(jnp.stack([x, v])))(logs))(logs)
        return probs @ both @ probs

    return lambda a: sum(datum(a, y) for y in Y)


PLATED_AT = jnp.asarray([0.2, 0.6, -0.3])


@pytest.mark.slow
def test_per_datum_objective_and_minibatches() -> None:
    """The IWELBO of every plate element, summed: two particles, exact by quadrature."""
    value = plated_value(pf.IWELBO())
    for gradient in (pf.MeasureValued(), pf.Score(), pf.Score(signal="global")):
        draws, values = estimates(plated, plated_guide, {"k": gradient}, pf.IWELBO(), 2, (Y,), 20_000)
        assert z_score(draws, -jax.grad(value)(PLATED_AT)) < norm.isf(0.005 / 9)
        assert z_score(values[:, None], value(PLATED_AT)) < 4


def test_variance_ladder_of_a_coin(figure: Any) -> None:
    """(b - 0.499)^2: log q and log p cancel at even odds, so that the ELBO is minus its mean."""
    variance = {
        name: estimates(square, coin, gradient, pf.ELBO(), 2)[0].var()
        for name, gradient in {
            "enumerate": pf.Enumerate(),
            "measure-valued": pf.MeasureValued(),
            "leave-one-out": pf.Score(),
            "none": pf.Score("none"),
        }.items()
    }
    for name in ("enumerate", "measure-valued"):
        figure(f"(b - 0.499)^2: variance, {name}", float(variance[name]), "< 1e-12")
    ratio = float(variance["none"] / variance["leave-one-out"])
    figure("(b - 0.499)^2: variance of REINFORCE over leave-one-out", ratio, ">= 100")
    assert variance["enumerate"] < 1e-12
    assert variance["measure-valued"] < 1e-12
    assert variance["leave-one-out"] * 100 < variance["none"]


def coins(n: int, subsample_size: int | None = None) -> tuple[Any, Any]:
    """Independent coins, each worth 3 when it is one: the exact gradient in every logit is -3/4 at even odds."""

    def model() -> None:
        with numpyro.plate("n", n, subsample_size=subsample_size):
            b = numpyro.sample("b", dist.Bernoulli(0.5))
            numpyro.factor("f", 3.0 * b)

    def guide() -> None:
        logit = numpyro.param("logit", jnp.zeros(n))
        with numpyro.plate("n", n, subsample_size=subsample_size) as index:
            numpyro.sample("b", dist.Bernoulli(logits=logit[index]))

    return model, guide


def test_score_sees_only_what_depends_on_its_site() -> None:
    """A coin's gradient does not depend on the others, so its variance stays when there are more."""
    few, many = (estimates(*coins(n), pf.Score("none"), pf.ELBO(), 1)[0][:, 0].var() for n in (1, 16))
    np.testing.assert_allclose(many, few, rtol=0.15)


def test_global_signal_is_the_plain_estimator() -> None:
    """Unbiased, with the variance of the signal, which is 3 n / 2 on average: it grows like n^2."""
    variance = {}
    for n in (2, 16):
        draws, _ = estimates(*coins(n, n // 2), pf.Score("none", signal="global"), pf.ELBO(), 1)
        assert z_score(draws, -0.75) < norm.isf(0.005 / (2 * 18))
        variance[n] = draws.var(0).mean()
    assert 20 < variance[16] / variance[2] < 64


@pytest.mark.parametrize("wrong", ["term", pytest.param("scale", marks=pytest.mark.slow)])
def test_wrong_global_signals_are_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A term of the model left out, and a sum over the plate that forgets the minibatch's scale."""

    def faulty(terms: Any, frames: Any) -> Any:
        kept = [term for i, term in enumerate(terms) if wrong != "term" or i != 1]  # in the order p:b, p:f, q:b
        whole = right(kept, frames)
        return 0.5 * whole if wrong == "scale" and not frames else whole

    right = _sites.total
    monkeypatch.setattr(_sites, "total", faulty)
    draws, _ = estimates(*coins(4, 2), pf.Score("none", signal="global"), pf.ELBO(), 1)
    assert z_score(draws, -0.75) > 2 * norm.isf(0.005 / (2 * 18))


@pytest.mark.slow
def test_fit_with_a_discrete_site() -> None:
    target = pf.from_numpyro(mixture, jnp.asarray(1.3))
    posterior = pf.fit(
        target,
        pf.program_guide(mixture_guide),
        gradient={"k": pf.Enumerate()},
        key=jax.random.key(0),
        num_steps=300,
        num_restarts=1,
        progress=False,
    )
    assert set(np.unique(posterior.data.posterior["k"].values)) == {0, 1}


@pytest.mark.parametrize(
    ("gradient", "objective", "message"),
    [
        (None, pf.ELBO(), "'k' .*no reparameterised draw"),
        ({"q": pf.Path()}, pf.ELBO(), r"names the site\(s\) \['q'\]"),
        ({"k": "mvd"}, pf.ELBO(), r"gradient\['k'\]='mvd'"),
        ({"z": pf.Enumerate(), "k": pf.Score()}, pf.ELBO(), "'z' .*no finite list"),
        ({"m": pf.Reparam(), "k": pf.Score()}, pf.IWELBO(), "not linear"),
        ({"k": pf.Score()}, pf.ELBO(), "no other draw"),
    ],
)
def test_refusals(gradient: Any, objective: Any, message: str) -> None:
    target = pf.from_numpyro(mixture, jnp.asarray(1.3))
    with pytest.raises(ValueError, match=message):
        pf.fit(
            target,
            pf.program_guide(mixture_guide),
            gradient=gradient,
            objective=objective,
            num_particles=1,
            key=jax.random.key(0),
        )


def test_strategies_need_named_sites() -> None:
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    with pytest.raises(ValueError, match="need a guide with named random sites"):
        pf.fit(target, pf.MeanField(), gradient=pf.MeasureValued(), key=jax.random.key(0))


@pytest.mark.slow
def test_every_pair_of_objective_and_strategy_on_a_coin() -> None:
    """Three particles of a coin, summed exactly."""
    for objective in (pf.ELBO(), pf.IWELBO(), pf.Renyi(0.5), pf.CUBO(), pf.TVO(3)):

        def value(logit: Any, objective: Any = objective) -> Any:
            total = 0.0
            for bits in itertools.product([0, 1], repeat=3):
                b = jnp.asarray(bits)
                log_q = b * jnp.log(jax.nn.sigmoid(logit)) + (1 - b) * jnp.log(jax.nn.sigmoid(-logit))
                log_p = dist.Bernoulli(0.5).log_prob(b) - (b - 0.499) ** 2
                total = total + jnp.exp(log_q.sum()) * objective.guide_gain(log_p - log_q)
            return -total

        exact = jax.grad(value)(0.0)
        for gradient in (pf.MeasureValued(), pf.Score()):
            draws, _ = estimates(square, coin, gradient, objective, 3)
            assert z_score(draws, exact) < norm.isf(0.005 / 10)
