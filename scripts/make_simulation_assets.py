"""Makes psg4d_ros/data/simulation/assets/ (meshes.npz, index.json, CREDITS.md) out of a folder of named meshes.

    python scripts/make_simulation_assets.py FOLDER

FOLDER holds index.json and meshes.npz: models of the Sweet Home 3D furniture libraries (Debian package
sweethome3d-furniture 1.8-1) as millimetres, z up, the base at z = 0, the front towards -y. Each chosen model gets a
label, a split and the horizontal surfaces that can carry something. Where an object can be sat on, or put something
on, is found by casting rays down onto the mesh (needs embreex).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from scipy.ndimage import binary_closing

OUT = Path(__file__).resolve().parent.parent / "psg4d_ros" / "data" / "simulation" / "assets"
LIBRARIES = {"BlendSwap-CC-0": "cc0", "BlendSwap-CC-BY": "blendswap", "Scopia": "scopia", "KatorLegaz": "katorlegaz"}
CELL_M = 0.015  # rays per surface cell

# label: models, each as "name" (of every library that has it) or "library/name".
MODELS = {
    "chair": """cc0/armchair plasticChair sillaBlanca chair antiqueChair chair2 designChair thonet cafe_set_mota_chair
        cafe_set_tonon_chair ella_chair_f plaidChair kitchenChair chair3 chair4 office-chair office_chair
        kids_desk_chair tubular_chair white_kitchen_chair chairWithCushion oakChair osakaChair plastic_chair
        modernArmchair armchair2 fotel mid-century-chair scopia/armchair armchair3 scopia/armchair1 blendswap/armchair1
        modern_armchair rattanArmchair winchesterArmchair""",
    "stool": "stool stool2 kitchen_stool green_stool bar-stool bar_chair cc0/foldingChair",
    "sofa": """cc0/couch sofa2 sofa3 mid-century-sofa simple_sofa leather_sofa sofa_white_beige beige_sofa_2seats
        beige_sofa clear_sofa futon-couch winchesterSofa rattanSofa""",
    "bench": "cc0/bench painted-bench littlebank pianoBench katorlegaz/bench",
    "bed": "scopia/bed1 bed3 lettoCloud captains-bed juniorBed children_bed",
    "table": """blendswap/table black_table table4 wooden_table_office white_kitchen_table table-with-leaning-feet
        table-on-trestles tableWithTablecloth oakTable cafe_set_mota_table round-table folding-table glass-dining-table
        metal_glass_table wooden_office_pear_table_rect wooden_office_alder_table coffeeTable saloon_table coffee_table
        table_wood_and_iron coffee-table2 rattanTable living_room_table""",
    "desk": "lbDesk biurko3 simpleDesk officeTable kids_desk_table kids_wooden_desk glass_table_office desk_table",
    "shelf": "utility-shelving verticalShelves kids_shelves",
    "lamp": """desklamp desk_lamp1 desk_lamp2 lamp table_lamp livingroom_lamp1 little_lamp1 little_lamp2 little_lamp3
        pedestal-vase-lamp JapaneseLantern living_lamp hangingLight hanging-restaurant-light ceiling-lamp""",
    "clock": "cuckooClock clock",
    "television": "led_tv tv wall-flat-tv",
    "computer": "apple-imac-1998 apple_pc",
    "laptop": "laptop apple-ibook-2001",
    "phone": "phone iphone wirelessOfficePhone3",
    "speaker": "speaker2 speaker3",
    "remote control": "tv-remote-control ps4-joystick",
    "book": "book",
    "box": "cardboard-box crate breadBox",
    "carton": "tetrapak",
    "bag": "handbag briefcase",
    "backpack": "backpack",
    "basket": "clothes-basket shopping-basket",
    "bottle": """com_bath com_bath2_jabon_pijo medicoscopia_bottle2 beer_bottle red-wine-bottle-01 wine_bottle
        yogurtBottle spray-bottle mamadeira""",
    "cup": "coffee_cup coffee-mug cup plasticCup",
    "glass": "glass 12-oz-glass highball-glass cocktailGlass beerGlass",
    "bowl": "bowl bowlWithFruits bowlWithSalad pottery",
    "plate": "bread-plate dinner-plate",
    "pot": "boiler espressokettle teapot cooker largePan",
    "knife": "kitchenKnife knife",
    "fork": "fork",
    "spoon": "spoon kitchen_tool1 kitchen_tool3",
    "vase": "vase1 vase2 vase3 jar vase5 old_jar",
    "plant": """decorativePlant ficus mediumIndoorPlant maceta augalas plant spatifilum spider_plant succulentPlant
        cactus luckyBamboo bonsai-tree calla_lily_with_roses tulip tulips white_lily orchids littlePlant""",
    "towel": "com_bath3_toalla",
    "shoe": "sneakers mocassin woman_shoes slippers bootie",
    "ball": "basketball ballonFoot",
    "toy": """teddyBear toyTrain carrito-de-madera doll woodToy rubix2 cartoon_biplane caballito xylophone
        tricycle""",
    "microwave": "microwave small-oven",
    "washing machine": "clothes_washing_machine washing_machine dryer_machine",
    "trash can": "dustbin bullet-trash-can park-trashcan residential-trashcan",
    "dog": "dog bulldog",
    "vegetation": "bush hedge hedgeTextured",
    "fence": "fence",
    # Never in training scenes: the words of the open-vocabulary test.
    "hat": "casquette chapeau casque",
    "guitar": "electricGuitar",
    "piano": "piano",
    "ladder": "step-ladder-wood step-ladder-metal",
    "bicycle": "bicycle bike",
    "cat": "cat siameseCat",
    "fan": "tableFan",
    "heater": "bathroomRadiator",
    "camera": "basic_camera surveillanceCamera",
    "cart": "stroller wheelbarrow",
}
SURFACES = {
    "chair": "seat", "stool": "seat", "sofa": "seat", "bench": "seat", "bed": "lying", "table": "top", "desk": "top",
    "shelf": "shelf", "washing machine": "top", "microwave": "top", "speaker": "top", "piano": "top",
}  # fmt: skip


class Rays:
    """First hits on a mesh along one direction, at any origins."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.scene = EmbreeScene()
        TriangleMesh(self.scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))

    def distance(self, origins: np.ndarray, direction: tuple[float, float, float]) -> np.ndarray:
        """float64[N], infinite where nothing is hit."""
        directions = np.repeat(np.float32([direction]), len(origins), axis=0)
        hit = self.scene.run(np.ascontiguousarray(origins, np.float32), directions, output=1)
        return np.where(hit["primID"] >= 0, hit["tfar"], np.inf).astype(np.float64)


