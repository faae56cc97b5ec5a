"""The commands of README and docs are true: they parse, what they name exists, and the cheap ones run as written.

Commands in code blocks are parsed whole, by the programs' own parsers; of those amid text (`psg4d replay --live`) each
option is looked up. What runs is in RUN.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from psg4d_ros.cli import main
from psg4d_ros.config import PipelineConfig, to_dict
from psg4d_ros.config_files import pipeline_config
from psg4d_ros.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md", *ROOT.glob("models/*/*.md")
]  # fmt: skip

# Documented commands that run here, in this order and in one folder, each with arguments that make it small.
# Others run in tests of their own: make demo (psg4d demo) in test_cli.py, train in test_train_smoke.py, bench in
# test_bench.py, export in test_export.py, check --dataset in test_psg4d_dataset.py, eval of the model and of boxes in
# test_eval_command.py, benchmarks in test_ablations.py and test_benchmarks.py; of replay --live in
# test_replay_live.py, --workers and --ray in test_replay_many.py, --report in test_cli.py, the rest in
# test_replay_evaluation.py. make test is what .ci/run calls; ros2 launch and colcon build run in test_launch.py and
# test_package.py where they are installed; ros2 service call and the Python blocks of README in test_readme.py.
SMALL = "--set window.num_frames=2 --set inference.threads=1 --quiet"
RUN = {
    "psg4d check": "",
    "psg4d simulate OUT --split test --scenes 4 --bag --preview": "--scenes 1 --frames 3 --size 48x36 --workers 1 -q",
    "psg4d eval OUT --method oracle --setting PredCls": "--quiet",
    "psg4d replay OUT/test_00000 --set coordinates.target_frame=world": SMALL,
    "psg4d replay drive.mcap --json out.json --markdown out.md": SMALL,
}
SERVICES = (ROOT / "psg4d_ros/ros/services.py").read_text()
PLACEHOLDERS = {"HZ": "4", "N": "8"}  # where a number must stand


def words_of(text: str) -> list[str]:
    """The words of a command of ours, without what leads to it, comments and the brackets of what may be left out."""
    text = text.strip().removeprefix("$ ")
    text = re.sub(r"^([A-Z_]+=\S+ +)*(\S*bin/|ros2 run psg4d_ros (?=psg4d ))?", "", text)
    text = re.sub(r"^(torchrun .*|python )-m psg4d_ros\.cli ", "psg4d ", text)
    ours = r"(psg4d|make|ros2 (launch psg4d_ros|param describe|service call)|python (benchmarks|examples)/\S+)( |$)"
    if not re.match(ours, text):
        return []
    text = re.sub(r'("[^"]*")|[][]|(?<=\w)\|\w+', lambda found: found[1] or " ", text)
    words = shlex.split(text, comments=True)
    return [PLACEHOLDERS.get(word, word) for word in words]


def code_blocks(text: str) -> Iterator[str]:
    """The code blocks of a document, fenced or indented."""
    for number, part in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        yield from [part] if number % 2 else re.findall(r"(?:^    .*\n?)+", part, re.MULTILINE)


def commands(codes: Iterator[str] | list[str]) -> Iterator[str]:
    for code in codes:
        for line in code.replace("\\\n", " ").splitlines():
            yield from (shlex.join(words) for part in line.split("&&") if (words := words_of(part)))


IN_BLOCKS = sorted({c for d in DOCUMENTS for c in commands(code_blocks(d.read_text()))})
IN_TEXT = sorted({c for d in DOCUMENTS for c in commands(re.findall(r"`([^`\n]+)`", d.read_text()))} - {*IN_BLOCKS})


class Parsed(Exception):
    """Raised in the place of all that a program does once it has read its arguments."""


@pytest.fixture
def start(monkeypatch):
    """Run psg4d, or a script of ours, with arguments."""

    def run(program: str, *arguments: str) -> None:
        if program == "psg4d":
            assert main(arguments) == 0
        else:
            monkeypatch.setattr(sys, "argv", [program, *arguments])
            runpy.run_path(str(ROOT / program), run_name="__main__")

    return run


@pytest.fixture
def parse(start, monkeypatch):
    """What the own parser of psg4d, or of a script of ours, makes of arguments; nothing else is run."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise Parsed(parse_args(parser, *arguments))

    def options(*words: str) -> argparse.Namespace:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed) as parsed:
            start(*words)
        return parsed.value.args[0]

    return options


