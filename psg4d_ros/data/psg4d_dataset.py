"""PSG4D (4D panoptic scene graphs of GTA V and of HOI4D): the published annotation and its videos as recordings.

The annotation is one JSON file: ``objects`` {thing, stuff}, ``relations`` (names), ``split`` {name: video ids} and
``data``, one record a video with its objects and relations; see docs/datasets.md. Paper: arXiv 2405.10305.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from psg4d_ros.data.files import check_folder, is_integer, is_number, read_json, shown
from psg4d_ros.data.phrases import normal_label, normal_predicate
from psg4d_ros.data.psg4d_frames import GtaFrames, HoiFrames, gta_files, hoi_files, hoi_pose_file, open_hoi
from psg4d_ros.data.recording import LabelledFrame, Recording, TrueObject, TrueRelation
from psg4d_ros.errors import DatasetError
from psg4d_ros.transforms import NS_PER_S

_log = logging.getLogger(__name__)

STRIDE = 4  # of the rows and columns that are read: 1280 x 800 and 1920 x 1080 pixels are far more than a robot uses
_FILES = {"gta": "sailvos3d.json", "hoi": "psg4d_hoi.json"}
_FOLDERS = ("", "GTA", "HOI", "gta", "hoi", "psg4d_gta", "GTA/psg4d_gta")
_FPS = {"gta": 5.0, "hoi": 15.0}  # of videos whose record has no meta.fps
_HOI_FRAMES = 300  # of each video of HOI4D; its records carry no meta
_MAX_FRAMES = 100_000  # of a video; the longest of the data set has some hundred


@dataclass(frozen=True)
class Psg4dVideo:
    """The annotation of one video. mask_ids: object_id of each value that its masks hold."""

    video_id: str
    num_frames: int
    fps: float
    objects: tuple[TrueObject, ...]
    relations: tuple[TrueRelation, ...]
    mask_ids: dict[int, int]


@dataclass(frozen=True)
class Psg4dAnnotation:
    """One annotation file. form: "gta" or "hoi". problems: what was left out of ``videos``, and why."""

    path: Path
    form: str
    splits: dict[str, tuple[str, ...]]
    videos: dict[str, Psg4dVideo]
    problems: tuple[str, ...]

    @property
    def frames_root(self) -> Path:
        """Where images and masks are: beside the annotation, or in psg4d_gta/ there, which GTA's scripts fill."""
        made = self.path.parent / "psg4d_gta"
        return made if self.form == "gta" and made.is_dir() else self.path.parent


def open_psg4d(root: Path | str, split: str | None = None, *, stride: int = STRIDE) -> list[Recording]:
    """The videos of a download, GTA, HOI or both, in the order of the file. split: None = all annotated videos.

    Frames are read when a recording is gone through. Spans of the file include their last frame; here they are
    half-open. Relations and objects that do not fit the rest of their record are left out, counted in a warning and
    listed by check_psg4d. Raises DatasetError when there is no annotation, it has another form, or lacks the split.
    """
    annotations = read_psg4d(Path(root))
    if split is not None and not any(split in a.splits for a in annotations):
        known = sorted({name for a in annotations for name in a.splits})
        raise DatasetError(
            f"{root} has no split {split!r}, expected one of {', '.join(known) or 'none: it lists none'}"
        )
    out = []
    for annotation in annotations:
        ids = annotation.videos if split is None else annotation.splits.get(split, ())
        missing = [i for i in ids if i not in annotation.videos]
        skipped = len(annotation.problems) + (len(missing) if split else 0)
        if skipped:
            _log.warning("%s: %d things left out; `psg4d check --dataset` lists them", annotation.path, skipped)
        out += [_recording(annotation, annotation.videos[i], stride) for i in ids if i in annotation.videos]
    return out


