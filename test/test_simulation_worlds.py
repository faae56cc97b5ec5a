"""Simulated rooms: the models and where one sits on them, cupboards that open, placement, and which words occur."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from psg4d_ros.data.simulation import household, joinery
from psg4d_ros.data.simulation.assets import FOLDER, Design, MeshLibrary, mesh_library
from psg4d_ros.data.simulation.classes import LABELS, OOV_WORDS, PALETTE, RULES, TEST_WORDS, TRAIN_WORDS, WordSplit
from psg4d_ros.data.simulation.floor_space import FloorSpace, Footprint, overlap
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.rooms import make_plan
from psg4d_ros.data.simulation.world import Entity, Joint, World
from psg4d_ros.errors import DatasetError
from psg4d_ros.vocabulary import default_vocabulary

STRUCTURE = {"floor", "wall", "ceiling", "carpet", "window", "door"}
OUTSIDE = {"ground", "grass", "vegetation", "sidewalk", "road", "building", "fence"}
SOFT = {"pillow", "blanket", "towel", "bag", "backpack", "sofa", "bed"}


def world(seed: int, words: WordSplit = TRAIN_WORDS, rooms: int | None = None) -> World:
    return make_world(np.random.default_rng(seed), name=f"world {seed}", words=words, rooms=rooms)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [world(seed) for seed in range(36)]


def vertices(w: World, e: Entity) -> np.ndarray:
    T = w.T_world_entity[e.entity_id - 1]
    return np.concatenate([p.vertices for p in e.parts]) @ T[:3, :3].T + T[:3, 3]


def faces(e: Entity) -> np.ndarray:
    starts = np.cumsum([0, *(len(p.vertices) for p in e.parts)])
    return np.concatenate([p.faces + s for p, s in zip(e.parts, starts, strict=False)])


def opened(design: Design, joint: Joint, share: float) -> np.ndarray:
    """Vertices of the joint's part when it is open to a share."""
    v, axis, origin = design.shapes[joint.part].vertices, np.array(joint.axis), np.array(joint.origin)
    if joint.kind == "slide":
        return v + axis * joint.upper * share
    return Rotation.from_rotvec(axis * joint.upper * share).apply(v - origin) + origin


# Words


def test_labels_and_colours_are_words_of_the_vocabulary() -> None:
    words = default_vocabulary()
    kinds = {c.name: c.is_thing for c in words.classes}
    assert {rule.label: rule.is_thing for rule in RULES.values()} == {label: kinds[label] for label in LABELS}
    assert set(PALETTE) <= set(words.attributes)
    assert all(set(rule.colors) <= set(PALETTE) for rule in RULES.values())


def test_words_of_the_open_vocabulary_test_are_never_in_training() -> None:
    unseen = OOV_WORDS.labels - TRAIN_WORDS.labels
    assert len([label for label in unseen if RULES[label].is_thing]) >= 8
    assert unseen == OOV_WORDS.favoured
    assert TEST_WORDS.labels == TRAIN_WORDS.labels
    found = {e.label for seed in range(20) for e in world(seed, OOV_WORDS).entities}
    assert unseen <= found


def test_training_shows_many_classes_and_none_dominates(worlds: list[World]) -> None:
    things = Counter(e.label for w in worlds for e in w.entities if e.is_thing)
    stuff = {e.label for w in worlds for e in w.entities if not e.is_thing}
    assert set(things) <= TRAIN_WORDS.labels
    assert len([label for label, count in things.items() if count >= 5]) >= 45
    assert len(stuff) >= 8
    assert max(things.values()) < 0.1 * sum(things.values())


# Models


def test_models_of_the_tests_are_not_those_of_training() -> None:
    library = mesh_library()
    for label in library.labels:
        train = {d.asset for d in library.meshes(label, "train")}
        heldout = {d.asset for d in library.meshes(label, "heldout")}
        every = {d.asset for d in library.meshes(label, "all")}
        assert train | heldout == every and train and heldout, label
        assert len(every) < 3 or not train & heldout, label


