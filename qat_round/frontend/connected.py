"""A model has to hang together: two unconnected parts are two models."""

from __future__ import annotations

from qat_round.frontend.graph import Graph, refs_in


def require_connected(graph: Graph) -> None:
    """Raises if the outputs fall into groups that share no layer.

    Args:
        graph: any graph.

    Raises:
        ValueError: if there are two groups or more; the message names them.
    """
    parent = {name: name for name in graph.nodes}
    parent |= {f"part:{part}": f"part:{part}" for part in graph.parts}
    for name, node in graph.nodes.items():
        _join(parent, name, f"part:{node.part}")
        for ref in node.refs:
            _join(parent, name, ref.node)
    groups: dict[str, list[str]] = {}
    for ref in refs_in(graph.outputs):
        groups.setdefault(_root(parent, ref.node), []).append(graph.nodes[ref.node].part)
    if len(groups) > 1:
        raise ValueError(_message(graph, parent, groups))


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _join(parent: dict[str, str], a: str, b: str) -> None:
    parent[_root(parent, a)] = _root(parent, b)


def _message(graph: Graph, parent: dict[str, str], groups: dict[str, list[str]]) -> str:
    inputs: dict[str, list[str]] = {}
    for ref in refs_in(graph.inputs):
        inputs.setdefault(_root(parent, ref.node), []).append(graph.nodes[ref.node].part)
    sides = [f"{inputs.get(root, [])} -> {ends}" for root, ends in groups.items()]
    return (
        f"Model '{graph.name}' has {len(groups)} parts that are not connected: {'; '.join(sides)}. "
        "Ranges and exports are per model: take each part as a model of its own, "
        "`tf_keras.Model(its_inputs, its_outputs)`."
    )
