"""Scene graphs and the results of replay and evaluation as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from psg4d_ros.evaluation.metrics import KS, PROTOCOLS
from psg4d_ros.structures import GraphStatus, Relation, SceneGraph

if TYPE_CHECKING:
    from psg4d_ros.evaluation.replay import ReplayResult

MAX_ROWS = 12
MAX_PREDICATES = 12


def graph_table(graph: SceneGraph, *, timings: bool = True) -> str:
    """Objects and relations of one graph; lengths in metres, times in seconds relative to the newest frame."""
    took = f"  {sum(graph.stage_ms.values()):.0f} ms" if timings else ""
    lines = [
        f"graph {graph.sequence + 1}  window of {graph.num_frames}  {len(graph.cloud.points)} points"
        f"{took}  [{graph.status.name}]  in {graph.frame_id}"
    ]
    lines.append(
        f"  {'id':>3}  {'object':<18}{'score':>6}  {'position x y z':<22}{'size':<20}{'points':>7}  attributes"
    )
    for o in sorted(graph.objects, key=lambda o: -o.num_points)[:MAX_ROWS]:
        position = " ".join(f"{v:6.2f}" for v in o.position)
        size = " ".join(f"{v:5.2f}" for v in o.size)
        lines.append(
            f"  {o.track_id:>3}  {o.label:<18}{o.score:>6.2f}  {position:<22}{size:<20}{o.num_points:>7}"
            f"  {', '.join(o.attributes[:3])}"
        )
    lines += _more(len(graph.objects))
    label = {o.track_id: f"{o.label} {o.track_id}" for o in graph.objects}
    for r in sorted(graph.relations, key=lambda r: (not r.ongoing, -r.score))[:MAX_ROWS]:
        triplet = f"{label[r.subject_id]} -- {r.predicate} --> {label[r.object_id]}"
        lines.append(f"  {triplet}  ({_span(r, graph.stamp_ns)}, {r.score:.2f})")
    lines += _more(len(graph.relations))
    if not graph.relations:
        lines.append("  no relations")
    return "\n".join(lines)


def _span(relation: Relation, now_ns: int) -> str:
    start, end = (f"{(t - now_ns) * 1e-9:+.2f} s" for t in (relation.start_ns, relation.end_ns))
    if relation.ongoing:
        return f"since {start}" if relation.start_ns < now_ns else "since now"
    return f"at {start}" if start == end else f"{start} to {end}"


def _more(total: int) -> list[str]:
    return [f"  ... and {total - MAX_ROWS} more"] if total > MAX_ROWS else []


def replay_table(result: ReplayResult, *, timings: bool = True) -> str:
    """What went in, what came out, and how long each stage took."""
    lines = [
        f"{result.bag} {result.topic}: {result.frames_in} clouds, {result.frames_dropped} dropped,"
        f" {result.counts.get('skipped', 0)} skipped, {len(result.graphs)} graphs,"
        f" {len(result.objects())} objects, {len(result.triplets())} relations",
    ]
    lines += [f"  dropped {count}x: {reason}" for reason, count in sorted(result.errors.items())]
    if timings and result.stage_ms:
        lines.append(f"  {'stage':<12}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
        for stage, values in result.stage_ms.items():
            p50, p95, p99 = np.percentile(values, (50, 95, 99))
            lines.append(f"  {stage:<12}{p50:>10.1f}{p95:>10.1f}{p99:>10.1f}")
    worst = {g["status"] for g in result.graphs} - {GraphStatus.OK.name}
    if worst:
        lines.append(f"  status: {', '.join(sorted(worst))}")
    if not result.trained:
        lines.append("  NOTE: these weights are untrained: labels, masks and relations mean nothing yet.")
    return "\n".join(lines)


def evaluation_table(result: dict[str, Any]) -> str:
    """``result``: what ``psg4d eval --json`` writes. Recalls in percent; the ceiling is what K predictions allow."""
    frames, relations = result["frames"], result["true_relations"]
    what = f"{result['dataset']} {result['split']}" if result["split"] else result["dataset"]
    lines = [
        f"{what}: {result['method']}, {result['setting']}",
        f"  {result['scenes']} scenes ({result['scenes_without_relations']} without true relations),"
        f" {frames['evaluated']} frames ({frames['left_out']} left out by the window),"
        f" {relations['judged']} true relations ({relations['unseen']} never seen, {relations['repeated']} repeated)",
        "",
        f"  {'':<28}" + "".join(f"{f'R@{k}':>8}" for k in KS) + "  " + "".join(f"{f'mR@{k}':>8}" for k in KS),
    ]
    for protocol in PROTOCOLS:
        for labels in ("predicate", "triplet"):
            entry = result["protocol"][protocol][labels]
            name = f"{protocol.replace('_', '-')}, {labels}"
            lines.append(_row(name, entry))
            lines.append(_row("  several per pair", entry["unconstrained"]))
            if entry.get("zero_shot"):
                lines.append(_row(f"  zero-shot ({entry['zero_shot']['relations']})", entry["zero_shot"]))
    lines.append(_row("ceiling", result["protocol"]["tube"]["predicate"]["ceiling"]))
    lines += ["", *_by_predicate(result), *_masks(result)]
    model = result.get("model")
    if model and not model["trained"]:
        lines.append("  NOTE: these weights are untrained: labels, masks and relations mean nothing yet.")
    return "\n".join(lines)


def _row(name: str, entry: dict[str, Any]) -> str:
    cells = ["".join(f"{_percent(entry[what][str(k)]):>8}" for k in KS) for what in ("R", "mR")]
    return f"  {name:<28}" + "  ".join(cells)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _by_predicate(result: dict[str, Any]) -> list[str]:
    table = result["protocol"]["tube"]["triplet"]["by_predicate"]
    common = sorted(table.items(), key=lambda item: (-item[1]["count"], item[0]))[:MAX_PREDICATES]
    cells = [f"{name} {_percent(entry['R'][str(max(KS))])} ({entry['count']})" for name, entry in common]
    more = f", and {len(table) - MAX_PREDICATES} more" if len(table) > MAX_PREDICATES else ""
    return [f"  tube, triplet R@{max(KS)} by predicate (count): " + ", ".join(cells) + more] if cells else []


def _masks(result: dict[str, Any]) -> list[str]:
    lines = []
    masks, attributes, calibration = result["panoptic"], result["attributes"], result["calibration"]
    if masks:
        kinds = f"things {_percent(masks['PQ_things'])}, stuff {_percent(masks['PQ_stuff'])}"
        switches = f"{masks['id_switches']} id switches in {masks['matched_thing_frames']} matches"
        lines.append(
            f"  PQ {_percent(masks['PQ'])} ({kinds}), LSTQ {_percent(masks['LSTQ'])},"
            f" tube IoU {_percent(masks['tube_IoU'])}, {switches}"
        )
    if attributes and attributes["F1"] is not None:
        lines.append(
            f"  attributes F1 {_percent(attributes['F1'])}, mean over attributes {_percent(attributes['mean_F1'])}"
        )
    if calibration:
        lines.append(
            f"  calibration error {_percent(calibration['ECE'])}, Brier score {calibration['Brier']:.3f}"
            f" over {calibration['relations']} relations"
        )
    return lines
