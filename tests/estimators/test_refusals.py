"""Wrong uses of objectives, gradients and site strategies: one paragraph that names the thing and says what to do."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import AffineTransform, SigmoidTransform

import pushforward as pf
from pushforward.estimators.gradients import resolve_gradient
from pushforward.estimators.gradients._dependence import dependence


def model(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    k = numpyro.sample("k", dist.Bernoulli(0.4))
    c = numpyro.sample("c", dist.Poisson(2.0))
    numpyro.sample("y", dist.Normal(m + k + 0.1 * c, 1.0).expand([3]).to_event(1), obs=y)


def guide(y):
    a = numpyro.param("a", jnp.zeros(2))
    numpyro.sample("m", dist.Normal(a[0], 1.0))
    numpyro.sample("k", dist.Bernoulli(logits=a[1]))
    numpyro.sample("c", dist.Poisson(jnp.exp(a[0])))


def fixed(y):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("c", dist.Poisson(2.0))


@functools.cache
def target():
    return pf.from_numpyro(model, jnp.zeros(3))


@functools.cache
def plain():
    return pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))


def sites(**strategies):
    chosen = {"k": pf.Enumerate(), "c": pf.Score(), **strategies}
    return pf.fit(target(), pf.program_guide(guide), gradient=chosen, num_particles=2, key=jax.random.key(0))


def smooth(family=pf.MeanField, **settings):
    return pf.fit(plain(), family(), key=jax.random.key(0), **settings)


def score(baseline):
    return pf.Score(baseline).value_and_grad(jax.random.key(0), pf.ELBO(), plain(), pf.MeanField(plain()), 2)


def pair():
    u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    numpyro.sample("z", dist.Normal(u, 1.0))


def check(law, gradient):
    """Check a guide ``u ~ Normal(a, 1), z ~ law(a, exp(b), u)`` and an estimator, without compiling anything."""

    def both():
        a, b = numpyro.param("a", jnp.array(0.3)), numpyro.param("b", jnp.array(0.0))
        u = numpyro.sample("u", dist.Normal(a, 1.0))
        numpyro.sample("z", law(a, jnp.exp(b), u))

    bound = pf.program_guide(both).bind(pair_target())
    estimator = gradient if isinstance(gradient, Whole) else resolve_gradient(gradient, bound, pf.ELBO())
    getattr(estimator, "inner", estimator).check(pf.ELBO(), pair_target(), bound, 2)


@functools.cache
def pair_target():
    return pf.from_numpyro(pair)


class Whole(NamedTuple):
    """An estimator of all sites at once, as `pf.Adaptive` and ``gradient="auto"`` ask it."""

    inner: Any


def shifted(law, loc, scale):
    return dist.TransformedDistribution(law, AffineTransform(loc, scale))


def counts():
    def model():
        n = numpyro.sample("n", dist.Poisson(3.0))
        numpyro.sample("k", dist.Binomial(n, 0.4))

    def guide():
        n = numpyro.sample("n", dist.Poisson(jnp.exp(numpyro.param("a", jnp.array(1.0)))))
        numpyro.sample("k", dist.Binomial(n, 0.4))

    target = pf.from_numpyro(model)
    bound = pf.program_guide(guide).bind(target)
    chosen = resolve_gradient({"n": pf.Score(), "k": pf.Enumerate()}, bound, pf.ELBO())
    chosen.check(pf.ELBO(), target, bound, 2)


MOVES = "support of this site moves with the parameters"
MOVING = {
    "uniform": lambda a, b, u: dist.Uniform(a - b, a + b),
    "truncated": lambda a, b, u: dist.TruncatedNormal(0.3, 1.0, low=a),
    "exponential": lambda a, b, u: shifted(dist.Exponential(1.0), a, 1.0),
    "uniform, scaled": lambda a, b, u: shifted(dist.Uniform(0.0, 1.0), 0.0, b),
    "logistic": lambda a, b, u: dist.TransformedDistribution(
        dist.Logistic(0.0, 1.0), [SigmoidTransform(), AffineTransform(a, 1.0)]
    ),
    "Pareto": lambda a, b, u: dist.Pareto(b, 2.0),
    "mixture": lambda a, b, u: dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), shifted(dist.Exponential(jnp.ones(2)), a, 1.0)
    ),
}
STAYING = {
    "uniform": lambda a, b, u: dist.Uniform(0.0, jnp.ones(())),
    "truncated": lambda a, b, u: dist.TruncatedNormal(a, b, low=-1.0),
    "exponential": lambda a, b, u: shifted(dist.Exponential(1.0), 0.0, b),
    "half-normal": lambda a, b, u: dist.HalfNormal(b),
    "gamma": lambda a, b, u: dist.Gamma(b, b),
    "inverse gamma": lambda a, b, u: dist.InverseGamma(b, b),
    "log-normal": lambda a, b, u: dist.LogNormal(a, b),
    "normal": lambda a, b, u: shifted(dist.Normal(0.0, 1.0), a, b),
    "Kumaraswamy": lambda a, b, u: dist.Kumaraswamy(b, b),
    "relaxed": lambda a, b, u: dist.RelaxedBernoulliLogits(b, a),
}

USES = {
    **{f"moving {k}": (functools.partial(check, v, {"z": pf.Score()}), MOVES) for k, v in MOVING.items()},
    "moving, path": (lambda: check(MOVING["uniform"], pf.Path()), "Path() at site 'z'"),
    "moving, path of the guide": (lambda: check(MOVING["truncated"], Whole(pf.Path())), "Path() at site 'z'"),
    "moving, score of the guide": (lambda: check(MOVING["truncated"], Whole(pf.Score())), "Score() at site 'z'"),
    "moving, implicit": (lambda: check(MOVING["mixture"], {"z": pf.Implicit()}), "Implicit() at site 'z'"),
    "moving, measure-valued": (
        lambda: check(lambda a, b, u: shifted(dist.Gamma(1.0), a, 1.0), {"z": pf.MeasureValued()}),
        "no known measure-valued",
    ),
    "moving with a site": (
        lambda: check(lambda a, b, u: dist.Uniform(u - 1.0, u + 1.0), {"z": pf.Score()}),
        "moves with ['u']",
    ),
    "Score of a point": (lambda: check(lambda a, b, u: dist.Delta(a), {"z": pf.Score()}), "'z' (Delta): a point mass"),
    "Score of a site's copy": (lambda: check(lambda a, b, u: dist.Delta(u), {"z": pf.Score()}), "depends on ['u']"),
    "MeasureValued point": (lambda: check(lambda a, b, u: dist.Delta(a), {"z": pf.MeasureValued()}), "Use pf.Path()"),
    "Enumerate random counts": (counts, "Enumerate() at site 'k' (BinomialProbs)"),
    "Path of a mixture": (
        lambda: pf.estimators.sites.PathSite().check(
            "z", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.zeros(2), 1.0))
        ),
        "Expected pf.Implicit() or pf.Score()",
    ),
    "CUBO below one": (lambda: pf.CUBO(n=0.5), "CUBO(n=0.5): expected a finite order above 1"),
    "CUBO of text": (lambda: pf.CUBO(n="2"), "CUBO(n='2')"),
    "CUBO offset": (lambda: pf.CUBO(2, offset=float("nan")), "CUBO(offset=nan)"),
    "Renyi of nan": (lambda: pf.Renyi(float("nan")), "Renyi(alpha=nan)"),
    "Renyi of nothing": (lambda: pf.Renyi(None), "Renyi(alpha=None)"),
    "TVO not increasing": (lambda: pf.TVO((0, 0.5, 0.2, 1)), "TVO(partition=(0, 0.5, 0.2, 1))"),
    "TVO of text": (lambda: pf.TVO("fine"), "TVO(partition='fine')"),
    "TVO with text": (lambda: pf.TVO([0, "x", 1]), "increasing inverse temperatures"),
    "TVO nested": (lambda: pf.TVO([[0, 1]]), "increasing inverse temperatures"),
    "Relax method": (lambda: pf.Relax("concrete"), "Relax(method='concrete')"),
    "Relax temperature": (lambda: pf.Relax(temperature="hot"), "Relax(temperature='hot'"),
    "Score signal": (lambda: pf.Score(signal="whole"), "Score(signal='whole')"),
    "Score baseline": (lambda: pf.Score("loo"), "Score(baseline='loo')"),
    "baseline without argument": (lambda: pf.Score(lambda: 0.1), "one argument"),
    "baseline of three": (lambda: score(lambda batch: jnp.zeros(3)), "shape (3,)"),
    "LearnedBaseline of a number": (lambda: smooth(gradient=pf.Score(pf.LearnedBaseline(3))), "LearnedBaseline(3)"),
    "LearnedBaseline rate": (lambda: pf.LearnedBaseline(len, learning_rate=-1), "learning_rate=-1"),
    "objective of vectors": (lambda: pf.objective(lambda w: w), "shape (4,)"),
    "objective in numpy": (lambda: pf.objective(lambda w: float(w[0])), "failed on 4 log-weights"),
    "objective for four": (
        lambda: smooth(objective=pf.objective(lambda w: jnp.mean(w.reshape(4)))),
        "failed on 8 log-weights",
    ),
    "objective not declared": (lambda: smooth(objective=jnp.mean), "@pf.objective"),
    "objective with a jump": (
        lambda: smooth(objective=pf.objective(lambda w: jnp.mean(jnp.sort(w)[1:])), gradient=pf.Path()),
        "jumps",
    ),
    "weight of no site": (lambda: target().scaled({"q": 1.0}), "['q']"),
    "negative weight": (lambda: target().scaled({"y": -1.0}), "site 'y' is -1.0"),
    "weight of nan": (lambda: target().scaled({"y": float("nan")}), "site 'y' is nan"),
    "weight of text": (lambda: target().scaled({"y": "half"}), "site 'y' is 'half'"),
    "weight per event": (lambda: target().scaled({"y": jnp.ones(3)}), "expected a number"),
    "one weight for all": (lambda: target().scaled(0.5), "dictionary {site: weight}"),
    "unknown site": (lambda: sites(q=pf.Enumerate()), "['q']"),
    "nothing to learn": (lambda: pf.fit(target(), pf.program_guide(fixed), key=jax.random.key(0)), "to learn"),
    "marginal over no site": (
        lambda: pf.program_guide(pf.marginal(guide, over="u")).bind(target()),
        "pf.marginal(over=['u'])",
    ),
    "Enumerate a normal": (lambda: sites(m=pf.Enumerate()), "'m' (Normal) has no finite list"),
    "MeasureValued of a log-normal": (
        lambda: pf.MeasureValued().check("s", dist.LogNormal(0.0, 1.0)),
        "Use pf.Path() or pf.Score()",
    ),
    "Enumerate a Poisson": (lambda: sites(c=pf.Enumerate()), "'c' (Poisson) has no finite list"),
    "Path of a Bernoulli": (lambda: sites(k=pf.Path()), "'k' (BernoulliLogits)"),
    "Relax a Poisson": (lambda: sites(c=pf.Relax()), "'c': Poisson has no relaxed twin"),
    "Implicit Bernoulli": (lambda: sites(k=pf.Implicit()), "is discrete"),
    "Rejection of a normal": (lambda: sites(m=pf.Rejection()), "'m': Normal is not made of gamma variates"),
    "Price at a site": (lambda: sites(m=pf.Price()), "gradient['m']"),
    "Sobol at a site": (lambda: sites(m=pf.Path(draws="sobol")), "gradient['m']"),
    "name of a strategy": (lambda: sites(k="enumerate"), "gradient['k']='enumerate'"),
}


@pytest.mark.parametrize("use", list(USES))
def test_refusal(use):
    call, part = USES[use]
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        call()
    message = str(caught.value)
    assert "xpected" in message
    assert "\n" not in message
    assert not getattr(caught.value, "__notes__", [])


@pytest.mark.parametrize("law", list(STAYING))
def test_supports_that_stay_are_accepted(law):
    for gradient in (pf.Path(), pf.Score(), {"z": pf.Implicit()}, Whole(pf.Path())):
        check(STAYING[law], gradient)


def test_moving_supports_that_are_right_are_accepted():
    for law in ("uniform", "truncated", "exponential", "Pareto"):
        check(MOVING[law], pf.Reparam())
        check(MOVING[law], {"z": pf.Reparam()})

    def around(a, b, u):
        return dist.Uniform(u - 1.0, u + 1.0)

    # The joint support of u and z stays.
    check(around, pf.Path())
    check(around, pf.Score())
    check(lambda a, b, u: dist.Delta(a), pf.Path())
    check(lambda a, b, u: dist.Delta(1.0), pf.Score())


def test_dependence_looks_into_loops_and_calls():
    def function(inputs):
        def body(carry, x):
            return carry * inputs["a"], (x, jnp.ones(()), carry)

        last, (xs, ones, seen) = jax.lax.scan(body, inputs["b"], jnp.stack([inputs["c"]] * 3))
        called = jax.jit(lambda a, b: (a, b))(inputs["a"], inputs["b"])
        return {"last": last, "xs": xs, "ones": ones, "seen": seen, "called": called[1]}

    found = dependence(function, {name: jnp.ones(()) for name in "abc"})
    expected = {"last": "ab", "xs": "c", "ones": "", "seen": "ab", "called": "b"}
    assert found == {name: frozenset(sources) for name, sources in expected.items()}
