"""Videos with annotated boxes: CAD-120 (images) and bimacs_zed (3D)."""

import json
from pathlib import Path

import numpy as np
import pytest

from psg4d_ros.data.bimacs import open_bimacs
from psg4d_ros.data.video import OBJECT_ID, PERSON_ID, read_cad120
from psg4d_ros.errors import DatasetError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def needs(folder: str):
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"real data absent: {SHARED / folder}")


def segment(start: int, end: int, affordance: int) -> dict:
    n = end - start + 1
    return {
        "start": start,
        "end": end,
        "human_affordance": 0,
        "object_affordance": affordance,
        "object_bboxes": [[0.25, 0.5, 0.5, 0.75]] * n,
        "human_bboxes": [[0.04, 0.44, 0.71, 0.66]] * n,  # (millimetres + 1000 -/+ 20) / 2000; y1 x1 y2 x2
    }


def cad120() -> dict:
    segments = [segment(10, 12, 6), segment(13, 14, 11), segment(20, 21, 8)]
    return {"v1": {"high_level_activity": 4, "object_type": "1:microwave", "segments": segments}}


def written(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_cad120_says_what_the_person_does_to_the_object_and_where_it_is(tmp_path):
    (video,), skipped = read_cad120(written(tmp_path / "cad.json", cad120()))
    assert (video.name, video.activity, video.frames.tolist()) == (
        "v1",
        "microwaving food",
        [10, 11, 12, 13, 14, 20, 21],
    )
    assert [(o.object_id, o.label) for o in video.objects] == [(PERSON_ID, "person"), (OBJECT_ID, "microwave")]
    spans = [(r.predicate, r.start_frame, r.end_frame) for r in video.relations]
    assert spans == [("opening", 0, 3), ("closing", 5, 7)]  # in between the object was not touched
    np.testing.assert_allclose(video.boxes[0], (160, 240, 320, 360))
    np.testing.assert_allclose(video.person_extent[0], (-0.10, -0.90, 0.30, 0.40), atol=1e-6)
    assert not skipped


def test_a_box_that_was_not_found_is_nan_and_counted(tmp_path):
    values = cad120()
    values["v1"]["segments"][0]["object_bboxes"] = [[0, 0, 0, 0], [0.1, 0.1, 0.2, 0.2]]  # and one short
    (video,), skipped = read_cad120(written(tmp_path / "cad.json", values))
    assert np.isnan(video.boxes[:3, 0]).tolist() == [True, False, True]
    assert skipped == {"the object's box is missing or empty in a frame": 2}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v.update(high_level_activity=9), "video 'v1': high_level_activity is 9, expected 0 to 8"),
        (lambda v: v.update(object_type="bowl"), "object_type is 'bowl', expected one such as '1:bowl'"),
        (lambda v: v["segments"][1].update(object_affordance=13), "segment 1: object_affordance is 13"),
        (lambda v: v["segments"][1].update(end=12), "segment 1 spans 13 to 12"),
        (lambda v: v["segments"][1]["human_bboxes"].pop(), "segment 1 has 2 and 1 boxes, expected 2 of each"),
        (lambda v: v["segments"][0]["object_bboxes"].__setitem__(1, [0, 0, 1]), r"object_bboxes\[1\] is \[0, 0, 1\]"),
        (lambda v: v["segments"].append(segment(11, 12, 0)), "segment 3 starts at frame 11 and ends before 22"),
        (lambda v: v.update(segments=[]), "has no list 'segments'"),
    ],
)
def test_cad120_of_another_form_names_video_and_segment(tmp_path, edit, says):
    values = cad120()
    edit(values["v1"])
    with pytest.raises(DatasetError, match=says):
        read_cad120(written(tmp_path / "cad.json", values))


FIELDS = ["instance", "class", "certainty", "x0", "y0", "z0", "x1", "y1", "z1"]


def take(frames: int = 40) -> dict:
    """A hand above and to the left of a bottle in the camera's frame (y down): the file says "below", wrongly."""
    hand = ["right hand_1", "right hand", 1, -0.3, -0.4, 1.0, -0.2, -0.3, 1.2]
    bottle = ["bottel_1", "bottel", 1, 0.1, 0.0, 0.9, 0.2, 0.3, 1.0]
    relations = [[0, "below", 1], [0, "left of", 1], [0, "stable", 1]]
    return {
        "obj_fields": FIELDS,
        "hand_action_gt": {"right_hand": [0, [0, None, None], 10, [3, 6, "bottle_1"], 30, [0, None, None], frames - 1]},
        "frames": [{"f": f, "obj": [hand, bottle], "rel": relations} for f in range(frames)],
    }


def open_take(folder: Path, values: dict):
    written(folder / "take.json", values)
    return open_bimacs(folder)[0]


def unshared(values: dict) -> dict:
    """A copy whose frames share no lists, so that one of them can be changed."""
    return json.loads(json.dumps(values))


def spans_of(recording) -> list[tuple]:
    labels = {o.object_id: o.label for o in recording.objects}
    return [
        (labels[r.subject_id], r.predicate, labels[r.object_id], r.start_frame, r.end_frame)
        for r in recording.relations
    ]


