"""``psg4d replay``: its arguments, and what it prints and writes. Part of the command line, see cli.py.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psg4d_ros.evaluation.exports import FORMATS
from psg4d_ros.evaluation.result_files import check_writable, write_json, write_text

if TYPE_CHECKING:
    from psg4d_ros.config import PipelineConfig
    from psg4d_ros.evaluation.replay import ReplayResult
    from psg4d_ros.evaluation.replay_job import ReplayJob
    from psg4d_ros.evaluation.replay_many import ManyResults
    from psg4d_ros.structures import SceneGraph


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """What replay has beside the arguments that it shares with demo."""
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="RECORDING", help="a bag, a folder of bags, or a folder of frames"
    )
    parser.add_argument("--rate", type=float, metavar="HZ", help="frames per second of a folder without times")
    parser.add_argument(
        "--ground-truth", type=Path, metavar="PATH", help="labelled recording(s) (default: what is in the bag, if any)"
    )
    parser.add_argument("--thresholds", type=Path, metavar="YAML", help="what must be reached; exit status 1 if not")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument(
        "--write-bag", type=Path, metavar="OUT", help="write bag and predictions: OUT.mcap, or a folder"
    )
    parser.add_argument(
        "--export", action="append", default=[], choices=FORMATS, help="write the graph of the run in this form, too"
    )
    parser.add_argument(
        "--export-dir", type=Path, default=Path("out/export"), metavar="DIR", help="for --export (default: out/export)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="of a folder of bags: processes (default: 1)")
    parser.add_argument("--ray", action="store_true", help="of a folder of bags: on Ray, the cluster of RAY_ADDRESS")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A.json", "B.json"), help="compare two results instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws of --compare (default: 0)")
    parser.set_defaults(run=run_replay, usage_error=parser.error)


def run_replay(options: argparse.Namespace) -> int:
    """The verb; the exit status."""
    if (options.path is None) == (options.compare is None):
        options.usage_error("give a RECORDING to replay, or --compare A.json B.json")
    if options.compare is not None:
        return _compare(options)
    from psg4d_ros.evaluation.replay_many import bags_in
    from psg4d_ros.evaluation.thresholds import failures, load_thresholds

    thresholds = load_thresholds(options.thresholds) if options.thresholds else None
    for file in (options.json, options.markdown):
        if file:
            check_writable(file)  # before the work, not after it
    bags = bags_in(options.path)
    status = 0
    if bags:
        many = _run_many(options, bags)
        values = many.to_json(timings=not options.no_timings)
        print(_many_table(values))
        for bag, error in many.failed.items():
            print(f"psg4d replay: {bag} failed: {error}", file=sys.stderr)
            status = 1
    else:
        if options.workers or options.ray:
            options.usage_error(f"--workers and --ray are for a folder of bags, {options.path} is none")
        result = run_recording(options, options.path)
        values = result.to_json(timings=not options.no_timings)
        print_result(options, result, values)
        if result.truth_error is not None:
            print(f"psg4d replay: {result.truth_error}", file=sys.stderr)
            status = 1
    failed = None if thresholds is None else failures(values, thresholds)
    if options.json:
        write_json(options.json, values)
    if options.markdown:
        from psg4d_ros.evaluation.replay_tables import replay_markdown

        write_text(options.markdown, replay_markdown(values, failed))
    for line in failed or ():
        print(f"psg4d replay: {line}", file=sys.stderr)
    return 1 if failed else status


def run_recording(
    options: argparse.Namespace, path: Path, on_graph: Callable[[SceneGraph], None] | None = None
) -> ReplayResult:
    """Replay one recording with a progress bar, as ``options`` say (of replay or demo)."""
    job = _job(options, path)
    from psg4d_ros.evaluation.replay_job import run_job

    return run_job(job, _progress(options, "cloud"), on_graph)


def print_result(options: argparse.Namespace, result: ReplayResult, values: dict[str, Any]) -> None:
    """The tables of one recording. values: its JSON values."""
    from psg4d_ros.evaluation.replay_tables import quality_table
    from psg4d_ros.evaluation.tables import replay_table

    print(replay_table(result, timings=not options.no_timings))
    print(quality_table(values))


def pipeline_config_of(options: argparse.Namespace) -> PipelineConfig:
    """The pipeline's settings from --params and --set."""
    from psg4d_ros.config_files import pipeline_config

    return pipeline_config(options.params, options.set)


def _job(options: argparse.Namespace, path: Path) -> ReplayJob:
    config = pipeline_config_of(options)
    if options.json:
        check_writable(options.json)
    from psg4d_ros.checkpoint import default_checkpoint
    from psg4d_ros.evaluation.replay_job import ReplayJob

    return ReplayJob(
        path=path,
        checkpoint=options.checkpoint or default_checkpoint(),
        config=config,
        topic=options.topic,
        rate_hz=options.rate,
        limit=options.limit,
        ground_truth=options.ground_truth,
        write_bag=options.write_bag,
        exports=tuple(dict.fromkeys(options.export)),
        export_dir=options.export_dir,
        timings=not options.no_timings,
    )


def _run_many(options: argparse.Namespace, bags: list[Path]) -> ManyResults:
    from psg4d_ros.evaluation.replay_many import jobs_for, replay_many

    jobs = jobs_for(bags, _job(options, options.path))
    workers = 1 if options.workers is None else options.workers
    return replay_many(options.path, jobs, workers=workers, ray=options.ray, progress=_progress(options, "bag"))


def _many_table(values: dict[str, Any]) -> str:
    from psg4d_ros.evaluation.replay_tables import many_table, quality_table

    return f"{many_table(values)}\n{quality_table(values)}"


def _compare(options: argparse.Namespace) -> int:
    if options.json:
        check_writable(options.json)
    from psg4d_ros.evaluation.compare import compare, load_result
    from psg4d_ros.evaluation.replay_tables import comparison_table

    a, b = options.compare
    result = compare(load_result(a), load_result(b), seed=options.seed)
    if options.json:
        write_json(options.json, result)
    print(comparison_table(result, str(a), str(b)))
    return 0


def _progress(options: argparse.Namespace, unit: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    from tqdm import tqdm

    def progress(items: Iterable[Any], total: int) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(items, total=total, unit=unit, file=sys.stderr, disable=options.quiet)
        return bar

    return progress
