"""The page: one HTML file that holds its style, its script, its data and plotly, and loads nothing."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from fewbits import __version__
from fewbits.reporting.html import amp_facts, text
from fewbits.reporting.html.auto import auto_view
from fewbits.reporting.html.certificates import Card
from fewbits.reporting.html.figures import figures_json
from fewbits.reporting.html.improvements import improved
from fewbits.reporting.html.settings import notes, places, settings, timings
from fewbits.reporting.html.sources import Source, amps, analyses, litemps
from fewbits.reporting.html.tables import score_tables
from fewbits.reporting.html.verdict import headline

MOST_BYTES = 6_000_000
"""Size that a page keeps to, by drawing histograms and channel ranges in fewer points."""
_SCRIPTS = ("common", "contest", "sensitivity", "litemp", "amp", "map", "ranges", "layers", "main")
_STYLES = ("style", "auto", "print")


def render(sources: Sequence[Source], cards: Sequence[Card] = ()) -> str:
    """Return the page that joins all the records.

    Args:
        sources: at least one, from `find_sources`.
        cards: parity certificates, from `find_cards`.
    """
    tables, auto = score_tables(sources), auto_view(sources)
    has_figures = bool(analyses(sources) or litemps(sources) or amps(sources) or auto)
    facts: dict[str, Any] = {
        "headline": headline(sources, tables),
        "first": sources[-1].record,
        "auto": auto,
        "tables": [table for table in tables if not table.has_step],
        "cards": cards,
        "improved": improved(sources),
        "litemps": litemps(sources),
        "amps": amps(sources),
        "amp": amp_facts,
        "timings": timings,
        "analyses": analyses(sources),
        "cause": text.cause,
        "notes": notes(sources),
        "settings": settings(sources),
        "places": places(sources),
        "version": __version__,
        "figure": text.figure,
        "plotly": "",
        "figures": "",
    }
    if not has_figures:
        return fill("page.html.j2", facts)
    facts["plotly"] = plotly()
    room = MOST_BYTES - len(fill("page.html.j2", facts).encode())
    return fill("page.html.j2", {**facts, "figures": figures_json(sources, room)})


def fill(template: str, facts: dict[str, Any]) -> str:
    """Return a template filled in: every text is escaped but the page's own style, script and data."""
    import jinja2
    from markupsafe import Markup

    room = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_own),
    )  # fmt: skip
    room.filters["unbroken"] = text.unbroken
    # these three are not a user's text: the data has its < > & escaped by figures_json
    own = {name: Markup(facts[name]) for name in ("plotly", "figures")}
    own["style"] = Markup("\n".join(_own(f"{name}.css") for name in _STYLES))
    own["script"] = Markup("\n".join(_own(f"script/{name}.js") for name in _SCRIPTS))
    return room.get_template(template).render(facts | own)


def _own(name: str) -> str:
    return resources.files("fewbits.reporting.html").joinpath(name).read_text(encoding="utf-8")


def plotly() -> str:
    """Return the script of plotly, whole."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
