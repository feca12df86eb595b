from dataclasses import dataclass

import pytest

from fewbits.improvement.blocks import find_blocks


@dataclass(frozen=True)
class Op:
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def nodes(text: str) -> list[Op]:
    """Return the nodes of lines "y = name(a, b)"."""
    found = []
    for line in text.strip().splitlines():
        writes, call = line.split("=")
        name, _, reads = call.strip().rstrip(")").partition("(")
        found.append(Op(name, tuple(r.strip() for r in reads.split(",")), tuple(w.strip() for w in writes.split(","))))
    return found


def layers_of(given: list[Op]) -> set[str]:
    return {node.name for node in given if node.name.startswith(("conv", "fc"))}


def blocks_of(given: list[Op]) -> list[list[str]]:
    """Return the names of each block; blocks cover all nodes, in order, each once."""
    found = find_blocks(given, layers_of(given))
    assert [i for first, end in found for i in range(first, end)] == list(range(len(given)))
    return [[node.name for node in given[first:end]] for first, end in found]


def residual(i: int, source: str) -> str:
    return f"""a{i} = conv{i}a({source})
        r{i} = relu{i}a(a{i})
        b{i} = conv{i}b(r{i})
        s{i} = add{i}(b{i}, {source})
        o{i} = relu{i}b(s{i})
"""


def test_residual_blocks_end_behind_their_sum():
    text = "t = conv_stem(image)\nu = conv_stem2(t)\n"
    text += "".join(residual(i, f"o{i - 1}" if i else "u") for i in range(4)) + "y = fc(o3)\n"
    found = blocks_of(nodes(text))
    assert found[0] == ["conv_stem", "conv_stem2"]
    assert found[1] == ["conv0a", "relu0a", "conv0b", "add0", "relu0b"]
    assert found[2:4] == [[f"conv{i}a", f"relu{i}a", f"conv{i}b", f"add{i}", f"relu{i}b"] for i in (1, 2)]
    assert all(f"conv{i}a" in one for i in range(4) for one in found if f"add{i}" in one)


def test_attention_with_its_residual_is_one_block():
    found = blocks_of(
        nodes("""
        e = conv_embed(x)
        f = conv_embed2(e)
        n = norm(f)
        q = fc_q(n)
        k = fc_k(n)
        v = fc_v(n)
        a = scores(q, k)
        p = softmax(a)
        c = context(p, v)
        o = fc_o(c)
        s = add(o, f)
        m = norm2(s)
        h = fc_up(m)
        g = gelu(h)
        d = fc_down(g)
        z = add2(d, s)
        y = fc_head(z)
    """)
    )
    assert found == [
        ["conv_embed", "conv_embed2"],
        ["norm", "fc_q", "fc_k", "fc_v", "scores", "softmax", "context", "fc_o", "add"],
        ["norm2", "fc_up", "gelu", "fc_down", "add2"],
        ["fc_head"],
    ]


def test_a_chain_is_cut_after_two_layers():
    given = nodes("".join(f"t{i} = conv{i}(r{i - 1})\nr{i} = relu{i}(t{i})\n" for i in range(7)))
    counts = [sum(name.startswith("conv") for name in one) for one in blocks_of(given)]
    assert counts == [2, 2, 2, 1]


def chain_with_skip(length: int, *, joins_at: int) -> list[Op]:
    """Return convolutions in a row; what the first one makes is read again by the one at `joins_at`."""
    lines = [f"t{i} = conv{i}(t{i - 1}{', t0' if i == joins_at else ''})" for i in range(length)]
    return nodes("\n".join(lines))


def test_a_long_skip_does_not_hold_blocks_together():
    counts = [len(one) for one in blocks_of(chain_with_skip(20, joins_at=19))]
    assert counts == [2] * 10


def test_a_short_skip_holds_its_block_together():
    assert len(blocks_of(chain_with_skip(20, joins_at=5))[0]) >= 6


def test_a_block_has_no_more_than_eight_layers():
    """Two branches side by side never meet in one tensor."""
    lines = ["a0 = conv_a0(x)", "b0 = conv_b0(x)"]
    lines += [f"{s}{i} = conv_{s}{i}({s}{i - 1}, {t}{i - 1})" for i in range(1, 11) for s, t in ("ab", "ba")]
    given = nodes("\n".join(lines))
    counts = [len(one) for one in blocks_of(given)]
    assert max(counts) == 8
    assert sum(counts) == 22


@pytest.mark.parametrize("text", ["y = relu(x)", "y = conv(x)", "y = relu(x)\nz = add(y, y)"])
def test_small_graphs_are_one_block(text):
    assert len(blocks_of(nodes(text))) == 1


def test_no_nodes_no_blocks():
    assert find_blocks([], set()) == []


def test_unnamed_inputs_and_unread_outputs_join_nothing():
    given = [
        Op("conv0", ("x", "", "w"), ("a", "unread", "")), Op("conv1", ("a", ""), ("b", "")),
        Op("conv2", ("b",), ("c",)), Op("conv3", ("c",), ("d",)),
    ]  # fmt: skip
    assert find_blocks(given, layers_of(given)) == [(0, 2), (2, 4)]
