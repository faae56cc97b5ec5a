"""``psg4d replay`` and ``psg4d demo``: what they print and write. Part of the command line, see cli.py.

Heavy imports happen inside the functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psg4d_ros.errors import ConfigError, Psg4dError
from psg4d_ros.evaluation.exports import FORMATS
from psg4d_ros.evaluation.result_files import check_writable, write_json, write_text

if TYPE_CHECKING:
    from psg4d_ros.config import PipelineConfig
    from psg4d_ros.evaluation.replay import ReplayResult
    from psg4d_ros.evaluation.replay_job import ReplayJob
    from psg4d_ros.evaluation.replay_live import HeardPipeline
    from psg4d_ros.evaluation.replay_many import ManyResults
    from psg4d_ros.evaluation.report.payload import ReportSection
    from psg4d_ros.evaluation.report.recorder import ReplayRecorder
    from psg4d_ros.structures import SceneGraph

REPORT = "report.html"
DEMO_FRAMES = 24


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """What replay has beside the arguments that it shares with demo."""
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="RECORDING", help="a bag, a folder of bags, or a folder of frames"
    )
    parser.add_argument(
        "--live", action="store_true", help="through DDS and a node of its own, as on a robot: latency and losses, too"
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="frames per second of a folder without times; with --live the speed (default: 1, as recorded)",
    )
    parser.add_argument(
        "--ground-truth", type=Path, metavar="PATH", help="labelled recording(s) (default: what is in the bag, if any)"
    )
    parser.add_argument("--thresholds", type=Path, metavar="YAML", help="what must be reached; exit status 1 if not")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write DIR/report.html: the scene in 3D, its graph, the timeline"
    )
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
    report = options.report / REPORT if options.report else None
    for file in (options.json, options.markdown, report):
        if file:
            check_writable(file)  # before the work, not after it
    bags = bags_in(options.path)
    status = 0
    recorder = None
    if bags:
        for name, given in (("--report", report), ("--live", options.live)):
            if given:
                options.usage_error(f"{name} is of one recording, {options.path} is a folder of bags")
        many = _run_many(options, bags)
        values = many.to_json(timings=not options.no_timings)
        print(_many_table(values))
        for bag, error in many.failed.items():
            print(f"psg4d replay: {bag} failed: {error}", file=sys.stderr)
            status = 1
    else:
        if options.workers or options.ray:
            options.usage_error(f"--workers and --ray are for a folder of bags, {options.path} is none")
        recorder = make_recorder() if report else None
        result = run_recording(options, options.path, recorder=recorder)
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
    if report and recorder is not None:  # last: nothing else is lost when it fails
        write_sections(report, [section_of(options, result.bag, result, recorder)])
        print(report)
    return 1 if failed else status


def run_demo(options: argparse.Namespace) -> int:
    """The verb: the bundled recording and a simulated scene, and the report of both; the exit status."""
    from psg4d_ros.checkpoint import default_checkpoint, read_manifest
    from psg4d_ros.data.bundled import bundled_bag
    from psg4d_ros.evaluation.tables import graph_table

    report = Path("out") / REPORT
    check_writable(report)
    options.checkpoint = options.checkpoint or default_checkpoint()
    given = options.set
    # The recording brings the transform to a level frame. Explicit settings come later and win.
    defaults = ["coordinates.target_frame=odom"]
    if not read_manifest(options.checkpoint).trained:
        # Random weights are sure of nothing: the best few relations are shown whatever their score.
        defaults += ["inference.relation_threshold=0.0", "inference.max_relations=6"]
    options.set = defaults + given
    graphs: list[SceneGraph] = []
    recorder = make_recorder()
    result = run_recording(options, bundled_bag(), graphs.append, recorder)
    for graph in graphs:
        print(graph_table(graph, timings=not options.no_timings), end="\n\n")
    values = result.to_json(timings=not options.no_timings)
    print_result(options, result, values)
    sections = [section_of(options, "Kinect", result, recorder, "A real recording: three clouds of a Kinect.")]
    options.set, options.topic = [*defaults, "coordinates.target_frame=world", *given], None
    simulated = _simulated_section(options)
    if simulated is not None:
        sections.append(simulated)
        print()
        print_result(options, simulated.result, simulated.result.to_json(timings=not options.no_timings))
    counts = {"objects": len(result.objects()), "relations": len(result.triplets()), "report": str(report)}
    if options.json:
        others = [s.result.to_json(timings=not options.no_timings) for s in sections[1:]]
        write_json(options.json, {**counts, **values, "others": others})
    write_sections(report, sections)
    print(f"\n{report}")
    return 0


def _simulated_section(options: argparse.Namespace) -> ReportSection | None:
    """A scene of the simulator, made on first use in out/; None, and a line that says why, where there is none."""
    from psg4d_ros.data.simulation.production import SimulationJob, simulate, simulator_hash

    try:
        folder = Path("out") / f"demo_scene-{simulator_hash()}"
        job = SimulationJob(folder, split="test", frames=DEMO_FRAMES, bag=True)
        simulate(job, 1, workers=1)
        recorder = make_recorder()
        result = run_recording(options, folder / job.scene_name(0), recorder=recorder)
    except Psg4dError as error:
        print(f"psg4d demo: no simulated scene in the report: {error}", file=sys.stderr)
        return None
    note = "A simulated room, of which everything is known: compare with the ground truth."
    return section_of(options, "Simulated room", result, recorder, note)


def make_recorder() -> ReplayRecorder:
    """For run_recording and section_of."""
    from psg4d_ros.evaluation.report.recorder import ReplayRecorder

    return ReplayRecorder()


def section_of(
    options: argparse.Namespace, title: str, result: ReplayResult, recorder: ReplayRecorder, note: str = ""
) -> ReportSection:
    """A tab of the report."""
    from psg4d_ros.evaluation.report.payload import ReportSection

    return ReportSection(title, result, recorder, note, timings=not options.no_timings)


def write_sections(path: Path, sections: list[ReportSection]) -> None:
    """The report. Raises Psg4dError, whatever goes wrong: all else of a replay is written by then."""
    from psg4d_ros.evaluation.report.page import write_report

    try:
        write_report(path, sections)
    except Psg4dError:
        raise
    except Exception as error:
        raise Psg4dError(f"no report: {type(error).__name__}: {error}; please report this as a bug") from error


def run_recording(
    options: argparse.Namespace,
    path: Path,
    on_graph: Callable[[SceneGraph], None] | None = None,
    recorder: ReplayRecorder | None = None,
) -> ReplayResult:
    """Replay one recording with a progress bar, as ``options`` say (of replay or demo)."""
    job = _job(options, path)
    from psg4d_ros.evaluation.replay_job import run_job

    if options.live:
        return run_job(job, None, on_graph, recorder, play_live=lambda job: _play_live(job, options))
    return run_job(job, _progress(options, "cloud"), on_graph, recorder)


@contextmanager
def _play_live(job: ReplayJob, options: argparse.Namespace) -> Iterator[HeardPipeline]:
    """What a node in another process makes of the recording, played to it over DDS."""
    from tqdm import tqdm

    from psg4d_ros.data.frame_source import is_bag_folder
    from psg4d_ros.evaluation.replay_live import HeardPipeline

    if job.path.is_dir() and not is_bag_folder(job.path):
        raise ConfigError(f"--live plays a ROS 2 bag, {job.path} is a folder of frames; leave out --live")
    try:
        from psg4d_ros.ros.live_player import LivePlay, play_to_node
    except ImportError as error:
        raise ConfigError(
            f"--live needs ROS 2 and the messages of this package, which cannot be imported ({error}); source your ROS "
            "2 installation and the workspace that psg4d_ros was built in, or leave out --live: replay needs no ROS"
        ) from error
    rate = 1.0 if options.rate is None else options.rate
    with tqdm(unit="cloud", desc="played", total=job.limit, file=sys.stderr, disable=options.quiet) as bar:
        play = LivePlay(job.path, job.checkpoint, job.config, job.topic, job.limit, rate, bar.update)
        with play_to_node(play) as heard, HeardPipeline(heard, job.config, job.checkpoint) as pipeline:
            bar.close()
            yield pipeline


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
        rate_hz=None if options.live else options.rate,
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
