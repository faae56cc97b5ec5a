"""Relations of one window after another become time spans between tracks (numpy only; the tracker's other half)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .config import TrackerConfig
from .structures import Int32, Relation, RelationPrediction, WindowPrediction

NS_PER_S = 1_000_000_000
_Key = tuple[int, str, int]  # subject track, predicate, object track


@dataclass(eq=False)
class _Span:
    """[start_ns, end_ns) of one relation, and the sum of its scores in the windows that said it.

    windows: how many were asked while a part of the span lay in them, whether or not they said it. said: its score in
    the window that is being taken, None where that has not said it. known: older than that window. assumed_ns: while
    it is ongoing, as far as it is taken to hold because nobody asked again.
    """

    predicate_id: int
    start_ns: int
    end_ns: int
    total_score: float
    windows: int
    ongoing: bool
    said: float | None = None
    known: bool = False
    assumed_ns: int = 0

    @property
    def reach_ns(self) -> int:
        """Its end as it is told."""
        return max(self.end_ns, self.assumed_ns)

    def absorb(self, other: _Span) -> None:
        self.start_ns, self.end_ns = min(self.start_ns, other.start_ns), max(self.end_ns, other.end_ns)
        self.total_score += other.total_score
        self.windows += other.windows
        self.ongoing |= other.ongoing
        self.known |= other.known
        if self.said is not None and other.said is not None:
            # One window said it of two stretches that are one: it is one window, as sure as it was of the surer one.
            self.total_score -= min(self.said, other.said)
            self.said = max(self.said, other.said)
            self.windows -= 1


class RelationSpans:
    """The relations between living tracks, as spans that grow with each window.

    Windows overlap, so a relation is seen many times; and a model wavers, so it may be missed in between. Spans of one
    triple that overlap or lie closer than ``relation_merge_gap_s`` are one. Its score is the mean over all windows that
    could have said it: what one of them imagines is not as sure as what many agree on, however sure that one was. For
    the same reason ``relation_prior_windows`` more are counted, which say no. A span that ended stays in the graph for
    ``relation_history_s``, as long as both tracks do.
    Windows that nobody asked for relations leave what was ongoing as it is, up to their newest frame, while both tracks
    live. The next one that is asked decides: what it says again, from its first frame on, was never interrupted; what
    it does not say ended where it was last seen.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._gap_ns = round(config.relation_merge_gap_s * NS_PER_S)
        self._history_ns = round(config.relation_history_s * NS_PER_S)
        self._prior_windows = config.relation_prior_windows
        self._spans: dict[_Key, list[_Span]] = {}
        self._asked: list[tuple[int, int]] = []  # first and last stamp of windows that share frames with the newest one

    def clear(self) -> None:
        """Forget all relations."""
        self._spans.clear()
        self._asked.clear()

    def update(self, prediction: WindowPrediction, track_of: Int32, alive: Collection[int]) -> None:
        """Merge a window's relations. ``track_of``: int32[I + 1] track of instance i at i + 1, 0 = none.

        A relation that holds in the newest frame is ongoing, and ends 1 ns after its stamp for the time being: that is
        as far as it was seen. Relations of tracks that are no longer ``alive`` are dropped.
        """
        stamps = [frame.stamp_ns for frame in prediction.window.frames]
        now_ns = stamps[-1]
        known = [span for spans in self._spans.values() for span in spans]
        if prediction.relations is None:
            for span in known:
                span.assumed_ns = now_ns + 1 if span.ongoing else 0
        else:
            for span in known:
                span.ongoing, span.known, span.said = False, True, None  # unless this window says so again
                span.assumed_ns = min(span.assumed_ns, stamps[0])  # from there on it is known
            self._take(prediction.relations, stamps, track_of)
            for span in known:  # those that are left were not said; the others are part of a new one
                span.windows += span.reach_ns > stamps[0]
                span.assumed_ns = 0
            self._count_silent(stamps[0])
            self._asked.append((stamps[0], now_ns))
        self._spans = {
            key: kept
            for key, spans in self._spans.items()
            if key[0] in alive and key[2] in alive and (kept := [s for s in spans if self._remembered(s, now_ns)])
        }

    def current(self, tracks: Collection[int]) -> tuple[Relation, ...]:
        """All spans between the given tracks, best score first; equal ones by their ids, so that the order depends on
        nothing but themselves."""
        relations = [
            Relation(
                subject_id=subject,
                predicate=predicate,
                predicate_id=span.predicate_id,
                object_id=object_,
                score=span.total_score / (span.windows + self._prior_windows),
                start_ns=span.start_ns,
                end_ns=span.reach_ns,
                ongoing=span.ongoing,
            )
            for (subject, predicate, object_), spans in self._spans.items()
            for span in spans
            if subject in tracks and object_ in tracks
        ]
        return tuple(sorted(relations, key=lambda r: (-r.score, r.subject_id, r.object_id, r.predicate, r.start_ns)))

    def _take(self, relations: Collection[RelationPrediction], stamps: Sequence[int], track_of: Int32) -> None:
        for r in relations:
            subject, object_ = int(track_of[r.subject + 1]), int(track_of[r.object + 1])
            if not subject or not object_ or subject == object_:
                continue
            ongoing = r.end_frame >= len(stamps)
            end_ns = stamps[-1] + 1 if ongoing else stamps[r.end_frame]
            span = _Span(r.predicate_id, stamps[r.start_frame], end_ns, r.score, 1, ongoing, r.score)
            self._merge((subject, r.predicate, object_), span)

    def _count_silent(self, first_ns: int) -> None:
        """Windows before this one that could have said what it is the first to say. first_ns: where this one begins."""
        self._asked = [asked for asked in self._asked if asked[1] >= first_ns]
        for spans in self._spans.values():
            for span in spans:
                if not span.known:
                    span.windows += sum(span.start_ns <= last and first < span.end_ns for first, last in self._asked)

    def _remembered(self, span: _Span, now_ns: int) -> bool:
        return span.ongoing or now_ns - span.end_ns <= self._history_ns

    def _merge(self, key: _Key, new: _Span) -> None:
        apart: list[_Span] = []
        for span in self._spans.get(key, []):
            if new.start_ns - span.reach_ns <= self._gap_ns and span.start_ns - new.end_ns <= self._gap_ns:
                new.absorb(span)
            else:
                apart.append(span)
        self._spans[key] = [*apart, new]