def check_psg4d(root: Path | str) -> list[str]:
    """What is wrong with a download, one line each, empty if nothing: annotation, folders, numbers of files, formats.

    Every file's presence is looked at; of each video the first frame is decoded. Never raises for what is wrong.
    """
    try:
        annotations = read_psg4d(Path(root))
    except DatasetError as error:
        return [str(error)]
    problems: list[str] = []
    for annotation in annotations:
        problems += annotation.problems
        for name, ids in annotation.splits.items():
            problems += [
                f"{annotation.path}: split {name!r} names video {i!r}, which has no usable record"
                for i in ids
                if i not in annotation.videos
            ]
        for video in annotation.videos.values():
            problems += _check_frames(annotation, video)
    return problems


def read_psg4d(root: Path) -> list[Psg4dAnnotation]:
    """The annotation files under ``root`` (in it, or in its GTA and HOI folders). Raises DatasetError if there is none.

    What is wrong inside a record costs that record or that part of it and stands in ``problems``.
    """
    check_folder(root, "the root of PSG4D")
    found = [(form, root / folder / name) for folder in _FOLDERS for form, name in _FILES.items()]
    # Two spellings of a folder are the same one where letter case does not count.
    paths = {path.resolve(): (form, path) for form, path in found if path.is_file()}
    if not paths:
        raise DatasetError(
            f"{root} has no {' or '.join(_FILES.values())}, expected one in it or in its GTA, HOI folder"
        )
    return [_read(form, path) for form, path in paths.values()]


def _read(form: str, path: Path) -> Psg4dAnnotation:
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("data"), list):
        raise DatasetError(f"{path} has no list 'data', expected PSG4D's keys objects, relations, split, data")
    problems: list[str] = []
    names = values.get("objects")
    if not isinstance(names, dict) or not all(_strings(names.get(kind)) for kind in ("thing", "stuff")):
        raise DatasetError(f"{path}: 'objects' is not {{thing: [names], stuff: [names]}}")
    splits = values.get("split", {})
    if not isinstance(splits, dict) or not all(_strings(ids) for ids in splits.values()):
        raise DatasetError(f"{path}: 'split' is not {{name: [video ids]}}")
    predicates = values.get("relations", [])
    if not _strings(predicates):
        raise DatasetError(f"{path}: 'relations' is not a list of names")
    categories = _categories(path.parent) if form == "hoi" else {}
    reader = _RecordReader(path, form, set(names["thing"]), set(names["stuff"]), set(predicates), categories, problems)
    videos: dict[str, Psg4dVideo] = {}
    for number, record in enumerate(values["data"]):
        try:
            video = reader.video(record, number)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if video.video_id in videos:
            problems.append(f"{path}: data[{number}] is a second record of video {video.video_id!r}, left out")
            continue
        videos[video.video_id] = video
    for name, ids in splits.items():
        times: Counter[str] = Counter(ids)
        twice = [video_id for video_id in times if times[video_id] > 1]
        problems += [f"{path}: split {name!r} names video {i!r} more than once; taken once" for i in twice]
    unique = {name: tuple(dict.fromkeys(ids)) for name, ids in splits.items()}
    return Psg4dAnnotation(path, form, unique, videos, tuple(problems))


def _categories(folder: Path) -> dict[int, str]:
    """Names of the classes of HOI4D's masks, where the file is there (objects may bring their own names)."""
    path = folder / "categories.json"
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict) or not all(k.isdecimal() and isinstance(v, str) for k, v in values.items()):
        raise DatasetError(f"{path} is not {{class number: name}}")
    return {int(k): v for k, v in values.items()}


