"""The reader of a data set in docs/extending.md runs; the backend there does in test_onnx_backend.py."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from psg4d_ros.errors import DatasetError

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


def test_the_reader_gives_recordings_and_names_what_is_wrong(tmp_path: Path) -> None:
    first, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(first)
    open_rooms = runpy.run_path(str(tmp_path / "example.py"))["open_rooms"]
    scene = tmp_path / "rooms" / "kitchen"
    scene.mkdir(parents=True)
    points = np.array([[0, 0, 0, 0.5], [np.nan, 0, 0, 0.5], [1, 1, 1, 0.5]], "<f4")
    for number in (0, 1):
        (scene / f"{number:03}.bin").write_bytes(points.tobytes())
        (scene / f"{number:03}.label").write_bytes(np.array([2, 0, 1], "<u4").tobytes())
    written = {"objects": {"1": "Chair", "2": "floor"}, "relations": [[1, "stands on", 2, 0, 2]]}
    (scene / "scene.json").write_text(json.dumps(written))

    (recording,) = open_rooms(tmp_path / "rooms")
    assert [o.label for o in recording.objects] == ["chair", "floor"]
    assert [(r.subject_id, r.predicate, r.object_id) for r in recording.relations] == [(1, "standing on", 2)]
    assert [f.instance.tolist() for f in recording.open_frames()] == [[2, 1], [2, 1]]

    (scene / "001.label").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"001\.bin: 0 labels"):
        list(recording.open_frames())
    (scene / "scene.json").write_text('{"objects": []}')
    with pytest.raises(DatasetError, match=r"scene\.json: .* expected objects by number"):
        open_rooms(tmp_path / "rooms")
