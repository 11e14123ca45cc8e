"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from tiers import mark_slow

ROOT = Path(__file__).resolve().parents[1]

# Most of a test's time is compilation, and most programs run for milliseconds: unoptimised code is the faster whole.
# For the few long slow tests a level set from outside is kept.
FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_backend_optimization_level" not in FLAGS:
    os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_backend_optimization_level=0".strip()
jax.config.update("jax_enable_x64", True)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
# Child processes that tests start read the cache and the import path from the environment.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tier of tests that a table names; names that differ from process to process are refused."""
    changing = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if changing:
        raise pytest.UsageError(f"{changing}: parallel workers need one name per test; give the cases ids=")
    mark_slow(items)


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Programs are forgotten before they are too many.

    Each holds some memory mappings of the process, of which Linux allows 65,530; at the next one LLVM ends the process.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function giving a fresh typed key per call: the same sequence in every run of the test."""
    count = iter(range(10**6))
    root = jax.random.key(20240817)
    return lambda: jax.random.fold_in(root, next(count))


@pytest.fixture
def figure(record_property: Callable[[str, str], None]) -> Callable[[str, object, str], None]:
    """``figure(what, measured, bound)`` puts a promised figure on the results page (``benchmarks/verify.py tests``)."""

    def keep(what: str, measured: object, bound: str) -> None:
        shown = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
        record_property("figure", json.dumps([what, shown, bound]))

    return keep


@pytest.fixture
def strict() -> Iterator[None]:
    """No implicit dtype or rank promotion. For our own kernels: NumPyro's NUTS divides a float by an integer array."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
