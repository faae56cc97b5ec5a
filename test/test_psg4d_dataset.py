"""PSG4D: small data sets in the published form, written here, are read as recordings, and faults are named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psg4d_ros.cli import main
from psg4d_ros.data.psg4d_dataset import check_psg4d, open_psg4d
from psg4d_ros.errors import DatasetError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HEIGHT, WIDTH = 12, 16
NEAR = 0.5

GTA = {
    "objects": {"thing": ["person", "chair", "cell phone"], "stuff": ["floor", "wall"]},
    "relations": ["standing on", "sit on", "holding"],
    "split": {"train": ["kitchen_1"], "test": ["street_2"]},
    "data": [
        {
            "video_id": "kitchen_1",
            "meta": {"num_frames": 3, "fps": 5},
            "object": [
                {"object_id": 7, "category": "person"},
                {"object_id": 1001, "category": "floor"},
                {"object_id": 9, "category": "cell phone"},
            ],
            # The form of the GTA file, then the one that the family of data sets shares.
            "relations": [[7, "standing on", 1001, [0, 1]], [7, 9, "holding", [[0, 0], [2, 2]]]],
        },
        {
            "video_id": "street_2",
            "meta": {"num_frames": 1, "fps": 5},
            "object": [{"object_id": 1, "category": "chair"}, {"object_id": 2, "category": "person"}],
            "relations": [[2, 1, "sit on", [[0, 0]]]],
        },
    ],
}


def projection() -> np.ndarray:
    """Camera (x right, y up, looking along -z) to device coordinates, row vectors; depth is NEAR / distance."""
    return np.array([[1.0, 0, 0, 0], [0, 1.25, 0, 0], [0, 0, 0, -1.0], [0, 0, NEAR, 0]])


def write_gta_frame(
    root: Path, video: str, number: int, distance_m: np.ndarray, mask: np.ndarray, eye=(0, 0, 0)
) -> None:
    """Camera at ``eye`` looking along the world's +y, the world's z up."""
    T_world_camera = np.eye(4)
    T_world_camera[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).T  # columns: right, up, backward
    T_world_camera[:3, 3] = eye
    P_inv = np.linalg.inv(projection())
    paths = {k: root / k / video / f"{number:06d}" for k in ("images", "depth", "masks", "rage_matrices")}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (200, 10, 10), np.uint8)).save(f"{paths['images']}.bmp")
    np.save(f"{paths['depth']}.npy", ((NEAR / distance_m + 4e-5) * 6.0).astype(np.float32))
    np.save(f"{paths['masks']}.npy", mask.astype(np.uint16))
    np.savez(f"{paths['rage_matrices']}.npz", P_inv=P_inv, VP_inv=P_inv @ T_world_camera.T)


def kitchen_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), int)
    mask[6:], mask[2:8, 4:8], mask[0, 0] = 1001, 7, 555  # 555 is annotated nowhere
    return mask


@pytest.fixture
def gta(tmp_path) -> Path:
    root = tmp_path / "GTA"
    for number in range(3):
        write_gta_frame(root, "kitchen_1", number, np.full((HEIGHT, WIDTH), 4.0), kitchen_mask(), (10, 20, 1 + number))
    write_gta_frame(root, "street_2", 0, np.full((HEIGHT, WIDTH), 2.0), np.ones((HEIGHT, WIDTH)))
    (root / "sailvos3d.json").write_text(json.dumps(GTA))
    return root


def test_videos_become_recordings(gta):
    kitchen, street = open_psg4d(gta.parent)
    assert (kitchen.name, len(kitchen), street.name) == ("kitchen_1", 3, "street_2")
    assert np.diff(kitchen.stamps_ns).tolist() == [200_000_000] * 2
    assert [(o.object_id, o.label, o.is_thing) for o in kitchen.objects] == [
        (7, "person", True),
        (1001, "floor", False),
        (9, "phone", True),  # the vocabulary's word
    ]
    spans = [(r.subject_id, r.predicate, r.object_id, r.start_frame, r.end_frame) for r in kitchen.relations]
    assert spans == [(7, "standing on", 1001, 0, 2), (7, "holding", 9, 0, 1), (7, "holding", 9, 2, 3)]
    assert street.relations[0].predicate == "sitting on"


def test_splits_choose_videos(gta):
    assert [r.name for r in open_psg4d(gta, "test")] == ["street_2"]
    with pytest.raises(DatasetError, match="no split 'val', expected one of test, train"):
        open_psg4d(gta, "val")


def test_a_video_that_a_split_names_twice_is_taken_once(gta):
    change(gta / "sailvos3d.json", lambda values: values["split"]["test"].append("street_2"))
    assert [r.name for r in open_psg4d(gta, "test")] == ["street_2"]
    assert "split 'test' names video 'street_2' more than once" in check_psg4d(gta)[0]


def test_frames_are_metric_labelled_and_stand_in_a_world_with_z_up(gta):
    frames = list(open_psg4d(gta, "train", stride=1)[0].open_frames())
    assert [f.frame.stamp_ns for f in frames] == open_psg4d(gta, "train")[0].stamps_ns.tolist()
    first, second = frames[:2]
    points = first.frame.points
    np.testing.assert_allclose(points[:, 2], 4.0, rtol=1e-3)  # along the view
    assert points[0, 0] < 0 < points[WIDTH - 1, 0] and points[0, 1] < 0 < points[-1, 1]  # right and down
    np.testing.assert_allclose(points[:, 0].max(), 4.0, rtol=1e-3)  # the projection opens 45 degrees to each side
    assert np.array_equal(first.instance.reshape(HEIGHT, WIDTH), np.where(kitchen_mask() == 555, 0, kitchen_mask()))
    world = points @ first.T_world_sensor[:3, :3].T + first.T_world_sensor[:3, 3]
    np.testing.assert_allclose(world[:, 1], 24.0, rtol=1e-3)  # 4 m in front of y = 20
    assert world[0, 2] > 1.0 > world[-1, 2]
    np.testing.assert_allclose(second.T_world_sensor[:3, 3] - first.T_world_sensor[:3, 3], (0, 0, 1), atol=1e-9)
    assert first.frame.colors is not None and (first.frame.colors == (200, 10, 10)).all()


def test_a_stride_thins_rows_and_columns_and_sky_is_left_out(gta):
    distance = np.full((HEIGHT, WIDTH), 4.0)
    distance[0] = 5000.0
    write_gta_frame(gta, "kitchen_1", 0, distance, kitchen_mask())
    frame = next(open_psg4d(gta, "train", stride=4)[0].open_frames())
    assert len(frame.frame) == 2 * 4  # rows 0, 4, 8 without row 0; columns 0, 4, 8, 12
    assert frame.instance.tolist() == [0, 7, 0, 0, 1001, 1001, 1001, 1001]
    assert frame.frame.source_index[0] == 4 * WIDTH


HOI = {
    "objects": {"thing": ["hand", "bottle"], "stuff": []},
    "relations": ["holding"],
    "split": {"train": ["ZY1/H1/C5/N1/S1/s1/T1"]},
    "data": [
        {
            "video_id": "ZY1/H1/C5/N1/S1/s1/T1",
            "meta": {"num_frames": 2},
            "object": [{"object_id": 1, "mask_id": 3001}, {"object_id": 2, "mask_id": 3005}],
            "relations": [[1, 2, "holding", 0, 1]],  # the form of the HOI file
        }
    ],
}


@pytest.fixture
def hoi(tmp_path) -> Path:
    root, video = tmp_path / "HOI", HOI["data"][0]["video_id"]
    folders = [f"HOI4D_release/{video}/align_rgb", f"HOI4D_depth_video/{video}/align_depth", f"HOI4D_mask/{video}/mask"]
    folders += [f"HOI4D_annotations/{video}/3Dseg", "camera_params/ZY1"]
    for folder in folders:
        (root / folder).mkdir(parents=True)
    image, depth, masks, annotation, camera = (root / folder for folder in folders)
    mask = np.zeros((HEIGHT, WIDTH), np.int32)
    mask[:4], mask[8:] = 3001, 3005
    for number in range(2):
        Image.new("RGB", (WIDTH, HEIGHT), (0, 128, 0)).save(image / f"{number:05d}.jpg")
        Image.fromarray(np.full((HEIGHT, WIDTH), 1500, np.uint16)).save(depth / f"{number:05d}.png")
        np.savez(masks / f"{number:05d}.npz", array=mask.T)
    poses = ["0 0 1", "1 0 0 0", "0 1 0 0", "0 0 1 0", "0 0 0 1", "1 1 2", "1 0 0 0", "0 1 0 0", "0 0 1 2", "0 0 0 1"]
    (annotation / "output.log").write_text("\n".join(poses) + "\n")
    np.save(camera / "intrin.npy", np.array([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]))
    (root / "categories.json").write_text(json.dumps({"1": "hand", "5": "bottle"}))
    (root / "psg4d_hoi.json").write_text(json.dumps(HOI))
    return root


def test_hoi_masks_stand_on_end_and_name_classes_by_number(hoi):
    (recording,) = open_psg4d(hoi, stride=1)
    assert [(o.object_id, o.label) for o in recording.objects] == [(1, "hand"), (2, "bottle")]
    (holding,) = recording.relations
    assert (holding.start_frame, holding.end_frame) == (0, 2)
    assert recording.stamps_ns[1] - recording.stamps_ns[0] == 66_666_667
    first, second = recording.open_frames()
    rows = first.frame.source_index // WIDTH
    assert np.array_equal(first.instance, np.select([rows < 4, rows >= 8], [1, 2]))
    np.testing.assert_allclose(first.frame.points[:, 2], 1.5)
    move = second.T_world_sensor[:3, 3] - first.T_world_sensor[:3, 3]
    np.testing.assert_allclose(move, (2, 0, 0), atol=1e-6)  # the camera's forward is the world's x


def test_the_images_of_gta_may_lie_where_its_scripts_put_them(gta):
    (gta / "psg4d_gta").mkdir()
    for folder in ("images", "depth", "masks", "rage_matrices"):
        (gta / folder).rename(gta / "psg4d_gta" / folder)
    assert check_psg4d(gta) == []
    (gta / "psg4d_gta" / "masks" / "street_2").rename(gta / "psg4d_gta" / "masks" / "elsewhere")
    (gta / "psg4d_gta" / "visible" / "street_2").mkdir(parents=True)
    assert "make them with PSG4D's data/GTA/merge_masks.py" in check_psg4d(gta)[0]


def test_both_parts_under_one_root_are_found_and_whole(gta, hoi):
    assert [r.name for r in open_psg4d(gta.parent)] == ["kitchen_1", "street_2", HOI["data"][0]["video_id"]]
    assert check_psg4d(gta.parent) == []


def change(path: Path, edit) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "says", "relations"),
    [
        (
            lambda v: v["relations"].append([7, 99, "holding", [[0, 1]]]),
            "names object 99, which the record does not",
            3,
        ),
        (
            lambda v: v["relations"].append([7, 9, "holding", [[3, 4]]]),
            "has the span [3, 4], the video has frames 0",
            3,
        ),
        (lambda v: v["relations"].append([7, 9, "holding", [[1, 4]]]), "ends at 4, the video has 3 frames; cut", 4),
        (lambda v: v["relations"].append([7, 9, "holding", [["a", 4]]]), "expected [start, end]; left out", 3),
        (lambda v: v["relations"].append([7, 9, [[0, 1]]]), "expected [subject, object, name, [[start, end], ...]]", 3),
        (
            lambda v: v["relations"].append([7, 9, "flying", [[0, 0]]]),
            "'flying', which the file's 'relations' do not",
            4,
        ),
        (lambda v: v["object"].append({"object_id": 7, "category": "chair"}), "object_id 7, expected a new number", 3),
        (lambda v: v["object"].append({"object_id": 2**31, "category": "chair"}), "object_id 2147483648, expected", 3),
        (lambda v: v["object"].append({"object_id": 5}), "has no category", 3),
        (
            lambda v: v["object"].append({"object_id": 5, "category": "dragon"}),
            "'dragon', which the file's 'objects'",
            3,
        ),
    ],
)
def test_what_does_not_fit_costs_itself_alone_and_is_named(gta, caplog, edit, says, relations):
    change(gta / "sailvos3d.json", lambda values: edit(values["data"][0]))
    (problem,) = check_psg4d(gta)
    assert says in problem and "data[0] (kitchen_1)" in problem
    assert len(open_psg4d(gta)[0].relations) == relations
    assert "1 things left out" in caplog.text


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v["data"][0].pop("video_id"), "data[0] is not a record with a video_id"),
        (lambda v: v["data"][0]["meta"].update(num_frames=0), "meta.num_frames is 0"),
        (lambda v: v["data"][0]["meta"].update(fps="5"), "meta.fps is '5'"),
        (lambda v: v["data"][0].pop("relations"), "has no lists 'object' and 'relations'"),
        (lambda v: v["data"][0].update(video_id="../../etc"), "leads out of the data set's folders"),
        (lambda v: v["data"][0].update(video_id="a\0b"), "is no name of a folder"),
        (lambda v: v["data"][0].update(video_id="a" * 300), "is no name of a folder"),
        (lambda v: v["data"][0]["meta"].update(num_frames=10**9), "num_frames is 1000000000, expected 1 to 100000"),
        (lambda v: v["data"][0]["meta"].update(fps=1e-300), "fps is 1e-300, expected 0.01 to 1000"),
        (lambda v: v["data"][0].update(video_id="street_2"), "is a second record of video 'street_2'"),
    ],
)
def test_a_broken_record_costs_that_video_alone(gta, edit, says):
    change(gta / "sailvos3d.json", edit)
    assert any(says in problem for problem in check_psg4d(gta))
    assert len(open_psg4d(gta)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list 'data'"),
        ('{"data": []}', "'objects' is not"),
        ('{"data": [], "objects": {"thing": [], "stuff": []}, "split": ["a"]}', "'split' is not"),
        ('{"data": [], "objects": {"thing": [], "stuff": []}, "relations": [1]}', "'relations' is not"),
    ],
)
def test_a_file_of_another_form_is_refused(gta, text, says):
    (gta / "sailvos3d.json").write_text(text)
    with pytest.raises(DatasetError, match=says):
        open_psg4d(gta)
    assert says in check_psg4d(gta)[0]


def test_a_folder_without_annotation_says_what_is_expected(tmp_path):
    assert "has no sailvos3d.json or psg4d_hoi.json" in check_psg4d(tmp_path)[0]
    assert "does not exist" in check_psg4d(tmp_path / "nothing")[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def other_size(path: Path) -> None:
    np.save(path, np.zeros((3, 3), np.uint16))


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("masks/street_2/000000.npy", truncate, "000000.npy is not a numpy array"),
        ("masks/street_2/000000.npy", pickled, "000000.npy is not a numpy array"),
        (
            "masks/street_2/000000.npy",
            other_size,
            r"is uint16 of shape \(3, 3\), expected integers of its depth's \(12, 16\)",
        ),
        ("depth/street_2/000000.npy", truncate, "000000.npy is not a numpy array"),
        ("rage_matrices/street_2/000000.npz", truncate, "000000.npz is not a numpy archive"),
        ("images/street_2/000000.bmp", truncate, "000000.bmp is not a readable image"),
    ],
)
def test_a_damaged_frame_is_named_by_reader_and_check(gta, file, damage, says):
    damage(gta / file)
    street = open_psg4d(gta, "test")[0]
    with pytest.raises(DatasetError, match=says):
        list(street.open_frames())
    assert file in check_psg4d(gta)[0]


def test_check_lists_missing_files_and_videos_that_were_not_decoded(gta, hoi):
    (gta / "depth" / "kitchen_1" / "000001.npy").unlink()
    depth = hoi / "HOI4D_depth_video" / HOI["data"][0]["video_id"] / "align_depth"
    for file in depth.iterdir():
        file.unlink()
    (depth / "depth_video.avi").write_bytes(b"")
    missing, undecoded = check_psg4d(gta.parent)
    assert "kitchen_1/000001.npy is missing, as are 0 more of 3 depth files" in missing
    assert "00000.png is missing, as are 1 more of 2" in undecoded and "decode" in undecoded


def test_check_knows_a_mask_that_shows_none_of_the_annotated_objects(gta):
    write_gta_frame(gta, "street_2", 0, np.full((HEIGHT, WIDTH), 2.0), np.full((HEIGHT, WIDTH), 77))
    assert "holds none of the objects annotated in street_2" in check_psg4d(gta)[0]


def test_the_command_checks_a_download(gta, tmp_path, capsys):
    out = tmp_path / "check.json"
    assert main(["check", "--dataset", str(gta), "--json", str(out)]) == 0
    assert "2 videos" in capsys.readouterr().out
    assert json.loads(out.read_text())["ok"] is True
    (gta / "masks" / "street_2" / "000000.npy").unlink()
    assert main(["check", "--dataset", str(gta), "--json", str(out)]) == 1
    assert "street_2/000000.npy is missing" in capsys.readouterr().out
    assert json.loads(out.read_text())["ok"] is False


def test_a_download_is_evaluated(gta, tmp_path):
    """The person is seen standing; the phone is in no mask, so nobody can be seen to hold it, nor the second person."""
    out = tmp_path / "eval.json"
    for split, scenes, judged, unseen in (("train", 1, 1, 2), ("test", 1, 0, 1)):
        assert main(["eval", str(gta.parent), "--split", split, "--method", "oracle", "-q", "--json", str(out)]) == 0
        result = json.loads(out.read_text())
        assert (result["scenes"], result["split"]) == (scenes, split)
        assert result["true_relations"] == {"judged": judged, "unseen": unseen, "repeated": 0}
        expected = 1.0 if judged else None
        for protocol in ("tube", "frame_hit"):
            assert result["protocol"][protocol]["triplet"]["R"] == {"20": expected, "50": expected, "100": expected}
    assert main(["eval", str(gta.parent), "--split", "nothing", "--method", "oracle"]) == 1


@pytest.mark.skipif(not (SHARED / "pvsg_sample").is_dir(), reason=f"real data absent: {SHARED / 'pvsg_sample'}")
def test_a_real_record_of_the_same_form_is_read_in_full(tmp_path):
    """PVSG's record, the one published example of the form that PSG4D shares with it."""
    record = json.loads((SHARED / "pvsg_sample" / "pvsg_record_0001_4164158586.json").read_text())
    things = sorted({o["category"] for o in record["objects"] if o["is_thing"]})
    stuff = sorted({o["category"] for o in record["objects"] if not o["is_thing"]})
    names = sorted({r[2] for r in record["relations"]})
    values = {"objects": {"thing": things, "stuff": stuff}, "relations": names, "split": {}, "data": [record]}
    (tmp_path / "sailvos3d.json").write_text(json.dumps(values))
    (recording,) = open_psg4d(tmp_path)
    assert len(recording) == 180 and len(recording.objects) == 30
    assert len(recording.relations) == sum(len(r[3]) for r in record["relations"])
    assert max(r.end_frame for r in recording.relations) == 180
