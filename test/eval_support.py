"""What the tests of evaluation share: the default words and window, and a look into the result."""

from __future__ import annotations

from psg4d_ros.config import WindowConfig
from psg4d_ros.data.recording import Recording
from psg4d_ros.evaluation.evaluate import evaluate
from psg4d_ros.vocabulary import default_vocabulary

WORDS = default_vocabulary()
WINDOW = WindowConfig()
FRAMES = 12


def oracle(*recordings: Recording, setting="SGDet") -> dict:
    return evaluate(recordings, "oracle", setting, WINDOW, WORDS).to_json()


def recall(result: dict, protocol: str = "tube", labels: str = "triplet", what: str = "R", k: int = 100) -> float:
    return result["protocol"][protocol][labels]["unconstrained"][what][str(k)]
