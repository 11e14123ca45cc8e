"""The torch side of a compiled program, for what is not compiled: simulation, new arguments, the callback backend."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any


class Host:
    """A model with its arguments, opaque to JAX. Pickles as bytes, which are opened only when the model is needed.

    Equal to its own copies only, so that it can be a static part of a pytree.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        data: Mapping[str, Any],
        latent: set[str] | None,
    ) -> None:
        self._content: tuple[Any, ...] | None = (model, args, dict(kwargs), dict(data))
        self.latent = latent
        self._payload: bytes | None = None
        self._problem = ""
        self._token = uuid.uuid4().hex
        self._cache: dict[str, Any] = {}

    @property
    def content(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Model, positional arguments, keyword arguments, replaced data by site.

        Raises:
            ValueError: if the model could not be pickled with the program.
        """
        if self._content is None:
            if self._payload is None:
                raise ValueError(
                    "This program was saved without its torch model, which could not be pickled: simulation, new "
                    f"arguments and the callback backend need it ({self._problem}). Expected a model that cloudpickle "
                    "can save; define it without open files, locks or generators, or call pf.from_pyro again."
                )
            import cloudpickle

            self._content = cloudpickle.loads(self._payload)
        assert self._content is not None
        return self._content

    def cached(self, name: str, build: Callable[[], Any]) -> Any:
        """A torch-side object built once per process."""
        if name not in self._cache:
            self._cache[name] = build()
        return self._cache[name]

    def __getstate__(self) -> dict[str, Any]:
        payload, problem = self._payload, self._problem
        if payload is None and self._content is not None:
            import cloudpickle

            try:
                # Kept, because checkpoints pickle the same program again and again.
                payload = self._payload = cloudpickle.dumps(self._content)
            except Exception as error:  # any failure of a user's __reduce__ must not lose the checkpoint
                problem = f"{type(error).__name__}: {error}"
        return {
            "_content": None,
            "_payload": payload,
            "_problem": problem,
            "_token": self._token,
            "_cache": {},
            "latent": self.latent,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Host) and self._token == other._token

    def __hash__(self) -> int:
        return hash(self._token)
