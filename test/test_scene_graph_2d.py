"""Scene graphs of images: one kind of value from five data sets' files, and one spelling of phrases."""

import doctest
import gzip
import json
from pathlib import Path

import pytest

from psg4d_ros.data.phrases import normal_label, normal_predicate, predicate_table
from psg4d_ros.data.scene_graph_2d import (
    Object2D,
    Relation2D,
    SceneGraph2D,
    read_hicodet,
    read_psg,
    read_vcoco,
    read_visual_genome,
    read_vrd,
)
from psg4d_ros.errors import DatasetError
from psg4d_ros.vocabulary import default_vocabulary

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def needs(folder: str):
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"real data absent: {SHARED / folder}")


# Each in the form of its data set, with the same content: a man on a red chair.
VRD = [{"img": "a.jpg", "boxes_xyxy": [[10, 10, 40, 90], [5, 40, 50, 95]], "classes": [0, 1], "triplets": [[0, 1, 0]]}]
VRD_VOCABULARY = {"objects": ["man", "chair"], "predicates": ["sit on"]}
PAIR = {"boxes_h": [[10, 10, 40, 90]], "boxes_o": [[5, 40, 50, 95]]}
VCOCO = {
    "classes": ["hold obj", "sit instr"],
    "objects": ["background", "person", "chair"],
    "annotations": [{**PAIR, "actions": [1], "objects": [2], "file_name": "a.jpg"}],
}
HICODET = {
    "verbs": ["no_interaction", "sit_on"],
    "objects": ["chair"],
    "filenames": ["a.jpg"],
    "size": [[100, 96]],
    "annotation": [{**PAIR, "verb": [1], "object": [0], "hoi": [5]}],
}
VG_MAN = {"object_id": 7, "x": 10, "y": 10, "w": 30, "h": 80}
VG_CHAIR = {"object_id": 8, "x": 5, "y": 40, "w": 45, "h": 55}
VG = {
    "objects": [{"image_id": 1, "objects": [{**VG_MAN, "names": ["man"]}, {**VG_CHAIR, "names": ["chair"]}]}],
    "relationships": [
        {
            "image_id": 1,
            "relationships": [
                {"predicate": "SITS ON", "subject": {**VG_MAN, "name": "man"}, "object": {**VG_CHAIR, "name": "chair"}}
            ],
        }
    ],
    "attributes": [{"image_id": 1, "attributes": [{"object_id": 8, "attributes": ["Red", "red"]}]}],
    "image_data": [{"image_id": 1, "width": 100, "height": 96}],
}
PSG = {
    "thing_classes": ["person", "chair"],
    "stuff_classes": ["wall-other"],
    "predicate_classes": ["over", "sitting on"],
    "test_image_ids": ["2"],
    "data": [
        {
            "image_id": image_id,
            "file_name": f"val/{image_id}.jpg",
            "width": 100,
            "height": 96,
            "segments_info": [{"id": 5, "category_id": 0}, {"id": 6, "category_id": 1}],
            "annotations": [
                {"bbox": [10, 10, 40, 90], "bbox_mode": 0, "category_id": 0},
                {"bbox": [5, 40, 50, 95], "bbox_mode": 0, "category_id": 1},
            ],
            "relations": [[0, 1, 1]],
        }
        for image_id in ("1", "2")
    ],
}


def written(folder: Path, name: str, values: object) -> Path:
    path = folder / name
    text = json.dumps(values).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def read(folder: Path, kind: str, values: object):
    """``values`` through the reader of ``kind``; every second file gzipped."""
    if kind == "vrd":
        return read_vrd(written(folder, "vrd.json.gz", values), written(folder, "words.json", VRD_VOCABULARY))
    if kind == "vg":
        return read_visual_genome(**{name: written(folder, f"{name}.json", part) for name, part in values.items()})
    reader = {"vcoco": read_vcoco, "hicodet": read_hicodet, "psg": lambda path: read_psg(path, test=False)}[kind]
    return reader(written(folder, f"{kind}.json.gz", values))


FILES = {"vrd": VRD, "vcoco": VCOCO, "hicodet": HICODET, "vg": VG, "psg": PSG}


@pytest.mark.parametrize("kind", FILES)
def test_all_data_sets_give_the_same_graph(kind, tmp_path):
    out = read(tmp_path, kind, FILES[kind])
    (graph,) = out.graphs
    attributes = ("red",) if kind == "vg" else ()
    assert graph == SceneGraph2D(
        image_id={"vg": "1", "psg": "1"}.get(kind, "a.jpg"),
        width=None if kind in ("vrd", "vcoco") else 100,
        height=None if kind in ("vrd", "vcoco") else 96,
        objects=(Object2D("person", (10, 10, 40, 90)), Object2D("chair", (5, 40, 50, 95), attributes)),
        relations=(Relation2D(0, "sitting on", 1),),
    )
    assert not out.skipped


