"""Bimanual actions seen by a ZED camera: 3D boxes of hands and kitchen objects over time, as recordings.

One JSON file a take (github.com/Elaine9010/bimacs_zed_data, merged): boxes come from masks and depth, spatial and
dynamic relations from the rules of its authors, what each hand does from people. docs/datasets.md says what is changed
on the way, and why. The frames hold no points: this is a set for given tubes (PredCls).
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.data.files import check_folder, is_integer, is_number, read_json, shown
from psg4d_ros.data.phrases import normal_label, normal_predicate
from psg4d_ros.data.recording import LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.data.rgbd import FRAME_ID
from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Float32, PointFrame
from psg4d_ros.transforms import NS_PER_S, R_BODY_OPTICAL

_log = logging.getLogger(__name__)

RATE_HZ = 30.0
_OBJECT_FIELDS = ["instance", "class", "certainty", "x0", "y0", "z0", "x1", "y1", "z1"]
_LABELS = {"bottel": "bottle", "right hand": "hand", "left hand": "hand"}
# Above and below, behind and in front are the wrong way round in the files: y points down there, z forward.
_FLIPPED = {"above": "below", "below": "above", "behind of": "in front of", "in front of": "behind of"}
_NO_RELATION = "stable"  # that two things do not move against each other is said of nearly all pairs, all the time
# KIT's actions; idle is none. The object is what the hand holds or reaches for.
_ACTIONS = {
    1: "approaching", 2: "moving away from", 3: "lifting", 4: "putting down", 5: "holding", 6: "pouring into",
    7: "cutting", 8: "hammering", 9: "sawing", 10: "stirring", 11: "screwing", 12: "drinking from", 13: "cleaning",
}  # fmt: skip
# The rules' answers flicker with the boxes: shorter gaps are closed, then shorter spans dropped. 0.2 s.
_SETTLE_FRAMES = 6


def open_bimacs(root: Path | str) -> list[Recording]:
    """The takes in a folder (*.json, *.json.gz), sorted by name.

    Boxes are metres in a world with x forward, y left, z up, its origin the camera. Relations are those of the rules
    without "stable", freed of flicker, and the hands' actions as people labelled them. What does not fit its take is
    left out and counted in a warning. Raises DatasetError naming file and frame for anything of another form.
    """
    root = Path(root)
    check_folder(root, "the takes of bimacs_zed")
    files = sorted(p for p in root.iterdir() if p.name.removesuffix(".gz").endswith(".json"))
    if not files:
        raise DatasetError(f"{root} has no *.json or *.json.gz, expected one file a take")
    return [_read(path) for path in files]


def _read(path: Path) -> Recording:
    take = read_json(path)
    if not isinstance(take, dict) or not isinstance(take.get("frames"), list) or not take["frames"]:
        raise DatasetError(f"{path} has no list 'frames', expected a take of bimacs_zed")
    if take.get("obj_fields") != _OBJECT_FIELDS:
        raise DatasetError(f"{path}: 'obj_fields' is {shown(take.get('obj_fields'))}, expected {_OBJECT_FIELDS}")
    frames = [_objects_of(path, number, frame) for number, frame in enumerate(take["frames"])]
    names = sorted({name for objects in frames for name in objects})
    ids = {name: number for number, name in enumerate(names, start=1)}
    labels = {name: label for objects in frames for name, (label, _) in objects.items()}
    boxes = np.full((len(frames), len(names), 2, 3), np.nan, np.float32)
    for number, objects in enumerate(frames):
        for name, (_, box) in objects.items():
            boxes[number, ids[name] - 1] = box
    skipped: Counter[str] = Counter()
    spans = _rule_spans(take["frames"], [list(objects) for objects in frames], skipped)
    spans += _action_spans(path, take.get("hand_action_gt"), len(frames), names, skipped)
    for reason, count in sorted(skipped.items()):
        _log.warning("%s: %d left out: %s", path, count, reason)
    stamps = np.array([NS_PER_S + round(n * NS_PER_S / RATE_HZ) for n in range(len(frames))], np.int64)

    def open_frames() -> Iterator[LabelledFrame]:
        T = np.eye(4)
        T[:3, :3] = R_BODY_OPTICAL
        for stamp in stamps:
            frame = PointFrame(np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), int(stamp), FRAME_ID)
            yield LabelledFrame(frame, T, np.zeros(0, np.int32))

    return Recording(
        path.name.removesuffix(".gz").removesuffix(".json"),
        tuple(TrueObject(ids[name], labels[name], True) for name in names),
        tuple(TrueRelation(ids[s], predicate, ids[o], start, end) for s, predicate, o, start, end in sorted(spans)),
        stamps,
        open_frames,
        boxes,
    )


def _objects_of(path: Path, number: int, frame: Any) -> dict[str, tuple[str, Float32]]:
    """Label and box (float32[2, 3], world) of each object of a frame, in the order of the file."""
    place = f"{path} frame {number}"
    if not isinstance(frame, dict) or not isinstance(frame.get("obj"), list) or not isinstance(frame.get("rel"), list):
        raise DatasetError(f"{place} has no lists 'obj' and 'rel'")
    if frame.get("f") != number:
        raise DatasetError(f"{place} is numbered {shown(frame.get('f'))}, expected frames without gaps")
    out: dict[str, tuple[str, Float32]] = {}
    for entry in frame["obj"]:
        if not isinstance(entry, list) or len(entry) != len(_OBJECT_FIELDS) or not isinstance(entry[0], str):
            raise DatasetError(f"{place}: object is {shown(entry)}, expected {_OBJECT_FIELDS}")
        name, label, corners = _instance(entry[0]), entry[1], entry[3:]
        if not isinstance(label, str) or not all(is_number(v) for v in corners):
            raise DatasetError(f"{place}: object is {shown(entry)}, expected a class and six finite coordinates")
        if name in out:
            raise DatasetError(f"{place} holds {name!r} twice")
        turned = np.array(corners, np.float64).reshape(2, 3) @ R_BODY_OPTICAL.T
        box = np.stack([turned.min(axis=0), turned.max(axis=0)]).astype(np.float32)
        out[name] = _LABELS.get(label, normal_label(label)), box
    return out


def _instance(name: str) -> str:
    """ "bottel_1" is "bottle_1" where people labelled the hands' actions."""
    return name.replace("bottel", "bottle")


