"""Images as training items: true pairs and as many others, candidates per data set, and one item per index."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from psg4d_ros.data.scene_graph_2d import Object2D, Relation2D, SceneGraph2D
from psg4d_ros.errors import DatasetError
from psg4d_ros.model.geometry import GEOMETRY_NAMES
from psg4d_ros.training.images import (
    UNKNOWN_LABEL,
    ImageDataset,
    ImageRecipe,
    ImageSource,
    merged,
    mirrored,
    question_item,
    read_image_sources,
    training_item,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PLAIN = ImageRecipe(label_dropout=0.0, box_jitter=0.0, mirror=False, extent_dropout=0.0)

LAMP = Object2D("lamp", (60, 10, 80, 40))
TABLE = Object2D("table", (10, 40, 90, 90))
MAN = Object2D("person", (0, 5, 30, 95))
CUP = Object2D("cup", (40, 30, 46, 40))
KITCHEN = SceneGraph2D(
    "kitchen",
    100,
    100,
    (LAMP, TABLE, MAN, CUP),
    (Relation2D(0, "on", 1), Relation2D(2, "left of", 0), Relation2D(2, "near", 0), Relation2D(3, "made of", 1)),
)
WORDS = ("left of", "near", "on")


def facts(item):
    """(subject, predicate, object) as words of every true entry, and the pairs without any."""
    true, none = set(), set()
    for (s, o), row in zip(item.pairs.tolist(), item.holds, strict=True):
        names = [item.predicates[i] for i in row.nonzero()[:, 0].tolist()]
        true |= {(item.labels[s], name, item.labels[o]) for name in names}
        if not names:
            none.add((item.labels[s], item.labels[o]))
    return true, none


def test_an_item_holds_the_annotated_pairs_and_as_many_others():
    item = training_item(KITCHEN, WORDS, PLAIN, np.random.default_rng(0))
    true, none = facts(item)
    assert true == {("lamp", "on", "table"), ("person", "left of", "lamp"), ("person", "near", "lamp")}
    assert len(none) == 2  # as many pairs as have a relation: lamp-table and person-lamp
    # "made of" is no word of this data set: its pair is neither true nor without a relation.
    assert not none & {("lamp", "table"), ("person", "lamp"), ("cup", "table")}
    assert sorted(item.labels) == ["cup", "lamp", "person", "table"]
    assert item.geometry.shape == (4, len(GEOMETRY_NAMES)) and item.geometry.dtype == torch.float32


def test_geometry_is_that_of_the_pair_in_its_place():
    item = training_item(KITCHEN, WORDS, PLAIN, np.random.default_rng(3))
    asked = [(item.labels[s], item.labels[o]) for s, o in item.pairs.tolist()]
    by_name = dict(zip(asked, item.geometry.tolist(), strict=True))
    lamp_table = by_name["lamp", "table"]
    straight = question_item(KITCHEN, [(0, 1)], WORDS)
    assert lamp_table == straight.geometry[0].tolist()
    assert lamp_table[GEOMETRY_NAMES.index("gap")] == 0 and lamp_table[GEOMETRY_NAMES.index("up_union")] > 0


def test_pairs_and_objects_are_capped():
    recipe = ImageRecipe(max_objects=3, max_pairs=2, label_dropout=0.0)
    for seed in range(20):
        item = training_item(KITCHEN, WORDS, recipe, np.random.default_rng(seed))
        assert len(item.pairs) <= 2 and len(item.labels) <= 3
        assert set(item.pairs.flatten().tolist()) <= set(range(len(item.labels)))


def test_hidden_labels_are_called_object():
    item = training_item(KITCHEN, WORDS, ImageRecipe(label_dropout=1.0), np.random.default_rng(0))
    assert set(item.labels) == {UNKNOWN_LABEL}


def test_an_image_of_which_no_word_is_known_has_no_true_pair():
    item = training_item(KITCHEN, ("under",), PLAIN, np.random.default_rng(0))
    assert not item.holds.any()


def test_mirrored_left_is_right():
    twin = mirrored(KITCHEN)
    assert twin.objects[2].box == (70, 5, 100, 95)
    assert {r.predicate for r in twin.relations} == {"on", "right of", "near", "made of"}
    assert mirrored(twin) == KITCHEN


def test_copies_of_one_object_are_merged():
    """As in HICO-DET, where a person who rides and holds a bicycle is there twice."""
    again, bicycle = Object2D("person", (1, 5, 30, 94)), Object2D("bicycle", (0, 50, 60, 100))
    graph = SceneGraph2D(
        "a", None, None, (MAN, bicycle, again), (Relation2D(0, "riding", 1), Relation2D(2, "holding", 1))
    )
    out = merged(graph)
    assert out.objects == (MAN, bicycle)
    assert out.relations == (Relation2D(0, "riding", 1), Relation2D(0, "holding", 1))


def graph_called(name):
    return SceneGraph2D(name, None, None, KITCHEN.objects, KITCHEN.relations)


SOURCES = (
    ImageSource("a", WORDS, tuple(graph_called(f"a{i}") for i in range(6)), weight=2),
    ImageSource("b", ("near",), tuple(graph_called(f"b{i}") for i in range(3))),
)


def same(a, b):
    return (
        (a.name, a.labels, a.predicates) == (b.name, b.labels, b.predicates)
        and torch.equal(a.pairs, b.pairs)
        and torch.equal(a.geometry, b.geometry)
        and torch.equal(a.holds, b.holds)
    )


def test_an_item_follows_from_seed_and_index_alone():
    forward, backward = (ImageDataset(SOURCES, ImageRecipe(), seed=7) for _ in range(2))
    ahead = [forward[i] for i in range(30)]
    behind = [backward[i] for i in reversed(range(30))][::-1]
    assert all(map(same, ahead, behind))
    other = ImageDataset(SOURCES, ImageRecipe(), seed=8)
    assert not all(same(a, other[i]) for i, a in enumerate(ahead))
    again = forward[9 * 10**9], backward[9 * 10**9]
    assert same(*again)


def test_sources_take_turns_and_each_shows_all_its_images_before_one_comes_again():
    data = ImageDataset(SOURCES, PLAIN, seed=0)
    assert len(data) == 9
    names = [data[i].name for i in range(18)]
    assert sorted(names[:9]) == sorted(names[9:]) == sorted(g.image_id for s in SOURCES for g in s.graphs)
    assert [name[0] for name in names[:6]] == ["a", "a", "b", "a", "a", "b"]
    assert names[:9] != names[9:]
    assert {data[i].predicates for i in (0, 2)} == {WORDS, ("near",)}


def write_vrd(folder, name, images):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({"objects": ["lamp", "table"], "predicates": ["on", "sleep on"]}))
    record = {"boxes_xyxy": [[60, 10, 80, 40], [10, 40, 90, 90]], "classes": [0, 1]}
    (folder / name).write_text(json.dumps([{**record, "img": i, "triplets": [[0, 1, p]]} for i, p in images]))


def test_a_fixed_part_of_vrd_is_held_out(tmp_path):
    write_vrd(tmp_path / "vrd", "vrd_train.json", [(f"{i}.jpg", 0) for i in range(200)])
    sources = read_image_sources(tmp_path)
    train, rest = ({g.image_id for g in s.graphs} for s in (sources.training[0], sources.held_out))
    assert not train & rest and len(train | rest) == 200 and 20 < len(rest) < 60
    assert rest == {g.image_id for g in read_image_sources(tmp_path).held_out.graphs}
    assert sources.triplets() == {("lamp", "on", "table")}


def test_the_test_split_of_vrd_is_held_out_where_it_is_there(tmp_path):
    write_vrd(tmp_path / "vrd", "vrd_train.json", [(f"{i}.jpg", 0) for i in range(20)])
    write_vrd(tmp_path / "vrd", "vrd_test.json", [("x.jpg", 1)])
    sources = read_image_sources(tmp_path)
    assert len(sources.training[0].graphs) == 20
    assert [g.image_id for g in sources.held_out.graphs] == ["x.jpg"]
    assert sources.held_out.predicates == ("on",)  # what training showed; "sleeping on" is not among the answers


def test_only_the_most_frequent_predicates_are_learnt(tmp_path):
    write_vrd(tmp_path / "vrd", "vrd_train.json", [(f"{i}.jpg", int(i == 3)) for i in range(20)])
    write_vrd(tmp_path / "vrd", "vrd_test.json", [("x.jpg", 1)])
    assert read_image_sources(tmp_path).training[0].predicates == ("on", "sleeping on")
    assert read_image_sources(tmp_path, max_predicates=1).training[0].predicates == ("on",)


def test_a_folder_without_data_sets_is_named(tmp_path):
    with pytest.raises(DatasetError, match="has none of the folders vrd, vcoco"):
        read_image_sources(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_image_sources(tmp_path / "nowhere")
    (tmp_path / "vrd").mkdir()
    (tmp_path / "vrd" / "vrd_train.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"no vocab\.json"):
        read_image_sources(tmp_path)


@pytest.mark.skipif(not (SHARED / "vrd").is_dir(), reason=f"real data absent: {SHARED / 'vrd'}")
def test_real_data_sets():
    sources = read_image_sources(SHARED)
    assert [s.name for s in sources.training][:3] == ["vrd", "vcoco", "hicodet"]
    assert {"on", "wearing", "left of"} <= set(sources.held_out.predicates)
    data = ImageDataset(sources.training, ImageRecipe(), seed=0)
    for index in range(0, len(data), 401):
        item = data[index]
        related = int(item.holds.any(dim=1).sum())
        assert related and len(item.pairs) <= 2 * related
        assert bool(torch.isfinite(item.geometry).all())
