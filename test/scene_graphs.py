"""Scene graphs for tests of messages and events: built from a few words, or drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from psg4d_ros.structures import GraphStatus, LabelledCloud, LabelScore, Relation, SceneGraph, SceneObject

SECOND = 1_000_000_000
NO_POINTS = LabelledCloud(
    points=np.zeros((0, 3), np.float32),
    track_id=np.zeros(0, np.uint32),
    class_id=np.zeros(0, np.int32),
    score=np.zeros(0, np.float32),
    source_index=np.zeros(0, np.int64),
)


def thing(track_id: int, label: str = "chair", **changes: Any) -> SceneObject:
    """An object seen from second 1 to second 5."""
    parts: dict[str, Any] = {
        "track_id": track_id,
        "label": label,
        "class_id": 3,
        "score": 0.5,
        "is_thing": True,
        "attributes": ("red",),
        "alternatives": (LabelScore("sofa", 0.25),),
        "position": np.array([1.0 * track_id, 2.0, 0.5]),
        "orientation": np.array([0.0, 0.0, 0.0, 1.0]),
        "size": np.array([0.5, 0.5, 1.0]),
        "velocity": None,
        "first_seen_ns": 1 * SECOND,
        "last_seen_ns": 5 * SECOND,
        "num_points": 100,
    }
    return SceneObject(**(parts | changes))


def holds(
    subject: int, predicate: str, object: int, start: float = 1, end: float = 5, ongoing: bool = True
) -> Relation:
    """A relation over [start, end) seconds."""
    return Relation(subject, predicate, 0, object, 0.75, round(start * SECOND), round(end * SECOND), ongoing)


def graph(*parts: SceneObject | Relation, stamp_s: float = 5, epoch: int = 0, **changes: Any) -> SceneGraph:
    """A graph of the given objects and relations."""
    values: dict[str, Any] = {
        "stamp_ns": round(stamp_s * SECOND),
        "frame_id": "odom",
        "window_start_ns": round(max(stamp_s - 2, 0) * SECOND),
        "window_end_ns": round(stamp_s * SECOND),
        "num_frames": 8,
        "sequence": 7,
        "epoch": epoch,
        "model_id": "psg4d-small",
        "model_sha256": "ab" * 32,
        "status": GraphStatus.OK,
        "status_text": "odom from TF",
        "objects": tuple(p for p in parts if isinstance(p, SceneObject)),
        "relations": tuple(p for p in parts if isinstance(p, Relation)),
        "cloud": NO_POINTS,
        "stage_ms": {"encode": 1.5, "turn1": 2.25},
    }
    return SceneGraph(**(values | changes))


def float32s(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32)


@st.composite
def objects(draw: st.DrawFn, track_id: int) -> SceneObject:
    def vector(low: float, high: float, n: int = 3) -> np.ndarray:
        return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)), dtype=np.float64)

    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    times = st.integers(0, 2**31 * SECOND - 1)
    return thing(
        track_id,
        draw(words),
        class_id=draw(st.integers(-1, 2**31 - 1)),
        score=draw(float32s(0, 1)),
        is_thing=draw(st.booleans()),
        attributes=tuple(draw(st.lists(words, max_size=3))),
        alternatives=tuple(LabelScore(w, s) for w, s in draw(st.lists(st.tuples(words, float32s(0, 1)), max_size=3))),
        position=vector(-1e6, 1e6),
        orientation=vector(-1, 1, 4),
        size=vector(0, 1e3),
        velocity=vector(-10, 10) if draw(st.booleans()) else None,
        first_seen_ns=draw(times),
        last_seen_ns=draw(times),
        num_points=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def scene_graphs(draw: st.DrawFn) -> SceneGraph:
    """Any graph that the message can hold."""
    ids = draw(st.lists(st.integers(1, 2**32 - 1), unique=True, max_size=4))
    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    times = st.integers(0, 2**31 * SECOND - 1)
    relations = []
    if ids:
        for _ in range(draw(st.integers(0, 4))):
            relations.append(
                Relation(
                    draw(st.sampled_from(ids)), draw(words), draw(st.integers(-1, 100)), draw(st.sampled_from(ids)),
                    draw(float32s(0, 1)), draw(times), draw(times), draw(st.booleans()),
                )
            )  # fmt: skip
    return graph(
        *(draw(objects(i)) for i in ids),
        *relations,
        stamp_ns=draw(times),
        window_start_ns=draw(times),
        window_end_ns=draw(times),
        num_frames=draw(st.integers(1, 64)),
        sequence=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(st.integers(0, 2**32 - 1)),
        frame_id=draw(words),
        status=draw(st.sampled_from(GraphStatus)),
        status_text=draw(words),
        stage_ms=draw(st.dictionaries(words, float32s(0, 1e6), max_size=4)),
    )


def same(a: Any, b: Any) -> bool:
    """Whether two values of the structures are equal, arrays and nested dataclasses included."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__)
    return bool(a == b)
