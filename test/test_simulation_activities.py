"""People act: hands touch what they hold, bodies sit on seats, things that are let go of come to rest on something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from psg4d_ros.data.simulation.acting import Activity, Impossible
from psg4d_ros.data.simulation.activities import get_up, lie_down, sit_down, stand_up
from psg4d_ros.data.simulation.bodies import make_body
from psg4d_ros.data.simulation.classes import TRAIN_WORDS
from psg4d_ros.data.simulation.director import Cue, perform, perform_script
from psg4d_ros.data.simulation.frames import placed
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.handling import hand_over, pick_up, put_down
from psg4d_ros.data.simulation.locomotion import go, walk_to
from psg4d_ros.data.simulation.navigation import BODY_RADIUS_M, FloorMap
from psg4d_ros.data.simulation.shifting import kick, operate, push_off, shift, throw_and_catch
from psg4d_ros.data.simulation.stage import Stage
from psg4d_ros.data.simulation.tasks import drink
from psg4d_ros.data.simulation.world import STEP_S, Entity, Joint, Part, Room, Surface, Timeline, World
from psg4d_ros.vocabulary import default_vocabulary

FLOOR, TABLE, CHAIR, BED, CHEST, CUP, BALL, BOX, ADA, BEN = range(1, 11)
BOXED_IN = (2.4, 2.4)  # a corner that nobody gets to
TABLE_TOP_M = 0.74

Block = tuple[tuple[float, float, float], tuple[float, float, float]]


def part(name: str, *blocks: Block) -> Part:
    """A rigid piece made of axis-aligned blocks, each given by its lower and upper corner."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))])
    vertices = [np.array(low) + corners * (np.array(high) - np.array(low)) for low, high in blocks]
    return Part(
        name,
        np.concatenate(vertices).astype(np.float32),
        np.concatenate([faces + 8 * i for i in range(len(blocks))]).astype(np.int32),
        np.full((12 * len(blocks), 3), 128, np.uint8),
    )


def legs(x: float, y: float, top: float) -> list[Block]:
    return [((a - 0.02, b - 0.02, 0.0), (a + 0.02, b + 0.02, top)) for a in (-x, x) for b in (-y, y)]


