"""Relations of objects that are given by label and box: PredCls where nobody recorded points.

Without points there are no scene tokens and no slots. Turn 1 then reads the text alone, as it does for the images of
stage 1, and turn 2 what labels, boxes and their motion say.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from psg4d_ros.config import InferenceConfig
from psg4d_ros.model.chain import DescribedObject, Turn1
from psg4d_ros.model.geometry import nearest_pairs
from psg4d_ros.runtime.given import GivenTubes, WindowTubes
from psg4d_ros.runtime.panoptic import label_boxes
from psg4d_ros.runtime.predictor import WindowPredictor
from psg4d_ros.runtime.relating import (
    CANDIDATES,
    PairInputs,
    describe_pairs,
    last_boxes,
    score_relations,
    shortlist,
)
from psg4d_ros.runtime.stages import StageClock
from psg4d_ros.structures import (
    GraphStatus,
    InstancePrediction,
    RelationPrediction,
    Window,
    WindowPrediction,
)
from psg4d_ros.vocabulary import Vocabulary


class BoxPredictor:
    """The relations that a WindowPredictor's model, words and settings say of boxes.

    Keeps turn 1 of a scene without tokens, which is the same for all windows.
    """

    def __init__(self, predictor: WindowPredictor) -> None:
        self._predictor = predictor

    @torch.inference_mode()
    def predict(self, window: Window, given: GivenTubes, *, relate: bool = True) -> WindowPrediction:
        """Instances and relations of one window, by ascending object id. relate: see WindowPredictor.

        given: the objects, each with its label. What points one has in a frame span its box there: a lower and an upper
        corner are enough. Raises ValueError when it does not fit the window or a label is missing, ContextError when
        the list of objects is too long for the language model.
        """
        predictor, tubes = self._predictor, given.in_window(window)
        vocabulary, config = predictor.vocabulary, predictor.config
        clock = StageClock(predictor.backend.device)
        instances = _instances(tubes, vocabulary)
        relations: tuple[RelationPrediction, ...] | None = None if config.relations and not relate else ()
        if config.relations and relate and len(instances) > 1:
            with clock.stage("turn2"):
                candidates = measure_boxes(window, tubes, CANDIDATES * config.max_pairs)
                inputs = shortlist(predictor.model, instances, candidates, vocabulary, config.max_pairs)
                relations = self._relate(instances, inputs, vocabulary, config)
        alone = "" if config.use_language_model else ", without the language model"
        status = GraphStatus.DEGRADED_NO_LLM if alone else GraphStatus.OK
        status = status if predictor.trained else GraphStatus.UNTRAINED
        text = f"relations of given boxes{alone}"
        return WindowPrediction(window, instances, tubes.point_instance, relations, status, text, clock.stage_ms)

    def _relate(
        self,
        instances: tuple[InstancePrediction, ...],
        inputs: PairInputs,
        vocabulary: Vocabulary,
        config: InferenceConfig,
    ) -> tuple[RelationPrediction, ...]:
        predictor = self._predictor
        if not config.use_language_model:
            return score_relations(predictor.model, instances, None, inputs, vocabulary, config)
        objects = [DescribedObject(0, i.label) for i in instances]
        asked = (torch.from_numpy(x) for x in (inputs.pairs, inputs.geometry, inputs.motion))
        turn2 = predictor.model.chain.turn2(self._no_scene, objects, *asked)
        if config.decoding == "generate":
            return predictor.writer.relate(turn2, inputs, vocabulary, config, predictor.counts)
        return score_relations(predictor.model, instances, turn2, inputs, vocabulary, config)

    @cached_property
    def _no_scene(self) -> Turn1:
        model = self._predictor.model
        return model.chain.turn1(torch.zeros(0, model.language_model.hidden_size, device=model.device))


def measure_boxes(window: Window, tubes: WindowTubes, max_pairs: int) -> PairInputs:
    """The nearest pairs, and how they lie and move. The scene's extent is what the boxes of all frames span."""
    count = len(tubes.objects)
    boxes = np.stack(
        [
            label_boxes(torch.from_numpy(labels).long(), torch.from_numpy(frame.points - window.origin), count)
            for frame, labels in zip(window.frames, tubes.point_instance, strict=True)
        ],
        axis=1,
    )
    corners = torch.from_numpy(boxes[np.isfinite(boxes).all(axis=2)].reshape(-1, 3))
    pairs = nearest_pairs(last_boxes(boxes), max_pairs, np.array([o.is_thing for o in tubes.objects], bool))
    return describe_pairs(pairs, boxes, window, corners)


def _instances(tubes: WindowTubes, vocabulary: Vocabulary) -> tuple[InstancePrediction, ...]:
    out = []
    for given in tubes.objects:
        if given.label is None:
            raise ValueError(f"object {given.object_id} has no label; boxes do not say what is in them")
        out.append(InstancePrediction(given.label, vocabulary.class_id(given.label), 1.0, given.is_thing))
    return tuple(out)