def launch_arguments(file: str) -> set[str]:
    """What a launch file of ours declares, and those that it includes."""
    text = (ROOT / "launch" / file).read_text()
    included = re.findall(r'HERE / "([\w.]+)"', text)
    return {*re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', text)}.union(*map(launch_arguments, included))


def check_names(command: str) -> None:
    """That what a command of make or ros2 names is there."""
    match shlex.split(command):
        case "make", target, *settings:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
            assert all(re.search(rf"^{s.partition('=')[0]} \?=", makefile, re.MULTILINE) for s in settings)
        case "ros2", "launch", _, file, *arguments:
            assert {a.partition(":=")[0] for a in arguments} <= launch_arguments(file)
        case "ros2", "param", "describe", _, parameter:
            section, name = parameter.split(".")
            assert name in to_dict(PipelineConfig())[section]
        case "ros2", "service", "call", service, kind, values:
            package, folder, name = kind.split("/")
            assert package == "psg4d_ros" and f'"~/{Path(service).name}"' in SERVICES
            request = (ROOT / folder / f"{name}.srv").read_text().partition("\n---\n")[0]
            assert {*yaml.safe_load(values)} <= {*re.findall(r"^\S+ +(\w+)", request, re.MULTILINE)}
        case _:
            raise AssertionError(f"who checks {command}?")


def test_the_documents_hold_commands() -> None:
    """So that no test below passes for want of any."""
    for program in ("psg4d", "python benchmarks/", "ros2 launch", "make"):
        assert sum(c.startswith(program) for c in IN_BLOCKS) >= 2 - (program == "ros2 launch"), program
    assert len(IN_TEXT) > 15
    assert {*RUN} <= {*IN_BLOCKS}, "what is run stands in the documents word for word"


@pytest.mark.parametrize("command", IN_BLOCKS)
def test_a_command_is_one_that_its_program_takes(command: str, parse) -> None:
    program, *words = shlex.split(command)
    if program == "python":
        parse(*words)
    elif program != "psg4d":
        check_names(command)
    else:
        options = parse(program, *words)
        if options.verb == "train":
            load_recipe(options.recipe, options.set)
        elif "set" in options:
            pipeline_config(None, options.set)


@pytest.mark.parametrize("command", IN_TEXT)
def test_options_that_a_text_names_exist(command: str, start, capsys) -> None:
    program, *words = shlex.split(command)
    if program not in ("psg4d", "python"):
        check_names(command)
        return
    with pytest.raises(SystemExit):
        start(*([program, words[0]] if program == "psg4d" else words[:1]), "--help")
    known = re.findall(r"--[\w-]+", capsys.readouterr().out)
    assert {w for w in words if w.startswith("--")} <= {*known}


def test_the_cheap_commands_run(start, tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("embreex", reason="the simulator needs embreex, which has no wheel for this platform")
    monkeypatch.chdir(tmp_path)
    for command, small in RUN.items():
        program, verb, *words = shlex.split(f"{command} {small}")
        if verb != "simulate":
            words += ["--checkpoint", str(tiny_checkpoint)]
        start(program, verb, *words)
        if verb == "simulate":  # what docs/replay.md calls drive.mcap
            Path("drive.mcap").symlink_to(next(Path("OUT/test_00000").glob("*.mcap")))
    for file in ("OUT/test_00000.png", "out.json", "out.md"):
        assert (tmp_path / file).stat().st_size > 100, file


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        file = document.parent / target if target else document
        assert file.exists(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, anchor
