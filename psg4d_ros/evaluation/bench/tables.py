"""The result of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PATHS = ("ours", "ours, generate", "plain", "naive")


def bench_markdown(result: Mapping[str, Any]) -> str:
    """All tables of what ``bench`` returns; docs/performance.md says how to read them."""
    tables = {
        "agreement": (_agreement,),
        "speed": (_ratios, _stages, _floors),
        "growth": (_growth,),
        "memory": (_memory,),
    }
    parts = [_head(result), *(table(result) for key, ts in tables.items() if key in result for table in ts)]
    return "\n\n".join(parts) + "\n"


def _head(result: Mapping[str, Any]) -> str:
    machine, model = result["machine"], result["model"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    lines = [
        "# psg4d bench",
        "",
        f"{model['id']}{'' if model['trained'] else ' (untrained)'}, backend {result['backend']} on {where}, language "
        f"model in {result['dtype']}, windows of {result['window_frames']} frames, at most {result['max_pairs']} "
        f"pairs; torch {machine['torch']}.",
    ]
    if result.get("quick"):
        lines += ["", "A quick run: few windows, few pairs, few updates. Percentiles and trends of so few say little."]
    if machine["busy"]:
        lines += ["", f"**The machine was busy** (load {machine['load']:.2f} per core at the start): times say little."]
    return "\n".join(lines)


def _agreement(result: Mapping[str, Any]) -> str:
    rows = [
        [
            a["recording"],
            a["decoding"],
            a["numbers"],
            a["windows"],
            a["objects"],
            a["relations"],
            "yes" if a["same"] else f"NO ({a['different']})",
            f"{a['max_score_difference']:.1e}",
            f"{a['tolerance']:g}",
            a["at_the_cut"],
        ]
        for a in result["agreement"]
    ]
    told = [
        f"- {a['recording']}, {a['decoding']}, {a['numbers']}: {text}"
        for a in result["agreement"]
        for text in a["differences"]
    ]
    table = _table(
        (
            "recording",
            "decoding",
            "numbers",
            "windows",
            "objects",
            "relations",
            "same",
            "largest score difference",
            "allowed",
            "at the cut",
        ),
        rows,
    )
    answer = "yes" if result["same_graphs"] else "in float32 only" if result["same_graphs_float32"] else "NO"
    return "\n".join([f"## Same graphs as the plain path: {answer}", "", table, *([""] if told else []), *told])


def _ratios(result: Mapping[str, Any]) -> str:
    speed, totals = result["speed"], {name: s["total"] for name, s in result["speed"]["stage_ms"].items()}
    ours = totals["ours"]["p50"]
    times = {"plain": result["ratio_to_plain"], "naive": result["ratio_to_naive"]}
    rows = [
        [name, _ms(totals[name]["p50"]), f"{times.get(name, totals[name]['p50'] / ours):.2f}"]
        for name in PATHS
        if name in totals
    ]
    text = (
        f"Medians over {speed['windows']} full windows, of plain and naive over {speed['slow_windows']}, with "
        f"{speed['objects']:.1f} objects. Against our `generate`, the naive path takes "
        f"{result['ratio_to_naive_generate']:.2f} times as long."
    )
    return "\n".join(
        ["## The same windows, one path after the other", "", text, "", _table(("path", "ms", "times ours"), rows)]
    )


def _stages(result: Mapping[str, Any]) -> str:
    sections = ["## Stages of an update"]
    for name in PATHS[:2]:
        rows = [[stage, *(_ms(p[f"p{n}"]) for n in (50, 95, 99))] for stage, p in _of(result, name).items()]
        sections += ["", f"{name[:1].upper()}{name[1:]}, milliseconds:", ""]
        sections.append(_table(("stage", "p50", "p95", "p99"), rows))
    return "\n".join(sections)


def _of(result: Mapping[str, Any], path: str) -> dict[str, dict[str, float]]:
    stages: dict[str, dict[str, float]] = result["speed"]["stage_ms"].get(path, {})
    return stages


def _floors(result: Mapping[str, Any]) -> str:
    rows = [
        [stage, _ms(_of(result, "ours")[stage]["p50"]), f"{floor:.3f}", f"{result['ratio_to_floor'][stage]:.1f}"]
        for stage, floor in result["floor_ms"].items()
        if stage in result["ratio_to_floor"]
    ]
    rates = ", ".join(f"{name} {value:g}" for name, value in result["rates"].items())
    work = [[w["part"], w["dtype"], f"{w['operations'] / 1e9:.3f}", f"{w['bytes'] / 1e6:.1f}"] for w in result["work"]]
    return "\n".join(
        [
            "## Floors",
            "",
            f"Measured in this run: {rates}.",
            "",
            _table(("stage", "ms", "floor ms", "times the floor"), rows),
            "",
            "The work of one update, pass by pass:",
            "",
            _table(("pass of", "numbers", "10^9 operations", "MB"), work),
        ]
    )


def _growth(result: Mapping[str, Any]) -> str:
    sections = ["## Growth"]
    for name, points in result["growth"].items():
        stages = list(dict.fromkeys(stage for p in points for stage in p["stage_ms"]))
        rows = [
            [p["value"], f"{p['objects']:.0f}", *(_ms(p["stage_ms"].get(stage)) for stage in stages)] for p in points
        ]
        sections += ["", f"With {name}, milliseconds (p50):", "", _table((name, "found", *stages), rows)]
    return "\n".join(sections)


def _memory(result: Mapping[str, Any]) -> str:
    rows = []
    for name, run in result["memory"].items():
        for where in ("host", "device"):
            trend = run[where]
            if trend is not None:
                values = (f"{trend[k]:.1f}" for k in ("start", "end", "peak"))
                growth = f"{trend['growth_second_half']:+.2f}"
                flat = {True: "yes", False: "NO", None: "too few updates"}[trend["flat"]]
                rows.append([name, where, run["updates"], run["points"], *values, growth, flat])
    columns = ("model", "memory", "updates", "points", "start", "end", "peak", "growth in the second half", "flat")
    return "\n".join(["## Memory, MiB", "", _table(columns, rows)])


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