def layers(rays: Rays, low: np.ndarray, high: np.ndarray, deep: bool) -> tuple[np.ndarray, ...]:
    """Cells' x and y, and for each layer from above: z of the hit and the free height above it, [L, Nx, Ny]."""
    x = np.arange(low[0] + CELL_M / 2, high[0], CELL_M)
    y = np.arange(low[1] + CELL_M / 2, high[1], CELL_M)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    top = np.full(grid.shape[:2], high[2] + 0.5)
    heights, free = [], []
    for _ in range(40 if deep else 1):
        origin = np.concatenate([grid, top[..., None]], axis=-1).reshape(-1, 3)
        down = rays.distance(origin, (0, 0, -1)).reshape(top.shape)
        heights.append(top - down)
        free.append(down if heights[:-1] else np.full_like(down, 9.0))
        top = np.where(np.isfinite(down), top - down - 1e-3, -1.0)
        if not np.isfinite(down).any():
            break
    return x, y, np.stack(heights), np.stack(free)


def largest_rectangle(mask: np.ndarray) -> tuple[int, int, int, int]:
    """[x0, x1) x [y0, y1) of the largest all-true rectangle (stack of histograms)."""
    best, area = (0, 0, 0, 0), 0
    run = np.zeros(mask.shape[1], int)
    for i, row in enumerate(mask):
        run = np.where(row, run + 1, 0)
        stack: list[tuple[int, int]] = []
        for j, h in enumerate([*run.tolist(), 0]):
            start = j
            while stack and stack[-1][1] >= h:
                start, height = stack.pop()
                if height * (j - start) > area:
                    area, best = height * (j - start), (i + 1 - height, i + 1, start, j)
            stack.append((start, h))
    return best


