"""One migration between real hosts as a picture: who did what when, all of it and its last seconds enlarged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import bootstrap

PICTURE = bootstrap.PROJECT / "docs" / "migration.svg"
WIDTH, LEFT, RIGHT = 1000, 130, 20
LANE, BAR, TOP = 46, 18, 54
COLOURS = ("#4e79a7", "#59a14f", "#f28e2b", "#76b7b2", "#af7aa1", "#e15759", "#9c755f")


@dataclass(frozen=True)
class Span:
    """A step: seconds since the edit."""

    name: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Lane:
    """What one of them did, in its order."""

    name: str
    spans: tuple[Span, ...]


def lane(name: str, moments: Iterable[tuple[str, float]], ended: float) -> Lane:
    """Steps that each last until the next one begins, the last until `ended`; one that takes no time is left out."""
    ordered = sorted(moments, key=lambda one: one[1])
    ends = [*(at for _, at in ordered[1:]), ended]
    spans = [Span(what, at, max(at, end)) for (what, at), end in zip(ordered, ends, strict=True)]
    return Lane(name, tuple(span for span in spans if span.ended > span.begun))


def picture(title: str, lanes: Sequence[Lane], enlarged: tuple[float, float]) -> str:
    """SVG: all of it above, and below it what happened between `enlarged`."""
    first = min(span.begun for one in lanes for span in one.spans)
    last = max(span.ended for one in lanes for span in one.spans)
    above = _panel("All of it", lanes, first, last, TOP)
    below_top = TOP + 70 + LANE * len(lanes)
    below = _panel("The hand-over", lanes, *enlarged, below_top)
    height = below_top + 50 + LANE * len(lanes)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
            ' font-size="11">',
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
            *above,
            *below,
            "</svg>\n",
        ]
    )


def write(text: str, path: Path = PICTURE) -> None:
    path.write_text(text)


def _panel(title: str, lanes: Sequence[Lane], begun: float, ended: float, top: int) -> list[str]:
    scale = (WIDTH - LEFT - RIGHT) / (ended - begun)
    made = [f'<text x="10" y="{top}" font-weight="bold">{escape(title)}</text>']
    step = _step(ended - begun)
    at = int(begun / step) * step
    while at <= ended:
        if at >= begun:
            x = LEFT + (at - begun) * scale
            made.append(
                f'<path d="M{x:.1f} {top + 10}v{LANE * len(lanes)}" stroke="#ddd"/>'
                f'<text x="{x:.1f}" y="{top + 24 + LANE * len(lanes)}" text-anchor="middle">{at:g} s</text>'
            )
        at = round(at + step, 3)
    for number, one in enumerate(lanes):
        y = top + 14 + LANE * number
        made.append(f'<text x="10" y="{y + 13}">{escape(one.name)}</text>')
        free = 0.0  # x from which a name can be written beside a bar too short for it
        for at_, span in enumerate(one.spans):
            if span.ended <= begun or span.begun >= ended:
                continue
            x = LEFT + (max(span.begun, begun) - begun) * scale
            width = (min(span.ended, ended) - max(span.begun, begun)) * scale
            colour = COLOURS[at_ % len(COLOURS)]
            told = f"{span.name}: {span.begun:.2f} to {span.ended:.2f} s ({span.ended - span.begun:.2f} s)"
            made.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(1.0, width):.1f}" height="{BAR}" fill="{colour}">'
                f"<title>{escape(told)}</title></rect>"
            )
            needed = 6.2 * len(span.name)
            if needed + 4 < width:
                made.append(f'<text x="{x + 3:.1f}" y="{y + 13}" fill="#fff">{escape(span.name)}</text>')
            elif x >= free and x + needed < WIDTH:
                made.append(f'<text x="{x:.1f}" y="{y + BAR + 11}" fill="{colour}">{escape(span.name)}</text>')
                free = x + needed + 6
    return made


def _step(seconds: float) -> float:
    return next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 600.0) if seconds / step <= 14)
