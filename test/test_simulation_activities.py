"""People act: hands touch what they hold, bodies sit on seats, things that are let go of come to rest on something."""

from __future__ import annotations

import numpy as np
import pytest
from seen_events import Seen
from small_world import (
    ADA,
    BALL,
    BED,
    BEN,
    BOX,
    CHAIR,
    CHEST,
    CUP,
    FLOOR,
    TABLE,
    TABLE_TOP_M,
    gap_to_box,
    palm,
    play,
    rng,
    small_world,
    spans,
)

from psg4d_ros.data.simulation.acting import Activity, Impossible
from psg4d_ros.data.simulation.activities import converse, get_up, lie_down, sit_down, stand_up, start_seated
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
from psg4d_ros.data.simulation.world import STEP_S, Timeline, World
from psg4d_ros.vocabulary import default_vocabulary


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


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


@pytest.mark.parametrize(
    ("ball_at", "goal", "leaves"),
    [
        ((-1.0, -1.2), (-1.0, 0.4), True),
        ((-1.0, 0.4), (-0.9, 0.2), False),  # it lies where the way leads
        ((2.2, 2.2), (-1.0, -1.4), False),  # it has rolled away by itself
    ],
)
def test_who_walks_leaves_what_it_dealt_with_only_if_that_stays_behind(world, ball_at, goal, leaves) -> None:
    def plan(stage: Stage) -> Activity:
        stage.move(BALL, placed(*ball_at, 0.0, 0.0))
        stage.actors[ADA].near = BALL
        yield from go(stage, stage.actors[ADA], np.array(goal))

    timeline = play(world, 5.0, plan)
    assert bool(spans(timeline, "walking away from", obj=BALL)) == leaves
    assert spans(timeline, "walking")


def test_nobody_talks_to_somebody_behind_the_back(world: World) -> None:
    def prepare(stage: Stage) -> None:
        start_seated(stage, stage.actors[ADA], CHAIR)
        behind = stage.actors[BEN]
        behind.place = stage.actors[ADA].place - 1.2 * stage.actors[ADA].forward
        stage.settle(behind)

    cue = Cue(0.0, (ADA, BEN), lambda stage: converse(stage, stage.actors[ADA], stage.actors[BEN], 2.0))
    with pytest.raises(Impossible, match="the back to the other"):
        perform_script(world, [cue], duration_s=4.0, prepare=prepare)


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
    assert len({f.name for timeline in performed for f in timeline.facts}) > 10
    for timeline in performed:
        assert len(timeline.times_s) == 160
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


def test_who_looks_at_something_turns_the_head_to_it(performed: list[Timeline]) -> None:
    looked = 0
    for timeline in performed:
        seen = Seen(timeline)
        for fact in timeline.facts:
            start, end = round(fact.start_s / STEP_S) + 16, round(fact.end_s / STEP_S)  # the head needs its time
            if fact.name == "looking at" and end - start > 10:
                assert fact.object_id is not None
                assert seen.looks_at(fact.subject_id, fact.object_id, 40.0)[start:end].mean() > 0.7
                looked += 1
    assert looked


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
