"""A run's graph as PDDL: what is there and what holds at the end, for planners such as PlanSys2.

Domain: a type per label, below ``thing`` or ``stuff``, which are both ``item``; a predicate per relation word, and
``is_...`` per attribute. The domain has no actions: those are the robot's. Problem: the objects that are present, the
relations that are ongoing, and an empty goal. Facts are those that passed the pipeline's thresholds; PDDL has no place
for scores and time spans.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from psg4d_ros.evaluation.exports.run_graph import RunGraph

DOMAIN = "scene_graph"
_ROOTS = ("thing", "stuff")
_ANY = "item"  # an own word for either: some parsers know object by itself, some only as a root that nothing may be of
# Words of the language itself: as names of types or predicates they are misread by one parser or another.
_RESERVED = frozenset(
    {
        "action", "actions", "all", "always", "and", "assign", "at", "axiom", "constants", "constraints", "decrease",
        "define", "derived", "domain", "durative", "either", "end", "exists", "forall", "functions", "goal", "imply",
        "increase", "init", "maximize", "metric", "minimize", "not", "number", "object", "objects", "or", "over",
        "parameters", "predicates", "preference", "problem", "requirements", "scale", "start", "sometime", "types",
        "when", "within",
    }
)  # fmt: skip


def safe_name(text: str) -> str:
    """A PDDL name: lower-case ASCII letters, digits and underscores, beginning with a letter.

    >>> [safe_name(text) for text in ("sitting on", "3D printer", "Café (left)", "object", "桌子")]
    ['sitting_on', 'n_3d_printer', 'cafe_left', 'object_', 'n']
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^a-z0-9]+", "_", ascii_text.lower()).strip("_")
    if not name or not name[0].isalpha():
        name = f"n_{name}".rstrip("_")
    return f"{name}_" if name in _RESERVED or name in (*_ROOTS, _ANY) else name


def safe_names(texts: Iterable[str]) -> dict[str, str]:
    """A name for each text; texts that differ have names that differ.

    >>> safe_names(["dining table", "dining-table", "cup"])
    {'cup': 'cup', 'dining table': 'dining_table', 'dining-table': 'dining_table_2'}
    """
    out: dict[str, str] = {}
    for text in sorted(set(texts)):
        name, number = safe_name(text), 1
        while name in out.values():
            number += 1
            name = f"{safe_name(text)}_{number}"
        out[text] = name
    return out


def domain_text(graph: RunGraph) -> str:
    """The domain: types and predicates of everything that was said in the run."""
    types, predicates, attributes = _types(graph), _predicates(graph), _attributes(graph)
    things = {o.label for o in graph.objects if o.is_thing}
    lines = [f"; scene graph of {_comment(graph.model_id)}, objects and facts in the problem file"]
    lines += [
        f"(define (domain {DOMAIN})",
        "  (:requirements :strips :typing)",
        "  (:types",
        f"    {_ANY} - object",
        f"    {' '.join(_ROOTS)} - {_ANY}",
    ]
    for root in _ROOTS:
        names = [name for label, name in types.items() if (label in things) == (root == "thing")]
        if names:
            lines.append(f"    {' '.join(names)} - {root}")
    lines += ["  )", "  (:predicates"]
    lines += [f"    ({name} ?s - {_ANY} ?o - {_ANY})" for name in predicates.values()]
    lines += [f"    ({name} ?s - {_ANY})" for name in attributes.values()]
    if not predicates and not attributes:
        lines.append(f"    (present ?s - {_ANY})")  # an empty list is refused by some parsers
    return "\n".join([*lines, "  )", ")", ""])


def problem_text(graph: RunGraph, name: str) -> str:
    """The problem: what is there now, and what holds. name: of the recording."""
    types, predicates, attributes = _types(graph), _predicates(graph), _attributes(graph)
    present = [o for o in graph.objects if o.track_id in graph.present]
    object_name = {o.track_id: f"{types[o.label]}_{o.track_id}" for o in present}
    facts = {
        f"({predicates[r.predicate]} {object_name[r.subject_id]} {object_name[r.object_id]})"
        for r in graph.relations
        if r.ongoing
    }
    facts |= {f"({attributes[a]} {object_name[o.track_id]})" for o in present for a in o.attributes}
    lines = [f"; at {graph.stamp_ns} ns", f"(define (problem {safe_name(name)})", f"  (:domain {DOMAIN})"]
    lines += ["  (:objects", *(f"    {object_name[o.track_id]} - {types[o.label]}" for o in present), "  )"]
    lines += ["  (:init", *(f"    {fact}" for fact in sorted(facts)), "  )", "  (:goal (and))", ")", ""]
    return "\n".join(lines)


def _types(graph: RunGraph) -> dict[str, str]:
    return safe_names(o.label for o in graph.objects)


def _predicates(graph: RunGraph) -> dict[str, str]:
    return safe_names(r.predicate for r in graph.relations)


def _attributes(graph: RunGraph) -> dict[str, str]:
    names = safe_names(f"is {a}" for o in graph.objects for a in o.attributes)
    return {text.removeprefix("is "): name for text, name in names.items()}


def _comment(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)
