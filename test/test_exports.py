"""The graph of a run in the forms of other tools, read back by those tools where they are installed."""

from __future__ import annotations

import gzip
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from scene_graphs import SECOND, graph, holds, thing

from psg4d_ros.errors import ConfigError, DatasetError
from psg4d_ros.evaluation.exports import FORMATS
from psg4d_ros.evaluation.exports.pddl import safe_names
from psg4d_ros.evaluation.exports.run_graph import RunGraph, RunGraphCollector
from psg4d_ros.evaluation.exports.spark_dsg import node_id, spark_dsg_text
from psg4d_ros.evaluation.exports.write import export_graph

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "spark_dsg" / "apartment_dsg.json.gz"
CUP, TABLE, PERSON, LOST = 1, 2, 3, 4


def run_graph() -> RunGraph:
    """A cup that was held and now stands on a table; a chair that was lost on the way."""
    cup, table = thing(CUP, "cup", attributes=("red", "half full")), thing(TABLE, "dining table")
    person, floor = thing(PERSON, "person", attributes=()), thing(9, "floor", is_thing=False, attributes=())
    collector = RunGraphCollector()
    collector.add(graph(cup, person, thing(LOST), holds(PERSON, "holding", CUP, 1, 3), holds(LOST, "next to", CUP)))
    ended = holds(PERSON, "holding", CUP, 1, 4, ongoing=False)
    collector.add(graph(cup, table, person, floor, ended, holds(CUP, "on", TABLE, 4, 6), stamp_s=6))
    return collector.graph()


def exported(name: str, folder: Path, run: RunGraph | None = None) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in export_graph(run or run_graph(), name, folder, "kitchen")]


