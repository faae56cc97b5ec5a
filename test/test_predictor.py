"""How the model's parts are wired to each other: which slot, which time, which label and which place reach which part.

The tiny checkpoint's real parts run; spies record what they are given. Its weights are random, so the tests decide what
is there: slot 1 is a person on the left and slot 4 a table on the right, and no other slot is present. Code that counts
slots instead of using their numbers, or mixes the two up, shows.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from psg4d_ros.errors import ContextError
from psg4d_ros.model.chain import Branches, DescribedObject
from psg4d_ros.model.features import FrameFeatures
from psg4d_ros.model.geometry import GEOMETRY_NAMES
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.structures import AlignedFrame, GraphStatus, PointFrame, Window

STEP = 250_000_000
PRESENT = [1, 4]
LABELS = ["person", "table"]
SOUTH, NORTH = (0.0, -5.0, 1.0), (0.0, 5.0, 1.0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def watch(spy):
    """Put the person into slot 1 and the table into slot 4, the only words there are, and record what the parts of a
    predictor are given."""

    def place(output, arguments):
        x = arguments["tokens"].fine_positions[:, 0]
        presence = torch.full_like(output.presence_logits, -9.0)
        presence[PRESENT] = 9.0
        masks = torch.full_like(output.mask_logits, -9.0)
        masks[PRESENT] = torch.where(torch.stack([x < 0, x > 0]), 9.0, -9.0)
        return output._replace(presence_logits=presence, mask_logits=masks)

    def name(result, arguments):
        assert list(arguments["class_phrases"]) == LABELS
        return 50 * torch.eye(2), torch.full_like(result[1], -9.0)

    def parts(predictor: WindowPredictor) -> SimpleNamespace:
        model = predictor.model
        predictor.vocabulary = predictor.vocabulary.with_words(LABELS, replace=True)
        return SimpleNamespace(
            turn1=spy(model.chain, "turn1"),
            decode_masks=spy(predictor.backend, "decode_masks", place),
            name_objects=spy(model.chain, "name_objects", name),
            turn2=spy(model.chain, "turn2"),
            relation_head=spy(model.relation_head, "forward"),
        )

    return parts


def scene(sensor=(SOUTH, SOUTH, SOUTH), *, origin=(0.0, 0.0, 0.0), epoch=0, shift=0.0, stale=()) -> Window:
    """One frame per position of the sensor; a metre-wide block of points 2 m to the left (x < 0) of ``origin`` and one
    to the right. shift: moves both, metres. stale: numbers of the frames placed with an older transform."""
    frames = []
    for number, position in enumerate(sensor):
        points = np.random.default_rng(number).uniform((-0.5, -0.5, 0), (0.5, 0.5, 1), (600, 3))
        points[:, 0] += np.repeat([-2.0, 2.0], 300)
        points = (points + origin + shift).astype(np.float32)
        frame = PointFrame(points, None, None, np.arange(600, dtype=np.int64), (number + 1) * STEP, "sensor")
        pose = np.eye(4)
        pose[:3, 3] = np.add(position, origin)
        frames.append(AlignedFrame(frame, points, pose, "tf", "odom", np.eye(4), stale_tf=number in stale))
    return Window(tuple(frames), epoch=epoch, origin=np.array(origin))


def test_a_bag_that_loops_repeats_its_stamps_and_is_encoded_anew(make_predictor, spy):
    """The second epoch has an origin of its own, so what the first one encoded under the same stamps means nothing."""
    predictor = make_predictor()
    predictor.predict(scene(epoch=0))
    encoded = spy(predictor.backend, "encode")
    again = scene(epoch=1, origin=(3.0, -1.0, 0.4), shift=0.3)
    looped, fresh = predictor.predict(again), make_predictor().predict(again)
    assert [call.stamp_ns for call in encoded] == [STEP, 2 * STEP, 3 * STEP]
    assert looped.instances == fresh.instances
    for found, expected in zip(looped.point_instance, fresh.point_instance, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_positions_of_a_window_are_centred_keep_their_height_and_know_their_time(make_predictor, spy):
    """Whatever is attended to: scene tokens, second-level voxels and finest voxels; so is the aggregator."""

    def frame(number: int, x: float, z: float) -> FrameFeatures:
        parts = []
        for k, channels in enumerate((8, 16, 16)):  # finest voxels, second-level voxels, scene tokens
            parts += [torch.randn(2, channels), torch.tensor([[x - k, 7.0, z + k], [x + k, 9.0, z + k]])]
        return FrameFeatures(*parts[:2], torch.zeros(2, dtype=torch.int64), *parts[2:], number * STEP, False)

    model = make_predictor().model
    aggregated = spy(model.temporal, "forward")
    frames = [frame(1, 100.0, 1.0), frame(2, 102.0, 1.5), frame(3, 107.0, 2.0)]
    window = model.gather(frames)
    middle = torch.tensor([103.0, 8.0, 0.0])  # of the finest voxels, across; not of their height
    for name, found in (("fine", window.fine_positions), ("mid", window.mid_positions), ("token", window.positions)):
        centers = torch.cat([getattr(f, f"{name}_centers") for f in frames])
        torch.testing.assert_close(found[:, :3], centers - middle, msg=lambda text, name=name: f"{name}: {text}")
        assert found[:, 3].tolist() == [-0.5, -0.5, -0.25, -0.25, 0.0, 0.0], name
    assert aggregated[0].positions is window.positions
    assert torch.equal(aggregated[0].tokens, torch.cat([f.tokens for f in frames]))
    assert torch.equal(window.tokens, aggregated[0].result)


def test_the_language_model_reads_the_scene_and_the_masks_read_its_slots(make_predictor, watch):
    predictor = make_predictor()
    parts = watch(predictor)
    predictor.predict(scene())
    tokens = parts.decode_masks[0].tokens.tokens
    assert tokens.std(dim=0).min() > 0, "the tokens differ, so this scene can tell"
    with torch.inference_mode():
        assert torch.equal(parts.turn1[0].scene_tokens, predictor.model.projector(tokens))
    assert parts.decode_masks[0].slot_hidden is parts.turn1[0].result.slot_hidden


def test_an_object_is_named_by_the_slot_it_came_from(make_predictor, watch):
    predictor = make_predictor()
    parts = watch(predictor)
    prediction = predictor.predict(scene())
    named = parts.name_objects[0]
    assert torch.equal(named.slot_hidden, parts.turn1[0].result.slot_hidden[PRESENT])
    assert torch.equal(named.class_embeddings, parts.decode_masks[0].result.class_embeddings[PRESENT])
    assert [i.label for i in prediction.instances] == LABELS
    left = prediction.window.newest.points[:, 0] < 0
    assert prediction.point_instance[-1].tolist() == np.where(left, 1, 2).tolist()


def test_without_the_language_model_an_object_is_named_by_its_mask(make_predictor, watch):
    predictor = make_predictor(use_language_model=False)
    parts = watch(predictor)
    assert predictor.predict(scene()).status is GraphStatus.DEGRADED_NO_LLM
    assert parts.decode_masks[0].slot_hidden is None
    assert parts.name_objects[0].slot_hidden is None
    assert torch.equal(parts.name_objects[0].class_embeddings, parts.decode_masks[0].result.class_embeddings[PRESENT])


def test_the_language_model_writes_about_the_slots_that_are_present(make_predictor, watch, spy):
    predictor = make_predictor(decoding="generate", relations=False)
    parts = watch(predictor)
    chosen = spy(Branches, "select")
    predictor.predict(scene())
    assert [call.rows.tolist() for call in chosen] == [PRESENT]
    assert torch.equal(chosen[0].result.hidden, parts.turn1[0].result.slot_hidden[PRESENT])


def test_turn_2_reads_each_object_with_its_own_slot_label_and_state(make_predictor, watch):
    predictor = make_predictor()
    parts = watch(predictor)
    predictor.predict(scene())
    asked = parts.turn2[0]
    assert asked.turn1 is parts.turn1[0].result
    assert asked.objects == [DescribedObject(1, "person"), DescribedObject(4, "table")]
    assert torch.equal(asked.slot_states, parts.decode_masks[0].result.slot_states[PRESENT])
    assert sorted(asked.pairs.tolist()) == [[0, 1], [1, 0]]


def test_a_relation_is_scored_from_the_labels_answer_and_times_of_its_own_pair(make_predictor, watch):
    predictor = make_predictor()
    parts = watch(predictor)
    prediction = predictor.predict(scene())
    scored, pairs = parts.relation_head[0], parts.turn2[0].pairs
    phrases = predictor.model.language_model.phrase_embeddings(LABELS)
    assert not torch.equal(phrases[0], phrases[1])
    assert torch.equal(scored.subjects, phrases[pairs[:, 0]])
    assert torch.equal(scored.objects, phrases[pairs[:, 1]])
    assert torch.equal(scored.pair_hidden, parts.turn2[0].result.pair_hidden)
    assert torch.equal(scored.geometry, parts.turn2[0].geometry)
    assert torch.equal(scored.motion, parts.turn2[0].motion)
    assert scored.times_s.tolist() == [-0.5, -0.25, 0.0]
    assert {(r.subject, r.object) for r in prediction.relations} == {(0, 1), (1, 0)}


@pytest.mark.parametrize("decoding", ["score", "generate"])
def test_turn_2_reads_an_object_that_two_slots_found_one_after_the_other_once(make_predictor, watch, spy, decoding):
    """The table is in slot 4 until the newest frame, where it is in slot 3 and surer."""
    predictor = make_predictor(decoding=decoding)
    parts = watch(predictor)

    def split(output, arguments):
        positions = arguments["args"][1].fine_positions
        x, time = positions[:, 0], positions[:, -1]
        newest = time == time.max()
        output.presence_logits[3], output.presence_logits[4] = 9.0, 3.0
        output.mask_logits[3] = torch.where((x > 0) & newest, 9.0, -9.0)
        output.mask_logits[4] = torch.where((x > 0) & ~newest, 9.0, -9.0)
        return output

    spy(predictor.backend, "decode_masks", split)
    spy(
        predictor.model.chain,
        "name_objects",
        lambda result, arguments: (50 * torch.eye(2)[[0, 1, 1]], -9.0 + 0 * result[1]),
    )
    prediction = predictor.predict(scene())
    assert [i.label for i in prediction.instances][:1] == ["person"] and len(prediction.instances) == 2
    assert [int((labels == 2).sum()) for labels in prediction.point_instance] == [300] * 3
    asked = parts.turn2[0]
    assert [o.slot for o in asked.objects] == [1, 3]
    assert sorted(asked.pairs.tolist()) == [[0, 1], [1, 0]]


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (64.0, 64.0, 2.0)])
def test_left_is_left_of_the_sensor_wherever_the_run_began(make_predictor, watch, origin):
    """Seen from the south the person (x < 0) is left of the table; from the north it is right of it."""
    predictor = make_predictor()
    parts = watch(predictor)
    predictor.predict(scene([SOUTH, SOUTH, NORTH], origin=origin))
    scored = parts.relation_head[0]
    person_first = parts.turn2[0].pairs.tolist().index([0, 1])
    right, away = GEOMETRY_NAMES.index("right_union"), GEOMETRY_NAMES.index("away_union")
    per_frame = scored.frame_geometry[person_first]
    assert per_frame[:, right].sign().tolist() == [-1, -1, 1]
    assert scored.geometry[person_first, right] > 0, "as the newest frame saw it"
    assert per_frame[:, away].abs().max() < 0.1, "both are as far away as the other"


def test_the_status_tells_of_an_old_transform_under_the_newest_frame_only(make_predictor):
    predictor = make_predictor()
    found = predictor.predict(scene(stale=[2]))
    assert found.status is GraphStatus.STALE_TF
    assert "older transform" in found.status_text
    assert make_predictor().predict(scene(stale=[0, 1])).status is GraphStatus.OK


@pytest.mark.parametrize("decoding", ["score", "generate"])
@pytest.mark.parametrize("error, lacking", [(torch.OutOfMemoryError, "memory"), (ContextError, "context")])
def test_turn_2_without_room_leaves_relations_to_geometry(make_predictor, watch, monkeypatch, decoding, error, lacking):
    predictor = make_predictor(decoding=decoding)
    parts = watch(predictor)

    def fail(*_, **__):
        raise error("injected")

    with monkeypatch.context() as broken:
        broken.setattr(predictor.model.chain, "turn2", fail)
        found = predictor.predict(scene())
    assert found.status is GraphStatus.DEGRADED_NO_LLM
    assert predictor.counts[f"language_model_out_of_{lacking}"] == 1
    assert parts.relation_head[0].pair_hidden is None
    assert {(r.subject, r.object) for r in found.relations} == {(0, 1), (1, 0)}
    assert predictor.predict(scene()).status is GraphStatus.OK, "the next window has the language model again"


@pytest.mark.parametrize("turn", [1, 2])
def test_writing_without_memory_leaves_what_scoring_says(make_predictor, watch, monkeypatch, turn):
    predictor = make_predictor(decoding="generate")
    parts = watch(predictor)
    write = predictor.model.language_model.token_logits

    def fail(hidden):
        if turn == 1 + len(parts.turn2):
            raise torch.OutOfMemoryError("injected")
        return write(hidden)

    monkeypatch.setattr(predictor.model.language_model, "token_logits", fail)
    found = predictor.predict(scene())
    assert found.status is GraphStatus.DEGRADED_NO_LLM
    assert predictor.counts["language_model_out_of_memory"] == 1
    assert len(found.instances) == 2
    if turn == 1:
        assert [i.label for i in found.instances] == LABELS
    else:
        assert {(r.subject, r.object) for r in found.relations} == {(0, 1), (1, 0)}


def test_torch_computes_on_as_many_threads_as_configured(make_predictor):
    make_predictor(threads=0)
    assert torch.get_num_threads() == 1, "0 leaves them as they are"
    make_predictor(threads=2)
    assert torch.get_num_threads() == 2
