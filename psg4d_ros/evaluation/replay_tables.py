"""Results of replay as Markdown, and comparisons as tables for people. All of them are made from the JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psg4d_ros.evaluation.measures import measure
from psg4d_ros.evaluation.metrics import KS, PROTOCOLS
from psg4d_ros.evaluation.tables import evaluation_table

_STABILITY = {
    "coverage": "points that belong to an object",
    "label_flicker": "labels that change from window to window",
    "relation_churn": "relations that change from window to window",
}


def quality_table(result: Mapping[str, Any]) -> str:
    """What a result (one bag or many) says of stability, memory and ground truth, for the terminal."""
    lines = [f"  {_live(result['live'])}"] if "live" in result else []
    lines += [f"  {line}" for line in _stability(result)]
    memory = result.get("runtime", {}).get("memory_mb")
    if memory:
        lines.append(f"  memory: {memory['start']:.0f} MiB at the start, {memory['peak']:.0f} at the peak")
    if "ground_truth_error" in result:
        lines.append(f"  not compared with the ground truth: {result['ground_truth_error']}")
    if "metrics" in result:
        name = result.get("bag") or f"{result['folder']}, {len(result['bags'])} bags"
        lines += ["", evaluation_table({**result["metrics"], "dataset": name, "split": None})]
    return "\n".join(lines)


def many_table(result: Mapping[str, Any]) -> str:
    """Many bags: a line each, then what failed, then all together."""
    width = max([len(b["bag"]) for b in result["bags"]] + [len(f["bag"]) for f in result["failed"]])
    lines = [f"{'bag':<{width}}  {'clouds':>7}{'dropped':>9}{'graphs':>8}{'coverage':>10}{'p95 ms':>9}{'R@50':>8}"]
    for bag in [*result["bags"], {**result, "bag": "all"}]:
        p95, coverage = measure(bag, "latency_ms.total.p95"), bag["stability"]["coverage"]
        recall = measure(bag, "tube.triplet.R@50")
        lines.append(
            f"{bag['bag']:<{width}}  {bag['frames_in']:>7}{bag['frames_dropped']:>9}{bag['windows']:>8}"
            f"{_percent(coverage):>10}{'-' if p95 is None else f'{p95:.1f}':>9}{_percent(recall):>8}"
        )
    lines += [f"{f['bag']:<{width}}  FAILED: {f['error']}" for f in result["failed"]]
    return "\n".join(lines)


def replay_markdown(result: Mapping[str, Any], failed_thresholds: Sequence[str] | None = None) -> str:
    """A result as a page of Markdown. failed_thresholds: of those that were asked for, None where none were."""
    title = result.get("bag") or result["folder"]
    parts = [f"# Replay of {title}", _counts(result)]
    if failed_thresholds is not None:
        verdict = [f"- FAILED: {line}" for line in failed_thresholds] or ["- all thresholds are met"]
        parts.append("## Thresholds\n\n" + "\n".join(verdict))
    if result.get("failed"):
        parts.append("## Bags that failed\n\n" + "\n".join(f"- {f['bag']}: {f['error']}" for f in result["failed"]))
    if "live" in result:
        parts.append("## Live\n\n" + _live(result["live"]))
    parts.append("## Stability\n\n" + "\n".join(f"- {line}" for line in _stability(result)))
    if "metrics" in result:
        parts.append("## Against the ground truth\n\n" + _recalls(result["metrics"]))
    elif "ground_truth_error" in result:
        parts.append(f"## Against the ground truth\n\nNot compared: {result['ground_truth_error']}")
    if result.get("latency_ms"):
        head = _row("stage", "p50 ms", "p95 ms", "p99 ms")
        rows = [_row(s, *(f"{v[p]:.1f}" for p in ("p50", "p95", "p99"))) for s, v in result["latency_ms"].items()]
        parts.append("## Latency\n\n" + "\n".join([head, _rule(4), *rows]))
    memory = result.get("runtime", {}).get("memory_mb")
    if memory:
        cells = ", ".join(f"{name.replace('_', ' ')} {value:.0f} MiB" for name, value in memory.items())
        parts.append(f"## Memory\n\n{cells}")
    return "\n\n".join(parts) + "\n"


def _live(live: Mapping[str, Any]) -> str:
    return (
        f"live at {live['rate']:g}x: {live['clouds_sent']} clouds sent, {live['clouds_lost']} lost; "
        f"{live['windows_due']} windows due, {live['windows_replaced']} replaced by a newer one; "
        f"{live['graphs_received']} graphs received, {live['graphs_lost']} lost"
    )


def comparison_table(result: Mapping[str, Any], a: str, b: str) -> str:
    """``result``: of compare.compare. a, b: names of the two results."""
    count = len(result["recordings"])
    lines = [
        f"a: {a} ({result['models'][0]})",
        f"b: {b} ({result['models'][1]})",
        f"{count} recording{'s' if count > 1 else ''} in both; intervals hold 95 % of {result['samples']} draws",
    ]
    lines += [f"  {key}: {x} -> {y}" for key, (x, y) in result["settings"].items()]
    lines += [f"  only in one: {name}" for name in result["only_in_one"]]
    lines += ["", f"  {'measure':<28}{'a':>11}{'b':>11}{'b - a':>11}  {'95 % of draws':<23}verdict"]
    for name, entry in result["measures"].items():
        interval = "" if entry["interval"] is None else "[{:+.4g}, {:+.4g}]".format(*entry["interval"])
        numbers = "".join(f"{'-' if (v := entry[k]) is None else f'{v:.4g}':>11}" for k in ("a", "b", "difference"))
        lines.append(f"  {name:<28}{numbers}  {interval:<23}{entry['verdict']}")
    found = [e["verdict"] for e in result["measures"].values()]
    lines.append(f"\n  {found.count('better')} better, {found.count('worse')} worse, of {len(found)}")
    return "\n".join(lines)


def _counts(result: Mapping[str, Any]) -> str:
    model = result.get("model") or result["bags"][0]["model"]
    lines = [
        f"{result['frames_in']} clouds, {result['frames_dropped']} dropped, {result['frames_skipped']} skipped, "
        f"{result['windows']} graphs. Model `{model['id']}` (`{model['sha256'][:12]}`)."
    ]
    if not model["trained"]:
        lines.append("\nThese weights are untrained: labels, masks and relations mean nothing yet.")
    lines += [f"- dropped {count}x: {reason}" for reason, count in result.get("errors", {}).items()]
    return "\n".join(lines)


def _stability(result: Mapping[str, Any]) -> list[str]:
    values = result["stability"]
    lines = [f"{name.replace('_', ' ')} {_percent(values[name])} % ({what})" for name, what in _STABILITY.items()]
    return [*lines, f"{values['id_switches']} id switches (as boxes show them)"]


def _recalls(metrics: Mapping[str, Any]) -> str:
    head = _row("percent", *(f"R@{k}" for k in KS), *(f"mR@{k}" for k in KS))
    rows = []
    for protocol in PROTOCOLS:
        for labels in ("predicate", "triplet"):
            entry = metrics["protocol"][protocol][labels]
            cells = [_percent(entry[recall][str(k)]) for recall in ("R", "mR") for k in KS]
            rows.append(_row(f"{protocol.replace('_', '-')}, {labels}", *cells))
    lines = [head, _rule(1 + 2 * len(KS)), *rows, ""]
    masks = metrics["panoptic"]
    if masks:
        lines.append(
            f"PQ {_percent(masks['PQ'])}, LSTQ {_percent(masks['LSTQ'])}, tube IoU {_percent(masks['tube_IoU'])}, "
            f"{masks['id_switches']} id switches."
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" + "---:|" * (columns - 1)
