"""One self-contained HTML file: the table, loss curves, pictures, sounds with spectrograms, texts."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from trimask.core.files import read_json, replacing
from trimask.core.item import Audio
from trimask.core.units import duration
from trimask.evaluation.table import beside, shown
from trimask.tokenizers.report import spectrogram

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; border-bottom: 1px solid #ccc; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .15em .7em; text-align: left; border-bottom: 1px solid #eee }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.note { color: #777; font-size: .85em }
.grid { display: flex; flex-wrap: wrap; gap: .6em } .card { width: 9em; font-size: .8em }
.card img.picture { width: 100%; image-rendering: pixelated; border: 3px solid #ddd }
.card img.right { border-color: #3a9d4b } .card img.wrong { border-color: #cc4b3c }
.clip { width: 20em; font-size: .85em } .clip img { width: 100%; height: 5em } .clip audio { width: 100% }
pre { white-space: pre-wrap }
"""


def write_report(out: Path, names: Sequence[str], run: Path | None, record: Mapping[str, Any]) -> Path:
    """Write `report.html` of the sections in `out`; everything it shows is inside it."""
    by_name = {}
    for path in sorted((out / "sections").glob("*/section.json")):
        section = read_json(path)
        by_name[section["name"]] = (path.parent, section)
    body = [_head(record), _summary([by_name[n][1] for n in names])]
    if run is not None:
        body.append(_curves(run))
    body += [_section(*by_name[n]) for n in names]
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>trimask evaluation</title>"
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    target = out / "report.html"
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _head(record: Mapping[str, Any]) -> str:
    facts = {"command": record["command"], "seed": record["seed"], "model": json.dumps(record["model"])}
    rows = "".join(f"<tr><th>{k}</th><td>{_text(v)}</td></tr>" for k, v in facts.items() if v != "")
    return f"<h1>Evaluation</h1><table>{rows}</table>"


def _summary(sections: Sequence[Mapping[str, Any]]) -> str:
    links = "".join(
        f"<li><a href='#{_anchor(s['name'])}'>{_text(s['name'])}</a> "
        f"({_text(s['split'])}, {duration(s['seconds'])})</li>"
        for s in sections
    )
    return f"<h2>Sections</h2><ul>{links}</ul>"


def _section(folder: Path, section: Mapping[str, Any]) -> str:
    parts = [f"<h2 id='{_anchor(section['name'])}'>{_text(section['name'])}</h2>", _table(section["results"])]
    parts += [_pictures(folder, p) for p in section["pictures"]]
    parts += [_recordings(folder, r) for r in section["recordings"]]
    parts += [_lines(t) for t in section["lines"]]
    return "\n".join(parts)


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    head = "<tr><th>metric</th><th>value</th><th>± standard error</th><th>n</th><th>beside</th><th></th></tr>"
    rows = [
        f"<tr><td>{_text(r['metric'])}</td><td class='number'>{shown(r['value'])} {_text(r['unit'])}</td>"
        f"<td class='number'>{shown(r['error'])}</td><td class='number'>{r['n']}</td>"
        f"<td>{_text(beside(r))}</td><td class='note'>{_text(r['note'])}</td></tr>"
        for r in results
    ]
    return f"<table>{head}{''.join(rows)}</table>"


def _pictures(folder: Path, shown_: Mapping[str, Any]) -> str:
    marks = {True: " right", False: " wrong", None: ""}
    cards = []
    for i, (name, line) in enumerate(zip(shown_["files"], shown_["lines"], strict=True)):
        mark = marks[shown_["marks"][i]] if shown_["marks"] else ""
        source = _data("image/png", (folder / name).read_bytes())
        cards.append(f"<div class='card'><img class='picture{mark}' alt='' src='{source}'><br>{_text(line)}</div>")
    return f"<h3>{_text(shown_['title'])}</h3><div class='grid'>{''.join(cards)}</div>"


def _recordings(folder: Path, shown_: Mapping[str, Any]) -> str:
    cards = []
    for name, line in zip(shown_["files"], shown_["lines"], strict=True):
        content = (folder / name).read_bytes()
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        image = f"<img alt='spectrogram' src='{_spectrogram(Audio(samples, rate))}'>" if len(samples) else ""
        sound = f"<audio controls preload='none' src='{_data('audio/wav', content)}'></audio>"
        cards.append(f"<div class='clip'>{image}{sound}<br>{_text(line)}</div>")
    return f"<h3>{_text(shown_['title'])}</h3><div class='grid'>{''.join(cards)}</div>"


def _spectrogram(clip: Audio) -> str:
    stream = io.BytesIO()
    Image.fromarray(spectrogram(clip)).save(stream, "png")
    return _data("image/png", stream.getvalue())


def _lines(shown_: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{_text(c)}</th>" for c in shown_["columns"])
    rows = "".join("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in row) + "</tr>" for row in shown_["rows"])
    return f"<h3>{_text(shown_['title'])}</h3><table><tr>{head}</tr>{rows}</table>"


def _curves(run: Path) -> str:
    """Losses and validation bounds of a training run, by modality."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return f"<h2>Training</h2><p>{_text(run)} has no metrics.jsonl.</p>"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    train = series([r for r in rows if r.get("kind") == "train"], "losses")
    held = series(
        [
            {**r, "bounds": {k: b["nats"] for k, b in r["bounds"].items()}}
            for r in rows
            if r.get("kind") == "validation" and "bounds" in r
        ],
        "bounds",
    )
    if not train and not held:
        return f"<h2>Training</h2><p>{_text(path)} has no losses yet.</p>"
    picture = _data("image/svg+xml", curves_svg(train, held))
    return f"<h2>Training</h2><img alt='loss curves' style='width:100%' src='{picture}'>"


def series(rows: Sequence[Mapping[str, Any]], field: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name, from rows whose `field` maps names to values; values that are null are gaps."""
    out: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.get(field, {}).items():
            if value is not None:
                out.setdefault(name, []).append((row["step"], value))
    return out


def curves_svg(
    train: Mapping[str, Sequence[tuple[int, float]]], held: Mapping[str, Sequence[tuple[int, float]]]
) -> bytes:
    """One plot a modality, training losses as a line and validation bounds as dots, as SVG."""
    from matplotlib.figure import Figure

    names = sorted({*train, *held})
    figure = Figure(figsize=(4 * len(names), 2.8), layout="constrained")
    plots = figure.subplots(1, len(names), squeeze=False)[0]
    for plot, name in zip(plots, names, strict=True):
        if name in train:
            plot.plot(*zip(*train[name], strict=True), linewidth=0.9, label="training loss")
        if name in held:
            plot.plot(*zip(*held[name], strict=True), "o-", markersize=3, label="validation bound")
        plot.set(title=name, xlabel="step", ylabel="nats per token")
        plot.legend(fontsize=8)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    # The document type names a DTD by its address; nothing may be fetched by the report.
    return text[text.index("<svg") :].encode()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(value: object) -> str:
    return html.escape(str(value))


def _anchor(name: str) -> str:
    return html.escape(name.replace(" ", "-"), quote=True)
