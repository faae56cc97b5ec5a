"""The model with given tubes: what is given reaches every part as it is, and the rest runs as it does without.

The tiny checkpoint's real parts run, spied upon.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given_scenes import (
    CUP,
    NOTHING,
    PERSON,
    PLACES,
    SLOTS,
    STEP,
    TABLE,
    frame_of,
    scene,
    slots_at,
    unnamed,
    window_of,
)

from psg4d_ros.model.chain import DescribedObject
from psg4d_ros.runtime import predictor as predictor_module
from psg4d_ros.runtime.given import GivenObject, GivenTubes
from psg4d_ros.structures import GraphStatus, PointFrame, Window

pytestmark = pytest.mark.usefixtures("one_thread")


# Labels


def test_predcls_asks_turn_2_about_the_given_labels(make_predictor, spy):
    predictor = make_predictor()
    asked, scored = spy(predictor.model.chain, "turn2"), spy(predictor.model.relation_head, "forward")
    window, given = scene(objects=(TABLE, GivenObject(40, "human"), GivenObject(7, "grail")))
    prediction = predictor.predict(window, given)
    labels = ["table", "grail", "human"]
    assert [o.label for o in asked[0].objects] == labels, "by ascending id, word by word"
    assert [i.label for i in prediction.instances] == labels
    phrases, pairs = predictor.model.language_model.phrase_embeddings(labels), asked[0].pairs
    assert torch.equal(scored[0].subjects, phrases[pairs[:, 0]])
    assert torch.equal(scored[0].objects, phrases[pairs[:, 1]])
    known = predictor.vocabulary
    assert [i.class_id for i in prediction.instances] == [known.class_id("table"), -1, known.class_id("person")]
    assert [(i.score, i.alternatives) for i in prediction.instances] == [(1.0, ())] * 3


def test_the_given_labels_are_in_the_text_that_turn_2_reads(make_predictor, spy):
    predictor = make_predictor()
    read = spy(predictor.model.language_model, "embed")
    window, given = scene(objects=(GivenObject(3, "zither"), PERSON, CUP))
    predictor.predict(window, given)
    word = predictor.model.language_model.encode(" zither")
    texts = [torch.as_tensor(call.ids).tolist() for call in read]
    assert any(text[i : i + len(word)] == word for text in texts for i in range(len(text)))


def test_a_given_label_brings_its_kind_and_stuff_is_never_a_subject(make_predictor):
    window, given = scene(objects=(GivenObject(3, "table", is_thing=False), PERSON, CUP))
    prediction = make_predictor().predict(window, given)
    assert [i.is_thing for i in prediction.instances] == [False, True, True]
    assert {r.subject for r in prediction.relations} == {1, 2}
    assert {r.object for r in prediction.relations} == {0, 1, 2}


def test_sgcls_names_each_tube_by_the_slot_that_lies_there(make_predictor, spy):
    predictor = make_predictor()
    masks = spy(predictor.backend, "decode_masks", slots_at({6: -2.0, 1: 2.0, 4: 0.0}))
    turn1, named = spy(predictor.model.chain, "turn1"), spy(predictor.model.chain, "name_objects")
    asked = spy(predictor.model.chain, "turn2")
    window, given = scene()
    prediction = predictor.predict(window, unnamed(given))
    own = [1, 4, 6]  # of objects 3, 7, 40
    assert len(named) == 1
    assert torch.equal(named[0].slot_hidden, turn1[0].result.slot_hidden[own])
    assert torch.equal(named[0].class_embeddings, masks[0].result.class_embeddings[own])
    assert torch.equal(asked[0].slot_states, masks[0].result.slot_states[own])
    best = [predictor.vocabulary.class_names[i] for i in named[0].result[0].argmax(dim=1)]
    assert [i.label for i in prediction.instances] == best
    assert asked[0].objects == [DescribedObject(s, i.label) for s, i in zip(own, prediction.instances, strict=True)]
    assert all(len(i.alternatives) == predictor.config.num_alternatives for i in prediction.instances)
    kinds = [predictor.vocabulary.is_thing(label) for label in best]
    assert [i.is_thing for i in prediction.instances] == kinds, "what the model names is what its name is"


# Tubes


def test_predcls_owes_the_mask_decoder_nothing_but_states(make_predictor, spy):
    """Whatever the masks say, the same pairs are asked, measured in the same way, with the same text."""
    window, given = scene()
    found = []
    for edit in (slots_at({0: -2.0, 1: 0.0, 2: 2.0}), slots_at({5: 0.1, 2: -2.0}, {5: -3.0}), NOTHING):
        predictor = make_predictor()
        spy(predictor.backend, "decode_masks", edit)
        asked, scored = spy(predictor.model.chain, "turn2"), spy(predictor.model.relation_head, "forward")
        prediction = predictor.predict(window, given)
        found.append((prediction, asked[0], scored[0]))
    (first, first_asked, first_scored), *others = found
    for prediction, asked, scored in others:
        assert prediction.instances == first.instances
        assert all(map(np.array_equal, prediction.point_instance, first.point_instance))
        assert [(o.label, o.attributes) for o in asked.objects] == [
            (o.label, o.attributes) for o in first_asked.objects
        ]
        assert torch.equal(asked.pairs, first_asked.pairs)
        for name in ("geometry", "motion", "frame_geometry", "times_s"):
            assert torch.equal(getattr(scored, name), getattr(first_scored, name)), name
        assert not torch.equal(asked.slot_states, first_asked.slot_states), "these are the decoder's"


def test_predicted_tubes_given_back_with_their_labels_are_related_as_before(make_predictor, spy):
    """There is no second way from tubes to relations."""
    window, _ = scene()
    predictor = make_predictor()
    spy(predictor.backend, "decode_masks", slots_at({1: -2.0, 4: 0.0, 6: 2.0}))
    asked = spy(predictor.model.chain, "turn2")
    predicted = predictor.predict(window)
    assert len(predicted.instances) == 3
    given = GivenTubes(
        tuple(GivenObject(10 * (i + 1), o.label, o.is_thing) for i, o in enumerate(predicted.instances)),
        {f.stamp_ns: 10 * p for f, p in zip(window.frames, predicted.point_instance, strict=True)},
    )
    again = predictor.predict(window, given)
    assert asked[1].objects == asked[0].objects
    assert torch.equal(asked[1].pairs, asked[0].pairs)
    assert torch.equal(asked[1].slot_states, asked[0].slot_states)
    torch.testing.assert_close(asked[1].geometry, asked[0].geometry, atol=1e-4, rtol=0)
    torch.testing.assert_close(asked[1].motion, asked[0].motion, atol=1e-4, rtol=0)

    def scores(prediction):
        return {(r.subject, r.predicate, r.object, r.start_frame, r.end_frame): r.score for r in prediction.relations}

    assert len(scores(predicted)) == predictor.config.max_relations
    common = scores(predicted).keys() & scores(again).keys()
    assert len(common) >= 0.9 * len(scores(predicted)), "the last few may change places"
    for relation in common:
        assert scores(again)[relation] == pytest.approx(scores(predicted)[relation], abs=1e-3)


def test_every_point_keeps_its_object_whatever_the_limits_are(make_predictor):
    """Too few points, no presence, cut by the cap on points: none of it matters to a given tube."""
    window, given = scene()
    prediction = make_predictor(presence_threshold=1.0, min_points=100000, max_points=300).predict(window, given)
    assert prediction.status is GraphStatus.DEGRADED_TRUNCATED
    row = np.zeros(41, np.int32)
    row[[3, 7, 40]] = [1, 2, 3]
    for frame, labels in zip(window.frames, prediction.point_instance, strict=True):
        np.testing.assert_array_equal(labels, row[given.point_object[frame.stamp_ns]])
    assert given.ids_of(prediction).tolist() == [0, 3, 7, 40]


def test_an_object_that_the_voxel_cap_cut_away_is_measured_by_its_points(make_predictor, spy):
    predictor = make_predictor(max_voxels=200)
    cached, measured = spy(predictor.cache, "features"), spy(predictor_module, "measure_pairs")
    far = {40: -2.0, 3: 0.0, 7: 60.0}  # the cap keeps what is nearest to the sensor
    window, given = scene(places=far)
    prediction = predictor.predict(window, given)
    for frame, features, labels in zip(window.frames, cached[0].result, prediction.point_instance, strict=True):
        assert (features.point_voxel.numpy()[labels == 2] < 0).all(), "no voxel of the cup is left"
        own = frame.points[labels == 2]
        table, cup, _ = measured[0].segmentation.boxes[:, window.frames.index(frame)]
        np.testing.assert_allclose(cup, [*own.min(axis=0), *own.max(axis=0)], atol=1e-6)
        kept = features.point_voxel.numpy()[labels == 1]
        own = frame.points[labels == 1]
        means = np.array([own[kept == v].mean(axis=0) for v in np.unique(kept[kept >= 0])])
        np.testing.assert_allclose(table, [*means.min(axis=0), *means.max(axis=0)], atol=1e-6)
    assert [i.label for i in prediction.instances] == ["table", "cup", "person"]
    assert prediction.status is GraphStatus.DEGRADED_TRUNCATED
    assert {(r.subject, r.object) for r in prediction.relations} >= {(1, 0), (0, 1)}


def test_a_box_is_of_the_objects_own_points_alone(make_predictor, spy):
    """Two objects in one voxel: neither widens the other's box; boxes are those of mean points, as for predictions."""
    points = np.array([[1.001, 0, 0], [1.003, 0, 0], [1.040, 0, 0], [1.060, 0, 0], [9, 9, 9]], np.float32)
    owner = np.array([3, 3, 40, 40, 0], np.int32)
    frame = PointFrame(points, None, None, np.arange(5, dtype=np.int64), STEP, "sensor")
    window, given = window_of((frame, owner))
    window = Window(window.frames, epoch=0, origin=np.array([1.0, 0, 0]))
    measured = spy(predictor_module, "measure_pairs")
    make_predictor().predict(window, given)
    boxes = measured[0].segmentation.boxes[:, 0]
    np.testing.assert_allclose(boxes[0], [0.002, 0, 0, 0.002, 0, 0], atol=1e-6)
    np.testing.assert_allclose(boxes[1], [0.040, 0, 0, 0.060, 0, 0], atol=1e-6)