def test_a_run_keeps_what_was_lost_and_the_last_word_on_each_relation():
    run = run_graph()
    assert [o.track_id for o in run.objects] == [CUP, TABLE, PERSON, LOST, 9]
    assert run.present == {CUP, TABLE, PERSON, 9}
    said = [(r.subject_id, r.predicate, r.object_id, r.start_ns // SECOND, r.ongoing) for r in run.relations]
    assert said == [
        (PERSON, "holding", CUP, 1, False),  # its two spans are one, which ended
        (LOST, "next to", CUP, 1, False),  # nobody says so any more
        (CUP, "on", TABLE, 4, True),
    ]


def test_ids_of_an_earlier_epoch_are_dropped():
    collector = RunGraphCollector()
    collector.add(graph(thing(CUP), thing(TABLE), holds(CUP, "on", TABLE)))
    collector.add(graph(thing(CUP, "dog"), epoch=1))
    run = collector.graph()
    assert ([o.label for o in run.objects], run.relations, run.epoch) == (["dog"], (), 1)


def test_a_run_without_graphs_has_nothing_to_export():
    with pytest.raises(DatasetError, match="no graph to export"):
        RunGraphCollector().graph()


@pytest.mark.parametrize("name", ["graphml", "json"])
def test_networkx_reads_every_node_and_edge(name, tmp_path):
    networkx = pytest.importorskip("networkx", reason="networkx, which comes with torch, is not installed")
    (text,) = exported(name, tmp_path)
    if name == "graphml":
        read = networkx.parse_graphml(text, node_type=int, force_multigraph=True)
    else:
        read = networkx.node_link_graph(json.loads(text), edges="edges")
    assert read.is_directed() and read.is_multigraph()
    assert read.graph["frame_id"] == "odom" and read.graph["stamp_ns"] == 6 * SECOND
    assert set(read.nodes) == {CUP, TABLE, PERSON, LOST, 9}
    assert read.nodes[CUP]["label"] == "cup" and read.nodes[CUP]["attributes"] == "red; half full"
    assert read.nodes[CUP]["x"] == 1.0 and read.nodes[LOST]["present"] is False and read.nodes[9]["is_thing"] is False
    edges = {(s, d["predicate"], o): d for s, o, d in read.edges(data=True)}
    assert edges.keys() == {(PERSON, "holding", CUP), (LOST, "next to", CUP), (CUP, "on", TABLE)}
    assert edges[CUP, "on", TABLE]["ongoing"] is True and edges[CUP, "on", TABLE]["start_ns"] == 4 * SECOND


def test_labels_that_xml_cannot_hold_do_not_break_the_file(tmp_path):
    collector = RunGraphCollector()
    collector.add(graph(thing(1, 'a < b & "c"\x00\x1b'), thing(2, "桌子 🪑")))
    (text,) = exported("graphml", tmp_path, collector.graph())
    labels = [e.text for e in ET.fromstring(text).iter() if e.get("key") == "node_label"]
    assert labels == ['a < b & "c"\ufffd\ufffd', "桌子 🪑"]


class TestSparkDsg:
    def test_spark_dsg_reads_it(self, tmp_path):
        spark_dsg = pytest.importorskip("spark_dsg", reason="spark_dsg is not installed (pip install spark-dsg)")
        export_graph(run_graph(), "spark_dsg", tmp_path, "kitchen")
        read = spark_dsg.DynamicSceneGraph.load(str(tmp_path / "kitchen.dsg.json"))
        assert (read.num_nodes(), read.num_edges()) == (5, 3)
        cup = read.get_node(spark_dsg.NodeSymbol("O", CUP).value).attributes
        assert cup.name == "cup 1" and list(cup.position) == [1.0, 2.0, 0.5] and cup.is_active
        assert cup.metadata.get()["attributes"] == ["red", "half full"]
        assert list(cup.bounding_box.dimensions) == [0.5, 0.5, 1.0]
        assert not read.get_node(spark_dsg.NodeSymbol("O", LOST).value).attributes.is_active
        assert read.metadata.get()["frame_id"] == "odom"

    def test_relations_of_a_pair_share_its_one_edge_and_keep_their_direction(self):
        collector = RunGraphCollector()
        collector.add(graph(thing(1), thing(2), holds(1, "on", 2), holds(2, "supporting", 1), holds(1, "near", 1)))
        (edge,) = json.loads(spark_dsg_text(collector.graph()))["edges"]
        said = [(r["subject"], r["predicate"], r["object"]) for r in edge["info"]["metadata"]["relations"]]
        assert said == [(node_id(1), "on", node_id(2)), (node_id(2), "supporting", node_id(1))]

    @pytest.mark.skipif(not SHARED.is_file(), reason="the graph of an apartment that spark_dsg ships is not at hand")
    def test_it_has_the_form_of_a_real_file(self):
        """Of version 1.0: what 1.1 renamed is left out of the comparison."""
        real = json.loads(gzip.decompress(SHARED.read_bytes()))
        ours = json.loads(spark_dsg_text(run_graph()))
        assert real.keys() - ours.keys() == {"layer_ids", "mesh_edges", "mesh_layer_id"}
        of_real = next(n for n in real["nodes"] if n["attributes"]["type"] == "ObjectNodeAttributes")
        of_ours = ours["nodes"][0]
        assert of_real.keys() <= of_ours.keys() and of_real["layer"] == of_ours["layer"]
        assert of_real["attributes"].keys() <= of_ours["attributes"].keys()
        assert of_real["id"] == node_id(0)
        box, our_box = (n["attributes"]["bounding_box"] for n in (of_real, of_ours))
        assert box.keys() - our_box.keys() == {"min", "max"} and our_box["type"] == box["type"]
        assert real["edges"][0]["info"].keys() <= ours["edges"][0]["info"].keys()


class TestPddl:
    def test_the_problem_says_what_is_there_and_what_holds(self, tmp_path):
        domain, problem = exported("pddl", tmp_path)
        facts = re.findall(r"^    \((.*)\)$", problem, re.MULTILINE)
        assert facts == ["is_half_full cup_1", "is_red cup_1", "is_red dining_table_2", "on cup_1 dining_table_2"]
        objects = re.findall(r"^    (\S+ - \S+)$", problem, re.MULTILINE)
        assert objects == ["cup_1 - cup", "dining_table_2 - dining_table", "person_3 - person", "floor_9 - floor"]
        assert "    chair cup dining_table person - thing\n    floor - stuff\n" in domain
        assert "(holding ?s - item ?o - item)" in domain and "(is_red ?s - item)" in domain

    def test_a_pddl_parser_and_a_planner_read_it(self, tmp_path):
        pddl = pytest.importorskip("pddl", reason="pddl is not installed (pip install pddl)")
        export_graph(run_graph(), "pddl", tmp_path, "kitchen")
        domain, problem = tmp_path / "kitchen.domain.pddl", tmp_path / "kitchen.problem.pddl"
        assert {str(p.name) for p in pddl.parse_domain(domain).predicates} >= {"on", "holding", "next_to", "is_red"}
        assert len(pddl.parse_problem(problem).objects) == 4 and len(pddl.parse_problem(problem).init) == 4
        parser = pytest.importorskip("pyperplan.pddl.parser", reason="pyperplan is not installed")
        planner = parser.Parser(str(domain), str(problem))
        assert len(planner.parse_problem(planner.parse_domain()).initial_state) == 4

    def test_names_are_safe_and_differ_where_texts_differ(self):
        texts = [
            "on",
            "On",
            "left of",
            "left-of",
            "3d printer",
            "",
            "?",
            "object",
            "thing",
            "item",
            "桌子",
            "(and)",
            "x; y",
        ]
        names = safe_names(texts)
        assert len(set(names.values())) == len(names) == len(set(texts))
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", n) for n in names.values())
        assert not {"object", "thing", "item", "and"} & set(names.values())


def test_every_format_of_the_command_line_is_written(tmp_path):
    for name in FORMATS:
        assert all(exported(name, tmp_path / name))
    with pytest.raises(ConfigError, match="expected one of spark_dsg, graphml, json, pddl"):
        export_graph(run_graph(), "svg", tmp_path, "kitchen")