def small_world() -> World:
    """One room with a table (cup on it), a chair, a bed, a chest with a drawer, a ball, a box and two people."""
    rng = np.random.default_rng(4)
    entities: list[Entity] = []
    poses, supports = [], {}

    def add(
        label: str, parts: tuple[Part, ...], T: np.ndarray, on: tuple[int, int] | None = None, **rest: object
    ) -> None:
        vertices = np.concatenate([p.vertices for p in parts])
        size = tuple(float(x) for x in np.ptp(vertices, axis=0))
        number = len(entities) + 1
        entities.append(Entity(number, label, label != "floor", parts, size, "gray", **rest))  # type: ignore[arg-type]
        poses.append(T)
        if on is not None:
            supports[number] = on

    floor = Surface("floor", (0.0, 0.0, 0.0), (6.0, 6.0), 2.5)
    add("floor", (part("floor", ((-3, -3, -0.05), (3, 3, 0))),), placed(0, 0, 0, 0), surfaces=(floor,))
    top = Surface("top", (0.0, 0.0, TABLE_TOP_M), (1.2, 0.8), 2.0)
    table = part("table", ((-0.6, -0.4, 0.70), (0.6, 0.4, TABLE_TOP_M)), *legs(0.55, 0.35, 0.7))
    add("table", (table,), placed(0, 1, 0, 0), (FLOOR, 0), surfaces=(top,))
    seat = Surface("seat", (0.0, -0.02, 0.45), (0.44, 0.40), 2.0)
    chair = part(
        "chair",
        ((-0.22, -0.22, 0.42), (0.22, 0.22, 0.45)),
        ((-0.22, 0.18, 0.45), (0.22, 0.22, 0.9)),
        *legs(0.2, 0.2, 0.42),
    )
    add("chair", (chair,), placed(-1.6, -1, 0, 1.0), (FLOOR, 0), movable=True, surfaces=(seat,))
    mattress = Surface("lying", (0.0, 0.0, 0.45), (1.4, 2.0), 2.0)
    add(
        "bed",
        (part("bed", ((-0.7, -1, 0), (0.7, 1, 0.45))),),
        placed(2.0, -1.6, 0, 0),
        (FLOOR, 0),
        surfaces=(mattress,),
    )
    case = part(
        "case",
        ((-0.5, 0.2, 0), (0.5, 0.25, 1)),
        ((-0.5, -0.2, 0.95), (0.5, 0.25, 1)),
        ((-0.5, -0.2, 0), (-0.45, 0.2, 0.95)),
        ((0.45, -0.2, 0), (0.5, 0.2, 0.95)),
    )
    drawer = part("drawer", ((-0.44, -0.22, 0.55), (0.44, -0.2, 0.93)), ((-0.43, -0.2, 0.56), (0.43, 0.18, 0.58)))
    slide = Joint("slide", 1, (0.0, -0.2, 0.6), (0.0, -1.0, 0.0), 0.3, (0.0, -0.24, 0.75))
    inside = Surface("inside", (0.0, 0.0, 0.58), (0.8, 0.36), 0.35, 1)
    add("drawer", (case, drawer), placed(-2.0, 2.6, 0, 0), (FLOOR, 0), joints=(slide,), surfaces=(inside,))
    cup = part("cup", ((-0.035, -0.035, 0), (0.035, 0.035, 0.09)))
    add("cup", (cup,), placed(0.2, 0.8, TABLE_TOP_M, 0), (TABLE, 0), graspable=True, grip=(0, 0, 0.045))
    ball = part("ball", ((-0.1, -0.1, 0), (0.1, 0.1, 0.2)))
    add("ball", (ball,), placed(0, -1, 0, 0), (FLOOR, 0), graspable=True)
    box = part("box", ((-0.2, -0.15, 0), (0.2, 0.15, 0.25)))
    add("box", (box,), placed(0.6, -2.2, 0, 0.4), (FLOOR, 0), graspable=True)
    for x, yaw in ((-1.0, 0.3), (1.0, 2.0)):
        body = make_body(rng, child=False)
        add("person", body.parts, placed(x, -0.2, 0, yaw), (FLOOR, 0), body=body)
    room = Room("living room", -3.0, -3.0, 3.0, 3.0)
    return World("small", (room,), (), tuple(entities), np.stack(poses), supports)


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


def play(world: World, seconds: float, plan: Callable[[Stage], Activity], *people: int) -> Timeline:
    return perform_script(world, [Cue(0.0, people or (ADA,), plan)], duration_s=seconds)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def spans(timeline: Timeline, name: str, subject: int = ADA, obj: int | None = None) -> list[tuple[int, int]]:
    """Steps [start, end) of each fact."""
    return [
        (round(f.start_s / STEP_S), round(f.end_s / STEP_S))
        for f in timeline.facts
        if f.name == name and f.subject_id == subject and (obj is None or f.object_id == obj)
    ]


def palm(timeline: Timeline, person: int, hand: str, step: int) -> np.ndarray:
    body = timeline.world.entity(person).body
    assert body is not None
    index, rest = body.points[f"{hand}_hand"]
    T = timeline.T_world_part[person - 1][step, index]
    return T[:3, :3] @ rest + T[:3, 3]


def gap_to_box(timeline: Timeline, point: np.ndarray, thing: int, step: int) -> float:
    """Metres from a point to the surface of a thing that is one block."""
    T = timeline.T_world_entity[thing - 1][timeline.index(thing, step)]
    local = T[:3, :3].T @ (point - T[:3, 3])
    vertices = timeline.world.entity(thing).parts[0].vertices
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    outside = float(np.linalg.norm(np.maximum(np.maximum(low - local, local - high), 0.0)))
    return outside if outside else float(np.minimum(local - low, high - local).min())


