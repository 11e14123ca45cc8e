"""Every algorithm, once: the shared suites run over these tables, and `test_registry_complete` sees to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pushforward as pf
from pushforward.models import Target
from pushforward.models.guides import Whitened

DIM = 3
MEAN = np.array([1.0, -2.0, 0.5])
ROOT = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.4, 2.0]])
COVARIANCE = ROOT @ ROOT.T
LOG_EVIDENCE = 1.25
"""Added to the normalised Gaussian below, so that an ELBO has a non-trivial exact value."""


def gaussian_target() -> Target:
    """A normalised Gaussian times exp(LOG_EVIDENCE), over a two-leaf pytree."""
    precision = np.linalg.inv(COVARIANCE)
    constant = LOG_EVIDENCE - 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]

    def logdensity(position):
        x = jnp.concatenate([position["a"][None], position["b"]])
        d = x - jnp.asarray(MEAN, x.dtype)
        return jnp.asarray(constant, x.dtype) - 0.5 * d @ jnp.asarray(precision, x.dtype) @ d

    return pf.from_logdensity(logdensity, {"a": jnp.zeros(()), "b": jnp.zeros(2)})


def _program(*_: Any) -> None:
    loc = numpyro.param("loc", jnp.array([0.3, -0.1, 0.2]))
    scale = numpyro.param("scale", jnp.array([0.7, 1.1, 0.4]), constraint=dist.constraints.positive)
    numpyro.sample("a", dist.Normal(loc[0], scale[0]))
    numpyro.sample("b", dist.Normal(loc[1:], scale[1:]).to_event(1))


def perturbed(guide: Any, size: float = 0.3) -> Any:
    """The guide with every trainable leaf moved, so that no test passes by symmetry."""
    mask = guide.trainable()
    leaves, treedef = jax.tree.flatten(guide)
    moved = [
        x + size * jnp.cos(jnp.arange(x.size, dtype=x.dtype) + 1.0 + i).reshape(x.shape) if m else x
        for i, (x, m) in enumerate(zip(leaves, jax.tree.leaves(mask), strict=True))
    ]
    return jax.tree.unflatten(treedef, moved)


class GuideCase(NamedTuple):
    """A family; ``build`` binds it to a target away from its default start."""

    build: Callable[[Target], Any]
    gaussian: bool = True


GUIDES = {
    "MeanField": GuideCase(lambda t: perturbed(pf.MeanField(t))),
    "FullRank": GuideCase(lambda t: perturbed(pf.FullRank(t))),
    "LowRank": GuideCase(lambda t: perturbed(pf.LowRank(t, rank=2))),
    "Laplace": GuideCase(lambda t: pf.Laplace(t).affine(jnp.asarray([0.2, 0.1, -0.3]), jnp.ones(DIM)).finish(t)),
    "Delta": GuideCase(lambda t: perturbed(pf.Delta(t)), gaussian=False),
    "ProgramGuide": GuideCase(lambda t: pf.program_guide(_program).bind(t), gaussian=False),
    "Whitened": GuideCase(
        lambda t: Whitened(
            perturbed(pf.FullRank(t)),
            jnp.asarray([1.0, 2.0, 3.0]),
            jnp.asarray(ROOT, jnp.result_type(float)),
            pf.FullRank(t).layout,
        ),
        gaussian=False,
    ),
}

OBJECTIVES = {"ELBO": pf.ELBO()}

GRADIENTS = {"Reparam": pf.Reparam(), "Path": pf.Path()}

KERNELS = {
    "NUTS": lambda: pf.NUTS(dense_mass=True),
    # A quarter of the period of a whitened Gaussian: near a full period HMC returns to its start and does not mix.
    "HMC": lambda: pf.HMC(trajectory_length=jnp.pi / 2, dense_mass=True),
}
