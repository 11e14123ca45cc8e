"""What generality costs: generic gradient formulas and the program layer against hand-written JAX.

In one process, in turn, medians of pairwise ratios, compile time apart. The generic forms (`Path`, `Score`) are held
against sticking-the-landing, DReG and VIMCO written out for one model; a program with a minibatch plate and an encoder
against the gradient of a variational auto-encoder written out.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.module import eqx_module

import pushforward as pf
from pushforward.estimators.gradients import join, resolve_gradient, split

LOOP, VAE_LOOP = 50, 8
PAIRS = 60
PARTICLES = (8, 64, 512)
BATCHES = (64, 256, 1024)
NUM_DATA, PIXELS, LATENTS, HIDDEN = 2048, 196, 10, 100


def in_turn(functions: dict[str, Callable[[], Any]], loop: int = LOOP) -> dict[str, float]:
    """Median seconds of two functions, "generic" and "by_hand", and the median of their ratios pair by pair."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for call in functions.values():
        jax.block_until_ready(call())
    for i in range(PAIRS):
        # Who goes first alternates: the second finds the caches of the first.
        for name in list(functions) if i % 2 else reversed(list(functions)):
            began = time.perf_counter()
            jax.block_until_ready(functions[name]())
            times[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(times["generic"], times["by_hand"], strict=True)]
    return {
        "generic_us": 1e6 * statistics.median(times["generic"]) / loop,
        "by_hand_us": 1e6 * statistics.median(times["by_hand"]) / loop,
        "ratio": statistics.median(ratios),
    }


def looped(gradient: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], Any]:
    """The sum of many gradients, one after the other, as in a fit."""

    @jax.jit
    def run(parameters, noise):
        def step(total, eps):
            return jax.tree.map(jnp.add, total, gradient(parameters, eps)), None

        return jax.lax.scan(step, jax.tree.map(jnp.zeros_like, parameters), noise)[0]

    return run


def data() -> tuple[jax.Array, jax.Array]:
    """A 100 x 3 design and its response."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    return jnp.asarray(x), jnp.asarray(x @ [1.0, -0.5, 2.0] + 0.5 * rng.normal(size=100))


X, Y = data()


def log_joint(z: jax.Array) -> jax.Array:
    """Regression with a logarithmic noise scale, four latents."""
    w, log_s = z[:3], z[3]
    r = (Y - X @ w) * jnp.exp(-log_s)
    return -0.5 * (z @ z) - 0.5 * (r @ r) - Y.size * log_s


def log_q(phi: tuple[jax.Array, jax.Array], z: jax.Array) -> jax.Array:
    """Mean-field Gaussian."""
    return jnp.sum(-0.5 * ((z - phi[0]) * jnp.exp(-phi[1])) ** 2 - phi[1] - 0.5 * np.log(2 * np.pi))


def draw(phi: tuple[jax.Array, jax.Array], eps: jax.Array) -> jax.Array:
    """Reparameterised."""
    return phi[0] + jnp.exp(phi[1]) * eps


def sticking(phi, noise):
    """Roeder et al. 2017: the ELBO with the parameters inside log q stopped."""

    def loss(phi):
        stopped = jax.lax.stop_gradient(phi)

        def one(eps):
            z = draw(phi, eps)
            return log_joint(z) - log_q(stopped, z)

        return -jnp.mean(jax.vmap(one)(noise))

    return jax.grad(loss)(phi)


def dreg(phi, noise):
    """Tucker et al. 2018: squared normalised weights on the same log-weights."""

    def loss(phi):
        stopped = jax.lax.stop_gradient(phi)

        def one(eps):
            z = draw(phi, eps)
            return log_joint(z) - log_q(stopped, z)

        log_w = jax.vmap(one)(noise)
        return -jnp.sum(jax.lax.stop_gradient(jax.nn.softmax(log_w)) ** 2 * log_w)

    return jax.grad(loss)(phi)


def vimco(phi, noise):
    """Mnih and Rezende 2016: leave-one-out bounds with the geometric mean of the others in the draw's place."""

    def loss(phi):
        z = jax.lax.stop_gradient(jax.vmap(lambda eps: draw(phi, eps))(noise))
        log_qs = jax.vmap(lambda z: log_q(phi, z))(z)
        log_w = jax.vmap(log_joint)(z) - log_qs
        count = log_w.shape[0]
        others = (jnp.sum(log_w) - log_w) / (count - 1)
        swapped = jnp.where(jnp.eye(count, dtype=bool), others[:, None], log_w)
        bound = jax.nn.logsumexp(log_w) - np.log(count)
        signal = jax.lax.stop_gradient(bound - (jax.nn.logsumexp(swapped, axis=1) - np.log(count)))
        return -(jnp.sum(signal * log_qs) + bound)

    return jax.grad(loss)(phi)


