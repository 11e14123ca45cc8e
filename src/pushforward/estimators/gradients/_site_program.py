"""Guide and model run as one program, each site drawn by its strategy."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ...models import Target
from ...models._types import Batch, Key, Values
from ...models.guides import AbstractGuide, ProgramGuide
from ..sites import AbstractSiteStrategy, PathSite, ReparamSite
from ._base import Parameters, join
from ._dependence import dependence
from ._terms import PlatedTerm, guide_terms, model_terms


class Draw(eqx.Module):
    """One particle."""

    terms: dict[str, PlatedTerm]
    """Terms of l: those of log p, and minus those of log q."""
    values: Values
    explicit: dict[str, PlatedTerm]
    """The guide's own factors at constant values, where they have another coefficient than the values do."""
    laws: dict[str, Any]
    """Distributions of the sites whose gradient needs a surrogate."""


@dataclasses.dataclass(frozen=True)
class SiteProgram:
    """A guide and a model with strategies for the guide's sites."""

    target: Target
    static: AbstractGuide
    strategies: Mapping[str, AbstractSiteStrategy]
    batch: Batch | None
    live: frozenset[str]
    """Sites whose log q is differentiated in the parameters; for the others it enters at fixed parameters."""
    apart: bool
    """Whether a change of the guide's own factors weighs differently from a change of the values (F_k, F_k - F_kk)."""
    fixed: bool = False
    """Whether draws are constants (wake phase of wake-sleep)."""

    def draw(self, parameters: Parameters, key: Key, force: Mapping[str, Array] | None = None) -> Draw:
        """Run guide and model.

        Args:
            parameters: of both.
            key: every site has its own key derived from it by name, whatever the other sites are.
            force: values that sites take instead of being drawn, at parameters that are constants.
        """
        target, guide = self._joined(parameters)
        force = force or {}

        def choose(name: str, fn: Any) -> Array:
            if name in force:
                return force[name]
            value = self.strategies[name].draw(site_key(key, name), fn)
            return jax.lax.stop_gradient(value) if self.fixed else value

        trace = guide.trace(self.batch, key=key, choose=choose)
        values = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
        terms = guide_terms(trace)
        # Factors of a guide (estimates of marginal densities) belong to no site; they are differentiated in all.
        factors = {"q:" + name for name, site in trace.items() if site["type"] == "sample" and site["is_observed"]}
        apart = self.apart and bool(factors)
        names = {"q:" + name for name in self.live} | (set() if apart else factors)
        explicit: dict[str, PlatedTerm] = {}
        if apart:
            fixed = guide_terms(guide.trace(self.batch, values=jax.lax.stop_gradient(values)))
            explicit = {name: fixed[name] for name in sorted(factors)}
        if not set(terms) <= names:
            if force:
                # Forced values are tried at constant parameters: what is left to differentiate is the value itself.
                frozen = terms
            elif any(s.pathwise for s in self.strategies.values()) and not self.fixed:
                # At fixed parameters, yet differentiable in the values.
                stopped = self._joined(jax.lax.stop_gradient(parameters))[1]
                frozen = guide_terms(stopped.trace(self.batch, values=values))
            else:
                frozen = jax.lax.stop_gradient(terms)
            terms = {name: terms[name] if name in names else frozen[name] for name in terms}
        latent = {site.name: values[site.name] for site in target.program.latents}
        terms.update(model_terms(target, latent, self.batch))
        laws = {name: trace[name]["fn"] for name in self.surrogate_sites if name in trace}
        return Draw(terms, values, explicit, jax.tree.map(jnp.asarray, laws))

    def _joined(self, parameters: Parameters) -> tuple[Target, ProgramGuide]:
        target, guide = join(parameters, self.target, self.static)
        assert isinstance(guide, ProgramGuide)
        return target, guide

    @property
    def surrogate_sites(self) -> list[str]:
        """Sites whose gradient is not all in the value."""
        return [name for name, s in self.strategies.items() if type(s) not in (ReparamSite, PathSite)]

    def downstream(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        """Per site with a surrogate the terms that depend on its value, directly or through sites drawn after it."""
        stopped = jax.lax.stop_gradient(parameters)
        target, guide = self._joined(stopped)
        example = self.draw(stopped, key)

        def terms_of(values: Values) -> dict[str, PlatedTerm]:
            latent = {site.name: values[site.name] for site in self.target.program.latents}
            return {**guide_terms(guide.trace(self.batch, values=values)), **model_terms(target, latent, self.batch)}

        needs = dependence(terms_of, example.values)
        out = {}
        for name in self.surrogate_sites:
            touched, size = {name}, 0
            while len(touched) > size:
                size = len(touched)
                touched |= {t[2:] for t, sources in needs.items() if t.startswith("q:") and sources & touched}
            out[name] = [t for t, sources in needs.items() if sources & touched or t == "q:" + name]
        return out


def site_key(key: Key, name: str) -> Key:
    """A site's own key: by name, so that it does not change with what the other sites do."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
