"""Arguments that a constructor or a guide does not have: one paragraph that says what to write instead."""

from __future__ import annotations

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import pushforward as pf
from pushforward.estimators.gradients._baselines import _NETWORK


def model(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def bare():
    numpyro.sample("m", dist.Normal(0.0, 1.0))


def bind(*args, **kwargs):
    return pf.program_guide(bare, *args, **kwargs).bind(pf.from_numpyro(model, 0.4))


USES = {
    "IWELBO of five": (lambda: pf.IWELBO(5), "pf.IWELBO(5): expected no arguments"),
    "IWELBO of five, where it belongs": (lambda: pf.IWELBO(5), "num_particles=5 of pf.fit"),
    "IWELBO with particles": (lambda: pf.IWELBO(num_particles=5), "num_particles of pf.fit"),
    "ELBO of text": (lambda: pf.ELBO("exact"), "pf.ELBO('exact')"),
    "objective minimized": (lambda: pf.objective(jnp.mean, minimize=True), "Did you mean minimise?"),
    "LearnedBaseline of nothing": (lambda: pf.LearnedBaseline(), "expected an equinox module"),
    "LearnedBaseline misspelt": (lambda: pf.LearnedBaseline(len, lr=1.0), "no argument 'lr'"),
    "guide of other arguments": (
        bind,
        "The guide 'bare()' is called with the arguments of numpyro:model (1 positional, keywords [])",
    ),
    "guide of other own arguments": (lambda: bind(1.0, x=2.0), "its own arguments (1 positional, keywords ['x'])"),
}


@pytest.mark.parametrize("use", list(USES))
def test_refusal(use):
    call, part = USES[use]
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        call()
    message = str(caught.value)
    assert "xpected" in message
    assert "\n" not in message


def test_the_network_of_the_message_is_one():
    line, call = re.fullmatch(r"e\.g\. (class .*), and then (.*)\.", _NETWORK).groups()
    names = {"eqx": eqx, "jax": jax, "jnp": jnp, "pf": pf}
    exec(line, names)
    target = pf.from_logdensity(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    gradient = eval(call, names)
    gradient.check(pf.ELBO(), target, pf.MeanField(target), 2)
    gradient.baseline(jnp.mean, jnp.zeros(2), None)