@dataclass(frozen=True)
class _RecordReader:
    """Records of one file. problems: what was left out is appended here."""

    path: Path
    form: str
    things: set[str]
    stuff: set[str]
    predicates: set[str]
    categories: dict[int, str]
    problems: list[str]

    def video(self, record: Any, number: int) -> Psg4dVideo:
        place = f"{self.path}: data[{number}]"
        if not isinstance(record, dict) or not isinstance(record.get("video_id"), str) or not record["video_id"]:
            raise DatasetError(f"{place} is not a record with a video_id")
        video_id = record["video_id"]
        place = f"{place} ({video_id[:100] if video_id.isprintable() else shown(video_id)})"
        if ".." in Path(video_id).parts or Path(video_id).is_absolute():
            raise DatasetError(f"{place}: the video_id leads out of the data set's folders")
        if not video_id.isprintable() or len(video_id.encode()) > 200:
            raise DatasetError(f"{place}: the video_id is no name of a folder")
        meta = record.get("meta") or {}
        if not isinstance(meta, dict):
            raise DatasetError(f"{place}: 'meta' is {shown(meta)}, expected an object with num_frames and fps")
        frames = meta.get("num_frames", _HOI_FRAMES if self.form == "hoi" else None)
        fps = meta.get("fps", _FPS[self.form])
        if not is_integer(frames, 1, _MAX_FRAMES):
            raise DatasetError(f"{place}: meta.num_frames is {shown(frames)}, expected 1 to {_MAX_FRAMES}")
        if not is_number(fps) or not 0.01 <= fps <= 1000:
            raise DatasetError(f"{place}: meta.fps is {shown(fps)}, expected 0.01 to 1000 frames per second")
        # The published files say "object", the family's other data sets "objects".
        entries, relations = record.get("object", record.get("objects")), record.get("relations")
        if not isinstance(entries, list) or not isinstance(relations, list):
            raise DatasetError(f"{place} has no lists 'object' and 'relations'")
        objects: dict[int, TrueObject] = {}
        mask_ids: dict[int, int] = {}
        for i, entry in enumerate(entries):
            self._object(entry, f"{place}.object[{i}]", objects, mask_ids)
        spans: list[TrueRelation] = []
        for i, relation in enumerate(relations):
            spans += self._relation(relation, f"{place}.relations[{i}]", objects, frames)
        return Psg4dVideo(video_id, frames, float(fps), tuple(objects.values()), tuple(spans), mask_ids)

    def _object(self, entry: Any, place: str, objects: dict[int, TrueObject], mask_ids: dict[int, int]) -> None:
        object_id = entry.get("object_id") if isinstance(entry, dict) else None
        if not is_integer(object_id, 1) or object_id in objects:
            self.problems.append(f"{place} has object_id {shown(object_id)}, expected a new number from 1 on; left out")
            return
        mask_id = entry.get("mask_id", object_id)
        if not is_integer(mask_id, 1) or mask_id in mask_ids:
            self.problems.append(f"{place} has mask_id {shown(mask_id)}, expected a new number from 1 on; left out")
            return
        label = entry.get("category", self.categories.get(mask_id % 1000))
        if not isinstance(label, str) or not label.strip():
            self.problems.append(f"{place} has no category, nor has its mask_id {mask_id} in categories.json; left out")
            return
        if label not in self.things | self.stuff:
            self.problems.append(f"{place} is a {label!r}, which the file's 'objects' do not list; kept as a thing")
        is_thing = label not in self.stuff if label in self.things | self.stuff else entry.get("is_thing", True) is True
        objects[object_id] = TrueObject(object_id, normal_label(label), is_thing)
        mask_ids[mask_id] = object_id

    def _relation(
        self, relation: Any, place: str, objects: dict[int, TrueObject], frames: int
    ) -> Iterator[TrueRelation]:
        """Three forms are in use: [s, o, name, [[a, b], ...]], [s, name, o, [a, b]] (GTA), [s, o, name, a, b] (HOI)."""
        expected = "expected [subject, object, name, [[start, end], ...]]"
        if not isinstance(relation, list) or len(relation) not in (4, 5):
            self.problems.append(f"{place} is {shown(relation)}, {expected}; left out")
            return
        numbers = [v for v in relation[:3] if is_integer(v, low=-(2**31))]
        names = [v for v in relation[:3] if isinstance(v, str)]
        spans = [relation[3:]] if len(relation) == 5 else relation[3]
        if isinstance(spans, list) and len(spans) == 2 and all(is_integer(v, low=-(2**31)) for v in spans):
            spans = [spans]
        if len(numbers) != 2 or len(names) != 1 or not isinstance(spans, list) or not names[0].strip():
            self.problems.append(f"{place} is {shown(relation)}, {expected}; left out")
            return
        absent = [i for i in numbers if i not in objects]
        if absent:
            self.problems.append(f"{place} names object {absent[0]}, which the record does not have; left out")
            return
        if self.predicates and names[0] not in self.predicates:
            self.problems.append(f"{place} is {names[0]!r}, which the file's 'relations' do not list; kept")
        for span in spans:
            if not (isinstance(span, list) and len(span) == 2 and all(is_integer(v, low=-(2**31)) for v in span)):
                self.problems.append(f"{place} has the span {shown(span)}, expected [start, end]; left out")
                continue
            start, end = span[0], min(span[1] + 1, frames)  # the file's spans hold their last frame
            if not 0 <= start < end:
                self.problems.append(f"{place} has the span {span}, the video has frames 0 to {frames - 1}; left out")
                continue
            if span[1] > frames:  # one past the last frame is how some records write "to the end"
                self.problems.append(f"{place} ends at {span[1]}, the video has {frames} frames; cut there")
            yield TrueRelation(numbers[0], normal_predicate(names[0]), numbers[1], start, end)


