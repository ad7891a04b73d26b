"""A model as plain data: what the rewrites of this room take and give.

The one idea: a `Graph` is frozen. A rewrite opens an `Editor` on it, walks the nodes once in
order, keeps or replaces each, and gets a new graph; what nothing uses any more is dropped at the
end. So a chain of rewrites is linear in the number of layers and no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qat_round._compat import tf


@dataclass(frozen=True)
class Ref:
    """One tensor: the output number `index` of the call `node`."""

    node: str
    index: int = 0


@dataclass(frozen=True)
class Spec:
    """Shape (a tuple with the batch, None where unknown; None as a whole), dtype, has a mask."""

    shape: Any
    dtype: str
    masked: bool = False

    @property
    def rank(self) -> Any:
        """Number of dimensions with the batch, or None where unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def floating(self) -> bool:
        """Whether the numbers are floats."""
        return tf.as_dtype(self.dtype).is_floating


@dataclass(frozen=True)
class Origin:
    """The layer of the user's model that a part stands for, or is a piece of."""

    name: str
    cls: type

    @property
    def class_names(self) -> list[str]:
        """Names of its class and of all that it inherits from."""
        return [cls.__name__ for cls in self.cls.__mro__]


@dataclass(frozen=True)
class Part:
    """A layer, not yet made: its class, its config, its weights, and what it was made from.

    `bits` is what its output has where 8 are asked for; None: as asked.
    """

    name: str
    cls: type
    config: Mapping[str, Any]
    weights: tuple[np.ndarray, ...] = ()
    made_from: Origin | None = None
    bits: int | None = None

    @property
    def origin(self) -> Origin:
        """The user's layer behind it: itself, unless a rewrite made it."""
        return self.made_from or Origin(self.name, self.cls)


@dataclass(frozen=True)
class Node:
    """One call of a part; tensors among the arguments are `Ref`s."""

    part: str
    args: tuple
    kwargs: Mapping[str, Any]
    specs: tuple[Spec, ...]

    @property
    def refs(self) -> list[Ref]:
        """The tensors that the call reads, in order."""
        return refs_in((self.args, dict(self.kwargs)))


@dataclass(frozen=True)
class Graph:
    """Parts by name, calls in an order that can be run, and the structures of the ends."""

    name: str
    parts: Mapping[str, Part]
    nodes: Mapping[str, Node]
    inputs: Any
    outputs: Any
    output_names: tuple[str, ...] = ()
    kept: tuple[str, ...] = field(default=())

    def spec(self, ref: Ref) -> Spec:
        """Shape and dtype of a tensor."""
        return self.nodes[ref.node].specs[ref.index]

    def part(self, ref: Ref) -> Part:
        """The layer that makes a tensor."""
        return self.parts[self.nodes[ref.node].part]

    def consumers(self) -> dict[Ref, list[str]]:
        """Who reads each tensor: names of nodes, and "" for the model's own outputs."""
        readers: dict[Ref, list[str]] = {}
        for name, node in self.nodes.items():
            for ref in node.refs:
                readers.setdefault(ref, []).append(name)
        for ref in refs_in(self.outputs):
            readers.setdefault(ref, []).append("")
        return readers

    def calls(self) -> dict[str, int]:
        """How often each part is called."""
        counts = dict.fromkeys(self.parts, 0)
        for node in self.nodes.values():
            counts[node.part] += 1
        return counts


def refs_in(structure: Any) -> list[Ref]:
    """All `Ref`s of a nested structure, in order."""
    return [leaf for leaf in tf.nest.flatten(structure) if isinstance(leaf, Ref)]


def map_refs(fn: Callable[[Ref], Any], structure: Any) -> Any:
    """The same structure with `fn` applied to each `Ref`."""
    return tf.nest.map_structure(lambda x: fn(x) if isinstance(x, Ref) else x, structure)


