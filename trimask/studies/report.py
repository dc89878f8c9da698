"""The report of a study: one HTML file with its plots inside, and the plots as PNG files beside it."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from trimask.core.files import replacing, write_json
from trimask.studies.base import Report

PAGE, DPI = "report.html", 150
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd } th:first-child, td:first-child {
text-align: left } figure { display: inline-block; margin: 0 } img { width: 28rem; max-width: 100% }
pre { white-space: pre-wrap }
"""


@dataclass(frozen=True)
class Frame:
    """What a reader has to know of a study beside what it found."""

    question: str = ""
    design: Sequence[str] = ()
    threats: Sequence[str] = ()
    """What may make the findings wrong, or true of these runs alone."""
    command: str = ""


ALONE = Frame()


def write(report: Report, made_of: str, folder: Path, frame: Frame = ALONE) -> str:
    """Write a report into the folder of its study; returns a line that says where it is. `made_of`: "12 runs"."""
    pictures = {name: _png(figure) for name, figure in report.plots.items()}
    for name, content in pictures.items():
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(content)
    for name, content in report.data.items():
        write_json(folder / f"{name}.json", content)
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(page(report, made_of, pictures, frame))
    return f"report in {folder / PAGE}" + "".join(f"\n  {line}" for line in report.findings)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def page(report: Report, made_of: str, pictures: dict[str, bytes], frame: Frame) -> str:
    """The whole page."""
    e = html.escape
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{e(report.title)}</title><style>{STYLE}</style>",
        f"<h1>{e(report.title)}</h1>",
        *_part("Question", [frame.question] if frame.question else []),
        *_part("Design", frame.design),
        *_part("Findings", [f"{made_of}.", *report.findings]),
    ]
    for name, content in pictures.items():
        data = base64.b64encode(content).decode()
        parts.append(f'<figure><img alt="{e(name)}" src="data:image/png;base64,{data}"></figure>')
    for caption, columns, lines in report.tables:
        head = "".join(f"<th>{e(c)}</th>" for c in columns)
        body = "".join("<tr>" + "".join(f"<td>{e(c)}</td>" for c in line) + "</tr>" for line in lines)
        parts.append(f"<table><caption>{e(caption)}</caption><tr>{head}</tr>{body}</table>")
    parts += _part("Threats to validity", frame.threats)
    if frame.command:
        parts.append(f"<h2>Command</h2><pre>{e(frame.command)}</pre>")
    return "\n".join([*parts, "</html>", ""])


def _part(title: str, lines: Sequence[str]) -> list[str]:
    """A heading and its paragraphs, where there are any."""
    return [f"<h2>{html.escape(title)}</h2>", *(f"<p>{html.escape(line)}</p>" for line in lines)] if lines else []
