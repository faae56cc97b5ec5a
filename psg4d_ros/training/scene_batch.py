"""Windows of one micro-batch through the encoder, brought to equal sizes, so that everything after it runs at once.

No padding: each window is thinned at random to the size of the smallest. Scene tokens and keys are thinned at inference
too (to a cap), and masks are compared on a sample of voxels anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psg4d_ros.model.mask_decoder import MaskOutput
from psg4d_ros.model.proposals import Proposals
from psg4d_ros.model.psg4d import PSG4D, window_positions
from psg4d_ros.model.sparse_encoder import pool_tokens
from psg4d_ros.training.box_losses import tube_boxes
from psg4d_ros.training.mask_losses import TubeTargets, sample_voxels
from psg4d_ros.training.sparse_input import SparseInput
from psg4d_ros.training.windows import TrainingWindow


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B windows as the mask decoder reads them.

    tokens [B, S, C] scene tokens after the temporal aggregator, mid [B, K, C_1] second-level voxels, fine [B, V, C_0]
    finest voxels, each with positions float32[B, ., 4] (x, y, z metres, t seconds <= 0). proposals: of the B windows.
    targets: per window the tubes of these very voxels.
    """

    tokens: Tensor
    positions: Tensor
    mid: Tensor
    mid_positions: Tensor
    fine: Tensor
    fine_positions: Tensor
    proposals: Proposals
    targets: tuple[TubeTargets, ...]

    def decode(self, model: PSG4D, slot_hidden: Tensor | None) -> MaskOutput:
        """Mask tubes of all windows; slot_hidden [B, Q, H] or None. The fields have B in front."""
        return model.decoder(
            slot_hidden,
            self.proposals,
            self.tokens,
            self.positions,
            self.mid,
            self.mid_positions,
            self.fine,
            self.fine_positions,
        )


def encode_windows(
    model: PSG4D,
    windows: Sequence[TrainingWindow],
    *,
    fine_samples: int | None,
    key_samples: int | None,
    generator: torch.Generator,
) -> SceneBatch:
    """Encode the frames of all windows in one call, and thin them to equal sizes.

    fine_samples, key_samples: the most finest and second-level voxels of a window; None: all of them (then only for one
    window at a time, or windows of one size). Half of the finest voxels is drawn evenly, half from the tubes in equal
    shares. generator: on the CPU.
    """
    device = model.device
    joined = SparseInput.join([w.input.to(device) for w in windows])  # moved as int32: half the way
    fine, mid, coarse = model.encoder(joined.features, joined.neighbours, joined.children, joined.parent, joined.cell)
    token_cell_m = model.config.encoder.token_cell_m
    tokens, token_centers, token_frame = pool_tokens(coarse, joined.centers[-1], token_cell_m, joined.frame[-1])
    times = torch.cat([w.times_s for w in windows]).to(device)
    frames = torch.tensor([len(w.times_s) for w in windows])
    window_of_frame = torch.repeat_interleave(torch.arange(len(windows)), frames).to(device)
    token_counts = torch.bincount(window_of_frame[token_frame], minlength=len(windows)).tolist()
    counts = [[len(w.input.centers[level]) for w in windows] for level in (0, 1)]
    fine_centers = joined.centers[0].split(counts[0])
    # Middles of the windows, so that positions are those that inference makes of one window.
    middles = [centers.mean(dim=0) for centers in fine_centers]
    place = _Places(middles, times)

    fine_tubes = [w.fine_tube.to(device) for w in windows]
    rows = [
        sample_voxels(tubes, fine_samples or len(tubes), len(w.truth.labels), generator)
        for w, tubes in zip(windows, fine_tubes, strict=True)
    ]
    fine_rows = _equal(rows, generator)
    key_rows = _equal([_draw(n, key_samples or n, generator, device) for n in counts[1]], generator)
    most = model.config.language_model.max_scene_tokens
    token_rows = _equal([_draw(n, most, generator, device) for n in token_counts], generator)

    mid_tubes = [w.mid_tube.to(device)[r] for w, r in zip(windows, key_rows, strict=True)]
    margin_m = model.config.encoder.voxel_size_m / 2
    everywhere = place.each(fine_centers, joined.frame[0].split(counts[0]))
    targets = []
    for w, tubes, r, keys, at in zip(windows, fine_tubes, fine_rows, mid_tubes, everywhere, strict=True):
        count, times_s = len(w.truth.labels), w.times_s.to(device)
        boxes = tube_boxes(at, tubes, times_s, count, margin_m)
        targets.append(TubeTargets(tubes[r], keys, count, w.truth.is_thing.to(device), boxes, times_s))
    position = place.of(token_centers.split(token_counts), token_frame.split(token_counts), token_rows)
    tokens = model.temporal(_take(tokens.split(token_counts), token_rows), position)
    mid = _take(mid.split(counts[1]), key_rows)
    mid_positions = place.of(joined.centers[1].split(counts[1]), joined.frame[1].split(counts[1]), key_rows)
    return SceneBatch(
        tokens=tokens,
        positions=position,
        mid=mid,
        mid_positions=mid_positions,
        fine=_take(fine.split(counts[0]), fine_rows),
        fine_positions=place.of(fine_centers, joined.frame[0].split(counts[0]), fine_rows),
        proposals=model.decoder.propose(mid, mid_positions),
        targets=tuple(targets),
    )


@dataclass(frozen=True, eq=False)
class _Places:
    middles: list[Tensor]
    times: Tensor

    def each(self, centers: Sequence[Tensor], frames: Sequence[Tensor]) -> list[Tensor]:
        """float32[V, 4] of all rows of each window."""
        parts = zip(centers, frames, self.middles, strict=True)
        return [window_positions(c, self.times[f], middle) for c, f, middle in parts]

    def of(self, centers: Sequence[Tensor], frames: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
        """float32[B, n, 4] of the chosen rows of each window."""
        return torch.stack(
            [
                window_positions(c[r], self.times[f[r]], middle)
                for c, f, r, middle in zip(centers, frames, rows, self.middles, strict=True)
            ]
        )


def _draw(total: int, most: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """int64[min(total, most)]: rows drawn evenly, in order."""
    if total <= most:
        return torch.arange(total, device=device)
    return torch.randperm(total, generator=generator)[:most].sort().values.to(device)


def _equal(rows: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The same number of rows for each window: that of the smallest."""
    least = min(len(r) for r in rows)
    return [r[_draw(len(r), least, generator, r.device)] for r in rows]


def _take(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([part[r] for part, r in zip(parts, rows, strict=True)])
