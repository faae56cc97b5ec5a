"""The models that come with the package, and how a model becomes a painted thing.

assets/meshes.npz and assets/index.json are made by scripts/make_simulation_assets.py; CREDITS.md beside them names who
made the models. A Design, whether out of the library or built from boxes (joinery.py, household.py), is a thing without
its colours.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from psg4d_ros.data.simulation.classes import PALETTE, RULES, AssetSplit
from psg4d_ros.data.simulation.shapes import LEAF, MAIN, SECOND, Piece, Shape, shape
from psg4d_ros.data.simulation.world import Entity, Joint, Part, Surface
from psg4d_ros.errors import DatasetError
from psg4d_ros.structures import Int32, UInt8

FOLDER = Path(__file__).parent / "assets"
# Colours of the tones above MAIN and SECOND (shapes.py): metal, dark, white, leaf, wood.
_FIXED_TONES = ((150, 152, 156), (34, 34, 38), (240, 240, 238), (70, 122, 58), (150, 108, 70))
_PALE = {"wall"}  # painted in tints of a colour
_LEAFY = {"plant", "vegetation", "tree"}


@dataclass(frozen=True, eq=False)
class Design:
    """A thing before it is painted and placed: entity frame, metres, origin in the middle of its base, front to -y."""

    label: str
    asset: str
    shapes: tuple[Shape, ...]
    surfaces: tuple[Surface, ...] = ()
    joints: tuple[Joint, ...] = ()
    grip: tuple[float, float, float] | None = None

    @functools.cached_property
    def low(self) -> tuple[float, float, float]:
        x, y, z = np.min([s.vertices.min(axis=0) for s in self.shapes], axis=0).tolist()
        return x, y, z

    @functools.cached_property
    def high(self) -> tuple[float, float, float]:
        x, y, z = np.max([s.vertices.max(axis=0) for s in self.shapes], axis=0).tolist()
        return x, y, z

    @property
    def size(self) -> tuple[float, float, float]:
        return self.high[0] - self.low[0], self.high[1] - self.low[1], self.high[2] - self.low[2]

    def scaled(self, factor: float) -> Design:
        """The same thing, larger or smaller; a thing with joints keeps its size."""
        if self.joints:
            return self

        def times(p: Sequence[float]) -> tuple[float, float, float]:
            return p[0] * factor, p[1] * factor, p[2] * factor

        surfaces = tuple(
            Surface(s.kind, times(s.center), (s.size[0] * factor, s.size[1] * factor), s.clearance_m * factor, s.part)
            for s in self.surfaces
        )
        shapes = tuple(replace(s, vertices=s.vertices * factor) for s in self.shapes)
        return Design(self.label, self.asset, shapes, surfaces, (), self.grip and times(self.grip))


def built(label: str, *pieces: Piece, grip: tuple[float, float, float] | None = None) -> Design:
    """A rigid thing of pieces, without surfaces."""
    return Design(label, f"built/{label}", (shape("body", *pieces),), grip=grip)


class MeshLibrary:
    """The models of assets/, by label."""

    def __init__(self, folder: Path) -> None:
        self._designs: dict[str, list[tuple[str, Design]]] = {}
        try:
            entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            with np.load(folder / "meshes.npz", allow_pickle=False) as data:
                vertices, faces = data["vertices_mm"], data["faces"]
            for entry in entries:
                (v, v_count), (f, f_count) = entry["vertices"], entry["faces"]
                design = _design(entry, vertices[v : v + v_count], faces[f : f + f_count])
                self._designs.setdefault(design.label, []).append((entry["split"], design))
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DatasetError(
                f"the models of the simulator in {folder} cannot be read: {type(error).__name__} {error}; "
                "install the package again"
            ) from error

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(self._designs)

    def meshes(self, label: str, assets: AssetSplit) -> tuple[Design, ...]:
        """The models of a label in a split, in a fixed order; empty where the label has none.

        A label with fewer than three models has the same ones in both splits.
        """
        every = self._designs.get(label, [])
        return tuple(design for split, design in every if assets == "all" or split in (assets, "both"))


@functools.cache
def mesh_library() -> MeshLibrary:
    """The library of the installed package, read once. Raises DatasetError when its files are missing or damaged."""
    return MeshLibrary(FOLDER)


def _design(entry: dict[str, object], vertices_mm: Int32, faces: Int32) -> Design:
    label = str(entry["label"])
    vertices = vertices_mm.astype(np.float64) / 1000
    faces = faces.astype(np.int32)
    surfaces = tuple(
        Surface(s["kind"], tuple(s["center"]), tuple(s["size"]), s["clearance_m"])
        for s in entry["surfaces"]  # type: ignore[attr-defined]
    )
    body = Shape("body", vertices, faces, _tones(label, vertices, faces))
    return Design(label, str(entry["name"]), (body,), surfaces)


def _tones(label: str, vertices: np.ndarray, faces: Int32) -> UInt8:
    """Which pieces share a colour: the meshes come without materials, but a chair's legs are loose from its seat."""
    count = len(vertices)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    pieces, piece = connected_components(graph, directed=False)
    of_face = piece[faces[:, 0]]
    corner = vertices[faces]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    if label in _LEAFY:
        top = np.zeros(pieces)
        np.maximum.at(top, piece, vertices[:, 2])
        bottom = np.full(pieces, np.inf)
        np.minimum.at(bottom, piece, vertices[:, 2])
        pot = (bottom < 0.05 * vertices[:, 2].max()) & (top < 0.55 * vertices[:, 2].max())
        return np.where(pot[of_face], SECOND, LEAF).astype(np.uint8)
    area_of = np.bincount(of_face, weights=area, minlength=pieces)
    order = np.argsort(-area_of, kind="stable")
    before = np.cumsum(area_of[order]) - area_of[order]
    # The large pieces that make up most of what one sees have the main colour.
    main = np.zeros(pieces, bool)
    main[order] = before < 0.6 * area_of.sum()
    return np.where(main[of_face], MAIN, SECOND).astype(np.uint8)