def test_paths_lead_around_furniture_and_nowhere_through_it(world: World) -> None:
    stage = Stage(world)
    clearance = stage.clearance(stage.actors[ADA])
    path = stage.floor.path(np.array([-1.0, 0.2]), np.array([0.0, 2.2]), clearance)
    assert path is not None  # from before the table to behind it
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.08
    assert clearance[tuple(stage.floor.cells(path).T)].min() > BODY_RADIUS_M - 0.08
    walled = clearance.copy()
    walled[:, stage.floor.cells(np.array([0.0, 0.3]))[1]] = 0.0
    assert stage.floor.path(np.array([0.0, -1.5]), np.array([0.0, 2.2]), walled) is None


def test_a_table_blocks_with_its_top_and_a_person_with_its_shoulders(world: World) -> None:
    stage = Stage(world)
    between_legs = np.array([0.0, 1.0])
    assert stage.floor.at(stage.clearance(), between_legs) == 0.0
    beside_ben = stage.actors[BEN].place + 0.3
    assert stage.floor.at(stage.clearance(stage.actors[BEN]), beside_ben) > stage.floor.at(
        stage.clearance(), beside_ben
    )


def test_heights_say_what_is_below(world: World) -> None:
    stage = Stage(world)
    heights, owner = stage.heights()
    i, j = stage.floor.cells(np.array([0.2, 0.8]))
    assert owner[i, j] == CUP and heights[i, j] == pytest.approx(TABLE_TOP_M + 0.09, abs=1e-6)
    assert isinstance(stage.floor, FloorMap)


