"""What the zoo hands out: a model with its data, its published reference and its licence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._numpyro import from_numpyro
from .._target import Target

Data = dict[str, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]
Draws = dict[str, NDArray[Any]]
PyroCall = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
FloatArray = NDArray[np.float64]


class Reference(NamedTuple):
    """Published posterior moments of one site, elementwise; arrays have the site's shape."""

    mean: FloatArray
    sd: FloatArray
    mcse_mean: FloatArray | None
    """Monte Carlo standard error of ``mean``; None where it is not published."""
    ess: FloatArray | None
    """Effective sample size for the mean; None where it is not published."""
    n_draws: int
    """Number of draws behind the moments."""
    kind: Literal["draws", "moments"]
    """Whether the draws themselves were published, or only their moments."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One posterior of the zoo: model, data, reference and where they come from. Get one with `load`.

    Attributes:
        name: short name, as in `names`.
        description: one sentence on the model and what makes it hard.
        model: the NumPyro program; call it with `args`.
        dim: number of unconstrained coordinates.
        aliases: other names that `load` accepts, the posteriordb name first.
        coords: labels per dimension.
        dims: names of the axes that no plate owns, per site.
    """

    name: str
    description: str
    model: Callable[..., Any]
    dim: int
    build_args: Callable[[Data], Call] = field(repr=False)
    aliases: tuple[str, ...] = ()
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict, repr=False)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    folder: str = ""
    """Folder of the data files inside the package, when it is not called ``name``."""
    build_pyro: Callable[[Data], PyroCall] | None = field(default=None, repr=False)
    recover_latents: Callable[[Draws], Draws] = field(default=dict, repr=False)
    """Latent sites as functions of the sites that the reference reports; identity without auxiliary sites."""

    def data(self) -> Data:
        """The data as published: lists and numbers."""
        return dict(json.loads(self._file("data.json").read_text(encoding="utf-8")))

    def args(self) -> Call:
        """Arguments of `model` as arrays of the current default dtype: ``(args, kwargs)``."""
        return self.build_args(self.data())

    def target(self) -> Target:
        """The posterior as a target, built by `from_numpyro`, with named dimensions and labels."""
        args, kwargs = self.args()
        return from_numpyro(self.model, *args, coords=self.coords, dims=self.dims, **kwargs)

    def pyro(self) -> PyroCall:
        """The same posterior as a Pyro program: ``(model, args, kwargs)`` with float64 tensors.

        Its sites have the names, shapes and supports of the NumPyro program; its log-density is equal up to a constant.

        Raises:
            ValueError: if the entry has no Pyro program; see `pyro_names`.
            ImportError: if Pyro is not installed.
        """
        if self.build_pyro is None:
            raise ValueError(
                f"The zoo entry '{self.name}' has no Pyro program: expected one of zoo.pyro_names(). Use its NumPyro "
                "program, .model, instead."
            )
        return self.build_pyro(self.data())

    def pyro_target(self) -> Target:
        """The Pyro program as a target, built by `from_pyro`.

        Raises:
            ValueError: if the entry has no Pyro program; see `pyro_names`.
            ImportError: if Pyro is not installed.
        """
        from ..pyro import from_pyro

        model, args, kwargs = self.pyro()
        return from_pyro(model, *args, coords=self.coords, dims=self.dims, **kwargs)

    @property
    def reference(self) -> dict[str, Reference]:
        """Published moments by site, deterministic sites included; auxiliary sites have none."""
        return {name: _read_reference(entry, self._about["kind"]) for name, entry in self._about["parameters"].items()}

    def draws(self) -> Draws:
        """Draws of the sites in `reference`, one leading axis, float32 as stored; see `draws_kind`."""
        with resources.as_file(self._file("draws.npz")) as path, np.load(path) as archive:
            return {name: archive[name] for name in archive.files}

    def latent_draws(self) -> Draws:
        """`draws` as values of the latent sites, in float64: auxiliary sites recovered, deterministic ones left out."""
        return self.recover_latents({name: value.astype(np.float64) for name, value in self.draws().items()})

    @property
    def draws_kind(self) -> Literal["published", "nuts"]:
        """What `draws` are.

        ``"published"``: a random subset of near-independent published draws, fit for tests of exactness. ``"nuts"``:
        own NUTS draws whose moments agree with the published ones; autocorrelated, for plots and distances only.
        """
        kind: Literal["published", "nuts"] = self._about["draws_kind"]
        return kind

    @property
    def source(self) -> str:
        """Where data and reference come from."""
        return str(self._about["source"])

    @property
    def licence(self) -> str:
        """Licence of reference and data."""
        return str(self._about["licence"])

    @property
    def note(self) -> str | None:
        """What is special about data or reference, if anything."""
        note: str | None = self._about.get("note")
        return note

    @property
    def _about(self) -> dict[str, Any]:
        return dict(json.loads(self._file("reference.json").read_text(encoding="utf-8")))

    def _file(self, name: str) -> Any:
        return resources.files(__package__).joinpath("data", self.folder or self.name, name)


def _read_reference(entry: dict[str, Any], kind: Literal["draws", "moments"]) -> Reference:
    shape = tuple(entry["shape"])

    def array(name: str) -> FloatArray | None:
        value = entry.get(name)
        return None if value is None else np.asarray(value, np.float64).reshape(shape)

    return Reference(
        mean=np.asarray(entry["mean"], np.float64).reshape(shape),
        sd=np.asarray(entry["sd"], np.float64).reshape(shape),
        mcse_mean=array("mcse_mean"),
        ess=array("ess_mean"),
        n_draws=int(entry["n_draws"]),
        kind=kind,
    )