def surfaces(vertices: np.ndarray, faces: np.ndarray, kind: str) -> list[dict[str, Any]]:
    """Horizontal rectangles of a mesh: kind, center, size, clearance_m."""
    rays, low, high = Rays(vertices, faces), vertices.min(axis=0), vertices.max(axis=0)
    x, y, z, free = layers(rays, low, high, deep=kind == "shelf")
    tolerance, least = {"seat": (0.04, 0.22), "lying": (0.07, 0.6), "top": (0.008, 0.1), "shelf": (0.008, 0.12)}[kind]
    lowest, highest = {"seat": (0.25, 0.85), "lying": (0.2, 0.75), "top": (0.2, 1.4), "shelf": (0.02, 2.0)}[kind]
    open_cells = np.isfinite(z) & (z > lowest) & (z < highest) & (free > (0.14 if kind == "shelf" else 0.05))
    found: list[dict[str, Any]] = []
    taken = np.zeros_like(open_cells)
    for _ in range(12):
        left = open_cells & ~taken
        if left.sum() * CELL_M**2 < least**2:
            break
        # The level with the most area; of a table or desk the one with the largest rectangle.
        counts = np.bincount((z[left] / 0.01).astype(int))
        level = (np.convolve(counts, np.ones(3 if tolerance < 0.02 else 7), "same").argmax() + 0.5) * 0.01
        near = left & (np.abs(z - level) < tolerance + 0.005)
        exact = float(np.median(z[near]))
        near = left & (np.abs(z - exact) < tolerance)
        taken |= left & (np.abs(z - exact) < max(tolerance, 0.03))
        flat = near.any(axis=0)
        if kind in ("seat", "lying"):  # slats and the gaps between cushions are no edges
            flat = binary_closing(np.pad(flat, 6), np.ones((7, 7)))[6:-6, 6:-6]
        x0, x1, y0, y1 = largest_rectangle(flat)
        size = (x1 - x0) * CELL_M, (y1 - y0) * CELL_M
        if min(size) < least:
            continue
        inside = near[:, x0:x1, y0:y1]
        heights = z[:, x0:x1, y0:y1][inside]
        height = float(np.quantile(heights, 0.99 if tolerance < 0.02 else 0.6))
        clearance = float(min(np.quantile(free[:, x0:x1, y0:y1][inside], 0.02), 2.0))
        center = ((x[x0] + x[x1 - 1]) / 2, (y[y0] + y[y1 - 1]) / 2, height)
        if kind == "shelf" and not reachable(rays, center, size, clearance, float(low[1])):
            continue
        name = "top" if kind == "shelf" and clearance > 1.0 else kind
        found.append(
            {
                "kind": name,
                "center": [round(float(c), 4) for c in center],
                "size": [round(s, 3) for s in size],
                "clearance_m": round(clearance, 3),
            }
        )
        if kind in ("seat", "lying"):
            break
    found.sort(key=lambda s: s["center"][2])
    return found if kind == "shelf" else sorted(found, key=lambda s: -s["size"][0] * s["size"][1])[:2]


def reachable(rays: Rays, center: tuple[float, ...], size: tuple[float, float], free: float, front: float) -> bool:
    """Whether a hand can come in from the front: a closed cupboard has levels too, but behind its doors."""
    xs = np.linspace(center[0] - 0.4 * size[0], center[0] + 0.4 * size[0], 7)
    zs = center[2] + np.linspace(0.02, min(0.8 * free, 0.2), 5)
    origins = np.array([(x, front - 0.5, z) for x in xs for z in zs])
    reach = rays.distance(origins, (0, 1, 0)) + front - 0.5
    return bool((reach > center[1]).mean() > 0.8)


