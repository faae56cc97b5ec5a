"""Training windows: the same whoever makes them, labelled as the points are, and measured as at run time."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_recordings import KITCHEN, Box, recording, with_boxes_only
from torch.utils.data import DataLoader

from psg4d_ros.config import EncoderConfig, PipelineConfig, WindowConfig
from psg4d_ros.data.recording import TrueRelation
from psg4d_ros.errors import DatasetError
from psg4d_ros.model.sparse_encoder import SparseEncoder
from psg4d_ros.pipeline import ScenePipeline
from psg4d_ros.runtime import predictor as predictor_module
from psg4d_ros.runtime.given import GivenObject, GivenTubes
from psg4d_ros.runtime.rulebook import build_rulebook
from psg4d_ros.structures import AlignedFrame, PointFrame
from psg4d_ros.training.augment import Augmentation
from psg4d_ros.training.mask_losses import NOBODY
from psg4d_ros.training.sparse_input import SparseInput, pack, unpack
from psg4d_ros.training.windows import COLORS, JUDGED_PREDICATES, TrainingWindow, WindowDataset, WindowRecipe, draw_form
from psg4d_ros.transforms import transform_points
from psg4d_ros.voxelize import FEATURE_NAMES, voxelize

pytestmark = pytest.mark.usefixtures("one_thread")
AS_RECORDED = WindowRecipe(augment=False)
CUP, TABLE, FLOOR = 2, 3, 4  # object ids of the kitchen
PLAIN = tuple(replace(box, attributes=()) for box in KITCHEN)  # for recordings of any length


def contents(window: TrainingWindow) -> tuple[bytes, str]:
    state = window.__getstate__()
    rest = repr((state["layout"], state["words"], state["name"]))
    return state["buffer"].numpy().tobytes(), rest


def newest_number(window: TrainingWindow) -> int:
    return int(window.name.rsplit("@", 1)[1])


def dataset(recipe: WindowRecipe = AS_RECORDED, seed: int = 0, **options) -> WindowDataset:
    return WindowDataset([recording(**options)], recipe, seed)


# Who makes a window does not matter.


def test_a_window_depends_on_seed_and_index_alone():
    recordings = [recording(name=f"kitchen {n}", seed=n) for n in range(3)]
    made = WindowDataset(recordings, WindowRecipe(), 7)
    in_order = [contents(made[i]) for i in range(6)]
    again = WindowDataset(recordings, WindowRecipe(), 7)
    assert [contents(again[i]) for i in (5, 0, 3)] == [in_order[i] for i in (5, 0, 3)]
    assert len(set(in_order)) == 6
    assert contents(WindowDataset(recordings, WindowRecipe(), 8)[0]) != in_order[0]


def test_workers_hand_over_the_same_windows():
    made = dataset(WindowRecipe())
    loader = DataLoader(made, batch_size=None, sampler=[4, 1, 3], num_workers=2, multiprocessing_context="fork")
    assert [contents(w) for w in loader] == [contents(made[i]) for i in (4, 1, 3)]


def test_a_window_is_one_block_of_memory_and_comes_back_whole():
    window = dataset(WindowRecipe())[0]
    copied = copy.deepcopy(window)
    assert contents(copied) == contents(window)
    assert copied.input.features.untyped_storage().data_ptr() == copied.truth.pairs.untyped_storage().data_ptr()


def test_packing_keeps_types_shapes_and_empty_tensors():
    tensors = [torch.arange(5), torch.zeros(0, 3), torch.tensor([[True, False]]), torch.tensor(2.5)]
    for before, after in zip(tensors, unpack(*pack(tensors)), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_every_recording_has_its_turn_in_each_round():
    made = WindowDataset([recording(name=str(n)) for n in range(5)], AS_RECORDED, 0)
    for round_ in range(3):
        names = {made[round_ * 5 + i].name.split("@")[0] for i in range(5)}
        assert names == {"0", "1", "2", "3", "4"}


# What is said of voxels, objects and pairs is what the recording says.


def test_a_voxel_is_the_object_most_of_its_points_are_of():
    """Counted once more, point by point. Clutter without a label does not take a voxel from anybody."""
    kitchen = recording()

    def with_clutter():
        for labelled in kitchen.open_frames():
            rng = np.random.default_rng(labelled.frame.stamp_ns)
            yield replace(labelled, instance=np.where(rng.random(len(labelled.instance)) < 0.4, 0, labelled.instance))

    recipe = replace(AS_RECORDED, voxel_size_m=0.2)
    window = WindowDataset([replace(kitchen, open_frames=with_clutter)], recipe, 0)[0]
    newest = newest_number(window)
    frames = list(with_clutter())[newest - 3 : newest + 1]
    world = [transform_points(f.T_world_sensor, f.frame.points) for f in frames]
    first = world[0].astype(float)
    origin = [*np.round(np.median(first[:, :2], axis=0)), np.round(np.percentile(first[:, 2], 2.0), 2)]
    shared = 0
    for level, (size, owners) in enumerate([(0.2, window.fine_tube), (0.4, window.mid_tube)]):
        of_frame = window.input.frame[level].numpy()
        for number, (points, labelled) in enumerate(zip(world, frames, strict=True)):
            cells, row = np.unique(np.floor((points - np.array(origin)) / size), axis=0, return_inverse=True)
            found = owners.numpy()[of_frame == number]
            assert len(cells) == len(found)
            for voxel, owner in enumerate(found):
                ids = labelled.instance[row == voxel]
                votes = np.bincount(ids[ids > 0], minlength=1)
                shared += (votes > 0).sum() > 1
                expected = NOBODY if not votes.any() else window.truth.object_ids.index(int(votes.argmax()))
                assert owner == expected
    assert shared > 10, "the case that matters is there"


def test_an_object_of_few_points_is_nobody():
    boxes = (*PLAIN, Box("ball", (2.0, 1.0, 0.0), (0.2, 0.2, 0.2), seen=(0, 1)))
    window = dataset(replace(AS_RECORDED, min_points=100), boxes=boxes, frames=4, relations=())[0]
    assert newest_number(window) == 3
    assert window.truth.labels == ("person", "cup", "table", "floor"), "the ball has 80 points in a single frame"
    assert (window.fine_tube == NOBODY).any()
    more = dataset(replace(AS_RECORDED, min_points=80), boxes=boxes, frames=4, relations=())[0]
    assert more.truth.labels[-1] == "ball"
    assert not (more.fine_tube == NOBODY).any()


def test_relations_hold_in_their_frames_and_attributes_at_the_newest():
    """Walking on the floor ends and standing on it begins with frame 8; the cup is still up to frame 6."""
    made = dataset()
    seen = set()
    for index in range(30):
        window = made[index]
        newest, truth = newest_number(window), window.truth
        numbers = np.arange(newest - 3, newest + 1)
        rows = {(truth.object_ids[s], truth.object_ids[o]): r for r, (s, o) in enumerate(truth.pairs.tolist())}
        for subject, word, object_, start, end in [
            (1, "walking on", FLOOR, 0, 8),
            (1, "standing on", FLOOR, 8, 12),
            (1, "holding", CUP, 9, 12),
        ]:
            holds = truth.holds[rows[subject, object_], truth.predicates.index(word)].numpy()
            np.testing.assert_array_equal(holds, (numbers >= start) & (numbers < end))
        assert truth.attributes == (("walking",), ("still",) if newest < 6 else (), (), ()), "no colours, no red"
        assert window.times_s.tolist() == pytest.approx([-0.75, -0.5, -0.25, 0.0])
        seen.add(newest)
    assert seen == set(range(3, 12)), "windows without augmentation are full, and lie anywhere"


def test_stuff_is_never_a_subject_and_true_pairs_come_first():
    truth = dataset()[0].truth
    assert truth.is_thing[truth.pairs[:, 0]].all()
    assert len(truth.pairs) == 9, "three things with three others each"
    named = {(1, FLOOR), (CUP, TABLE), (TABLE, FLOOR)}
    few = dataset(replace(AS_RECORDED, max_pairs=4)).__getitem__
    kept = [{(t.object_ids[s], t.object_ids[o]) for s, o in t.pairs.tolist()} for t in (few(i).truth for i in range(8))]
    assert all(len(pairs) == 4 for pairs in kept)
    assert all(len(pairs & (named | {(1, CUP)})) >= 2 for pairs in kept), "half of them"


def test_one_object_alone_has_no_pairs():
    truth = dataset(boxes=KITCHEN[:1], relations=())[0].truth
    assert len(truth) == 1
    assert truth.pairs.shape == (0, 2)
    assert truth.holds.shape == (0, len(truth.predicates), 4)


def test_a_hidden_object_is_not_seen_and_its_relation_holds_all_the_same():
    boxes = (*KITCHEN[:1], replace(KITCHEN[1], seen=(0, 10)), *KITCHEN[2:])
    truth = next(w.truth for w in map(dataset(boxes=boxes).__getitem__, range(99)) if newest_number(w) == 11)
    row = [(truth.object_ids[s], truth.object_ids[o]) for s, o in truth.pairs.tolist()].index((CUP, TABLE))
    assert truth.seen[row].tolist() == [True, True, False, False]
    assert truth.holds[row, truth.predicates.index("on")].all()
    assert (truth.frame_geometry[row, 2:] == 0).all()


class _Poses:
    """Transforms of a recording by stamp, as TF would give them."""

    def __init__(self, frames) -> None:
        self.poses = {f.frame.stamp_ns: f.T_world_sensor for f in frames}

    def lookup(self, target, source, stamp_ns):
        return self.poses[stamp_ns], 0


def test_pairs_are_measured_as_at_run_time(tiny_checkpoint, spy):
    """The same frames through the pipeline with given tubes: every number of every pair is the same."""
    kitchen = recording()
    window = WindowDataset([kitchen], AS_RECORDED, 0)[0]
    newest = newest_number(window)
    frames = kitchen.frames(range(newest - 3, newest + 1))
    config = PipelineConfig(window=WindowConfig(num_frames=4))
    config = replace(config, coordinates=replace(config.coordinates, target_frame="world"))
    config = replace(config, inference=replace(config.inference, device="cpu"))
    measured = spy(predictor_module, "measure_pairs")
    pipeline = ScenePipeline.from_checkpoint(tiny_checkpoint, config, _Poses(frames))
    given = GivenTubes(tuple(GivenObject(o.object_id, o.label, o.is_thing) for o in kitchen.objects))
    for labelled in frames:
        given = given.with_frame(labelled.frame.stamp_ns, labelled.instance)
        pipeline.update(labelled.frame, given)
    there, here = measured[-1].result, window.truth
    assert np.array_equal(there.pairs, here.pairs), "nearest first in both"
    np.testing.assert_array_equal(here.geometry, there.geometry)
    np.testing.assert_array_equal(here.frame_geometry, there.per_frame)
    np.testing.assert_array_equal(here.motion, there.motion)
    np.testing.assert_array_equal(here.seen, there.seen)
    np.testing.assert_array_equal(window.times_s, there.times_s.astype(np.float32))


# Which frames a window has.


def test_frames_are_at_least_the_interval_apart():
    made = WindowDataset([recording(frames=40, step_ns=100_000_000)], replace(AS_RECORDED, frame_interval_s=0.25), 0)
    for index in range(10):
        steps = np.diff(made[index].times_s.numpy())
        assert steps == pytest.approx(0.3), "every third frame of ten a second"


def test_a_recording_shorter_than_a_window_gives_what_it_has():
    assert dataset(boxes=PLAIN, frames=2, relations=())[0].input.num_frames == 2


def test_augmented_windows_differ_in_length_and_pace_and_lie_where_something_happens():
    rare = [TrueRelation(1, "holding", CUP, 37, 39), TrueRelation(1, "walking on", FLOOR, 0, 40)]
    recipe = replace(WindowRecipe(), eventful_share=1.0, close_share=0.0, alike=2)
    made = WindowDataset([recording(relations=rare, frames=40)], recipe, 0)
    windows = [made[i] for i in range(80)]
    lengths = [w.input.num_frames for w in windows]
    assert set(lengths) == {1, 2, 3, 4}
    assert lengths.count(4) > 50
    paces = {round(float(w.times_s[-1] - w.times_s[-2]), 2) for w in windows if len(w.times_s) > 1}
    assert paces == {0.25, 0.5}
    holding = windows[0].truth.predicates.index("holding")
    assert sum(bool(w.truth.holds[:, holding].any()) for w in windows) > 15, "2 of 40 frames, but half of the words"


def test_windows_of_a_batch_are_alike():
    """The number of frames changes from eight to eight; a window near the beginning may lack some."""
    forms = [draw_form(WindowRecipe(), np.random.default_rng(i)) for i in range(400)]
    assert np.mean([f.close for f in forms]) == pytest.approx(0.12, abs=0.05)
    made = WindowDataset([recording(boxes=PLAIN, relations=(), frames=40)], WindowRecipe(full_share=0.0), 0)
    lengths = [[made[i].input.num_frames for i in range(start, start + 8)] for start in range(0, 64, 8)]
    assert all(len(set(batch)) == 1 for batch in lengths)
    assert len({batch[0] for batch in lengths}) > 2


def test_slow_windows_have_up_to_so_many_times_the_interval():
    recipe = WindowRecipe(slow_share=0.5, slowest=4)
    intervals = [draw_form(recipe, np.random.default_rng(i)).interval_ns // 250_000_000 for i in range(400)]
    assert set(intervals) == {1, 2, 3, 4}
    assert intervals.count(1) == pytest.approx(200, abs=40)


# What cannot be known is not judged, and what cannot be used is refused.


def colored(frames: int = 12):
    """The kitchen in red."""
    kitchen = recording(frames=frames)

    def open_frames():
        for labelled in kitchen.open_frames():
            red = np.tile(np.array([200, 30, 30], np.uint8), (len(labelled.frame), 1))
            yield replace(labelled, frame=replace(labelled.frame, colors=red))

    return replace(kitchen, open_frames=open_frames)


def test_colours_are_judged_only_where_they_can_be_seen():
    assert "red" in WindowDataset([colored()], AS_RECORDED, 0)[0].truth.known_attributes
    assert COLORS.isdisjoint(dataset()[0].truth.known_attributes), "a LiDAR sees none"
    made, seen = WindowDataset([colored()], WindowRecipe(), 0), set()
    red, blue, has = (FEATURE_NAMES.index(n) for n in ("red", "blue", "has_color"))
    for index in range(60):
        window = made[index]
        features, known = window.input.features, "red" in window.truth.known_attributes
        assert known == bool((features[:, has] > 0).all() and features[:, red].mean() > features[:, blue].mean() + 0.02)
        for label, words in zip(window.truth.labels, window.truth.attributes, strict=True):
            assert ("red" in words) == (known and label == "cup")
        seen.add(known)
    assert seen == {False, True}


def test_windows_without_an_object_are_passed_over():
    boxes = [Box("cup", (0.0, 0.0, 0.0), (0.2, 0.2, 0.2), seen=(30, 32)), *KITCHEN[3:]]
    made = dataset(boxes=boxes, frames=40, relations=())
    hidden = replace(recording(boxes, (), frames=40), objects=made.recordings[0].objects[:1])  # the floor has no label
    for index in range(5):
        assert WindowDataset([hidden], AS_RECORDED, 0)[index].truth.labels == ("cup",)


def test_recordings_without_points_or_without_frames_are_refused():
    with pytest.raises(DatasetError, match="kitchen, hold no object of at least 20 points"):
        WindowDataset([with_boxes_only(recording())], AS_RECORDED, 0)[0]
    with pytest.raises(DatasetError, match="0 recordings hold no frame"):
        WindowDataset([], AS_RECORDED, 0)
    with pytest.raises(IndexError, match="-1"):
        dataset()[-1]


def test_nothing_is_mirrored_where_a_word_names_a_side(spy):
    kitchen, words = recording(relations=[TrueRelation(1, "left of", TABLE, 0, 12)]), ("left of", "on")
    drawn = spy(Augmentation, "draw")
    for predicates, mirrored in ((words, {False}), (JUDGED_PREDICATES, {False, True})):
        made = WindowDataset([kitchen], WindowRecipe(), 0, predicates=predicates)
        assert {made[i].truth.predicates for i in range(12)} == {predicates}
        assert {d.result.mirrored for d in drawn} == mirrored
        drawn.clear()


# Frames side by side.


def one_frame(points: np.ndarray, levels: int) -> SparseInput:
    frame = PointFrame(points.astype(np.float32), None, None, np.arange(len(points), dtype=np.int64), 1, "lidar")
    aligned = AlignedFrame(frame, frame.points, np.eye(4), "tf", "world", np.eye(4))
    grid = voxelize(aligned, np.zeros(3), 0.1, 10_000, "cpu")
    return SparseInput.of(grid, build_rulebook(grid.coords, levels))


def encode(encoder: SparseEncoder, given: SparseInput) -> tuple[torch.Tensor, ...]:
    return encoder(given.features, given.neighbours, given.children, given.parent, given.cell)


@torch.inference_mode()
def test_frames_side_by_side_are_encoded_as_each_alone():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = SparseEncoder(EncoderConfig(channels=(8, 12, 16)), len(FEATURE_NAMES)).eval()
    inputs = [one_frame(rng.uniform(0, 1.5, (count, 3)), 3) for count in (300, 0, 1, 150)]
    joined = SparseInput.join([SparseInput.join(inputs[:2], torch.int32), *inputs[2:]])
    assert joined.num_frames == 4
    assert joined.neighbours[0].dtype == torch.int64
    alone = [encode(encoder, SparseInput.join([i])) for i in inputs]
    for level, together in zip((0, 1, 2), encode(encoder, joined), strict=True):
        torch.testing.assert_close(together, torch.cat([a[level] for a in alone]), rtol=1e-4, atol=1e-5)
        counts = torch.tensor([len(i.centers[level]) for i in inputs])
        assert torch.equal(joined.frame[level], torch.repeat_interleave(torch.arange(4), counts))
        assert torch.equal(joined.centers[level], torch.cat([i.centers[level] for i in inputs]))


def test_single_frames_of_a_recording_are_those_of_a_full_pass(box_scene):
    for source in (recording(), box_scene.recording()):
        everything = list(source.open_frames())
        for number, labelled in zip((1, 4, 5), source.frames((1, 4, 5)), strict=True):
            np.testing.assert_array_equal(labelled.frame.points, everything[number].frame.points)
            np.testing.assert_array_equal(labelled.instance, everything[number].instance)
    assert recording().frames(()) == []


def test_simulated_scenes_make_windows(box_scene):
    window = WindowDataset([box_scene.recording()], WindowRecipe(min_points=5), 0)[0]
    assert set(window.truth.labels) <= {o.label for o in box_scene.objects}
    assert torch.isfinite(window.input.features).all()
    assert int(window.fine_tube.max()) < len(window.truth)
