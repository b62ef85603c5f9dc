"""Draws the house: the floors of pyproject.toml's import contract, and which folder imports which.

``python docs/house.py`` writes docs/images/house.svg.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "house.svg"
PACKAGE = "treazure_pipeline"
WIDTH, FLOOR, BOX, HEIGHT, LEFT = 1040, 74, 150, 34, 190
SAYS = {
    "cli": "commands of no capability",
    "definitions": "the code location",
    "console": "for people without a shell",
    "service": "webhooks, points log, health",
    "alerts": "told once",
    "retention": "how long, export, erase",
    "adjustments": "case 2",
    "points_history": "case 3",
    "verification": "read back, explain",
    "point_migration": "case 4",
    "balance_sync": "case 1",
    "orchestration": "shared by definitions",
    "terminal": "shared by commands",
    "connections": "one Run",
    "ledger": "balances, batches, leases",
    "clients": "both systems",
    "database": "server, schema",
    "sandbox": "both systems, played",
    "settings": "what an operator sets",
    "surroundings": "disk, rights, network",
    "tables": "what people made in a sheet",
    "errors": "what is raised on purpose",
    "people": "what may be shown",
    "private": "files for the owner alone",
    "texts": "from outside, cleaned",
    "conventions": "stated once",
    "phrases": "what sentences are made of",
    "tracing": "spans, where asked for",
}


def floors() -> list[list[str]]:
    """Return the folders of each floor, the top one first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def arrows(names: list[str]) -> list[tuple[str, str]]:
    """Return who imports whom, without the ways that lead over a third one."""
    graph = grimp.build_graph(PACKAGE)
    direct = {
        (above, below)
        for above in names
        for below in names
        if above != below
        and graph.direct_import_exists(importer=f"{PACKAGE}.{above}", imported=f"{PACKAGE}.{below}", as_packages=True)
    }
    reached = set(direct)
    for middle in names:
        reached |= {(a, c) for a, b in reached if b == middle for d, c in reached if d == middle}
    return sorted(
        (a, c) for a, c in direct if not any((a, b) in direct and (b, c) in reached for b in names if b not in {a, c})
    )


def picture() -> str:
    """Return the house as SVG."""
    places: dict[str, tuple[float, float]] = {}
    levels = floors()
    for level, names in enumerate(levels):
        step = (WIDTH - LEFT) / len(names)
        for place, name in enumerate(names):
            places[name] = (LEFT / 2 + step * (place + 0.5), 20 + level * FLOOR)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(levels) * FLOOR + 10}" '
            'font-family="system-ui, sans-serif" font-size="13">'
        ),
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#7a8aa0"/></marker></defs>'
        ),
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for above, below in arrows(list(places)):
        (x, y), (to_x, to_y) = places[above], places[below]
        lines.append(
            f'<path d="M{x:.0f} {y + HEIGHT:.0f}C{x:.0f} {y + HEIGHT + 22:.0f} {to_x:.0f} {to_y - 26:.0f} {to_x:.0f} '
            f'{to_y - 2:.0f}" fill="none" stroke="#b5c0d0" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in places.items():
        lines.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y:.0f}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#eef3fa" '
            f'stroke="#5b7db1"/><text x="{x:.0f}" y="{y + 15:.0f}" text-anchor="middle" font-weight="600">{name}</text>'
            f'<text x="{x:.0f}" y="{y + 28:.0f}" text-anchor="middle" font-size="10" fill="#4a5568">'
            f"{escape(SAYS.get(name, ''))}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
