"""Every algorithm, once: the shared suites run over these tables, and `test_registry_complete` sees to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from oracles import k_draws
from registry_kernels import KERNELS as KERNELS
from scipy import special

import pushforward as pf
from pushforward.estimators.sites import PathSite, ReparamSite, ScoreSite
from pushforward.models import Target, guides
from pushforward.models.guides import Whitened

DIM = 3
MEAN = np.array([1.0, -2.0, 0.5])
ROOT = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.4, 2.0]])
COVARIANCE = ROOT @ ROOT.T
LOG_EVIDENCE = 1.25
"""Added to the normalised Gaussian below, so that an ELBO has a non-trivial exact value."""


def gaussian_target(dim: int = DIM) -> Target:
    """A normalised Gaussian times exp(LOG_EVIDENCE), over a two-leaf pytree; or its first coordinates."""
    covariance = COVARIANCE[:dim, :dim]
    precision = np.linalg.inv(covariance)
    constant = LOG_EVIDENCE - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]

    def logdensity(position):
        x = jnp.concatenate([position["a"][None], position["b"]])
        d = x - jnp.asarray(MEAN[:dim], x.dtype)
        return jnp.asarray(constant, x.dtype) - 0.5 * d @ jnp.asarray(precision, x.dtype) @ d

    return pf.from_logdensity(logdensity, {"a": jnp.zeros(()), "b": jnp.zeros(dim - 1)})


def target_for(name: str) -> Target:
    """The Gaussian as the sampler of that name wants it."""
    return _inverse_problem() if KERNELS[name].inverse else gaussian_target(KERNELS[name].dim)


def _inverse_problem() -> Target:
    """Prior N(0, 4 S) and data y = x + noise of covariance 4/3 S, which leave N(3/4 y, S)."""
    problem = {"prior_mean": np.zeros(DIM), "prior_covariance": 4 * COVARIANCE, "noise_covariance": 4 / 3 * COVARIANCE}
    return pf.from_forward_map(lambda x: x, 4 / 3 * MEAN, **problem)


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


def flow_case(flow: Any) -> GuideCase:
    """Its layers drawn and moved off the identity, inside an affine map with correlations."""

    @jax.jit
    def build(target: Target) -> Any:
        dtype = jnp.result_type(float)
        moved = flow.bind(target).affine(jnp.asarray([1.0, 2.0, 3.0], dtype), jnp.asarray(ROOT, dtype))
        return perturbed(moved.fresh(jax.random.key(7)))

    return GuideCase(build, gaussian=False)


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
    "RealNVP": flow_case(guides.RealNVP(num_layers=2, hidden=8)),
    "SplineFlow": flow_case(guides.SplineFlow(num_layers=2, hidden=8, num_bins=4)),
    "IAF": flow_case(guides.IAF(num_layers=2, hidden=8)),
    "Planar": flow_case(guides.Planar(num_layers=4)),
    "Radial": flow_case(guides.Radial(num_layers=4)),
}


class ObjectiveCase(NamedTuple):
    """An objective and its definition written anew in NumPy, for log-weights (n, K)."""

    objective: Any
    value: Callable[[np.ndarray], np.ndarray]
    guide: Callable[[np.ndarray], np.ndarray]
    """What the guide maximises; for objectives that hold the law of the draws fixed, the factors (n, K) of d log q."""
    model: Callable[[np.ndarray], np.ndarray]
    """What model parameters maximise."""


def _power(power: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda log_w: k_draws.power_mean(log_w, power)


def _lower(objective: Any, function: Callable[[np.ndarray], np.ndarray]) -> ObjectiveCase:
    return ObjectiveCase(objective, function, function, function)


PARTITION = (0.0, 0.1, 0.5, 1.0)

OBJECTIVES = {
    "ELBO": (_lower(pf.ELBO(), _power(0.0)),),
    "IWELBO": (_lower(pf.IWELBO(), _power(1.0)),),
    "Renyi": (
        _lower(pf.Renyi(0.5), _power(0.5)),
        _lower(pf.Renyi(2.0), _power(-1.0)),
        _lower(pf.Renyi(0.95), _power(0.05)),
        ObjectiveCase(pf.Renyi(-1.0), _power(2.0), lambda log_w: -k_draws.power_mean(log_w, 2.0), _power(1.0)),
    ),
    "CUBO": (
        ObjectiveCase(pf.CUBO(2.0), _power(2.0), lambda log_w: -k_draws.power_mean(log_w, 2.0), _power(1.0)),
        ObjectiveCase(
            pf.CUBO(2.0, exponential=True, offset=0.5),
            _power(2.0),
            lambda log_w: -np.exp(2.0 * (log_w - 0.5)).mean(-1),
            _power(1.0),
        ),
    ),
    "VIS": (ObjectiveCase(pf.VIS(), _power(1.0), lambda log_w: -2.0 * k_draws.power_mean(log_w, 2.0), _power(1.0)),),
    "TVO": (_lower(pf.TVO(PARTITION), lambda log_w: k_draws.tvo(log_w, PARTITION)),),
    "ForwardKL": (
        ObjectiveCase(pf.ForwardKL(), _power(1.0), lambda log_w: special.softmax(log_w, axis=-1), _power(1.0)),
    ),
}

GAUSSIAN_GRADIENTS = {"Price": pf.Price(), "AffineControl": pf.AffineControl()}

GRADIENTS = {
    **GAUSSIAN_GRADIENTS,
    "Reparam": pf.Reparam(),
    "Path": pf.Path(),
    "Score": pf.Score(),
    "Adaptive": pf.Adaptive(),
}

SITE_STRATEGIES = {
    "Enumerate": pf.Enumerate(),
    "Implicit": pf.Implicit(),
    "MeasureValued": pf.MeasureValued(),
    "PathSite": PathSite(),
    "Rejection": pf.Rejection(),
    "Relax": pf.Relax(),
    "ReparamSite": ReparamSite(),
    "ScoreSite": ScoreSite(),
}
"""`pf.Path`, `pf.Reparam` and `pf.Score` at one site are the last of these."""