def free_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or `wanted_1`, `wanted_2`, ... where that is taken.

    Example:
        >>> free_name("relu", {"relu", "relu_1"})
        'relu_2'
    """
    name, count = wanted, 0
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    return name


class Editor:
    """Writes a new graph while a rewrite walks the old one."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.parts = dict(graph.parts)
        self.nodes: dict[str, Node] = {}
        self.kept = list(graph.kept)
        self.pieces: dict[tuple[str, str], str] = {}
        self._origin: Origin | None = None
        self._alias: dict[Ref, Ref] = {}

    def walk(self) -> Iterable[tuple[str, Node]]:
        """Each old call in order, its arguments already pointing into the new graph."""
        for name, node in self.graph.nodes.items():
            args, kwargs = map_refs(self.resolve, (node.args, dict(node.kwargs)))
            self._origin = self.graph.parts[node.part].origin
            yield name, replace(node, args=args, kwargs=kwargs)

    def resolve(self, ref: Ref) -> Ref:
        """The new tensor that stands for an old one."""
        return self._alias.get(ref, ref)

    def spec(self, ref: Ref) -> Spec:
        """Shape and dtype of a tensor of the new graph."""
        return self.nodes[ref.node].specs[ref.index]

    def part(self, ref: Ref) -> Part:
        """The layer that makes a tensor of the new graph."""
        return self.parts[self.nodes[ref.node].part]

    def keep(self, name: str, node: Node) -> None:
        """Takes a call over as it is."""
        self.nodes[name] = node

    def add_part(self, part: Part) -> str:
        """Adds a layer under its name, or the next free one; gives the name."""
        name = free_name(part.name, self.parts)
        config, origin = {**part.config, "name": name}, part.made_from or self._origin
        self.parts[name] = replace(part, name=name, config=config, made_from=origin)
        return name

    def call(self, part: str, args: Any, spec: Spec, **kwargs: Any) -> Ref:
        """Adds a call of a part with one output."""
        name = free_name(f"{part}:0", self.nodes)
        self.nodes[name] = Node(part, args if isinstance(args, tuple) else (args,), kwargs, (spec,))
        return Ref(name)

    def emit(self, cls: type, args: Any, spec: Spec, name: str, **config: Any) -> Ref:
        """Adds a layer and its only call."""
        config.setdefault("dtype", spec.dtype)
        return self.call(self.add_part(Part(name, cls, config)), args, spec)

    def stand_in(self, name: str, refs: Iterable[Ref]) -> None:
        """Lets the given new tensors stand for the outputs of an old call."""
        for index, ref in enumerate(refs):
            self._alias[Ref(name, index)] = ref

    def finish(self) -> Graph:
        """The new graph, without what nothing uses."""
        outputs = map_refs(self.resolve, self.graph.outputs)
        nodes = _living(self.nodes, refs_in(outputs), refs_in(self.graph.inputs))
        used = {node.part for node in nodes.values()}
        parts = {name: self._named(part) for name, part in self.parts.items() if name in used}
        kept = tuple(name for name in dict.fromkeys(self.kept) if name in parts)
        return replace(self.graph, parts=parts, nodes=nodes, outputs=outputs, kept=kept)

    def _named(self, part: Part) -> Part:
        """A part that took another's place under its name, with the other's origin."""
        old = self.graph.parts.get(part.name)
        if part.made_from is not None or old is None or old.origin == part.origin:
            return part
        return replace(part, made_from=old.origin)


def _living(nodes: Mapping[str, Node], ends: list[Ref], inputs: list[Ref]) -> dict[str, Node]:
    """The calls that the outputs need, in the order given, with every input."""
    alive = {ref.node for ref in ends} | {ref.node for ref in inputs}
    stack = list(alive)
    while stack:
        for ref in nodes[stack.pop()].refs:
            if ref.node not in alive:
                alive.add(ref.node)
                stack.append(ref.node)
    return {name: node for name, node in nodes.items() if name in alive}