def choose(index: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """(label, name, entry) for all of MODELS; an unknown name is an error."""
    by_name: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for entry in index:
        library, name = LIBRARIES.get(entry["lib"], ""), entry["id"].split("#")[1]
        if library:
            by_name.setdefault(name, []).append((f"{library}/{name}", entry))
            by_name.setdefault(f"{library}/{name}", []).append((f"{library}/{name}", entry))
    missing = [word for words in MODELS.values() for word in words.split() if word not in by_name]
    if missing:
        raise SystemExit(f"no such models: {missing}")
    return [(label, *hit) for label, words in MODELS.items() for word in words.split() for hit in by_name[word]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with np.load(folder / "meshes.npz") as data:
        all_vertices, all_faces = data["verts_mm"], data["faces"]
    chosen = choose(json.loads((folder / "index.json").read_text(encoding="utf-8")))
    entries, vertices, faces = [], [], []
    v_start = f_start = 0
    for label, name, source in chosen:
        v = all_vertices[source["v"][0] : sum(source["v"])]
        f = all_faces[source["f"][0] : sum(source["f"])]
        used, f = np.unique(f, return_inverse=True)
        v, f = v[used].astype(np.int32), f.reshape(-1, 3).astype(np.uint16)
        v[:, :2] -= (v[:, :2].min(axis=0) + v[:, :2].max(axis=0)) // 2
        v[:, 2] -= v[:, 2].min()
        metres = v.astype(np.float64) / 1000
        kind = SURFACES.get(label)
        entries.append(
            {
                "name": name,
                "label": label,
                "creator": source["creator"],
                "licence": source["lic"],
                "title": source["name"],
                "vertices": [v_start, len(v)],
                "faces": [f_start, len(f)],
                "surfaces": surfaces(metres, f, kind) if kind else [],
            }
        )
        vertices.append(v.astype(np.int16))
        faces.append(f)
        v_start, f_start = v_start + len(v), f_start + len(f)
    for label in MODELS:
        # Every fourth model is held out where a class has at least three; of fewer, both splits see all of them.
        group = [e for e in entries if e["label"] == label]
        for i, entry in enumerate(group):
            entry["split"] = "both" if len(group) < 3 else "heldout" if i % 4 == 2 else "train"
    OUT.mkdir(exist_ok=True)
    np.savez_compressed(OUT / "meshes.npz", vertices_mm=np.concatenate(vertices), faces=np.concatenate(faces))
    text = ",\n".join(json.dumps(e, ensure_ascii=False) for e in entries)
    (OUT / "index.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    (OUT / "CREDITS.md").write_text(credits(entries), encoding="utf-8")
    print(
        f"{len(entries)} models, {v_start} vertices, {f_start} faces, {(OUT / 'meshes.npz').stat().st_size >> 10} KiB"
    )


def credits(entries: list[dict[str, Any]]) -> str:
    """Who made what, as the Creative Commons licences ask."""
    urls = {
        "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
        "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
        "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
    }
    lines = [
        "# Credits of the meshes in meshes.npz",
        "",
        "The models come from the Sweet Home 3D furniture libraries (Debian package sweethome3d-furniture 1.8-1). They",
        "were changed: rounded to millimetres, simplified to at most about 2,500 faces, textures removed, recoloured",
        "at random when a scene is made. index.json names the creator and the licence of every model.",
        "Made by `scripts/make_simulation_assets.py`.",
        "",
    ]
    for licence, url in urls.items():
        lines += [f"## {licence} ({url})", ""]
        creators: dict[str, list[str]] = {}
        for e in entries:
            if e["licence"] == licence:
                creators.setdefault(e["creator"], []).append(f"{e['title']} ({e['name']})")
        lines += [f"- **{creator}**: {', '.join(sorted(names))}" for creator, names in sorted(creators.items())] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
