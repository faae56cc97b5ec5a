"""A recorded replay as the values that the page draws: plain JSON, and the clouds as bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psg4d_ros.evaluation.replay import ReplayResult
from psg4d_ros.evaluation.report.recorder import RecordedFrame, ReplayRecorder
from psg4d_ros.evaluation.report.thinning import ThinCloud
from psg4d_ros.evaluation.report.timeline import last_step_s, timeline_rows
from psg4d_ros.evaluation.report.truth_layer import TruthLayer, same_objects
from psg4d_ros.messages import track_color


@dataclass(frozen=True, eq=False)
class ReportSection:
    """One replay in a report, a tab of its page. title: of the tab. note: a sentence on what is seen there.

    timings: whether wall-clock values are shown.
    """

    title: str
    result: ReplayResult
    recorder: ReplayRecorder
    note: str = ""
    timings: bool = True


def section_values(section: ReportSection, every: int, points: int) -> tuple[dict[str, Any], bytes]:
    """What the page knows of a replay, and its clouds. every: of the recorded graphs, which ones. points: of a frame.

    The clouds lie one after another as ``cloud_bytes`` makes them, ``clouds`` of the values says of how many points.
    """
    recorder, result = section.recorder, section.result
    frames = [replace(f, cloud=_fewer(f.cloud, points)) for f in recorder.frames[::every]]
    values = {k: v for k, v in result.to_json(timings=section.timings).items() if k != "graphs"}
    start_ns = recorder.stamps_ns[0] if recorder.stamps_ns else 0
    labels, is_thing = recorder.said.objects()
    tracks = [
        {"id": track, "epoch": epoch, "label": labels[i], "thing": is_thing[i], "color": track_color(track).tolist()}
        for i, (epoch, track) in enumerate(recorder.tracks)
    ]
    stages = list(dict.fromkeys(stage for f in frames for stage in f.stage_ms))
    out: dict[str, Any] = {
        "title": section.title,
        "note": section.note,
        "result": values,
        "frame_id": frames[-1].graph["frame_id"] if frames else "",
        "up": _rounded(frames[0].up) if frames else [0, 0, 1],
        "eye": _rounded(frames[0].eye) if frames and frames[0].eye is not None else None,
        "graphs": len(recorder.stamps_ns),
        "start_ns": str(start_ns),  # JavaScript has no integers of this size
        "step_s": last_step_s(recorder.stamps_ns) if recorder.stamps_ns else 0.25,
        "tracks": tracks,
        "truth": None if recorder.truth is None else _truth_values(recorder, recorder.truth),
        "frames": [_frame_values(f, start_ns) for f in frames],
        "clouds": [{"n": len(f.cloud), "low": f.cloud.low_m.tolist(), "step": f.cloud.step_m} for f in frames],
        "colored": any(f.cloud.color is not None for f in frames),
        "timeline": [_clean(row.to_json()) for row in timeline_rows(recorder)],
        "stages": stages if section.timings else [],
        "stage_ms": [[round(f.stage_ms.get(s, 0.0), 2) for s in stages] for f in frames] if section.timings else [],
    }
    return out, b"".join(cloud_bytes(f.cloud, recorder.truth is not None, out["colored"]) for f in frames)


def cloud_bytes(cloud: ThinCloud, with_truth: bool, with_color: bool) -> bytes:
    """Little-endian: positions uint16[n, 3], predicted uint16[n], true uint16[n] if asked for, colours uint8[n, 3] if
    asked for (grey where the cloud has none), and zeros up to a multiple of four bytes."""
    parts = [cloud.position.astype("<u2").tobytes(), cloud.predicted.astype("<u2").tobytes()]
    if with_truth:
        true = np.zeros(len(cloud), np.uint16) if cloud.true is None else cloud.true
        parts.append(true.astype("<u2").tobytes())
    if with_color:
        parts.append((np.full((len(cloud), 3), 128, np.uint8) if cloud.color is None else cloud.color).tobytes())
    data = b"".join(parts)
    return data + bytes(-len(data) % 4)


def point_bytes(section: ReportSection) -> int:
    """Bytes that a point takes, at most."""
    return 8 + 2 * (section.recorder.truth is not None) + 3


def _fewer(cloud: ThinCloud, points: int) -> ThinCloud:
    return ThinCloud(
        cloud.position[:points],
        cloud.low_m,
        cloud.step_m,
        cloud.predicted[:points],
        None if cloud.true is None else cloud.true[:points],
        None if cloud.color is None else cloud.color[:points],
    )


def _frame_values(frame: RecordedFrame, start_ns: int) -> dict[str, Any]:
    graph, number = frame.graph, frame.objects
    objects = [
        {
            "object": number[o["track_id"]],
            "label": o["label"],
            "score": round(o["score"], 3),
            "position": _rounded(o["position"]),
            "rotation": _rounded(o["orientation"]),
            "size": _rounded(o["size"]),
            "points": o["num_points"],
            "attributes": o["attributes"],
            "alternatives": [[label, round(score, 2)] for label, score in o["alternatives"][:3]],
        }
        for o in graph["objects"]
    ]
    relations = [
        {
            "subject": number[r["subject_id"]],
            "predicate": r["predicate"],
            "object": number[r["object_id"]],
            "score": round(r["score"], 3),
            "since": round((r["span_ns"][0] - start_ns) * 1e-9, 3),
        }
        for r in graph["relations"]
        if r["ongoing"]
    ]
    return {
        "t": round((graph["stamp_ns"] - start_ns) * 1e-9, 4),
        "epoch": graph["epoch"],
        "status": graph["status"],
        "status_text": graph["status_text"],
        "window": graph["num_frames"],
        "points": graph["num_points"],
        "objects": objects,
        "relations": relations,
        "true_objects": [
            {
                "object": o["object"],
                "position": _rounded(o["position"]),
                "size": _rounded(o["size"]),
                "points": o["num_points"],
                "attributes": o["attributes"],
            }
            for o in frame.true_objects
        ],
        "true_relations": [[s, p, o] for s, p, o, _, _ in frame.true_relations],
    }


def _truth_values(recorder: ReplayRecorder, truth: TruthLayer) -> dict[str, Any]:
    return {
        "objects": [
            {"id": o.object_id, "label": o.label, "thing": o.is_thing, "color": track_color(o.object_id).tolist()}
            for o in truth.recording.objects
        ],
        "same": {str(p): t for p, t in same_objects(truth.overlaps(len(recorder.tracks))).items()},
    }


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 3) for v in values]


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    spans = {name: [[round(v, 3) for v in span] for span in row[name]] for name in ("predicted", "true")}
    return {**row, **spans}
