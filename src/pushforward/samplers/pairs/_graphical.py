"""Graphical kernels: one kernel per node of a graphical model, on its Markov blanket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ...models import Target
from ...models._layout import Layout
from ._base import AbstractRadialKernel, AbstractSteinKernel
from ._radial import RBF


class Graphical(AbstractSteinKernel):
    """``K = diag(k_1, ..., k_m)``: the coordinates of node c feel ``k_c(x, y) = k(|x_B - y_B|)``, B node and blanket.

    In high dimension one kernel on all coordinates sees particles at nearly the same distance from each other; a node's
    blanket is small, and given it the node does not depend on the rest.

    Args:
        nodes: coordinates of each node; together all coordinates, each once.
        neighbours: for each node, the nodes in its Markov blanket (parents, children and the children's other parents).
        kernel: k; each node has its own bandwidth.

    Bias: none if the blankets are those of the target; wrong blankets leave dependences across nodes wrong.
    Cost: ``O(n^2 sum_c |B_c|)`` per step.

    Reference: Wang, Zeng and Liu, Stein variational message passing for continuous graphical models, arXiv:1711.07168,
    section 3.
    """

    nodes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    blankets: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    """Coordinates that each node's kernel sees, its own first."""
    kernel: AbstractRadialKernel

    def __init__(
        self,
        nodes: Sequence[Sequence[int]],
        neighbours: Sequence[Sequence[int]],
        *,
        kernel: AbstractRadialKernel | None = None,
    ) -> None:
        self.nodes = tuple(tuple(int(i) for i in node) for node in nodes)
        together = sorted(i for node in self.nodes for i in node)
        if together != list(range(len(together))) or len(neighbours) != len(nodes):
            raise ValueError(
                f"Graphical(nodes={nodes}, neighbours={neighbours}): expected every coordinate from 0 in exactly one "
                "node, and one list of neighbouring nodes per node."
            )
        if any(not 0 <= j < len(nodes) for near in neighbours for j in near):
            raise ValueError(
                f"Graphical(neighbours={neighbours}): expected numbers of nodes, from 0 to {len(nodes) - 1}."
            )
        self.blankets = tuple(
            node + tuple(i for j in sorted(set(near)) if j != c for i in self.nodes[j])
            for c, (node, near) in enumerate(zip(self.nodes, neighbours, strict=True))
        )
        self.kernel = RBF() if kernel is None else kernel

    @classmethod
    def of_sites(
        cls, target: Target, neighbours: Mapping[str, Sequence[str]], *, kernel: AbstractRadialKernel | None = None
    ) -> Graphical:
        """One node per latent site of a program, with blankets by name.

        Args:
            target: the target.
            neighbours: ``{site: sites in its Markov blanket}``; completed to be symmetric.
            kernel: as above.

        Raises:
            ValueError: if a name is not a latent site.
        """
        layout = Layout.of(target.example)
        unknown = sorted({*neighbours, *(j for near in neighbours.values() for j in near)} - set(layout.names))
        if unknown:
            raise ValueError(f"neighbours names {unknown}: expected latent sites, among {list(layout.names)}.")
        ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in layout.shapes])
        nodes = [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        index = {name: i for i, name in enumerate(layout.names)}
        near: list[set[int]] = [set() for _ in nodes]
        for name, others in neighbours.items():
            for other in others:
                near[index[name]].add(index[other])
                near[index[other]].add(index[name])
        return cls(nodes, [sorted(s) for s in near], kernel=kernel)

    def fit(self, points: Float[Array, "n d"], alive: Bool[Array, " n"]) -> tuple[Any, ...]:
        """One squared bandwidth per node."""
        if points.shape[1] != sum(len(node) for node in self.nodes):
            raise ValueError(
                f"Graphical has nodes over {sum(len(node) for node in self.nodes)} coordinates: expected "
                f"{points.shape[1]}, the dimension of the position."
            )
        return tuple(
            jax.lax.map(lambda seen: self.kernel.fit(points[:, seen], alive), blankets) for _, blankets in self._alike()
        )

    def force(
        self,
        fitted: tuple[Any, ...],
        points: Float[Array, "n d"],
        scores: Float[Array, "n d"],
        weight: Float[Array, " n"],
        *,
        repulsion: float | Array = 1.0,
    ) -> Float[Array, "n d"]:
        """See `AbstractSteinKernel.force`."""

        def local(one: tuple[Array, Any]) -> Array:
            seen, width = one
            return self.kernel.force(width, points[:, seen], scores[:, seen], weight, repulsion=repulsion)

        out = jnp.zeros_like(points)
        for (own, blankets), widths in zip(self._alike(), fitted, strict=True):
            forces = jax.lax.map(local, (blankets, widths))
            out = out.at[:, own].set(jnp.swapaxes(forces, 0, 1)[:, :, : own.shape[1]])
        return out

    def _alike(self) -> list[tuple[Array, Array]]:
        """Nodes and blankets of equal sizes, stacked: one compiled program does for all of them."""
        sizes = sorted({(len(node), len(seen)) for node, seen in zip(self.nodes, self.blankets, strict=True)})
        out = []
        for size in sizes:
            same = [(a, b) for a, b in zip(self.nodes, self.blankets, strict=True) if (len(a), len(b)) == size]
            out.append((jnp.asarray([a for a, _ in same]), jnp.asarray([b for _, b in same])))
        return out

    def statistics(self, fitted: tuple[Any, ...]) -> dict[str, Array]:
        """The mean bandwidth over nodes."""
        return {"bandwidth": jnp.mean(jnp.sqrt(jnp.concatenate(fitted)))}
