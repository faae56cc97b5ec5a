"""The command line: ``psg4d demo | replay | eval | simulate | train | export | bench | check``.

Tables go to stdout, the rest to stderr. Exit status: 0 ok, 1 an error of ours (one line that says what and what would
be right), 2 wrong usage. Heavy imports happen inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from psg4d_ros.cli_replay import add_replay_arguments, pipeline_config_of, run_demo
from psg4d_ros.errors import Psg4dError
from psg4d_ros.evaluation.bench.plan import PARTS
from psg4d_ros.evaluation.result_files import check_writable, write_json, write_text
from psg4d_ros.processes import end_with_parent
from psg4d_ros.torch_environment import prepare_torch
from psg4d_ros.version import version

# The processes that simulate and replay work with import the script that started them, and with it this module.
end_with_parent()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    options = _parser().parse_args(arguments)
    prepare_torch()
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # What is done once and takes its time, such as an export, is told.
    ours = logging.getLogger("psg4d_ros")
    before = ours.level
    ours.setLevel(min(level, logging.WARNING if getattr(options, "quiet", False) else logging.INFO))
    try:
        return int(options.run(options))
    except Psg4dError as error:
        if options.verbose:
            raise
        print(f"psg4d {options.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"psg4d {options.verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our table went away, as with `| head`
        sys.stderr.close()
        return 0
    finally:
        ours.setLevel(before)  # whoever calls this as a function has levels of their own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="psg4d", description="Live 4D panoptic scene graphs from point clouds.")
    parser.add_argument("--version", action="version", version=f"psg4d {version()}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    common.add_argument("--verbose", "-v", action="store_true", help="more log, and tracebacks of errors")

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="checkpoint folder (default: the shipped one)"
    )
    configured.add_argument("--params", type=Path, metavar="YAML", help="pipeline parameters, the node's file as it is")
    configured.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one parameter, e.g. window.num_frames=4"
    )
    configured.add_argument("--quiet", "-q", action="store_true", help="no progress bar")

    running = argparse.ArgumentParser(add_help=False, parents=[configured])
    running.add_argument("--topic", help="cloud topic (default: the only one in the bag)")
    running.add_argument("--limit", type=int, metavar="N", help="stop after N clouds")
    running.add_argument("--no-timings", action="store_true", help="leave all wall-clock values out")

    demo = verbs.add_parser(
        "demo", parents=[common, running], help="replay a real and a simulated recording, print graphs, write a report"
    )
    demo.set_defaults(run=run_demo, live=False, rate=None, ground_truth=None)
    demo.set_defaults(write_bag=None, export=[], export_dir=None)
    replay = verbs.add_parser(
        "replay",
        parents=[common, running],
        help="run a bag, or a folder of PCD, velodyne .bin or RGB-D frames, through the pipeline",
    )
    add_replay_arguments(replay)
    evaluation = verbs.add_parser(
        "eval", parents=[common, configured], help="metrics of a method on a labelled dataset"
    )
    evaluation.add_argument("dataset", metavar="DATASET", help="sim, a folder of simulate, a bag, or a data set's root")
    evaluation.add_argument("--split", help="split of sim (default: test) or of a data set that has splits")
    evaluation.add_argument("--setting", choices=("PredCls", "SGCls", "SGDet"), default="SGDet", help="what is given")
    evaluation.add_argument("--method", choices=("model", "oracle", "frequency", "rules"), default="model")
    evaluation.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    evaluation.add_argument("--seed", type=int, default=0, help="seed of sim (default: 0)")
    evaluation.add_argument(
        "--train", metavar="DATASET", help="for the frequency prior and zero-shot recall (default of frequency: sim)"
    )
    evaluation.set_defaults(run=_eval)
    simulation = verbs.add_parser("simulate", parents=[common], help="make 4D scenes with ground truth")
    simulation.add_argument("out", type=Path, metavar="OUT", help="folder; a job that was stopped goes on there")
    simulation.add_argument("--split", default="train", help="train, train_scarce, val, test or test_oov")
    simulation.add_argument("--seed", type=int, default=0, help="of the whole split (default: 0)")
    simulation.add_argument("--scenes", type=int, metavar="N", help="the first N (default: all of the split)")
    simulation.add_argument("--frames", type=int, default=60, metavar="N", help="per scene (default: 60)")
    simulation.add_argument("--rate", type=float, default=4.0, metavar="HZ", help="frames per second (default: 4)")
    simulation.add_argument("--sensor", default="depth", help="depth, lidar or mixed (default: depth)")
    simulation.add_argument("--size", type=_size, metavar="WxH", help="rays across and down (default: by sensor)")
    simulation.add_argument("--bag", action="store_true", help="also a bag (mcap) per scene, with ground truth")
    simulation.add_argument("--preview", action="store_true", help="also a contact sheet (PNG) per scene")
    simulation.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    simulation.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    simulation.set_defaults(run=_simulate)
    training = verbs.add_parser("train", parents=[common], help="train the model, from nothing or from a checkpoint")
    training.add_argument("recipe", metavar="RECIPE", help="all, smoke, another config/train_RECIPE.yaml, or a file")
    training.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: out/train_RECIPE)")
    training.add_argument(
        "--minutes", "--max-minutes", type=float, metavar="N", help="for everything: scenes, stages, checkpoint"
    )
    training.add_argument("--steps", type=int, metavar="N", help="optimiser steps of each stage")
    training.add_argument("--seed", type=int, default=0, help="of weights, scenes and windows (default: 0)")
    training.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="DIR",
        help="go on with the run in --out (without DIR) or in DIR; or train on from the checkpoint DIR",
    )
    training.add_argument("--scenes", type=int, metavar="N", help="scenes to train on (default: by the minutes)")
    training.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with scenes in train/ and val/ (default: made in --out)"
    )
    training.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of 2D data sets for stage 1 (default: $PSG4D_IMAGES)"
    )
    training.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, e.g. stage2_geometry.batch=4"
    )
    training.add_argument("--quiet", "-q", action="store_true", help="no progress bars")
    training.set_defaults(run=_train)
    benchmark = verbs.add_parser(
        "bench", parents=[common, configured], help="speed, growth and memory, beside baselines and floors"
    )
    benchmark.add_argument("--quick", action="store_true", help="fewer windows, pairs and updates: minutes on 2 cores")
    benchmark.add_argument("--backend", metavar="NAME", help="short for --set inference.backend=NAME")
    benchmark.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="(default: out/bench)")
    some = benchmark.add_mutually_exclusive_group()
    some.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    some.add_argument(
        "--verify", action="store_true", help="only compare graphs with the plain path's; status 1 if they differ"
    )
    benchmark.set_defaults(run=_bench)
    export = verbs.add_parser(
        "export", parents=[common], help="encoder and mask decoder as ONNX, checked against torch"
    )
    export.add_argument("out", type=Path, metavar="OUT", help="folder for the graphs and their manifests")
    export.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint folder (default: the shipped one)")
    export.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of weights (default: fp32)")
    export.add_argument("--engines", action="store_true", help="TensorRT engines of the graphs, too; none is run")
    export.set_defaults(run=_export)
    check = verbs.add_parser("check", parents=[common], help="say what is installed, what is missing and how to get it")
    check.add_argument("--checkpoint", type=Path, metavar="DIR", help="checkpoint folder (default: the shipped one)")
    check.add_argument("--dataset", type=Path, metavar="ROOT", help="look at a download of PSG4D instead")
    check.set_defaults(run=_check)
    return parser


def _eval(options: argparse.Namespace) -> int:
    config = pipeline_config_of(options)
    if options.json:
        check_writable(options.json)
    from tqdm import tqdm

    from psg4d_ros.evaluation.evaluate import evaluate_dataset
    from psg4d_ros.evaluation.tables import evaluation_table

    result = evaluate_dataset(
        options.dataset,
        split=options.split,
        setting=options.setting,
        method=options.method,
        limit=options.limit,
        seed=options.seed,
        train=options.train,
        checkpoint=options.checkpoint,
        config=config,
        progress=lambda items, total: tqdm(items, total=total, unit="scene", file=sys.stderr, disable=options.quiet),
    )
    if options.json:
        write_json(options.json, result)
    print(evaluation_table(result))
    return 0


def _size(text: str) -> tuple[int, int]:
    """Width and height from "320x240"."""
    width, _, height = text.partition("x")
    return int(width), int(height)  # argparse turns a ValueError into wrong usage


def _simulate(options: argparse.Namespace) -> int:
    if options.json:
        check_writable(options.json)
    from tqdm import tqdm

    from psg4d_ros.data.simulation.production import SimulationJob, simulate
    from psg4d_ros.data.simulation.statistics import statistics_table, totals

    job = SimulationJob(
        out=options.out,
        split=options.split,
        seed=options.seed,
        sensor=options.sensor,
        size=options.size,
        frames=options.frames,
        rate_hz=options.rate,
        bag=options.bag,
        preview=options.preview,
    )
    start = time.perf_counter()
    summaries = simulate(
        job,
        options.scenes,
        workers=options.workers,
        progress=lambda items, total: tqdm(items, total=total, unit="scene", file=sys.stderr, disable=options.quiet),
    )
    values = totals(summaries)
    if options.json:
        runtime = {"wall_s": round(time.perf_counter() - start, 3)}
        write_json(options.json, {"out": str(options.out), **values, "runtime": runtime})
    print(statistics_table(values))
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.json:
        check_writable(options.json)
    from psg4d_ros.training.recipe import load_recipe
    from psg4d_ros.training.report import training_table
    from psg4d_ros.training.run import RUN, RunOptions, train

    recipe = load_recipe(options.recipe, options.set)
    images = os.environ.get("PSG4D_IMAGES")
    out = options.out or Path("out") / f"train_{Path(options.recipe).stem}"
    start = None
    if isinstance(options.resume, str):
        if (Path(options.resume) / RUN).is_file():
            out = Path(options.resume)
        else:
            start = Path(options.resume)
    result = train(
        recipe,
        RunOptions(
            out=out,
            minutes=options.minutes,
            steps=options.steps,
            seed=options.seed,
            start=start,
            scenes=options.scenes,
            data=options.data,
            images=options.images or (Path(images) if images else None),
            resume=options.resume is not None,
            quiet=options.quiet,
        ),
    )
    if options.json:
        write_json(options.json, result)
    print(training_table(result))
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.backend:
        options.set = [*options.set, f"inference.backend={options.backend}"]
    config, report = pipeline_config_of(options), options.out / "bench.md"
    for file in (report, options.json):
        if file:
            check_writable(file)
    from tqdm import tqdm

    from psg4d_ros.checkpoint import default_checkpoint
    from psg4d_ros.evaluation.bench.plan import FULL, QUICK
    from psg4d_ros.evaluation.bench.plots import draw_plots
    from psg4d_ros.evaluation.bench.run import bench
    from psg4d_ros.evaluation.bench.tables import bench_markdown

    with tqdm(bar_format="{elapsed} {desc}", file=sys.stderr, disable=options.quiet) as bar:
        measured = bench(
            options.checkpoint or default_checkpoint(),
            config,
            QUICK if options.quick else FULL,
            parts=("graphs",) if options.verify else options.only or PARTS,
            progress=bar.set_description_str,
        )
    result = {"quick": options.quick, **measured}
    if options.json:
        write_json(options.json, result)
    text = bench_markdown(result)
    write_text(report, text)
    draw_plots(result, options.out)
    print(text, end="")
    if not options.verify:
        return 0
    if result["backend_problem"]:  # then another one was compared with itself
        print(f"psg4d bench: {options.backend} was not verified: {result['backend_problem']}", file=sys.stderr)
        return 1
    return 0 if result["same_graphs_float32"] else 1


def _export(options: argparse.Namespace) -> int:
    if options.json:
        check_writable(options.json)
    import torch

    from psg4d_ros.checkpoint import default_checkpoint, load_checkpoint
    from psg4d_ros.runtime.export import ParityError, export_model, export_table

    model = load_checkpoint(options.checkpoint or default_checkpoint(), torch.device("cpu"))
    failure: ParityError | None = None
    try:
        parts = export_model(model, options.out, options.precision)
    except ParityError as error:
        failure, parts = error, error.parts
    engines = []
    if options.engines and failure is None:
        from psg4d_ros.runtime.engines import engines_beside

        engines = engines_beside(model, options.out, options.precision)
    if options.json:
        values = {name: dict(report.__dict__) for name, report in parts.items()}
        for engine in engines:
            values[engine.manifest["part"]]["engine"] = {"file": engine.path.name, **engine.manifest}
        write_json(options.json, {"out": str(options.out), "precision": options.precision, "parts": values})
    if failure is not None:
        raise failure
    print(export_table(parts, options.out))
    for engine in engines:
        print(engine.summary())
    return 0


def _check(options: argparse.Namespace) -> int:
    from psg4d_ros.environment import check_dataset, check_environment

    items = check_dataset(options.dataset) if options.dataset else check_environment(options.checkpoint)
    ok = all(item.ok or item.optional for item in items)
    for item in items:
        mark = "ok  " if item.ok else "--  " if item.optional else "MISS"
        print(
            f"{mark} {item.name:<28} {item.found}" + (f"\n     -> {item.remedy}" if item.remedy and not item.ok else "")
        )
    if options.json:
        write_json(options.json, {"ok": ok, "items": [item.__dict__ for item in items]})
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
