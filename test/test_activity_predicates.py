"""What an activity says of itself holds when it is seen to happen: every predicate that an activity decides is played,
and the span it records is held against an event that is read off the poses of bodies and things alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import seen_events as events
from seen_events import Mask, Seen
from small_world import ADA, BALL, BEN, CAL, CHAIR, CHEST, CUP, MORE, TABLE, TABLE_TOP_M, rng, small_world, spans

from psg4d_ros.data.simulation.acting import Activity, together, wait
from psg4d_ros.data.simulation.activities import converse, look, sit_down, stand_up, start_seated
from psg4d_ros.data.simulation.director import Cue, perform_script
from psg4d_ros.data.simulation.frames import placed, yaw_towards
from psg4d_ros.data.simulation.handling import hand_over, pick_up, put_down, start_holding
from psg4d_ros.data.simulation.locomotion import follow, go, turn_to, walk_past, walk_to
from psg4d_ros.data.simulation.predicates import ACTIVITY, PREDICATES
from psg4d_ros.data.simulation.shifting import kick, operate, shift, throw_and_catch
from psg4d_ros.data.simulation.stage import Actor, Stage
from psg4d_ros.data.simulation.tasks import drink, eat, pour, read, type_on, use_held, work_at
from psg4d_ros.data.simulation.world import STEP_S, Timeline

BEFORE_S = 1.2  # everything begins after a while in which nothing happens


# Scenes: who does what


@dataclass(frozen=True)
class Scene:
    """An activity that begins after BEFORE_S. slack_s: how much sooner the span may start and later it may end than
    what is seen, since a hand that sets out is on its way before it arrives. wrong: who or what it is not done to."""

    event: Callable[[Seen, int, int], Mask]
    plan: Callable[[Stage], Activity]
    what: int
    who: int = ADA
    wrong: int = CUP
    prepare: Callable[[Stage], None] = lambda stage: None
    more: tuple[tuple[str, tuple[float, float, float], tuple[float, float]], ...] = ()
    slack_s: tuple[float, float] = (0.2, 0.2)
    seconds: float = 9.0


def at(stage: Stage, person: int, x: float, y: float, towards: tuple[float, float]) -> Actor:
    actor = stage.actors[person]
    actor.place = np.array([x, y])
    actor.yaw = yaw_towards(np.array(towards) - actor.place)
    stage.settle(actor)
    return actor


def at_table(*held: int, x: float = 0.2) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        ada = at(stage, ADA, x, 0.32, (x, 1.0))
        for thing in held:
            start_holding(stage, ada, thing)

    return prepare


def two(apart_m: float, *held: int) -> Callable[[Stage], None]:
    """Face to face in the middle of the room."""

    def prepare(stage: Stage) -> None:
        at(stage, BEN, apart_m / 2, -0.6, (0.0, -0.6))
        ada = at(stage, ADA, -apart_m / 2, -0.6, (0.0, -0.6))
        for thing in held:
            start_holding(stage, ada, thing)

    return prepare


def free_floor(yaw_to: tuple[float, float] = (0.0, 3.0)) -> Callable[[Stage], None]:
    def prepare(stage: Stage) -> None:
        at(stage, ADA, -2.0, 0.4, yaw_to)
        at(stage, BEN, 2.2, 0.2, (2.2, 3.0))

    return prepare


def beside_chair(stage: Stage) -> None:
    at(stage, ADA, -1.9, -0.3, (0.5, -0.8)).near = CHAIR


def in_the_way(stage: Stage) -> None:
    at(stage, ADA, -2.2, -0.3, (0.0, -0.3))
    at(stage, BEN, 0.4, -1.0, (0.4, 0.0))


def one_behind_the_other(stage: Stage) -> None:
    at(stage, ADA, -2.3, 0.2, (0.0, 0.2))
    at(stage, BEN, -1.3, 0.2, (0.0, 0.2))


def both(plan: Callable[[Stage, Actor, Actor], Activity]) -> Callable[[Stage], Activity]:
    return lambda stage: plan(stage, stage.actors[ADA], stage.actors[BEN])


def ada(plan: Callable[[Stage, Actor], Activity]) -> Callable[[Stage], Activity]:
    return lambda stage: plan(stage, stage.actors[ADA])


def pick_and_put(stage: Stage) -> Activity:
    yield from pick_up(stage, stage.actors[ADA], CUP)
    yield from wait(0.5)
    yield from put_down(stage, stage.actors[ADA], CUP, TABLE, 0, rng())


def lead_and_follow(stage: Stage) -> Activity:
    ada, ben = stage.actors[ADA], stage.actors[BEN]
    yield from together(go(stage, ben, np.array([2.2, 0.2])), follow(stage, ada, ben, 3.0))


BOWL = ("bowl", (0.16, 0.16, 0.07), (0.3, 0.78))
LAPTOP = ("laptop", (0.35, 0.25, 0.02), (-0.3, 0.8))
OVEN = ("microwave", (0.45, 0.3, 0.28), (-0.3, 0.85))
POT = ("pot", (0.2, 0.2, 0.14), (-0.2, 0.8))
SPOON, PHONE, TOY = (
    (label, size, (-0.45, 1.25))
    for label, size in (("spoon", (0.03, 0.2, 0.02)), ("phone", (0.08, 0.15, 0.01)), ("toy", (0.1, 0.1, 0.12)))
)
TOWEL, BOOK, BOTTLE = (
    (label, size, (-0.45, 1.25))
    for label, size in (("towel", (0.2, 0.2, 0.01)), ("book", (0.15, 0.03, 0.22)), ("bottle", (0.07, 0.07, 0.25)))
)
OPEN_DRAWER: Callable[[Stage], None] = lambda stage: stage.open(CHEST, 0, 1.0)  # noqa: E731

SCENES = {
    "holding": Scene(events.is_held, pick_and_put, CUP, wrong=BALL, prepare=at_table()),
    "carrying": Scene(
        events.is_carried, ada(lambda s, a: go(s, a, np.array([-1.8, 0.2]))), CUP, wrong=BALL, prepare=at_table(CUP)
    ),
    "picking up": Scene(events.is_taken, ada(lambda s, a: pick_up(s, a, CUP)), CUP, wrong=BALL, prepare=at_table()),
    "putting down": Scene(
        events.is_set_down, ada(lambda s, a: put_down(s, a, CUP, TABLE, 0, rng())), CUP, wrong=BALL,
        prepare=at_table(CUP),
    ),
    "looking at": Scene(
        events.is_looked_at, ada(lambda s, a: look(s, a, CUP, 2.5)), CUP,
        wrong=BALL, prepare=lambda s: at(s, ADA, 0.2, -0.2, (-0.5, 0.8)), slack_s=(0.5, 0.5),
    ),
    "talking to": Scene(
        events.is_talked_to, both(lambda s, a, b: converse(s, a, b, 3.0)), BEN, wrong=CAL, prepare=two(0.9)
    ),
    "drinking from": Scene(
        events.is_drunk_from, ada(lambda s, a: drink(s, a, CUP, 2)), CUP, wrong=BALL, prepare=at_table(CUP)
    ),
    "eating": Scene(
        events.is_eaten_from, ada(lambda s, a: eat(s, a, MORE)), MORE, prepare=at_table(), more=(BOWL,),
        slack_s=(0.7, 0.3),
    ),
    "reading": Scene(
        events.is_read, ada(lambda s, a: read(s, a, MORE, 2.0)), MORE, prepare=two(2.0, MORE), more=(BOOK,),
        slack_s=(0.9, 0.4),
    ),
    "typing on": Scene(
        events.is_typed_on, ada(lambda s, a: type_on(s, a, MORE, None, 2.5)), MORE, prepare=at_table(), more=(LAPTOP,),
        slack_s=(0.7, 0.2),
    ),
    "using": Scene(
        events.is_worked, ada(lambda s, a: work_at(s, a, MORE, "using", 2.5)), MORE, prepare=at_table(), more=(OVEN,),
        slack_s=(0.7, 0.3),
    ),
    "using what is held": Scene(
        events.is_raised, ada(lambda s, a: use_held(s, a, MORE, None, 2.5)), MORE, prepare=two(2.0, MORE),
        more=(PHONE,), slack_s=(0.4, 0.4),
    ),
    "playing with": Scene(
        events.is_raised, ada(lambda s, a: use_held(s, a, MORE, None, 2.5, "playing with")), MORE,
        prepare=two(2.0, MORE), more=(TOY,), slack_s=(0.4, 0.4),
    ),
    "cleaning": Scene(
        events.is_wiped, ada(lambda s, a: work_at(s, a, TABLE, "cleaning", 2.5, circle_m=0.12)), TABLE,
        prepare=at_table(MORE, x=-0.3), more=(TOWEL,), slack_s=(0.8, 0.3),
    ),
    "stirring": Scene(
        events.is_stirred_in,
        ada(lambda s, a: work_at(s, a, MORE + 1, "stirring", 2.5, circle_m=0.03, above_m=0.05)), MORE + 1,
        prepare=at_table(MORE), more=(SPOON, POT), slack_s=(0.8, 0.3),
    ),
    "pouring into": Scene(
        events.is_poured_into, ada(lambda s, a: pour(s, a, MORE, CUP)), CUP, wrong=BALL, prepare=at_table(MORE),
        more=(BOTTLE,),
    ),
    "giving to": Scene(
        events.is_given, both(lambda s, a, b: hand_over(s, a, b, CUP)), BEN, wrong=CAL, prepare=two(0.7, CUP)
    ),
    "taking from": Scene(
        events.is_got, both(lambda s, a, b: hand_over(s, a, b, CUP)), ADA, who=BEN, wrong=CAL, prepare=two(0.7, CUP),
    ),
    "pushing": Scene(events.is_pushed, ada(lambda s, a: shift(s, a, CHAIR, 0.6)), CHAIR),
    "pulling": Scene(events.is_pulled, ada(lambda s, a: shift(s, a, CHAIR, 0.6, pull=True)), CHAIR),
    "opening": Scene(events.is_opened, ada(lambda s, a: operate(s, a, CHEST, 0, 1.0)), CHEST),
    "closing": Scene(events.is_closed, ada(lambda s, a: operate(s, a, CHEST, 0, 0.0)), CHEST, prepare=OPEN_DRAWER),
    "throwing": Scene(
        events.is_thrown, both(lambda s, a, b: throw_and_catch(s, a, BALL, b, rng())), BALL, prepare=two(2.4, BALL)
    ),
    "catching": Scene(
        events.is_caught, both(lambda s, a, b: throw_and_catch(s, a, BALL, b, rng())), BALL, who=BEN,
        prepare=two(2.4, BALL),
    ),
    "kicking": Scene(events.is_kicked, ada(lambda s, a: kick(s, a, BALL, rng())), BALL),
    "sitting down on": Scene(events.is_sat_down_on, ada(lambda s, a: sit_down(s, a, CHAIR)), CHAIR),
    "standing up from": Scene(
        events.is_risen_from, ada(stand_up), CHAIR, prepare=lambda s: start_seated(s, s.actors[ADA], CHAIR)
    ),
    "walking to": Scene(events.is_walked_to, ada(lambda s, a: walk_to(s, a, CHAIR)), CHAIR, prepare=free_floor()),
    "walking away from": Scene(
        events.is_left, ada(lambda s, a: go(s, a, np.array([0.5, -0.8]))), CHAIR, prepare=beside_chair
    ),
    "walking past": Scene(
        events.is_passed, ada(lambda s, a: walk_past(s, a, BEN, np.array([2.4, -0.3]))), BEN, wrong=CAL,
        prepare=in_the_way,
    ),
    "following": Scene(events.is_followed, lead_and_follow, BEN, wrong=CAL, prepare=one_behind_the_other),
    "turning to": Scene(events.is_turned_to, ada(lambda s, a: turn_to(s, a, BEN)), BEN, wrong=CAL),
    "running to": Scene(
        events.is_run_to, ada(lambda s, a: walk_to(s, a, BEN, run=True)), BEN, prepare=free_floor(), wrong=CAL
    ),
}  # fmt: skip


@cache
def played(name: str) -> Timeline:
    scene = SCENES[name]

    def plan(stage: Stage) -> Activity:
        yield from wait(BEFORE_S)
        yield from scene.plan(stage)

    world = small_world(*scene.more, bystander=True)
    return perform_script(world, [Cue(0.0, (ADA, BEN), plan)], duration_s=scene.seconds, prepare=scene.prepare)


def predicate(name: str) -> str:
    return name.removesuffix(" what is held")


def agree(span: tuple[int, int], mask: Mask, slack_s: tuple[float, float]) -> bool:
    """Whether a span starts and ends with what is seen."""
    where = np.flatnonzero(mask)
    if not len(where):
        return False
    off = abs(span[0] - where[0]) * STEP_S, abs(span[1] - where[-1] - 1) * STEP_S
    return off[0] <= slack_s[0] + 1e-9 and off[1] <= slack_s[1] + 1e-9


@pytest.mark.parametrize(("screen_at", "used"), [((-0.3, 1.2), True), ((0.4, 1.2), True), ((-0.3, -2.4), False)])
def test_a_keyboard_works_the_screen_before_it_and_none_behind_the_back(screen_at, used) -> None:
    """A screen is looked at and used only where the head can turn to it and keys and screen belong together."""

    def prepare(stage: Stage) -> None:
        at_table(x=-0.3)(stage)
        stage.move(MORE + 1, placed(*screen_at, TABLE_TOP_M, 0.0))

    plan = ada(lambda s, a: type_on(s, a, MORE, MORE + 1, 2.0))
    world = small_world(LAPTOP, ("monitor", (0.4, 0.1, 0.3), (-0.3, 1.2)), bystander=True)
    timeline = perform_script(world, [Cue(0.0, (ADA,), plan)], duration_s=4.0, prepare=prepare)
    seen = Seen(timeline).looks_at(ADA, MORE + 1, 30.0)
    for name in ("using", "looking at"):
        assert bool(spans(timeline, name, ADA, MORE + 1)) == used
    assert bool(seen[30:50].all()) == used
    assert spans(timeline, "typing on", ADA, MORE)


def test_every_predicate_that_an_activity_decides_is_played() -> None:
    assert {predicate(name) for name in SCENES} == {p.name for p in ACTIVITY}


@pytest.mark.parametrize("name", SCENES)
def test_an_activity_says_that_it_happens_when_it_is_seen_to_happen(name: str) -> None:
    scene, timeline = SCENES[name], played(name)
    (span,) = spans(timeline, predicate(name), scene.who)
    mask = scene.event(Seen(timeline), scene.who, scene.what)
    seen = np.flatnonzero(mask)
    assert agree(span, mask, scene.slack_s), f"said {span}, seen {seen[:1]} to {seen[-1:] + 1}"


@pytest.mark.parametrize("name", SCENES)
def test_it_says_so_of_nobody_and_nothing_else(name: str) -> None:
    scene, timeline = SCENES[name], played(name)
    said = {(f.subject_id, f.object_id) for f in timeline.facts if f.name == predicate(name)}
    back = {(scene.what, scene.who)} if PREDICATES[predicate(name)].both_ways else set()
    assert said == {(scene.who, scene.what)} | back


@pytest.mark.parametrize("name", SCENES)
def test_a_span_a_second_off_or_of_another_object_would_be_noticed(name: str) -> None:
    scene, timeline = SCENES[name], played(name)
    seen = Seen(timeline)
    ((start, end),) = spans(timeline, predicate(name), scene.who)
    mask = scene.event(seen, scene.who, scene.what)
    for shift_by in (-20, 20):
        assert not agree((start + shift_by, end + shift_by), mask, scene.slack_s)
    assert not agree((start, end), scene.event(seen, scene.who, scene.wrong), scene.slack_s)
