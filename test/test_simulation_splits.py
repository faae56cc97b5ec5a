"""What the splits of the simulated data share and what they do not: words, models, triplets; and that none of it moves.

The digests at the end pin one world per split with what happens in it. A change of the simulator that is not meant to
change its scenes leaves them alone. Where it is meant: put the digests that the failing test shows into DIGESTS, and
make the figures and the picture of docs/data.md anew with the commands there.
"""

import hashlib
import json

import numpy as np
import pytest

from psg4d_ros.data.simulation.assets import mesh_library
from psg4d_ros.data.simulation.attributes import true_attributes
from psg4d_ros.data.simulation.capture import sample_steps
from psg4d_ros.data.simulation.classes import OOV_WORDS, TRAIN_WORDS
from psg4d_ros.data.simulation.director import perform
from psg4d_ros.data.simulation.furnishing import make_world
from psg4d_ros.data.simulation.relations import true_relations
from psg4d_ros.data.simulation.splits import SPLITS, scene_seed
from psg4d_ros.data.simulation.world import STEP_S, World

HELD_OUT_LABELS = OOV_WORDS.labels - TRAIN_WORDS.labels
SEEN_IN_TRAINING = ("train", "train_scarce", "val")
WORLDS = 10
STEPS = sample_steps(16, 4.0)  # 4 s


def world(split: str, index: int) -> World:
    """The world of a scene, from the first of its four random streams (scenes.make_scene)."""
    world_rng, *_ = scene_seed(SPLITS[split], 0, index).spawn(4)
    return make_world(np.random.default_rng(world_rng), name=f"{split}_{index:05d}", words=SPLITS[split].words)


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[World]]:
    return {split: [world(split, index) for index in range(WORLDS)] for split in SPLITS}


def annotation(split: str, index: int = 0) -> dict[str, list[list[object]]]:
    """All that is true about a scene's world, whatever a sensor sees of it: words and frames, no coordinates."""
    _, action_rng, *_ = scene_seed(SPLITS[split], 0, index).spawn(4)
    made = world(split, index)
    timeline = perform(made, np.random.default_rng(action_rng), duration_s=float(STEPS[-1] + 1) * STEP_S)
    relations = true_relations(timeline, STEPS)
    attributes = true_attributes(timeline, STEPS)
    return {
        "objects": [[e.entity_id, e.label] for e in made.entities],
        "relations": sorted([r.subject_id, r.predicate, r.object_id, r.start_frame, r.end_frame] for r in relations),
        "attributes": sorted(
            [entity_id, a.name, a.start_frame, a.end_frame] for entity_id, spans in attributes.items() for a in spans
        ),
    }


@pytest.fixture(scope="module")
def annotations() -> dict[str, dict[str, list[list[object]]]]:
    return {split: annotation(split) for split in SPLITS}


def triplets(truth: dict[str, list[list[object]]]) -> set[tuple[object, object, object]]:
    label = dict(truth["objects"])
    return {(label[s], predicate, label[o]) for s, predicate, o, *_ in truth["relations"]}


@pytest.mark.parametrize("split", ["train", "train_scarce", "val", "test"])
def test_held_out_labels_occur_in_test_oov_only(worlds, split):
    assert not {e.label for w in worlds[split] for e in w.entities} & HELD_OUT_LABELS
    with_new = [w.name for w in worlds["test_oov"] if {e.label for e in w.entities} & HELD_OUT_LABELS]
    assert len(with_new) == WORLDS, "every scene of test_oov has some of them"


@pytest.mark.parametrize("split", list(SPLITS))
def test_worlds_are_made_of_the_models_of_their_split(worlds, split):
    """No world of a test shows a model of training and the other way round, but for labels with fewer than three
    models, which are the same everywhere."""
    library = mesh_library()
    of_training, held_out = (
        {d.asset for label in library.labels for d in library.meshes(label, which)} for which in ("train", "heldout")
    )
    foreign = held_out - of_training if split in SEEN_IN_TRAINING else of_training - held_out
    used = {e.asset for w in worlds[split] for e in w.entities} & (of_training | held_out)
    assert len(used) > 20
    assert not used & foreign


def test_scarce_training_scenes_are_those_of_training(annotations):
    assert annotations["train_scarce"] == annotations["train"]


def test_test_oov_has_triplets_that_training_has_not(annotations):
    """Unseen in the pinned scenes of training; docs/data.md has the share against all of train_scarce."""
    new = triplets(annotations["test_oov"]) - triplets(annotations["train"]) - triplets(annotations["val"])
    assert any({subject, object_} & HELD_OUT_LABELS for subject, _, object_ in new), "with a class that is new"
    assert any(not {subject, object_} & HELD_OUT_LABELS for subject, _, object_ in new), "of classes that are known"


DIGESTS = {
    "train": "fe13b2b6fe1b0d0cce377a0e3b9b0bef68120dab62e13a75d4a31c7b7fcd4034",
    "val": "dc3a25236dfaf8661a1bab2575b6ef282b7131a259dfcbe7c677e00b25a7993d",
    "test": "43ca695c49e6993e1d15d5ad1a278de9958d2fc952b085e361de09b521da031b",
    "test_oov": "2a6e91b97b709a98c10ce38a74ab6d5561c584031141dd69111ece1d0631217a",
}


@pytest.mark.parametrize("split", list(DIGESTS))
def test_the_first_scene_of_a_split_stays_as_it_is(annotations, split):
    """See the top of the file for what to do when this fails."""
    text = json.dumps(annotations[split], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[split]