def paint(design: Design, rng: np.random.Generator) -> tuple[tuple[Part, ...], str]:
    """Coloured parts of a design and the name of its main colour.

    The shade is drawn from the colour's palette; each face differs a little from it, as real surfaces do.
    """
    rule = RULES[design.label]
    name = rule.colors[rng.integers(len(rule.colors))]
    shades = PALETTE[name]
    main = np.array(shades[rng.integers(len(shades))], float) + rng.normal(0, 6, 3)
    if name != "white" and design.label in _PALE:
        main = 0.4 * main + 0.6 * 240
    # The second colour is a darker or lighter relative of the main one, a metal or a wood.
    second = (main * rng.uniform(0.45, 0.8), np.array(_FIXED_TONES[0], float), np.array(_FIXED_TONES[4], float))[
        rng.integers(3)
    ]
    if design.label in _LEAFY:
        second = np.array(PALETTE["brown"][0], float) * rng.uniform(0.7, 1.3)
    table = np.array([main, second, *_FIXED_TONES], float)
    table[LEAF] += rng.normal(0, 8, 3)
    parts = []
    for s in design.shapes:
        fine = 4.0 if len(s.faces) > 200 else 1.2  # on large plain faces it would show as triangles
        noise = fine * (rng.normal(0, 1, (len(s.faces), 1)) + rng.normal(0, 0.4, (len(s.faces), 3)))
        colors = np.clip(table[s.tones] + noise, 0, 255).astype(np.uint8)
        parts.append(Part(s.name, s.vertices.astype(np.float32), s.faces, colors))
    return tuple(parts), name


def entity(design: Design, entity_id: int, rng: np.random.Generator) -> Entity:
    """A painted thing with its number. Of what can be lifted in general, large specimens can only be shifted."""
    parts, color = paint(design, rng)
    rule, (w, d, h) = RULES[design.label], design.size
    # Where nothing better is known, a thing is held at its middle; tall and thin ones a little above it.
    light = max(w, d, h) < 0.85 and w * d * h < 0.09
    grip = design.grip or (0.0, 0.0, h * (0.55 if h > 2 * max(w, d) else 0.5))
    return Entity(
        entity_id,
        design.label,
        rule.is_thing,
        parts,
        (w, d, h),
        color,
        design.asset,
        design.surfaces,
        design.joints,
        rule.movable,
        rule.graspable and light,
        grip,
    )
