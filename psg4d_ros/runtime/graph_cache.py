"""Exported graphs, made once per set of weights and kept in the user's cache folder.

Two processes at once share one export (file lock), a kill at any moment leaves nothing that is taken for a graph
(manifest with SHA-256, checked on every load), and damage is repaired by exporting again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from psg4d_ros.model.base_weights import default_cache
from psg4d_ros.model.psg4d import PSG4D
from psg4d_ros.runtime.export import export_model, graph_identity, graph_problem
from psg4d_ros.runtime.graph_parts import graph_parts

# Part of the folder's name: raise it when the code of a part or of the export changes what a graph computes.
_LAYOUT = 1
# Sizes that a graph is tried at before it is kept: a robot's first start does not wait for the largest, which
# ``psg4d export`` tries.
_TRIED_VOXELS = (0, 1, 2, 1000, 5001)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def cached_graphs(model: PSG4D, cache: Path | None = None, precision: str = "fp32") -> Iterator[Path]:
    """A folder with the graphs of this model, see ``export_model``, to be read inside the context.

    cache: where such folders lie, by default the user's. Where it cannot be written and does not hold them, they are
    made in a temporary folder, every time. Raises what ``export_model`` raises.
    """
    root = default_cache() if cache is None else cache
    parts = graph_parts(model)
    identity = "".join(graph_identity(part, precision)["weights_sha256"] for part in parts)
    folder = root / f"graphs-{sha256(identity.encode()).hexdigest()[:16]}-{precision}-v{_LAYOUT}"

    def problems() -> list[str]:
        return [problem for part in parts if (problem := graph_problem(folder, part, precision))]

    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((root / f"{folder.name}.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file closes, or the process dies
        except OSError as error:
            if problems():
                log.warning("cannot keep exported graphs in %s (%s); exporting for this run only", root, error)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psg4d_graphs_")))
                export_model(model, folder, precision, _TRIED_VOXELS)
            yield folder
            return
        if found := problems():
            if folder.exists():
                log.warning("graphs in %s are unusable (%s); exporting again", folder, found[0])
            log.info("exporting the model as %s graphs (once)", precision)
            export_model(model, folder, precision, _TRIED_VOXELS)
        yield folder