def test_a_cup_is_taken_carried_and_put_down_without_a_jump_or_a_gap(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        ada = stage.actors[ADA]
        yield from pick_up(stage, ada, CUP)
        yield from walk_to(stage, ada, CHAIR)
        yield from put_down(stage, ada, CUP, TABLE, 0, rng())

    timeline = play(world, 14.0, plan)
    ((start, end),) = spans(timeline, "holding", obj=CUP)
    gaps = [
        min(gap_to_box(timeline, palm(timeline, ADA, h, s), CUP, s) for h in ("left", "right"))
        for s in range(start, end)
    ]
    assert max(gaps) < 0.03
    carrier = timeline.carrier[CUP - 1]
    assert carrier[start - 1] == TABLE and (carrier[start:end] == ADA).all() and (carrier[end:] == TABLE).all()
    moved = np.linalg.norm(np.diff(timeline.T_world_entity[CUP - 1][:, :3, 3], axis=0), axis=1)
    assert moved.max() < 0.2 and moved[[start - 1, end - 1]].max() < 0.03
    assert timeline.T_world_entity[CUP - 1][-1, 2, 3] == pytest.approx(TABLE_TOP_M)
    assert spans(timeline, "picking up")[0][0] < start < spans(timeline, "carrying")[0][0]
    assert spans(timeline, "putting down")[0][0] < end < spans(timeline, "putting down")[0][1]


def test_who_reaches_for_a_cup_in_vain_does_not_pick_it_up(world: World) -> None:
    """Somebody else takes the cup while a hand is on its way: that reach is no picking up, by the definition."""
    snatched = []

    def plan(stage: Stage) -> Activity:
        actor = stage.actors[ADA]
        try:
            for _ in pick_up(stage, actor, CUP):
                if actor.reaching and not snatched:
                    snatched.append(stage.now)
                    stage.grasp(stage.actors[BEN], CUP, ("right",))
                yield
        except Impossible:
            return

    timeline = perform_script(world, [Cue(0.0, (ADA,), plan)], duration_s=8.0)
    said = {f.name for f in timeline.facts if f.subject_id == ADA}
    assert snatched and "walking to" in said
    assert not said & {"picking up", "holding"}


def test_a_cup_that_is_moved_away_meanwhile_is_not_grasped_from_afar(world: World) -> None:
    moved = []

    def plan(stage: Stage) -> Activity:
        actor = stage.actors[ADA]
        with pytest.raises(Impossible, match="out of reach"):
            for _ in pick_up(stage, actor, CUP):
                if actor.reaching and not moved:
                    moved.append(stage.now)
                    stage.move(CUP, placed(-0.2, 1.1, TABLE_TOP_M, 0.0))
                yield

    timeline = play(world, 8.0, plan)
    assert moved and not {"picking up", "holding"} & {f.name for f in timeline.facts}
    np.testing.assert_array_equal(timeline.T_world_entity[CUP - 1][-1], placed(-0.2, 1.1, TABLE_TOP_M, 0.0))


def test_a_box_is_held_between_two_hands_and_handed_over(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        ada, ben = stage.actors[ADA], stage.actors[BEN]
        yield from pick_up(stage, ada, BOX)
        yield from hand_over(stage, ada, ben, BOX)

    timeline = play(world, 14.0, plan, ADA, BEN)
    ((_, passed),) = spans(timeline, "holding", ADA)
    ((taken, _),) = spans(timeline, "holding", BEN)
    assert passed == taken
    for step in (passed - 5, passed + 5):
        holder = ADA if step < passed else BEN
        assert max(gap_to_box(timeline, palm(timeline, holder, h, step), BOX, step) for h in ("left", "right")) < 0.03
    (given,), (got,) = spans(timeline, "giving to", ADA, BEN), spans(timeline, "taking from", BEN, ADA)
    assert given == got and given[0] < passed <= given[1]


def test_somebody_sits_on_the_seat_and_not_in_it(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        yield from sit_down(stage, stage.actors[ADA], CHAIR)
        yield from stand_up(stage, stage.actors[ADA])

    timeline = play(world, 8.0, plan)
    ((start, end),) = spans(timeline, "sitting")
    carrier = timeline.carrier[ADA - 1]
    assert set(np.flatnonzero(carrier == CHAIR)) == set(range(start, end))
    pelvis = timeline.world.entity(ADA).parts[0].vertices
    T = timeline.T_world_part[ADA - 1][(start + end) // 2, 0]
    lowest = float((pelvis @ T[:3, :3].T + T[:3, 3])[:, 2].min())
    assert -0.03 < lowest - 0.45 < 0.01
    (down,), (up,) = spans(timeline, "sitting down on", obj=CHAIR), spans(timeline, "standing up from", obj=CHAIR)
    assert down[0] < start < down[1] and up[0] < end < up[1]


def test_somebody_lies_down_on_the_bed_and_gets_up_again(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        yield from lie_down(stage, stage.actors[ADA], BED)
        yield
        yield from get_up(stage, stage.actors[ADA])

    timeline = play(world, 14.0, plan)
    ((start, end),) = spans(timeline, "lying")
    assert (timeline.carrier[ADA - 1][start:end] == BED).all()
    low, high = timeline.box(ADA, start)
    assert 0.42 < low[2] < 0.46 and high[2] < 0.9
    assert timeline.box(ADA, len(timeline.times_s) - 1)[1, 2] > 1.4  # on its feet


def test_a_drawer_follows_the_hand_and_takes_along_what_lies_in_it(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        ada = stage.actors[ADA]
        yield from pick_up(stage, ada, CUP)
        yield from operate(stage, ada, CHEST, 0, 1.0)
        yield from put_down(stage, ada, CUP, CHEST, 0, rng())
        yield from operate(stage, ada, CHEST, 0, 0.0)

    timeline = play(world, 22.0, plan)
    (opening,), (closing,) = spans(timeline, "opening", obj=CHEST), spans(timeline, "closing", obj=CHEST)
    opened = timeline.opened[CHEST - 1][:, 0]
    assert opened[opening[0] - 1] == 0.0 and opened[opening[1]] == 1.0 and opened[closing[1]] == 0.0
    handle = np.array([0.0, -0.24, 0.75, 1.0])
    for start, end in (opening, closing):
        for step in range(start + 1, start + (end - start) // 2):
            at = (timeline.T_world_part[CHEST - 1][step, 1] @ handle)[:3]
            assert min(np.linalg.norm(palm(timeline, ADA, h, step) - at) for h in ("left", "right")) < 0.03
    before, after = (timeline.T_world_entity[CUP - 1][s, :3, 3] for s in (closing[0] - 1, closing[1]))
    np.testing.assert_allclose(after - before, [0.0, 0.3, 0.0], atol=1e-6)


def test_a_ball_is_thrown_flies_by_itself_and_is_caught(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        ada, ben = stage.actors[ADA], stage.actors[BEN]
        yield from pick_up(stage, ada, BALL)
        yield from throw_and_catch(stage, ada, BALL, ben, rng())

    timeline = play(world, 9.0, plan, ADA, BEN)
    ((_, thrown),) = spans(timeline, "holding", ADA)
    ((caught, _),) = spans(timeline, "holding", BEN)
    assert caught - thrown >= 5 and (timeline.carrier[BALL - 1][thrown:caught] == 0).all()
    middle = (timeline.T_world_entity[BALL - 1][thrown:caught] @ np.array([0.0, 0.0, 0.1, 1.0]))[:, :3]
    fall = np.array([0.0, 0.0, -9.81 * STEP_S**2])  # in every step the same, and straight on in x and y
    np.testing.assert_allclose(np.diff(middle, n=2, axis=0), np.tile(fall, (len(middle) - 2, 1)), atol=1e-6)
    assert spans(timeline, "throwing", ADA, BALL) and spans(timeline, "catching", BEN, BALL)


def test_a_kicked_ball_rolls_out_on_the_floor(world: World) -> None:
    timeline = play(world, 12.0, lambda stage: kick(stage, stage.actors[ADA], BALL, rng()))
    track = timeline.T_world_entity[BALL - 1][:, :3, 3]
    ((start, _),) = spans(timeline, "kicking", obj=BALL)
    assert np.linalg.norm(track[start] - track[0]) == 0.0  # not before it is kicked
    assert np.linalg.norm(track[-1, :2] - track[0, :2]) > 0.5
    assert timeline.carrier[BALL - 1][-1] == FLOOR
    centre = timeline.T_world_entity[BALL - 1][-1] @ np.array([0.0, 0.0, 0.1, 1.0])
    assert centre[2] == pytest.approx(0.1, abs=0.005)


def test_what_is_pushed_off_a_table_falls_to_the_floor(world: World) -> None:
    timeline = play(world, 9.0, lambda stage: push_off(stage, stage.actors[ADA], CUP, rng()))
    carrier = timeline.carrier[CUP - 1]
    assert carrier[0] == TABLE and 0 in carrier and carrier[-1] == FLOOR
    assert timeline.box(CUP, len(timeline.times_s) - 1)[0, 2] == pytest.approx(0.0, abs=0.01)
    assert spans(timeline, "pushing", obj=CUP)


def test_a_chair_goes_where_it_is_pushed_as_long_as_hands_are_on_it(world: World) -> None:
    timeline = play(world, 9.0, lambda stage: shift(stage, stage.actors[ADA], CHAIR, 0.6))
    ((start, end),) = spans(timeline, "pushing", obj=CHAIR)
    track = timeline.T_world_entity[CHAIR - 1][:, :2, 3]
    assert np.linalg.norm(track[end] - track[start - 1]) == pytest.approx(0.6, abs=0.05)
    assert np.linalg.norm(track[-1] - track[end]) == 0.0 and np.linalg.norm(track[start - 1] - track[0]) == 0.0


def test_drinking_brings_the_rim_to_the_mouth(world: World) -> None:
    def plan(stage: Stage) -> Activity:
        yield from pick_up(stage, stage.actors[ADA], CUP)
        yield from drink(stage, stage.actors[ADA], CUP, 1)

    timeline = play(world, 8.0, plan)
    ((start, end),) = spans(timeline, "drinking from", obj=CUP)
    body = timeline.world.entity(ADA).body
    assert body is not None
    index, rest = body.points["mouth"]
    nearest = 1.0
    for step in range(start, end):
        T = timeline.T_world_part[ADA - 1][step, index]
        mouth = T[:3, :3] @ rest + T[:3, 3]
        nearest = min(nearest, gap_to_box(timeline, mouth, CUP, step))
    assert nearest < 0.06
    (held,) = spans(timeline, "holding", obj=CUP)
    assert held[0] < start and end <= held[1]


def test_walkers_wait_for_each_other_and_never_walk_through_each_other(world: World) -> None:
    places = {ADA: np.array([1.2, -0.2]), BEN: np.array([-1.2, -0.2])}
    cues = [Cue(0.0, (p,), lambda stage, p=p: go(stage, stage.actors[p], places[p])) for p in (ADA, BEN)]
    timeline = perform_script(world, cues, duration_s=10.0)
    apart = np.linalg.norm(
        timeline.T_world_entity[ADA - 1][:, :2, 3] - timeline.T_world_entity[BEN - 1][:, :2, 3], axis=1
    )
    assert apart.min() > 0.38
    for person, place in places.items():
        assert np.linalg.norm(timeline.T_world_entity[person - 1][-1, :2, 3] - place) < 0.05


def test_a_script_that_cannot_be_played_says_so(world: World) -> None:
    with pytest.raises(Impossible, match="cannot be taken"):
        play(world, 1.0, lambda stage: pick_up(stage, stage.actors[ADA], TABLE))


@pytest.fixture(scope="module")
def performed() -> list[Timeline]:
    out = []
    for seed in range(4):
        made = make_world(np.random.default_rng(seed), name=str(seed), words=TRAIN_WORDS)
        out.append(perform(made, np.random.default_rng(seed), duration_s=8.0))
    return out


def test_performances_speak_the_words_of_the_vocabulary_within_their_time(performed: list[Timeline]) -> None:
    words = default_vocabulary()
    for timeline in performed:
        assert len(timeline.times_s) == 160
        assert len({f.name for f in timeline.facts}) > 4
        for fact in timeline.facts:
            assert fact.name in (words.attributes if fact.object_id is None else words.predicates)
            assert 0.0 <= fact.start_s < fact.end_s <= 8.0 + 1e-9


def test_everybody_stands_sits_or_lies_at_any_time(performed: list[Timeline]) -> None:
    for timeline in performed:
        for person in timeline.world.people:
            count = np.zeros(len(timeline.times_s), dtype=int)
            for name in ("standing", "sitting", "lying"):
                for start, end in spans(timeline, name, person.entity_id):
                    count[start:end] += 1
            assert (count == 1).all()


def test_nothing_that_is_carried_by_nobody_hangs_in_the_air_at_the_end(performed: list[Timeline]) -> None:
    for timeline in performed:
        for entity in timeline.world.entities:
            carrier = timeline.carrier[entity.entity_id - 1]
            if entity.graspable and len(carrier) > 1 and carrier[-1] == 0:
                track = timeline.T_world_entity[entity.entity_id - 1][-3:, 2, 3]
                assert np.ptp(track) > 0.0  # still flying


def test_the_same_seed_gives_the_same_performance(performed: list[Timeline]) -> None:
    made = make_world(np.random.default_rng(1), name="1", words=TRAIN_WORDS)
    again = perform(made, np.random.default_rng(1), duration_s=8.0)
    assert again.facts == performed[1].facts
    for a, b in zip(again.T_world_part, performed[1].T_world_part, strict=True):
        np.testing.assert_array_equal(a, b)