def test_the_documented_calls_work_and_give_what_is_printed(tmp_path, monkeypatch):
    """The examples of docs/datasets.md, on files of the documented names: as published, but with one image or video."""
    segment = {"human_affordance": 0, "object_bboxes": [[0.25, 0.5, 0.5, 0.75]] * 3, "human_bboxes": [[0.5] * 4] * 3}
    segments = [
        {**segment, "start": 10, "end": 12, "object_affordance": 6},
        {**segment, "start": 13, "end": 15, "object_affordance": 11},
        {**segment, "start": 20, "end": 22, "object_affordance": 8},
    ]
    video = {"high_level_activity": 4, "object_type": "1:microwave", "segments": segments}
    written(tmp_path, "cad120_subjects_1_3_4.json", {"v1": video})
    written(tmp_path, "instances_vcoco_val.json", VCOCO)
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / "docs" / "datasets.md"), module_relative=False)
    assert result.attempted > 6 and not result.failed


def test_psg_splits_by_its_list_of_test_images(tmp_path):
    path = written(tmp_path, "psg.json", PSG)
    assert [[g.image_id for g in read_psg(path, test=t).graphs] for t in (True, False, None)] == [
        ["2"],
        ["1"],
        ["1", "2"],
    ]


def test_pairs_with_the_same_box_and_class_share_the_object(tmp_path):
    row = {key: value * 3 for key, value in PAIR.items()}
    row["boxes_o"] = [[5, 40, 50, 95], [5, 40, 50, 95], [60, 0, 70, 10]]
    values = {**VCOCO, "annotations": [{**row, "actions": [0, 1, 0], "objects": [2, 2, 2], "file_name": "a.jpg"}]}
    (graph,) = read(tmp_path, "vcoco", values).graphs
    assert [o.label for o in graph.objects] == ["person", "chair", "chair"]
    triplets = [(r.subject, r.predicate, r.object) for r in graph.relations]
    assert triplets == [(0, "holding", 1), (0, "sitting on", 1), (0, "holding", 2)]


def test_a_relationship_of_visual_genome_brings_objects_that_the_other_file_lacks(tmp_path):
    (graph,) = read(tmp_path, "vg", {**VG, "objects": []}).graphs
    assert [o.label for o in graph.objects] == ["person", "chair"]


@pytest.mark.parametrize(
    ("kind", "values", "reasons"),
    [
        ("hicodet", {**HICODET, "annotation": [{**PAIR, "verb": [0], "object": [0]}]}, ["a pair without interaction"]),
        ("vrd", [{**VRD[0], "triplets": [[0, 1, 0], [0, 1, 0]]}], ["a relation given twice"]),
        ("vrd", [{**VRD[0], "triplets": [[1, 1, 0]]}], ["a relation of an object to itself"]),
        (
            "vrd",
            [{**VRD[0], "boxes_xyxy": [[10, 10, 40, 90], [50, 40, 5, 95]]}],
            ["an object whose box has no area", "a relation to an object that was left out"],
        ),
        ("vrd", [{"img": "a.jpg", "boxes_xyxy": [], "classes": [], "triplets": []}], ["an image without objects"]),
        (
            "vg",
            {
                **VG,
                "objects": [
                    {**VG["objects"][0], "objects": [*VG["objects"][0]["objects"], {**VG_MAN, "names": ["man"]}]}
                ],
            },
            ["an object given twice"],
        ),
    ],
)
def test_what_is_left_out_is_counted_with_an_example(kind, values, reasons, tmp_path):
    out = read(tmp_path, kind, values)
    assert dict(out.skipped) == dict.fromkeys(reasons, 1)
    assert all("[0]" in out.examples[reason] for reason in reasons), "the example names its record"


def changed(values, edit):
    copy = json.loads(json.dumps(values))
    edit(copy)
    return copy


