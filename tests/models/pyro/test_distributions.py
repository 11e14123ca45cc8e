"""Every distribution of Pyro: log-probability and gradient in JAX against torch."""

from __future__ import annotations

import inspect

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro_distribution_cases import CASES, EXCLUDED, Case
from pyro_translation import QUICK, TOLERANCE, Gen, compare
from tiers import fast

COSTLY = ("GammaGaussianHMM", "GaussianMRF")
"""Ten seconds each."""


def _check(case: Case, batch: tuple[int, ...], seed: int, dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            points = []
            for i in range(2):
                g = Gen(seed + i, dtype)
                params = case.params(g, batch)
                mask_state = torch.random.get_rng_state()
                value = case.build(params).sample() if case.value is None else case.value(g, batch)
                points.append({**params, "value": value})
                torch.random.set_rng_state(mask_state)

            def log_prob(x: dict[str, torch.Tensor]) -> torch.Tensor:
                with torch.random.fork_rng(devices=[]):
                    torch.random.set_rng_state(mask_state)
                    value = points[0]["value"] if case.constant_value else x["value"]
                    value = value if case.differentiate_value else value.detach()
                    return case.build({k: v for k, v in x.items() if k != "value"}).log_prob(value)

            compare(log_prob, points[0], points[1], TOLERANCE[dtype], gradient=case.gradient)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", fast(sorted(CASES), *(n for n in sorted(CASES)[::3] if n not in COSTLY)))
@QUICK
@given(batch=st.sampled_from([(), (2,), (3, 1), (2, 3)]), seed=st.integers(0, 2**16))
def test_value_and_gradient(name: str, batch: tuple[int, ...], seed: int) -> None:
    _check(CASES[name], batch, seed, torch.float64)
    _check(CASES[name], batch, seed, torch.float32)


def test_every_distribution_is_tested_or_excluded() -> None:
    everything = {n for n in dist.__all__ if inspect.isclass(getattr(dist, n))}
    tested = {name.partition("-")[0] for name in CASES}
    assert tested | set(EXCLUDED) == everything
    assert not tested & set(EXCLUDED)
