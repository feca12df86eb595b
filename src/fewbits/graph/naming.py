"""Names: every node has one, no two are equal; values that share a name in sibling subgraphs are told apart."""

from collections.abc import Iterator

import onnx_ir as ir


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node, those of subgraphs included, in execution order."""
    yield from ir.traversal.RecursiveGraphIterator(model.graph)


def value_names(model: ir.Model) -> set[str]:
    """Return the names of all values: inputs, initializers and node outputs of every graph."""
    names = {value.name for graph in model.graphs() for value in graph.inputs if value.name}
    names.update(name for graph in model.graphs() for name in graph.initializers)
    names.update(value.name for node in all_nodes(model) for value in node.outputs if value.name)
    return names


def unique_name(wanted: str, taken: set[str], tried: dict[str, int] | None = None) -> str:
    """Return `wanted`, or `wanted_1`, `wanted_2`, ... where it is taken; the result joins `taken`.

    Args:
        wanted: the name.
        taken: names that are there; it only ever grows between calls with the same `tried`.
        tried: name -> numbers that are taken, which the next call begins behind: a thousand equal names are told apart
            in a thousand steps and not in a million.

    >>> taken = {"a"}
    >>> unique_name("a", taken), unique_name("a", taken), unique_name("b", taken)
    ('a_1', 'a_2', 'b')
    """
    count = 0 if tried is None else tried.get(wanted, 0)
    name = f"{wanted}_{count}" if count else wanted
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    if tried is not None:
        tried[wanted] = count
    taken.add(name)
    return name


def name_nodes(model: ir.Model) -> None:
    """Give each unnamed node its operator and position ("Conv_12"), and make repeated names unique, in place."""
    nodes = list(all_nodes(model))
    present = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    tried: dict[str, int] = {}
    for position, node in enumerate(nodes):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        node.name = unique_name(node.name or f"{node.op_type}_{position}", present, tried)
        seen.add(node.name)


def name_subgraph_values(model: ir.Model) -> None:
    """Rename values of subgraphs whose name another value already has, in place; the main graph keeps its names.

    An optional output that is left out (empty name) stays so: a name would switch it on.
    """
    taken = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values()) if value.name}
    taken.update(value.name for node in model.graph for value in node.outputs if value.name)
    tried: dict[str, int] = {}
    for graph in model.graphs():
        if graph is model.graph:
            continue
        inner = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        for value in dict.fromkeys(inner):
            if value.name and value.name in taken:
                value.name = unique_name(value.name, taken, tried)
            elif value.name:
                taken.add(value.name)