def special_cases() -> list[dict[str, Any]]:
    """Generic formulas against the three written out."""
    target = pf.from_logdensity(log_joint, jnp.zeros(4))
    guide = pf.MeanField(target).affine(jnp.asarray([1.0, -0.5, 2.0, -0.7]), jnp.full((4,), 0.8))
    parameters, static = split(target, guide)
    cases = (
        ("STL", sticking, pf.Path(), pf.ELBO()),
        ("DReG", dreg, pf.Path(), pf.IWELBO()),
        ("VIMCO", vimco, pf.Score(), pf.IWELBO()),
    )
    rows = []
    for name, by_hand, gradient, objective in cases:
        for count in PARTICLES:

            def generic(learned, noise, gradient=gradient, objective=objective, count=count):
                joined_target, joined_guide = join(parameters._replace(guide=learned), target, static)
                return gradient.value_and_grad(noise, objective, joined_target, joined_guide, count)[1].guide

            noise = jax.random.normal(jax.random.key(count), (LOOP, count, 4))
            phi = (guide.loc, guide.log_scale)
            ours, theirs = looped(generic), looped(by_hand)
            a, b = ours(parameters.guide, noise), theirs(phi, noise)
            np.testing.assert_allclose(np.concatenate([a.loc, a.log_scale]), np.concatenate(b), rtol=2e-3, atol=1e-2)
            figures = in_turn(
                {
                    "generic": functools.partial(ours, parameters.guide, noise),
                    "by_hand": functools.partial(theirs, phi, noise),
                }
            )
            rows.append({"what": f"{name}, K = {count}", "limit": 1.05, **figures})
    return rows


def networks() -> tuple[eqx.nn.MLP, eqx.nn.MLP]:
    """Encoder and decoder of one hidden layer."""
    key_encoder, key_decoder = jax.random.split(jax.random.key(1))
    return (
        eqx.nn.MLP(PIXELS, 2 * LATENTS, HIDDEN, 1, activation=jax.nn.tanh, key=key_encoder),
        eqx.nn.MLP(LATENTS, PIXELS, HIDDEN, 1, activation=jax.nn.tanh, key=key_decoder),
    )


def vae_program(images: jax.Array, batch: int):
    """A variational auto-encoder as two programs."""
    encoder, decoder = networks()

    def model(images):
        decode = eqx_module("decoder", decoder)
        with numpyro.plate("data", len(images), subsample_size=batch) as index:
            z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENTS), 1.0).to_event(1))
            logits = jax.vmap(decode)(z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=images[index])

    def guide(images):
        encode = eqx_module("encoder", encoder)
        with numpyro.plate("data", len(images), subsample_size=batch) as index:
            code = jax.vmap(encode)(images[index])
            scale = jnp.exp(code[:, LATENTS:])
            numpyro.sample("z", dist.Normal(code[:, :LATENTS], scale).to_event(1))

    target = pf.from_numpyro(model, images)
    target = target.with_params(target.program.initial_params(jax.random.key(0)), fitted=False)
    return target, pf.program_guide(guide).bind(target)


def vae_by_hand(images: jax.Array, batch: int):
    """The same loss in plain JAX."""
    scale = len(images) / batch

    def loss(networks, key, index):
        encoder, decoder = networks
        x = images[index]
        code = jax.vmap(encoder)(x)
        mean, log_sd = code[:, :LATENTS], code[:, LATENTS:]
        eps = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(log_sd) * eps
        logits = jax.vmap(decoder)(z)
        log_p = jnp.sum(x * logits - jax.nn.softplus(logits)) - 0.5 * jnp.sum(z**2)
        entropy_term = jnp.sum(-0.5 * eps**2 - log_sd)
        return -scale * (log_p - entropy_term)

    return eqx.filter_value_and_grad(loss)


def vae() -> list[dict[str, Any]]:
    """Value and gradient of a minibatch, by program and by hand."""
    images = (jax.random.uniform(jax.random.key(2), (NUM_DATA, PIXELS)) < 0.3).astype(jnp.result_type(float))
    rows = []
    for batch in BATCHES:
        target, guide = vae_program(images, batch)
        gradient = resolve_gradient(pf.Reparam(), guide, pf.ELBO())
        parameters, rest = split(target, guide)

        def program(learned, key, target=target, rest=rest, gradient=gradient, batch=batch):
            joined_target, joined_guide = join(learned, target, rest)
            index = jax.random.choice(key, NUM_DATA, (batch,), replace=False)
            steps = gradient.value_and_grad(key, pf.ELBO(), joined_target, joined_guide, 1, {"data": index})[1]
            return steps._replace(estimator=None)

        arrays, static = eqx.partition(networks(), eqx.is_array)
        written_out = vae_by_hand(images, batch)

        def by_hand(arrays, key, written_out=written_out, static=static, batch=batch):
            index = jax.random.choice(key, NUM_DATA, (batch,), replace=False)
            return written_out(eqx.combine(arrays, static), key, index)[1]

        keys = jax.random.split(jax.random.key(3), VAE_LOOP)
        figures = in_turn(
            {
                "generic": functools.partial(looped(program), parameters._replace(estimator=None), keys),
                "by_hand": functools.partial(looped(by_hand), arrays, keys),
            },
            VAE_LOOP,
        )
        rows.append({"what": f"VAE program, batch {batch}", "limit": 1.1, **figures})
    return rows


def main() -> list[dict[str, Any]]:
    """Run both and print them."""
    rows = special_cases() + vae()
    for row in rows:
        figures = {k: round(v, 3) for k, v in row.items() if isinstance(v, float) and k != "limit"}
        print(row["what"], f"(limit {row['limit']}):", figures, file=sys.stdout, flush=True)
    return rows


if __name__ == "__main__":
    main()