def _recording(annotation: Psg4dAnnotation, video: Psg4dVideo, stride: int) -> Recording:
    stamps = np.array([NS_PER_S + round(i * NS_PER_S / video.fps) for i in range(video.num_frames)], np.int64)

    def open_frames() -> Iterator[LabelledFrame]:
        frames = _frames(annotation, video)
        for number, stamp in enumerate(stamps):
            yield frames.read(number, int(stamp), video.mask_ids, stride)

    return Recording(video.video_id, video.objects, video.relations, stamps, open_frames)


def _frames(annotation: Psg4dAnnotation, video: Psg4dVideo) -> GtaFrames | HoiFrames:
    root = annotation.frames_root
    if annotation.form == "gta":
        return GtaFrames(root, video.video_id)
    return open_hoi(root, video.video_id, video.num_frames)


def _check_frames(annotation: Psg4dAnnotation, video: Psg4dVideo) -> Iterator[str]:
    root = annotation.frames_root
    files = partial(gta_files if annotation.form == "gta" else hoi_files, root, video.video_id)
    if annotation.form == "hoi" and not hoi_pose_file(root, video.video_id).exists():
        yield f"{hoi_pose_file(root, video.video_id)} is missing: the camera is taken to stand still"
    complete = True
    for kind in files(0):
        wanted = {files(number)[kind] for number in range(video.num_frames)}
        folders = {path.parent for path in wanted}
        absent = sorted(wanted - {file for folder in folders if folder.is_dir() for file in folder.iterdir()})
        if not absent:
            continue
        complete = False
        hint = ""
        if any((absent[0].parent / name).exists() for name in ("depth_video.avi", "image.mp4")):
            hint = "; decode the video to images first, as HOI4D's utils/decode.py does"
        if kind == "mask" and (root / "visible" / video.video_id).is_dir():
            hint = "; make them with PSG4D's data/GTA/merge_masks.py"
        yield f"{absent[0]} is missing, as are {len(absent) - 1} more of {len(wanted)} {kind} files of this video{hint}"
    if not complete:
        return
    try:
        frame = _frames(annotation, video).read(0, 0, video.mask_ids, stride=1)
    except DatasetError as error:
        yield str(error)
        return
    if not frame.instance.any():
        yield f"{files(0)['mask']} holds none of the objects annotated in {video.video_id}"


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)
