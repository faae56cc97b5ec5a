"""The metrics of an evaluation as a table for people."""

from __future__ import annotations

from typing import Any

from psg4d_ros.evaluation.metrics import KS, PROTOCOLS

WORST = 12  # predicates listed


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
    common = sorted(table.items(), key=lambda item: (-item[1]["count"], item[0]))[:WORST]
    cells = [f"{name} {_percent(entry['R'][str(max(KS))])} ({entry['count']})" for name, entry in common]
    more = f", and {len(table) - WORST} more" if len(table) > WORST else ""
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