@pytest.mark.parametrize(
    ("kind", "edit", "says"),
    [
        ("vrd", lambda v: v[0]["classes"].append(0), r"\[0\] has 2 boxes and 3 classes"),
        ("vrd", lambda v: v[0].update(classes=[0, 9]), r"classes\[1\] is number 9, expected 0 to 1"),
        (
            "vrd",
            lambda v: v[0].update(triplets=[[0, 2, 0]]),
            r"triplets\[0\] is \[0, 2, 0\], the image has objects 0 to 1",
        ),
        ("vrd", lambda v: v[0]["boxes_xyxy"][0].pop(), "expected x1, y1, x2, y2 as finite numbers"),
        ("vrd", lambda v: v[0].pop("img"), "has no text 'img'"),
        (
            "vcoco",
            lambda v: v["annotations"][0]["actions"].append(1),
            r"annotations\[0\] has columns of \[1, 1, 2, 1\]",
        ),
        ("vcoco", lambda v: v.pop("classes"), "has no list 'classes'"),
        ("hicodet", lambda v: v["size"].append([1, 1]), "has 1 records, 1 filenames and 2 sizes"),
        ("hicodet", lambda v: v.update(size=[[0, 5]]), r"size is \[0, 5\], expected width and height"),
        ("hicodet", lambda v: v["annotation"][0].update(verb=["sit"]), "pair 0 is number 'sit', expected 0 to 1"),
        ("vg", lambda v: v["objects"][0]["objects"][0].pop("w"), r"objects\[0\] has no numbers x, y, w, h"),
        ("vg", lambda v: v["relationships"][0]["relationships"][0].pop("predicate"), "has no text 'predicate'"),
        (
            "vrd",
            lambda v: v[0]["boxes_xyxy"][0].__setitem__(0, 10**400),
            r"box is \[1000*\.\.\., expected x1, y1",
        ),
        ("vg", lambda v: v["objects"][0]["objects"][0].update(x=float("nan")), r"objects\[0\] has no numbers"),
        ("vg", lambda v: v["attributes"][0]["attributes"][0].update(attributes="red"), "object_id and a list of words"),
        ("vg", lambda v: v["objects"].append(v["objects"][0]), r"objects.json\[1\] is a second record of image 1"),
        ("vg", lambda v: v["objects"][0].update(image_id=None), "has image_id None, expected a number"),
        ("psg", lambda v: v["data"][0]["segments_info"].pop(), "has 2 annotations and 1 segments_info"),
        ("psg", lambda v: v.pop("test_image_ids"), "has no list 'test_image_ids'"),
        ("psg", lambda v: v["data"][0]["annotations"][0].update(bbox_mode=1), "bbox_mode is 1, expected 0"),
        ("psg", lambda v: v["data"][0].update(relations=[[0, 1, 2]]), r"relations\[0\] is number 2, expected 0 to 1"),
    ],
)
def test_a_file_of_another_form_names_record_and_fault(kind, edit, says, tmp_path):
    with pytest.raises(DatasetError, match=says):
        read(tmp_path, kind, changed(FILES[kind], edit))


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"{" + raw, lambda raw: b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(damage, tmp_path):
    path = written(tmp_path, "vcoco.json.gz", VCOCO)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"vcoco\.json\.gz"):
        read_vcoco(path)


@pytest.mark.parametrize(
    ("phrases", "normal"),
    [
        (["sit on", "sit_on", "Sits  on", "sitting on", "sit instr", "seated on"], "sitting on"),
        (["on the left of", "left of", "to-the-left-of"], "left of"),
        (["adjust"], "adjusting"),
        (["cut_with"], "cutting with"),
        (["carries"], "carrying"),
        (["tie", "ties"], "tying"),
        (["no such phrase"], "no such phrase"),
    ],
)
def test_phrases_have_one_spelling(phrases, normal):
    assert {normal_predicate(p) for p in phrases} == {normal}


def test_labels_are_the_vocabulary_s_where_it_knows_them():
    words = ("cell_phone", "Couch", "potted plant", "wall-brick", "floor-other-merged", "rug-merged", "zebra")
    assert [normal_label(w) for w in words] == ["phone", "sofa", "plant", "wall", "floor", "carpet", "zebra"]


def test_the_table_never_changes_a_word_of_the_vocabulary_and_one_pass_is_enough():
    words = default_vocabulary().predicates
    assert [normal_predicate(p) for p in words] == list(words)
    normal = set(predicate_table().values())
    assert {normal_predicate(p) for p in normal} == normal


def test_the_documented_table_is_the_one_in_use():
    documented = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    variants: dict[str, list[str]] = {}
    for variant, name in predicate_table().items():
        variants.setdefault(name, []).append(variant)
    missing = [row for name, v in variants.items() if (row := f"| {name} | {', '.join(v)} |") not in documented]
    assert not missing


@needs("vrd")
def test_real_vrd():
    out = read_vrd(SHARED / "vrd" / "vrd_train.json.gz", SHARED / "vrd" / "vocab.json")
    assert len(out.graphs) == 3780
    assert sum(len(g.relations) for g in out.graphs) + sum(out.skipped.values()) == 29857


@needs("vcoco")
def test_real_vcoco():
    outs = [read_vcoco(SHARED / "vcoco" / f"instances_vcoco_{part}.json.gz") for part in ("train", "val")]
    assert sum(len(g.relations) for out in outs for g in out.graphs) == 13817
    assert [out.skipped["an image without objects"] for out in outs] == [197, 234]


@needs("hicodet")
def test_real_hicodet():
    out = read_hicodet(SHARED / "hicodet" / "instances_test2015.json.gz")
    assert sum(len(g.relations) for g in out.graphs) + out.skipped["a pair without interaction"] == 33405
    assert out.skipped["an image without objects"] == 112  # as the file itself counts them
    assert all(g.width and g.height for g in out.graphs)
