"""Training windows out of labelled recordings: what the encoder takes, and what is true of it.

A window is made from (seed, index) alone, whatever process makes it and whatever was made before: a run that is resumed
sees the windows it would have seen. It is cut, placed, voxelised and measured by the functions that serve at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from psg4d_ros.config import knob
from psg4d_ros.data.recording import LabelledFrame, Recording, TrueObject
from psg4d_ros.data.simulation.classes import PALETTE
from psg4d_ros.data.simulation.predicates import ATTRIBUTES, PREDICATES
from psg4d_ros.errors import DatasetError
from psg4d_ros.runtime.given import tube_voxels
from psg4d_ros.runtime.relating import PairInputs, describe_pairs
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.structures import AlignedFrame, Float64, VoxelGrid, Window
from psg4d_ros.training.augment import Augmentation, names_a_side
from psg4d_ros.training.sparse_input import SparseInput, pack, unpack
from psg4d_ros.training.window_labels import choose_pairs, number_points, true_relations, tubes_of, voxel_owners
from psg4d_ros.transforms import NS_PER_S, transform_points
from psg4d_ros.voxelize import FEATURE_NAMES, voxelize
from psg4d_ros.window import MIN_ORIGIN_POINTS, voxel_origin

JUDGED_PREDICATES = tuple(PREDICATES)
JUDGED_ATTRIBUTES = tuple(word for words in ATTRIBUTES for word in words.split(", "))
COLORS = frozenset(PALETTE)
_MOST_ATTEMPTS = 100


@dataclass(frozen=True)
class WindowRecipe:
    """Which windows are cut out of recordings, and what happens to them."""

    frames: int = knob(4, "frames of a full window (F)", low=1, high=64)
    frame_interval_s: float = knob(0.25, "least time between two frames, seconds", low=0.0, high=60.0)
    full_share: float = knob(0.85, "augmented: share of windows that are full; others have fewer", low=0.0, high=1.0)
    slow_share: float = knob(0.15, "augmented: share of windows with a longer interval", low=0.0, high=1.0)
    slowest: int = knob(
        2, "augmented: the longer interval is drawn from 2 to so many times frame_interval_s", low=2, high=64
    )
    eventful_share: float = knob(
        0.6,
        "augmented: share of windows that lie where a relation holds, each predicate of a scene as often as any other",
        low=0.0,
        high=1.0,
    )
    close_share: float = knob(0.12, "augmented: share of windows that show little but one object", low=0.0, high=1.0)
    alike: int = knob(
        8,
        "augmented: so many windows in a row have one number of frames, and are all close views or none of them; a "
        "batch is thinned to its smallest window",
        low=1,
        high=4096,
    )
    voxel_size_m: float = knob(0.05, "edge of a voxel, metres; the encoder's", low=0.005, high=2.0)
    levels: int = knob(4, "levels of the encoder", low=2, high=8)
    min_points: int = knob(20, "an object with fewer points in the window is nobody", low=1, high=100_000)
    max_pairs: int = knob(48, "pairs of a window (R)", low=0, high=4096)
    max_points: int = knob(200_000, "larger clouds are thinned to this many points", low=1, high=10_000_000)
    max_voxels: int = knob(30_000, "voxels of one frame; more are cut off", low=1, high=2_000_000)
    augment: bool = knob(True, "false: full windows as they were recorded, placed evenly (validation)")


@dataclass(frozen=True, eq=False)
class WindowTruth:
    """What is true in a window of F frames with T tubes and R pairs.

    A tube is an object with enough points in the window, thing or stuff. object_ids: T, ascending. labels: T.
    is_thing: bool[T]. attributes: T, those of ``known_attributes`` that are true at the newest frame; the others of
    them are false, and of words beyond them nothing is known.
    pairs: int64[R, 2] (subject, object) tubes; stuff is never a subject. geometry float32[R, G], motion float32[R, M],
    frame_geometry float32[R, F, G], seen bool[R, F]: see relating.PairInputs. predicates: the n words that were judged
    for every pair. holds: bool[R, n, F], the predicate holds in that frame.
    """

    object_ids: tuple[int, ...]
    labels: tuple[str, ...]
    is_thing: Tensor
    attributes: tuple[tuple[str, ...], ...]
    known_attributes: tuple[str, ...]
    pairs: Tensor
    geometry: Tensor
    motion: Tensor
    frame_geometry: Tensor
    seen: Tensor
    predicates: tuple[str, ...]
    holds: Tensor

    def __len__(self) -> int:
        return len(self.object_ids)

    def in_words(self, wording: Mapping[str, str]) -> WindowTruth:
        """The same, with other names for some classes and predicates."""
        labels, predicates = (
            tuple(wording.get(word, word) for word in words) for words in (self.labels, self.predicates)
        )
        return replace(self, labels=labels, predicates=predicates)


@dataclass(frozen=True, eq=False)
class TrainingWindow:
    """A window and its truth.

    input: the F frames, oldest first, in int32 (see SparseInput). times_s: float32[F], seconds before the newest, <= 0.
    fine_tube: int64[V_0], mid_tube: int64[V_1]: the tube most of a voxel's labelled points are of, or NOBODY. name:
    recording and frame. It goes to another process as one block of memory.
    """

    input: SparseInput
    times_s: Tensor
    fine_tube: Tensor
    mid_tube: Tensor
    truth: WindowTruth
    name: str

    def __getstate__(self) -> dict[str, Any]:
        truth = {f.name: getattr(self.truth, f.name) for f in fields(WindowTruth)}
        tensors = {name: value for name, value in truth.items() if isinstance(value, Tensor)}
        own = [self.times_s, self.fine_tube, self.mid_tube]
        buffer, layout = pack([*own, *tensors.values(), *self.input.tensors()])
        return {
            "buffer": buffer,
            "layout": layout,
            "num_frames": self.input.num_frames,
            "words": {name: value for name, value in truth.items() if name not in tensors},
            "tensors": list(tensors),
            "name": self.name,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        times_s, fine_tube, mid_tube, *rest = unpack(state["buffer"], state["layout"])
        count = len(state["tensors"])
        truth = WindowTruth(**state["words"], **dict(zip(state["tensors"], rest[:count], strict=True)))
        values = {
            "input": SparseInput.from_tensors(rest[count:], state["num_frames"]),
            "times_s": times_s,
            "fine_tube": fine_tube,
            "mid_tube": mid_tube,
            "truth": truth,
            "name": state["name"],
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


class WindowDataset(Dataset[TrainingWindow]):
    """Windows of labelled recordings by number, without end: ``dataset[i]`` for any i >= 0, always the same.

    recordings: with points (simulated scenes, bags with ground truth, PSG4D). In each round of as many windows as there
    are recordings, every recording has one. predicates, attributes: the words that the recordings were annotated with
    exhaustively; others are left out. ``len`` is the number of frames there are, a measure of what a pass would be.
    Raises DatasetError when there are no recordings.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        recipe: WindowRecipe,
        seed: int,
        *,
        predicates: tuple[str, ...] = JUDGED_PREDICATES,
        attributes: tuple[str, ...] = JUDGED_ATTRIBUTES,
    ) -> None:
        self.recordings = [r for r in recordings if len(r)]
        if not self.recordings:
            raise DatasetError(f"{len(recordings)} recordings hold no frame, expected at least one that does")
        self.recipe = recipe
        self.seed = seed
        self.predicates = predicates
        self.attributes = attributes
        # "left of" would say something else in a mirror; the predicates of simulated scenes do not.
        self._may_mirror = not names_a_side(predicates)

    def __len__(self) -> int:
        return sum(len(r) for r in self.recordings)

    def __getitem__(self, index: int) -> TrainingWindow:
        """Raises DatasetError when one window after the other holds no object, and for files that cannot be read."""
        if index < 0:
            raise IndexError(f"window {index}, expected 0 or more")
        count = len(self.recordings)
        # The second number keeps what the three are drawn for apart.
        order = np.random.default_rng([self.seed, 0, index // count]).permutation(count)
        form = draw_form(self.recipe, np.random.default_rng([self.seed, 1, index // self.recipe.alike]))
        for attempt in range(_MOST_ATTEMPTS):
            rng = np.random.default_rng([self.seed, 2, index, attempt])
            recording = self.recordings[order[(index + attempt) % count]]
            window = make_window(recording, self.recipe, form, rng, self.predicates, self.attributes, self._may_mirror)
            if window is not None:
                return window
        raise DatasetError(
            f"{_MOST_ATTEMPTS} windows in a row, the last of {recording.name}, hold no object of at least "
            f"{self.recipe.min_points} points; expected recordings with labelled points"
        )


@dataclass(frozen=True)
class WindowForm:
    """What the size of a window depends on: how many frames, how far apart, and whether it is a close view."""

    frames: int
    interval_ns: int
    close: bool = False


def draw_form(recipe: WindowRecipe, rng: np.random.Generator) -> WindowForm:
    """A form of window, as often as the recipe says."""
    frames, interval = recipe.frames, round(recipe.frame_interval_s * NS_PER_S)
    if not recipe.augment:
        return WindowForm(frames, interval)
    shorter, slower, closer = rng.random(3)
    if shorter >= recipe.full_share:
        frames = int(rng.integers(1, frames + 1))
    if slower < recipe.slow_share:
        interval *= int(rng.integers(2, recipe.slowest + 1))
    return WindowForm(frames, interval, bool(closer < recipe.close_share))


def make_window(
    recording: Recording,
    recipe: WindowRecipe,
    form: WindowForm,
    rng: np.random.Generator,
    predicates: tuple[str, ...] = JUDGED_PREDICATES,
    attributes: tuple[str, ...] = JUDGED_ATTRIBUTES,
    may_mirror: bool = True,
) -> TrainingWindow | None:
    """A window of a recording, None when what was chosen holds no object of ``recipe.min_points`` points."""
    eventful = recipe.augment and rng.random() < recipe.eventful_share
    numbers = choose_frames(recording, form, rng, predicates if eventful else ())
    labelled = recording.frames(numbers)
    augmentation = Augmentation.none()
    if recipe.augment:
        augmentation = Augmentation.draw(rng, may_mirror=may_mirror, close=form.close, voxel_size_m=recipe.voxel_size_m)
        labelled = augmentation.apply(labelled, rng)
    objects = tubes_of(recording, labelled, recipe.min_points)
    if not objects:
        return None
    window = _placed(labelled, np.array(augmentation.origin_shift_m))
    grids = [
        voxelize(f, window.origin, recipe.voxel_size_m, recipe.max_voxels, "cpu", max_points=recipe.max_points)
        for f in window.frames
    ]
    grids = [_denser(grid, augmentation.sensor.density) for grid in grids]
    rulebooks = [build_rulebook(grid.coords, recipe.levels) for grid in grids]
    tubes = [
        tube_voxels(
            aligned, grid.point_voxel.numpy(), number_points(frame.instance, objects), len(objects), window.origin
        )
        for aligned, grid, frame in zip(window.frames, grids, labelled, strict=True)
    ]
    boxes = np.stack([t.boxes for t in tubes], axis=1)
    holds = true_relations(recording, objects, numbers, predicates)
    pairs = choose_pairs(boxes, objects, holds, recipe.max_pairs, rng)
    inputs = describe_pairs(pairs, boxes, window, torch.cat([grid.centers for grid in grids]))
    colored = augmentation.colors_tell and any(f.frame.colors is not None for f in labelled)
    known = tuple(word for word in attributes if colored or word not in COLORS)
    owners = [voxel_owners(t, grid, rulebook) for t, grid, rulebook in zip(tubes, grids, rulebooks, strict=True)]
    return TrainingWindow(
        input=SparseInput.join(
            [SparseInput.of(grid, rulebook) for grid, rulebook in zip(grids, rulebooks, strict=True)], torch.int32
        ),
        times_s=torch.from_numpy(inputs.times_s.astype(np.float32)),
        fine_tube=torch.from_numpy(np.concatenate([fine for fine, _ in owners])),
        mid_tube=torch.from_numpy(np.concatenate([mid for _, mid in owners])),
        truth=_truth(objects, inputs, holds, predicates, known, numbers[-1]),
        name=f"{recording.name}@{numbers[-1]}",
    )


def choose_frames(
    recording: Recording, form: WindowForm, rng: np.random.Generator, predicates: tuple[str, ...]
) -> list[int]:
    """Numbers of a window's frames, ascending: as the sliding window would keep them, counted from the newest.

    predicates: the window lies where one of them holds, each that the recording has as likely as any other; empty, or
    none of them there: anywhere.
    """
    stamps, count, interval = recording.stamps_ns, form.frames, form.interval_ns
    spans: dict[str, list[tuple[int, int]]] = {}
    for r in recording.relations:
        if r.predicate in predicates:
            spans.setdefault(r.predicate, []).append((r.start_frame, r.end_frame))
    if spans:
        words = sorted(spans)
        chosen = spans[words[rng.integers(len(words))]]
        start, end = chosen[rng.integers(len(chosen))]
        newest = int(rng.integers(start, min(end + 2, len(stamps))))  # how it ends is to be seen too
    else:
        full = np.flatnonzero(stamps - stamps[0] >= (count - 1) * interval - _tolerance(interval))
        newest = int(full[rng.integers(len(full))]) if len(full) else len(stamps) - 1
    numbers = [newest]
    while len(numbers) < count:
        before = int(np.searchsorted(stamps, stamps[numbers[0]] - interval + _tolerance(interval), side="right")) - 1
        before = min(before, numbers[0] - 1)
        if before < 0:
            break
        numbers.insert(0, before)
    return numbers


def _tolerance(interval_ns: int) -> int:
    """Stamps jitter: a frame that comes this much early is taken for one at its time."""
    return interval_ns // 20


def _placed(frames: list[LabelledFrame], shift_m: Float64) -> Window:
    """The frames in the core frame, on the grid that the pipeline would lay, moved by ``shift_m`` (float64[3])."""
    aligned = tuple(
        AlignedFrame(
            frame=f.frame,
            points=transform_points(f.T_world_sensor, f.frame.points),
            T_core_sensor=f.T_world_sensor,
            alignment="tf",
            graph_frame_id="world",
            T_graph_core=np.eye(4),
        )
        for f in frames
    )
    # A frame of few points says little of where the floor is; the fullest stands in where all are like that.
    settled = [a for a in aligned if len(a.frame) >= MIN_ORIGIN_POINTS]
    first = settled[0] if settled else max(aligned, key=lambda a: len(a.frame))
    return Window(aligned, 0, voxel_origin(first) + shift_m)


def _denser(grid: VoxelGrid, factor: float) -> VoxelGrid:
    """The grid as if every voxel held so many times the points."""
    if factor == 1.0:
        return grid
    features = grid.features.clone()
    column = FEATURE_NAMES.index("log_points")
    features[:, column] = torch.log1p(torch.expm1(features[:, column]) * factor)
    return replace(grid, features=features)


def _truth(
    objects: list[TrueObject],
    inputs: PairInputs,
    holds: dict[tuple[int, int], np.ndarray],
    predicates: tuple[str, ...],
    known_attributes: tuple[str, ...],
    newest: int,
) -> WindowTruth:
    known = frozenset(known_attributes)
    table = np.zeros((len(inputs.pairs), len(predicates), inputs.seen.shape[1]), dtype=bool)
    for row, (subject, object_) in enumerate(inputs.pairs.tolist()):
        if (subject, object_) in holds:
            table[row] = holds[subject, object_]
    attributes = tuple(
        tuple(a.name for a in o.attributes if a.start_frame <= newest < a.end_frame and a.name in known)
        for o in objects
    )
    return WindowTruth(
        object_ids=tuple(o.object_id for o in objects),
        labels=tuple(o.label for o in objects),
        is_thing=torch.tensor([o.is_thing for o in objects], dtype=torch.bool),
        attributes=attributes,
        known_attributes=known_attributes,
        pairs=torch.from_numpy(inputs.pairs),
        geometry=torch.from_numpy(inputs.geometry),
        motion=torch.from_numpy(inputs.motion),
        frame_geometry=torch.from_numpy(inputs.per_frame),
        seen=torch.from_numpy(inputs.seen),
        predicates=predicates,
        holds=torch.from_numpy(table),
    )