Span = tuple[str, str, str, int, int]


def _rule_spans(frames: list[Any], names: list[list[str]], skipped: Counter[str]) -> list[Span]:
    seen: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        for relation in frame["rel"]:
            match relation:
                case [int(s), str(word), int(o)] if 0 <= s < len(names[number]) and 0 <= o < len(names[number]):
                    if word != _NO_RELATION:
                        predicate = normal_predicate(_FLIPPED.get(word, word))
                        seen[names[number][s], predicate, names[number][o]].append(number)
                case _:
                    skipped["a relation is not [subject index, word, object index] of its frame"] += 1
    spans: list[Span] = []
    for triplet, numbers in seen.items():
        spans += [(*triplet, start, end) for start, end in _settled(numbers)]
    return spans


def _settled(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Spans [start, end) of increasing frame numbers, without flicker."""
    for run in np.split(np.array(numbers), np.flatnonzero(np.diff(numbers) > _SETTLE_FRAMES) + 1):
        if run[-1] + 1 - run[0] >= _SETTLE_FRAMES:
            yield int(run[0]), int(run[-1]) + 1


def _action_spans(path: Path, actions: Any, frames: int, names: list[str], skipped: Counter[str]) -> list[Span]:
    """[start, [action, class, instance], next start, ..., last frame] of each hand."""
    if actions is None:
        skipped["the take has no hand_action_gt"] += 1
        return []
    if not isinstance(actions, dict):
        raise DatasetError(f"{path}: 'hand_action_gt' is {shown(actions)}, expected {{right_hand, left_hand}}")
    spans: list[Span] = []
    for hand, track in actions.items():
        subject = f"{hand.replace('_', ' ')}_1"
        if not isinstance(track, list) or len(track) % 2 == 0 or subject not in names:
            raise DatasetError(f"{path}: hand_action_gt.{hand} is not [start, [action, class, instance], ..., last]")
        for start, action, end in zip(track[0::2], track[1::2], track[2::2], strict=False):
            match action:
                case [0, _, _]:
                    continue
                case [int(number), _, str(instance)] if number in _ACTIONS:
                    if instance not in names:
                        skipped[f"{hand} acts on {instance!r}, which is in no frame"] += 1
                    elif not (is_integer(start) and is_integer(end) and start < end <= frames):
                        skipped[f"an action of {hand} does not lie within the take"] += 1
                    else:
                        spans.append((subject, _ACTIONS[number], instance, start, end))
                case _:
                    skipped[f"an action of {hand} is not one of KIT's: {shown(action)}"] += 1
    return spans