def test_every_model_names_its_maker_and_a_licence_that_allows_it() -> None:
    entries = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    text = (FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    assert {e["licence"] for e in entries} <= {"CC0", "CC-BY-3.0", "CC-BY-3.0-US"}
    assert not [e["name"] for e in entries if e["creator"] not in text or e["name"] not in text]
    assert sum(path.stat().st_size for path in FOLDER.glob("*")) < 4_500_000


@pytest.mark.parametrize("broken", ["missing", "truncated", "index"])
def test_damaged_models_are_an_error_that_says_where(tmp_path: Path, broken: str) -> None:
    for path in FOLDER.glob("*.*"):
        shutil.copy(path, tmp_path)
    if broken == "missing":
        (tmp_path / "meshes.npz").unlink()
    elif broken == "truncated":
        (tmp_path / "meshes.npz").write_bytes((FOLDER / "meshes.npz").read_bytes()[:5000])
    else:
        (tmp_path / "index.json").write_text('[{"label": "chair"}]')
    with pytest.raises(DatasetError, match=str(tmp_path)):
        MeshLibrary(tmp_path)


@pytest.mark.parametrize("label", ["chair", "stool", "sofa", "bench", "bed", "table", "desk"])
def test_seats_and_tops_lie_on_the_mesh(label: str) -> None:
    """A ray from above the middle of the surface meets the model where the surface says it is."""
    pytest.importorskip("embreex", reason="rays need the extra [sim]")
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    heights = {"chair": (0.3, 0.55), "stool": (0.4, 0.85), "table": (0.35, 0.85), "desk": (0.65, 0.85)}
    low, high = heights.get(label, (0.25, 0.7))
    for design in mesh_library().meshes(label, "all"):
        assert design.surfaces, design.asset
        for surface in design.surfaces:
            x, y, z = surface.center
            assert low < z < high and surface.kind == {"bed": "lying", "table": "top", "desk": "top"}.get(label, "seat")
            scene, body = EmbreeScene(), design.shapes[0]
            TriangleMesh(scene, body.vertices.astype(np.float32), body.faces)
            w, d = (0.3 * extent for extent in surface.size)
            origins = np.float32([(x + a, y + b, 3.0) for a in (-w, 0, w) for b in (-d, 0, d)])
            hit = scene.run(origins, np.repeat(np.float32([[0, 0, -1]]), 9, axis=0), output=1)
            off = np.abs(3.0 - hit["tfar"] - z)
            assert np.median(off) < (0.02 if surface.kind == "top" else 0.05), design.asset


# What opens


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(
    "make",
    [joinery.cabinet, joinery.drawer, joinery.wardrobe, joinery.refrigerator, joinery.stove, joinery.dishwasher,
     joinery.microwave],
)  # fmt: skip
def test_doors_and_drawers_open_towards_the_front(make: object, held_out: bool) -> None:
    for seed in range(6):
        design: Design = make(np.random.default_rng(seed), held_out)  # type: ignore[operator]
        assert design.joints and any(s.kind == "inside" for s in design.surfaces)
        for joint in design.joints:
            shut, ajar, wide = (opened(design, joint, share) for share in (0.0, 0.2, 1.0))
            assert np.allclose(shut, design.shapes[joint.part].vertices)
            assert ajar[:, 1].min() < shut[:, 1].min() - 0.03
            assert wide[:, 1].min() < shut[:, 1].min() - 0.15
            # One takes the handle, the foremost of what moves.
            assert abs(shut[:, 1].min() - joint.handle[1]) < 0.025
            across = np.array(joint.handle)[[0, 2]]
            assert (shut.min(axis=0)[[0, 2]] < across).all() and (across < shut.max(axis=0)[[0, 2]]).all()
            # Nothing of the leaf goes through the case while it opens.
            assert ajar[:, 1].max() <= shut[:, 1].max() + 0.02


def test_room_door_covers_its_opening_and_swings_clear_of_it() -> None:
    for left in (False, True):
        door = joinery.room_door(np.random.default_rng(1), False, 0.85, 0.12, left)
        (hinge,) = door.joints
        shut, wide = opened(door, hinge, 0.0), opened(door, hinge, 1.0)
        assert shut[:, 0].max() - shut[:, 0].min() > 0.83
        assert wide[:, 1].min() < -0.85
        free = wide[:, 0] if not left else -wide[:, 0]
        assert free.min() > 0.3  # at the hinge's side of the opening


@pytest.mark.parametrize("label", sorted(household.SMALL))
def test_small_built_things_stand_on_their_base(label: str) -> None:
    for make in set(household.SMALL[label]):
        for held_out in (False, True):
            design = make(np.random.default_rng(3), held_out)
            assert design.label == label
            assert abs(design.low[2]) < 0.013
            assert max(design.size) < 1.4


# Plans


@pytest.mark.parametrize("rooms", [1, 2, 3, 4])
def test_all_rooms_of_a_plan_can_be_reached(rooms: int) -> None:
    for seed in range(12):
        plan = make_plan(np.random.default_rng(seed), rooms)
        assert len(plan.rooms) == rooms
        joined = set(plan.doorways[0].rooms) if plan.doorways else {0}
        for _ in range(rooms):
            joined |= {r for d in plan.doorways if joined & set(d.rooms) for r in d.rooms}
        assert joined == set(range(rooms))
        for doorway in plan.doorways:
            a, b = (plan.rooms[r] for r in doorway.rooms)
            x, y = doorway.center
            dx, dy = doorway.direction
            assert a.x0 < x - 0.3 * dx < a.x1 and a.y0 < y - 0.3 * dy < a.y1  # from the first room ...
            assert b.x0 < x + 0.3 * dx < b.x1 and b.y0 < y + 0.3 * dy < b.y1  # ... into the second


def test_doors_and_windows_sit_in_holes_of_the_walls() -> None:
    """No wall crosses the middle of an opening: a sensor looks through windows, people walk through doors."""
    pytest.importorskip("embreex", reason="rays need the extra [sim]")
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    for seed in range(12):
        plan = make_plan(np.random.default_rng(seed), 1 + seed % 4)
        scene = EmbreeScene()
        for s in plan.walls.shapes:
            TriangleMesh(scene, s.vertices.astype(np.float32), s.faces)
        for o in plan.openings:
            direction = np.float32([[*o.inward, 0.0]])
            for side in (-0.4, 0.0, 0.4):
                along = np.array([1.0, 0.0]) if o.axis == 0 else np.array([0.0, 1.0])
                start = np.array(o.center) - 0.2 * np.array(o.inward) + side * o.width * along
                origin = np.float32([[*start, (o.low + o.high) / 2]])
                assert scene.run(origin, direction, output=1)["tfar"][0] > 0.4


# Worlds


def test_same_seed_gives_the_same_world() -> None:
    a, b, other = world(5), world(5), world(6)
    assert [e.label for e in a.entities] == [e.label for e in b.entities] != [e.label for e in other.entities]
    assert np.array_equal(a.T_world_entity, b.T_world_entity)
    for x, y in zip(a.entities, b.entities, strict=True):
        assert all(
            np.array_equal(p.vertices, q.vertices) and np.array_equal(p.colors, q.colors)
            for p, q in zip(x.parts, y.parts, strict=True)
        )


def test_worlds_hold_what_a_scene_needs(worlds: list[World]) -> None:
    for w in worlds:
        assert 20 <= len(w.entities) <= 85
        assert 1 <= len(w.people) <= 3
        labels = Counter(e.label for e in w.entities)
        assert labels["floor"] == labels["wall"] == labels["ceiling"] == 1
    assert sum(bool(e.joints) for w in worlds for e in w.entities) > 4 * len(worlds)
    assert sum(any(s.kind == "seat" for s in e.surfaces) for w in worlds for e in w.entities) > 1.5 * len(worlds)
    assert sum(e.graspable for w in worlds for e in w.entities) > 8 * len(worlds)


def test_number_of_rooms_and_people_can_be_asked_for() -> None:
    w = make_world(np.random.default_rng(2), name="asked", words=TRAIN_WORDS, rooms=3, people=2)
    assert (w.name, len(w.rooms), len(w.people)) == ("asked", 3, 2)


def test_everything_is_carried_by_what_is_under_it(worlds: list[World]) -> None:
    """A thing's lowest point is on the surface that carries it, and its middle is over it."""
    for w in worlds:
        for e in w.entities:
            if e.entity_id not in w.supports:
                assert e.label in OUTSIDE | {"floor", "wall", "ceiling"}, e.label
                continue
            carrier_id, index = w.supports[e.entity_id]
            if index < 0:  # hangs
                assert w.entity(carrier_id).label in {"wall", "ceiling", "counter"}
                continue
            surface = w.entity(carrier_id).surfaces[index]
            into = np.linalg.inv(w.T_world_entity[carrier_id - 1])
            local = vertices(w, e) @ into[:3, :3].T + into[:3, 3]
            slack = 0.12 if surface.kind in ("seat", "lying") else 0.013
            assert abs(local[:, 2].min() - surface.center[2]) < slack, (w.name, e.label, w.entity(carrier_id).label)
            if surface.kind == "covered":  # a worktop lies on other units too
                assert (e.label, w.entity(carrier_id).label) == ("counter", "cabinet")
                continue
            middle = (local.min(axis=0) + local.max(axis=0))[:2] / 2
            assert (np.abs(middle - surface.center[:2]) < np.array(surface.size) / 2 + 0.01).all(), (w.name, e.label)


def test_nothing_stands_in_anything_else(worlds: list[World]) -> None:
    """No edge of one mesh goes through a face of another; soft things may sink into each other."""
    pytest.importorskip("embreex", reason="rays need the extra [sim]")
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    for w in worlds[:7]:
        solid = [e for e in w.entities if e.label not in STRUCTURE | OUTSIDE | {"counter", "sink"}]
        meshes = {e.entity_id: (vertices(w, e).astype(np.float32), faces(e).astype(np.int32)) for e in solid}
        for b in solid:
            vb, fb = meshes[b.entity_id]
            scene = EmbreeScene()
            TriangleMesh(scene, vb, fb)
            for a in solid:
                va, fa = meshes[a.entity_id]
                apart = (va.max(axis=0) < vb.min(axis=0) + 0.003) | (va.min(axis=0) > vb.max(axis=0) - 0.003)
                if a is b or apart.any() or {a.label, b.label} & SOFT:
                    continue
                lift = 0.004 * (w.supports.get(a.entity_id, (0, 0))[0] == b.entity_id)
                lift -= 0.004 * (w.supports.get(b.entity_id, (0, 0))[0] == a.entity_id)
                start = va[fa[:, [0, 1, 2]].ravel()] + np.float32([0, 0, lift])
                along = va[fa[:, [1, 2, 0]].ravel()] - va[fa[:, [0, 1, 2]].ravel()]
                length = np.linalg.norm(along, axis=1)
                keep = length > 1e-5
                hit = scene.run(start[keep], along[keep] / length[keep, None], output=1)
                through = (hit["primID"] >= 0) & (hit["tfar"] < length[keep] - 0.001) & (hit["tfar"] > 0.001)
                assert through.sum() <= 8, (w.name, a.label, a.asset, b.label, b.asset)


def test_what_is_tilted_leans_with_its_upper_edge_against_a_wall(worlds: list[World]) -> None:
    leaning = [(w, e) for w in worlds for e in w.entities if w.T_world_entity[e.entity_id - 1][2, 2] < 0.999]
    assert len(leaning) > 5
    assert {e.label for _, e in leaning} == {"picture", "mirror"}
    for w, e in leaning:
        v = vertices(w, e)
        assert abs(v[:, 2].min()) < 1e-6, "it stands on the floor"
        upper = v[v[:, 2] > 0.6 * v[:, 2].max(), :2]
        walls = [(k, wall) for r in w.rooms for k, wall in ((0, r.x0), (0, r.x1), (1, r.y0), (1, r.y1))]
        gaps = [np.abs(upper[:, k] - wall).min() for k, wall in walls]
        assert min(gaps) < 0.006, (w.name, e.label)
        assert not e.graspable and not e.movable


def test_people_find_something_to_do_within_reach(worlds: list[World]) -> None:
    """A ball, a towel, a spoon or something to pour, in the same room and at most 3.5 m away."""
    props = {"ball", "towel", "spoon", "bottle", "carton", "can"}
    near = []
    for w in worlds:
        at = {e.entity_id: w.T_world_entity[e.entity_id - 1][:2, 3] for e in w.entities}
        things = [at[e.entity_id] for e in w.entities if e.label in props]
        near += [any(np.linalg.norm(t - at[p.entity_id]) < 3.5 for t in things) for p in w.people]
    assert np.mean(near) > 0.85


def test_doors_can_swing_open(worlds: list[World]) -> None:
    """The quarter of floor that a room door sweeps holds nothing."""
    for w in worlds:
        for door in (e for e in w.entities if e.label == "door"):
            into = np.linalg.inv(w.T_world_entity[door.entity_id - 1])
            for e in w.entities:
                if e.label in STRUCTURE | OUTSIDE | {"person", "curtain"}:
                    continue
                local = vertices(w, e) @ into[:3, :3].T + into[:3, 3]
                low = local[local[:, 2] < 2.0]
                swept = (np.abs(low[:, 0]) < 0.36) & (low[:, 1] < -0.1) & (low[:, 1] > -0.7)
                assert not swept.any(), (w.name, e.label)


def test_people_stand_on_free_floor_within_a_room(worlds: list[World]) -> None:
    for w in worlds:
        for person in w.people:
            x, y, z = w.T_world_entity[person.entity_id - 1][:3, 3]
            assert z == 0 and any(r.x0 < x < r.x1 and r.y0 < y < r.y1 for r in w.rooms)


def test_space_knows_what_is_in_the_way() -> None:
    plan = make_plan(np.random.default_rng(3), 2)
    space, room = FloorSpace(plan), plan.rooms[0]
    middle = ((room.x0 + room.x1) / 2, (room.y0 + room.y1) / 2)
    table = Footprint(*middle, 0.6, 0.4, 0.3)
    assert space.fits(table, room) and space.reachable((table,))
    space.take(table)
    assert not space.fits(Footprint(*middle, 0.1, 0.1, 0.0), room)
    assert space.fits(Footprint(*middle, 0.1, 0.1, 0.0, low=2.0, high=2.3), room), "above it is free"
    assert not space.fits(Footprint(room.x0, room.y0, 0.2, 0.2, 0.0), room), "half of it is in the wall"
    wide = Footprint(plan.doorways[0].center[0], plan.doorways[0].center[1], 0.6, 0.6, 0.0)
    assert not space.reachable((wide,)), "it blocks the only way between the rooms"


def test_turned_boxes_overlap_only_where_they_do() -> None:
    a = Footprint(0, 0, 1, 0.1, 0.0)
    assert overlap(a, Footprint(0.9, 0.5, 1, 0.1, np.pi / 2))
    assert not overlap(a, Footprint(1.0, 0.9, 1, 0.1, np.pi / 4)), "their axis-aligned boxes do overlap"
    assert not overlap(a, Footprint(0, 0, 1, 1, 0.0, low=2.0, high=3.0))