def test_a_take_becomes_a_recording_of_boxes_in_a_world_with_z_up(tmp_path):
    recording = open_take(tmp_path, take())
    assert (recording.name, len(recording)) == ("take", 40)
    assert [(o.object_id, o.label) for o in recording.objects] == [(1, "bottle"), (2, "hand")]
    assert recording.boxes is not None
    np.testing.assert_allclose(recording.boxes[0, 1], [[1.0, 0.2, 0.3], [1.2, 0.3, 0.4]], atol=1e-6)
    frames = list(recording.open_frames())
    assert len(frames) == 40 and all(len(f.frame) == 0 for f in frames)
    assert [f.frame.stamp_ns for f in frames] == recording.stamps_ns.tolist()


def test_inverted_words_are_put_right_and_people_s_labels_are_kept(tmp_path):
    assert spans_of(open_take(tmp_path, take())) == [
        ("hand", "above", "bottle", 0, 40),
        ("hand", "left of", "bottle", 0, 40),
        ("hand", "lifting", "bottle", 10, 30),
    ]


def test_flicker_of_the_rules_is_settled(tmp_path):
    values = take()
    for f in range(40):
        present = f not in (10, 11, 12) and not 20 <= f < 30 and f < 32  # a gap of 3, a gap of 10, a blip of 2
        values["frames"][f]["rel"] = [[0, "left of", 1]] if present else []
    assert spans_of(open_take(tmp_path, values))[0] == ("hand", "left of", "bottle", 0, 20)
    assert len(spans_of(open_take(tmp_path, values))) == 2  # the other is the action


def test_an_object_out_of_sight_has_no_box(tmp_path):
    values = take()
    values["frames"][5] = {"f": 5, "obj": values["frames"][5]["obj"][:1], "rel": []}
    recording = open_take(tmp_path, values)
    assert recording.boxes is not None
    assert np.isnan(recording.boxes[5, 0]).all() and not np.isnan(recording.boxes[5, 1]).any()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v["frames"][3]["rel"].append([0, "near", 7]), "a relation is not"),
        (lambda v: v["hand_action_gt"]["right_hand"].__setitem__(3, [3, 6, "cup_1"]), "'cup_1', which is in no frame"),
        (lambda v: v["hand_action_gt"]["right_hand"].__setitem__(3, [99, 6, "bottle_1"]), "not one of KIT's"),
        (lambda v: v["hand_action_gt"]["right_hand"].__setitem__(4, 400), "does not lie within the take"),
    ],
)
def test_what_does_not_fit_a_take_is_left_out_and_counted(tmp_path, caplog, edit, says):
    values = unshared(take())
    edit(values)
    open_take(tmp_path, values)
    assert says in caplog.text and "1 left out" in caplog.text


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v.update(obj_fields=FIELDS[:-1]), "'obj_fields' is"),
        (lambda v: v["frames"].pop(4), "frame 4 is numbered 5, expected frames without gaps"),
        (lambda v: v["frames"][2]["obj"].append(v["frames"][2]["obj"][0]), "frame 2 holds 'right hand_1' twice"),
        (lambda v: v["frames"][2].update(obj=[["a", "b", 1, 0, 0, 0, 0, 0, None]]), "six finite coordinates"),
        (lambda v: v.update(frames=[]), "has no list 'frames'"),
        (lambda v: v["hand_action_gt"].update(third_hand=[0]), "hand_action_gt.third_hand is not"),
    ],
)
def test_a_take_of_another_form_names_file_and_frame(tmp_path, edit, says):
    values = unshared(take())
    edit(values)
    with pytest.raises(DatasetError, match=f"take.json.*{says}"):
        open_take(tmp_path, values)


def test_a_folder_without_takes_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"has no \*.json"):
        open_bimacs(tmp_path)


@needs("cad120")
def test_real_cad120():
    videos, skipped = read_cad120(SHARED / "cad120" / "cad120_subjects_1_3_4.json.gz")
    assert len(videos) == 84
    assert sum(len(v.relations) for v in videos) == 288
    assert skipped["the object's box is missing or empty in a frame"] == 977 + 11  # zeros, and lists one short


@needs("bimacs_zed")
def test_the_words_of_the_real_takes_agree_with_their_boxes():
    """above: higher centre; in front of: nearer to the camera; left of: further left as the camera sees it."""
    recordings = open_bimacs(SHARED / "bimacs_zed")
    assert len(recordings) == 5
    for recording in recordings:
        assert recording.boxes is not None
        centre = recording.boxes.mean(axis=2)
        for predicate, axis, sign in (("above", 2, 1), ("in front of", 0, -1), ("left of", 1, 1)):
            right = [
                sign * (centre[r.start_frame : r.end_frame, r.subject_id - 1, axis]
                        - centre[r.start_frame : r.end_frame, r.object_id - 1, axis]) > 0
                for r in recording.relations
                if r.predicate == predicate
            ]  # fmt: skip
            assert np.concatenate(right).mean() > 0.94, (recording.name, predicate)
        assert {"lifting", "stirring", "pouring into"} <= {r.predicate for r in recording.relations}
        lift = next(r for r in recording.relations if r.predicate == "lifting")
        rise = centre[lift.end_frame - 1, lift.object_id - 1, 2] - centre[lift.start_frame, lift.object_id - 1, 2]
        assert rise > 0.05, "what is lifted goes up"