def test_the_surest_of_the_slots_on_a_tube_takes_it_and_takes_no_other(make_predictor, spy):
    predictor = make_predictor()
    same_place = slots_at({2: -2.0, 5: -2.0, 6: -2.0}, {2: 0.0, 5: 2.0, 6: 1.0})
    masks, asked = spy(predictor.backend, "decode_masks", same_place), spy(predictor.model.chain, "turn2")
    window, given = scene()
    predictor.predict(window, given)
    states = masks[0].result.slot_states
    assert asked[0].objects[2].slot == 5
    assert torch.equal(asked[0].slot_states[2], states[5])
    for row in (0, 1):  # nothing lies on the table and the cup
        torch.testing.assert_close(asked[0].slot_states[row], states.mean(dim=0))
    assert predictor.counts["given_tubes"] == 3
    assert predictor.counts["given_tubes_without_slot"] == 2


def test_in_a_voxel_that_two_share_each_counts_for_its_points(make_predictor, spy):
    points = np.full((10, 3), 1.01, np.float32)
    owner = np.array([3] + [40] * 9, np.int32)
    window, given = window_of((PointFrame(points, None, None, np.arange(10, dtype=np.int64), STEP, "sensor"), owner))
    predictor = make_predictor()
    spy(predictor.backend, "decode_masks", slots_at({5: 0.0}))
    asked = spy(predictor.model.chain, "turn2")
    predictor.predict(window, given)
    assert [o.slot for o in asked[0].objects] == [SLOTS, 5]


