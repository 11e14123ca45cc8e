"""Wrong uses of objectives, gradients and site strategies: one paragraph that names the thing and says what to do."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf


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


USES = {
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
