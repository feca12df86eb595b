"""The Markdown files of the project, and the code blocks in them.

A fenced block is run or not by its first word:

    sh               run by bash, in the folder of the page; not run where it begins with `# needs` and what is lacking,
                     unless that is one extra of fewbits and nothing else, which is installed
    python           run as a script there
    any, with title  written to the file of that name there
    text             compared with what the block before it printed; `...` stands for lines that are left out
    others           shown only
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
)
"""Every Markdown file that is part of the project."""
MODULES = {"qnn": "onnxruntime_qnn", "dask": "distributed", "ray": "ray"}
"""Extra -> a module that it brings."""
_EXTRA = re.compile(
    r"# needs pip install 'fewbits\[(\w+)\]'(?: on all machines|: [^,\n]*, under Qualcomm's licence)?\n"
)
_FENCE = re.compile(r"^(?P<tick>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=tick)[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its first word, its title or an empty text, its lines, and where it starts."""

    kind: str
    title: str
    body: str
    line: int

    @property
    def extra(self) -> str:
        """The extra that is all that the block needs; empty where it needs nothing, or more."""
        found = _EXTRA.match(self.body)
        return found[1] if found else ""

    @property
    def is_run(self) -> bool:
        lacks = self.body.startswith("# needs ") and not (self.extra and is_installed(self.extra))
        return self.kind in ("sh", "python") and not self.title and not lacks


def is_installed(extra: str) -> bool:
    return importlib.util.find_spec(MODULES[extra]) is not None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        kind, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(kind, title[1] if title else "", match["body"], line))
    return found


def without_code(text: str) -> str:
    """Return the text without blocks and inline code, lines kept."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    text = re.sub(r"^(?: {4,}|\t)(?![ ]*[-*]).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def command_lines(text: str) -> list[str]:
    """Return the lines of code, fenced or indented, that call fewbits; those that go on after a backslash are one."""
    joined = re.sub(r"\\\n\s*", " ", text)
    code = [line for block in blocks(joined) if block.kind == "sh" for line in block.body.splitlines()]
    code += [line for line in _FENCE.sub("", joined).splitlines() if line.startswith("    ")]
    return [line.strip() for line in code if re.match(r"\s*fewbits\s", line)]