def test_a_slot_spread_over_the_room_is_no_tubes(make_predictor, spy):
    """It touches each tube, and says nothing of any."""
    places = {n + 1: x for n, x in enumerate(np.linspace(-20, 20, 14).tolist())}

    def everywhere(output, arguments):
        masks, presence = torch.full_like(output.mask_logits, -9.0), torch.full_like(output.presence_logits, -9.0)
        masks[0], presence[0] = 9.0, 9.0
        return output._replace(mask_logits=masks, presence_logits=presence)

    predictor = make_predictor(relations=False)
    spy(predictor.backend, "decode_masks", everywhere)
    window, given = scene(1, places, objects=[GivenObject(i) for i in places])
    predictor.predict(window, given)
    assert predictor.counts["given_tubes_without_slot"] == 14


def test_a_tube_without_a_slot_is_named_by_the_features_of_its_own_voxels(make_predictor, spy):
    """As the mask decoder would name a slot with that mask; the voxels of each level are counted here one by one."""
    predictor = make_predictor(relations=False)
    masks = spy(predictor.backend, "decode_masks", slots_at({1: 2.0}))  # the table has one
    named, cached = spy(predictor.model.chain, "name_objects"), spy(predictor.cache, "features")
    turn1, embedded = spy(predictor.model.chain, "turn1"), spy(predictor.model.decoder, "embed_regions")
    window, given = scene(2)
    prediction = predictor.predict(window, unnamed(given))
    with_slot, without = named
    assert torch.equal(with_slot.slot_hidden, turn1[0].result.slot_hidden[[1]])
    assert without.slot_hidden is None, "there is no slot to have read"
    names = predictor.vocabulary.class_names
    order = [with_slot.result[0][0], without.result[0][0], without.result[0][1]]  # table, cup, person
    assert [i.label for i in prediction.instances] == [names[int(logits.argmax())] for logits in order]

    (call,) = embedded
    assert torch.equal(without.class_embeddings, call.result)
    assert torch.equal(call.states, masks[0].result.slot_states.mean(dim=0).expand(2, -1))
    features, edge = cached[0].result, predictor.model.config.encoder.voxel_size_m
    for level, share in (("fine", call.fine_share), ("mid", call.mid_share)):
        assert torch.equal(getattr(call, level), torch.cat([getattr(f, level) for f in features]))
        assert share.shape == (2, len(getattr(call, level)))
    cells = [np.floor(frame.points / np.float64(edge)).astype(int) // 2 for frame in window.frames]
    own = [given.point_object[frame.stamp_ns] for frame in window.frames]
    coarse = np.concatenate([(f.mid_centers.numpy() / (2 * edge) - 0.5).round().astype(int) for f in features])
    for row, object_id in enumerate((7, 40)):
        voxels = [np.unique(f.point_voxel.numpy()[ids == object_id]) for f, ids in zip(features, own, strict=True)]
        assert call.fine_share[row].sum() == call.mid_share[row].sum() == sum(map(len, voxels)), "blocks are apart"
        inside = {tuple(c) for frame_cells, ids in zip(cells, own, strict=True) for c in frame_cells[ids == object_id]}
        assert {tuple(c) for c in coarse[call.mid_share[row].numpy() > 0]} == inside


def test_more_tubes_than_slots_are_all_there(make_predictor, spy):
    places = {n + 1: float(x) for n, x in enumerate(range(-6, 7))}
    predictor = make_predictor(max_pairs=4096)
    asked = spy(predictor.model.chain, "turn2")
    spy(predictor.backend, "decode_masks", slots_at({k: float(k - 4) for k in range(SLOTS)}))
    window, given = scene(2, places, objects=[GivenObject(i, f"thing {i}") for i in places])
    prediction = predictor.predict(window, given)
    assert [i.label for i in prediction.instances] == [f"thing {i}" for i in range(1, 14)]
    assert prediction.status is GraphStatus.OK
    assert len(asked[0].pairs) == 13 * 12
    assert predictor.counts["given_tubes_without_slot"] == 13 - SLOTS
    assert {r.subject for r in prediction.relations}


@pytest.mark.parametrize("options", [{"decoding": "generate"}, {"use_language_model": False}])
def test_other_ways_to_answer_take_given_tubes_too(make_predictor, spy, options):
    predictor = make_predictor(**options)
    spy(predictor.backend, "decode_masks", slots_at({1: -2.0}))
    window, given = scene()
    assert [i.label for i in predictor.predict(window, given).instances] == ["table", "cup", "person"]
    found = predictor.predict(window, unnamed(given))
    assert {i.label for i in found.instances} <= set(predictor.vocabulary.class_names)
    assert found.relations or options == {"decoding": "generate"}


def test_the_order_of_the_objects_says_nothing(make_predictor):
    window, given = scene()
    turned = GivenTubes(given.objects[::-1], dict(reversed(given.point_object.items())))
    a, b = make_predictor().predict(window, given), make_predictor().predict(window, turned)
    assert a.instances == b.instances
    assert a.relations == b.relations
    assert a.relations


def test_without_given_objects_or_points_nothing_is_predicted(make_predictor):
    window, _ = scene()
    nobody = GivenTubes((), {f.stamp_ns: np.zeros(len(f.frame), np.int32) for f in window.frames})
    found = make_predictor().predict(window, nobody)
    assert (found.instances, found.relations) == ((), ())
    assert not any(labels.any() for labels in found.point_instance)
    empty = PointFrame(np.zeros((0, 3), np.float32), None, None, np.zeros(0, np.int64), STEP, "sensor")
    window, given = window_of((empty, np.zeros(0, np.int32)))
    assert make_predictor().predict(window, given).status is GraphStatus.EMPTY_INPUT


def test_a_window_that_lies_beyond_the_grid_says_so(make_predictor):
    """Nothing of it can be encoded, so nothing is said of its objects, but not silently."""
    frame, owner = frame_of(0, PLACES)
    far = PointFrame(frame.points + np.float32(1e9), None, None, frame.source_index, STEP, "sensor")
    window, given = window_of((far, owner))
    found = make_predictor().predict(window, given)
    assert found.status is GraphStatus.DEGRADED_TRUNCATED
    assert found.instances == ()
    assert given.ids_of(found).tolist() == [0]


# Absent objects


def test_an_object_out_of_sight_is_not_seen_then_and_not_there_if_never(make_predictor, spy):
    predictor = make_predictor()
    measured = spy(predictor.model.relation_head, "forward")
    parts = [frame_of(0, PLACES), frame_of(1, {40: -2.0, 3: 2.0}), frame_of(2, {40: -2.0})]
    window, given = window_of(*parts)
    prediction = predictor.predict(window, given)
    assert [i.label for i in prediction.instances] == ["table", "cup", "person"]
    for r in prediction.relations:
        assert r.end_frame <= (1 if 1 in (r.subject, r.object) else 2), "the cup is gone after one frame"
    assert len(measured) == 1
    late, given = window_of(*parts[1:])
    found = make_predictor().predict(late, given)
    assert [i.label for i in found.instances] == ["table", "person"]
    assert given.ids_of(found).tolist() == [0, 3, 40]


# What does not fit


def test_what_does_not_fit_the_window_is_refused(make_predictor):
    window, given = scene()
    predictor = make_predictor()
    first = window.frames[0].stamp_ns
    with pytest.raises(ValueError, match=f"no tubes are given for the frame of {first} ns"):
        predictor.predict(window, given.since(first + 1))
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(480,\)"):
        predictor.predict(window, given.with_frame(first, np.zeros(3, np.int32)))
    with pytest.raises(ValueError, match=r"objects \[40\]; known: \[3, 7\]"):
        predictor.predict(window, GivenTubes((TABLE, CUP), given.point_object))
    with pytest.raises(ValueError, match="object id -1, expected 0 or more"):
        predictor.predict(window, given.with_frame(first, np.full(480, -1, np.int32)))
    with pytest.raises(ValueError, match="int64, expected a numpy array of int32"):
        given.with_frame(first, np.zeros(480, np.int64))


@pytest.mark.parametrize("object_id", [0, -1, 2**31])
def test_an_object_has_an_id_from_1_on(object_id):
    with pytest.raises(ValueError, match=f"object_id is {object_id}"):
        GivenObject(object_id, "table")


def test_an_object_has_a_label_or_none_and_an_id_of_its_own():
    with pytest.raises(ValueError, match="object 3 has the label ' ', expected a word, or None"):
        GivenObject(3, " ")
    with pytest.raises(ValueError, match=r"distinct ids, got \[3, 3\]"):
        GivenTubes((TABLE, TABLE))


def test_since_and_with_frame_leave_the_value_as_it_was():
    given = GivenTubes((TABLE,)).with_frame(1, np.zeros(2, np.int32)).with_frame(2, np.zeros(2, np.int32))
    assert list(given.since(2).point_object) == [2]
    assert list(given.point_object) == [1, 2]
    assert list(given.since(0).point_object) == [1, 2]
