"""The training loop: seeded, in time, and the same whether it was interrupted or not."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_stage import Fit, Samples, toy_stage, train

from psg4d_ros.errors import CheckpointError, ConfigError, Psg4dError
from psg4d_ros.training.items import iterate
from psg4d_ros.training.run_log import LOG_FILE, read_lines
from psg4d_ros.training.run_state import load_state
from psg4d_ros.training.schedule import Schedule
from psg4d_ros.training.stage import Stage, StageRecipe, sized

pytestmark = pytest.mark.usefixtures("one_thread")


class Stopped(Exception):
    """Stands for whatever ends a run in its middle."""


def stop_before(step: int):
    """For Fit: stop in the first pass of a step (two micro-batches per step)."""
    passes = iter(range(2 * step))

    def before(items):
        if next(passes, None) is None:
            raise Stopped

    return before


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(t, b[name]) for name, t in a.items())


# -- learning ----------------------------------------------------------------------------------------------------------


def test_losses_fall_and_every_step_is_logged(tmp_path):
    stage = toy_stage(steps=150)
    result = train(stage, tmp_path)
    lines = read_lines(tmp_path / LOG_FILE)
    assert [line["step"] for line in lines] == list(range(1, 151))
    first, last = (sum(line["losses"]["loss"] for line in part) / 20 for part in (lines[:20], lines[-20:]))
    assert last < 0.3 * first
    assert result.steps == 150
    assert set(result.losses) == {"square", "size", "loss"}
    assert list((tmp_path / "tensorboard").iterdir()), "the same for TensorBoard"


def test_only_what_the_stage_names_is_trained(tmp_path):
    stage = toy_stage(steps=3)
    before = weights(stage.module)
    train(stage, tmp_path)
    assert torch.equal(stage.module.offset, before["offset"])
    assert not torch.equal(stage.module.net[0].weight, before["net.0.weight"])
    assert not stage.module.offset.requires_grad


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    trained = []
    for number, seed in enumerate((3, 3, 4)):
        stage = toy_stage()
        train(stage, tmp_path / str(number), seed=seed)
        trained.append(weights(stage.module))
    assert_same(trained[0], trained[1])
    assert not torch.equal(trained[0]["net.0.weight"], trained[2]["net.0.weight"])


def test_micro_batches_add_up_to_the_batch(tmp_path):
    class Exact(Fit):  # without the noise, which is drawn per micro-batch
        def forward(self, items, generator, of_step):
            x, y = (torch.stack(part) for part in zip(*items, strict=True))
            return {"square": (self.net(x)[:, 0] - y).square().mean()}

    whole, parts = toy_stage(Exact(), micro_batch=4), toy_stage(Exact(), micro_batch=3)
    train(whole, tmp_path / "whole")
    train(parts, tmp_path / "parts")
    for name, tensor in weights(whole.module).items():
        torch.testing.assert_close(tensor, weights(parts.module)[name], rtol=1e-4, atol=1e-5)


def test_the_weights_that_are_kept_are_the_averaged_ones(tmp_path):
    """They are what is validated, too."""
    seen = []
    module = Fit()
    stage = toy_stage(module, lambda: seen.append(weights(module)) or {"figure": 1.0}, steps=20, validations=1)
    result = train(stage, tmp_path)
    _, state = load_state(tmp_path)
    assert result.val == {"figure": 1.0}
    assert_same(seen[-1], weights(module))
    assert torch.equal(module.net[0].weight, state["average/net.0.weight"])
    assert not torch.equal(module.net[0].weight, state["weight/net.0.weight"])


def test_what_decides_how_long_a_step_takes_is_the_same_for_all_its_micro_batches(tmp_path):
    """Else a process that drew the short pass would wait for another that drew the long one."""
    drawn = []

    class Drawing(Fit):
        def forward(self, items, generator, of_step):
            drawn.append([float(torch.rand((), generator=g)) for g in (generator, of_step)])
            return super().forward(items, generator, of_step)

    train(toy_stage(Drawing(), steps=2, batch=4, micro_batch=2), tmp_path)
    (a, step), (b, same), (c, later), (d, later_too) = drawn
    assert step == same != later == later_too
    assert len({a, b, c, d}) == 4


def test_gradients_that_stay_infinite_end_the_stage_and_single_ones_do_not(tmp_path):
    class Broken(Fit):
        def __init__(self, bad):
            super().__init__()
            self.bad, self.passes = bad, 0

        def forward(self, items, generator, of_step):
            self.passes += 1
            scale = float("nan") if self.passes in self.bad else 1.0
            return {name: scale * loss for name, loss in super().forward(items, generator, of_step).items()}

    module = Broken({5, 6})
    train(toy_stage(module), tmp_path / "some")
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    with pytest.raises(Psg4dError, match="10 gradients in a row are nan; lower the learning rates"):
        train(toy_stage(Broken(range(5, 100))), tmp_path / "all")


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_stage_that_was_stopped_ends_as_if_it_was_not(tmp_path):
    whole = toy_stage()
    whole_result = train(whole, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(toy_stage(Fit(stop_before(17))), tmp_path / "parts", save_every_s=0.0)
    parts = toy_stage()
    parts_result = train(parts, tmp_path / "parts")
    assert_same(weights(whole.module), weights(parts.module))
    assert parts_result.losses == whole_result.losses
    logs = [read_lines(tmp_path / name / LOG_FILE) for name in ("whole", "parts")]
    assert [line["losses"] for line in logs[0]] == [line["losses"] for line in logs[1]]


def test_the_real_model_goes_on_to_the_bit(tmp_path):
    """Adapters, slots and projector of the 4D-LLM, whose losses run its language model."""

    def stage(before=lambda: None) -> Stage:
        return Stage("slots", StageRecipe(steps=6, batch=2, micro_batch=1, workers=0), Slots(before), Tokens())

    whole = stage()
    train(whole, tmp_path / "whole")
    passes = iter(range(8))  # two per step: stopped in the fifth

    def stop():
        if next(passes, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        train(stage(stop), tmp_path / "parts", save_every_s=0.0)
    parts = stage()
    train(parts, tmp_path / "parts")
    assert_same(weights(whole.module), weights(parts.module))
    adapters = {n: t for n, t in weights(whole.module).items() if "adapter_b" in n}
    assert any(bool(t.any()) for t in adapters.values()), "adapters start at zero and were trained"


def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("toy_stage.py")), str(tmp_path / "killed"), "300"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and len(read_lines(tmp_path / "killed" / LOG_FILE)) < 40:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still running"
    saved, _ = load_state(tmp_path / "killed")
    assert saved.step >= 39, "at most the step in progress is lost where every step is saved"
    killed, whole = toy_stage(steps=300), toy_stage(steps=300)
    train(killed, tmp_path / "killed")
    train(whole, tmp_path / "whole")
    assert_same(weights(killed.module), weights(whole.module))
    logs = [read_lines(tmp_path / name / LOG_FILE) for name in ("killed", "whole")]
    assert [line["losses"] for line in logs[0]] == [line["losses"] for line in logs[1]]


def test_a_state_that_is_not_whole_is_passed_over(tmp_path, caplog):
    with pytest.raises(Stopped):
        train(toy_stage(Fit(stop_before(9))), tmp_path, save_every_s=0.0)
    good = tmp_path / "state-000000009"
    (tmp_path / ".state-000000010").mkdir()  # a kill while it was written
    for number, cut in ((11, "tensors.safetensors"), (12, "state.json")):  # as a disk that was full may leave them
        bad = tmp_path / f"state-{number:09d}"
        bad.mkdir()
        for file in good.iterdir():
            data = file.read_bytes()
            (bad / file.name).write_bytes(data[: len(data) // 2] if file.name == cut else data)
    progress, _ = load_state(tmp_path)
    assert progress.step == 9
    assert caplog.text.count("is not whole and is passed over") == 2
    whole, parts = toy_stage(), toy_stage()
    train(whole, tmp_path / "whole")
    train(parts, tmp_path)
    assert_same(weights(whole.module), weights(parts.module))


def test_a_state_of_another_model_or_seed_is_refused(tmp_path):
    train(toy_stage(steps=2), tmp_path)
    with pytest.raises(ConfigError, match="trained with seed 3 and batch 4, asked for 5 and 4"):
        train(toy_stage(steps=2), tmp_path, seed=5)
    other = Fit()
    other.net[2] = nn.Linear(16, 2)
    with pytest.raises(CheckpointError, match=r"weight/net\.2\.bias differs"):
        train(toy_stage(other, steps=2), tmp_path)


# -- items -------------------------------------------------------------------------------------------------------------


def test_items_are_the_same_from_other_processes_and_start_where_a_run_goes_on():
    def first(workers: int, first_step: int) -> list[torch.Tensor]:
        items = iterate(Samples(), first_step, 4, range(2, 4), workers)
        return [next(items)[0] for _ in range(6)]

    alone = first(0, 5)
    expected = [Samples()[step * 4 + place][0] for step in (5, 6, 7) for place in (2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(alone, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone, first(2, 5), strict=True))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_micro_batch_once_and_repeats_the_step(tmp_path, caplog):
    sizes = []

    def before(items):
        sizes.append(len(items))
        if len(items) > 2 and len(sizes) > 3:
            raise torch.OutOfMemoryError("none left")

    result = train(toy_stage(Fit(before), steps=6, micro_batch=4), tmp_path)
    assert sizes == [4, 4, 4, 4, 2, 2, 2, 2, 2, 2]
    assert result.steps == 6
    assert "out of memory in step 3, micro_batch is now 2" in caplog.text
    progress, _ = load_state(tmp_path)
    assert (progress.micro_batch, progress.halved) == (2, True), "a run that goes on does not try again"


def test_out_of_memory_twice_says_what_to_set(tmp_path):
    def before(items):
        raise torch.OutOfMemoryError("none left")

    with pytest.raises(ConfigError, match=r"does not hold a micro-batch of 2; set toy\.micro_batch to 1"):
        train(toy_stage(Fit(before), micro_batch=4), tmp_path)


# -- time --------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only in passes of the module. cost: seconds of pass n."""

    def __init__(self, cost) -> None:
        self.now, self.passes, self.cost = 1000.0, 0, cost

    def __call__(self) -> float:
        return self.now

    def tick(self, items) -> None:
        self.now += self.cost(self.passes)
        self.passes += 1


@pytest.mark.parametrize(
    "cost",
    [
        pytest.param(lambda n: 2.0, id="even"),
        pytest.param(lambda n: 30.0 if n == 0 else 2.0, id="slow start"),
        pytest.param(lambda n: 2.0 if n < 150 else 5.0, id="slower later"),
        pytest.param(lambda n: 2.0 if n < 150 else 1.0, id="faster later"),
        pytest.param(lambda n: (1.0, 3.0)[n % 2], id="uneven"),
    ],
)
def test_a_stage_ends_in_time_with_its_learning_rate_at_zero(tmp_path, cost):
    clock = Clock(cost)
    train(toy_stage(Fit(clock.tick), steps=0, micro_batch=4), tmp_path, seconds=600.0, clock=clock)
    assert clock.now - 1000.0 <= 600.0
    lines = read_lines(tmp_path / LOG_FILE)
    assert lines[-1]["rate"] < 0.01, "the cosine came to its end"
    rates = [line["rate"] for line in lines[20:]]
    assert max(a - b for a, b in itertools.pairwise(rates)) < 0.03, "and never jumped"
    assert clock.now - 1000.0 > 540.0, "the time is used"


def test_time_for_validations_is_kept_back(tmp_path):
    clock = Clock(lambda n: 2.0)

    def validate():
        clock.now += 20.0
        return {"figure": clock.now}

    train(toy_stage(Fit(clock.tick), validate, steps=0, micro_batch=4), tmp_path, seconds=600.0, clock=clock)
    assert 540.0 < clock.now - 1000.0 <= 600.0
    steps = [line["step"] for line in read_lines(tmp_path / LOG_FILE) if "val" in line]
    assert len(steps) == 5, "before the first step, three on the way, and at the end"
    assert steps == sorted(steps)


def test_where_validation_is_dear_only_the_last_is_made(tmp_path):
    clock = Clock(lambda n: 2.0)

    def validate():
        clock.now += 100.0
        return {"figure": 0.0}

    train(toy_stage(Fit(clock.tick), validate, steps=0, micro_batch=4), tmp_path, seconds=600.0, clock=clock)
    assert clock.now - 1000.0 <= 600.0
    assert [bool(line["step"]) for line in read_lines(tmp_path / LOG_FILE) if "val" in line] == [False, True]


def test_validation_that_would_leave_no_time_to_learn_is_left_out(tmp_path, caplog):
    clock = Clock(lambda n: 2.0)

    def validate():
        clock.now += 200.0
        return {"figure": 0.0}

    result = train(toy_stage(Fit(clock.tick), validate, steps=0, micro_batch=4), tmp_path, seconds=600.0, clock=clock)
    assert 540.0 < clock.now - 1000.0 <= 600.0
    assert result.val == {}
    assert "a validation takes 200 s of 600 s and is left out; give more minutes, or validate on less" in caplog.text


def test_a_stage_that_goes_on_keeps_its_plan_and_its_time(tmp_path):
    clock = Clock(lambda n: 2.0)
    stop = stop_before(50)  # here a step is one pass

    def before(items):
        stop(items)
        clock.tick(items)

    with pytest.raises(Stopped):
        train(toy_stage(Fit(before), steps=0, micro_batch=4), tmp_path, seconds=600.0, clock=clock, save_every_s=30.0)
    assert load_state(tmp_path)[0].steps == 300
    later = Clock(lambda n: 2.0)
    result = train(toy_stage(Fit(later.tick), steps=0, micro_batch=4), tmp_path, seconds=50.0, clock=later)
    assert result.steps == 300
    assert result.elapsed_s == pytest.approx(600.0)
    assert later.passes < 220, "what was saved is not repeated"


def test_steps_win_where_they_end_first():
    schedule = Schedule(steps=10, seconds=1e6, fixed=True)
    while not schedule.done:
        schedule.advance(1.0, 0.0)
    assert schedule.step == 10
    assert schedule.progress == pytest.approx(1.0)


def test_neither_time_nor_steps_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="toy: neither minutes nor steps are given; give --minutes or --steps"):
        train(toy_stage(steps=0), tmp_path)


# -- machines ----------------------------------------------------------------------------------------------------------


def test_sizes_that_are_left_open_follow_the_machine():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")

    def sizes(device, cores, **recipe):
        chosen = sized(StageRecipe(**recipe), device, cores)
        return chosen.batch, chosen.micro_batch, chosen.workers

    assert sizes(cpu, 2) == (2, 1, 1)
    assert sizes(cpu, 1) == (2, 1, 0)
    assert sizes(gpu, 16) == (8, 8, 15)
    assert sizes(gpu, 16, batch=32, workers=0) == (32, 8, 0)
    with pytest.raises(ConfigError, match="micro_batch is 9, expected at most the batch, 8"):
        sizes(cpu, 2, batch=8, micro_batch=9)


@pytest.mark.slow
def test_two_processes_share_the_batch_and_learn_the_same(tmp_path):
    """As on two GPUs, here on the CPU."""
    script = str(Path(__file__).with_name("toy_stage.py"))
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [sys.executable, *launch, script, str(tmp_path / "two"), "30", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stage = toy_stage(steps=30)
    train(stage, tmp_path / "one")
    _, state = load_state(tmp_path / "two")
    for name, tensor in stage.module.net.named_parameters():
        torch.testing.assert_close(state[f"average/net.{name}"], tensor, rtol=1e-4, atol=1e-5)


# -- the real model, tiny ----------------------------------------------------------------------------------------------


class Tokens:
    """Item i: scene tokens as the encoder would make them."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(5, 16, generator=torch.Generator().manual_seed(index))


class Slots(nn.Module):
    """Slots of the 4D-LLM are pulled to a fixed direction, through projector and language model."""

    def __init__(self, before) -> None:
        from psg4d_ros.config import DecoderConfig, EncoderConfig, ModelConfig
        from psg4d_ros.model.language_model import tiny_language_model
        from psg4d_ros.model.psg4d import PSG4D
        from psg4d_ros.vocabulary import default_vocabulary

        super().__init__()
        config = ModelConfig(
            encoder=EncoderConfig(channels=(8, 8, 8, 16)),
            decoder=DecoderConfig(num_slots=4, proposals=2, dim=16, heads=2, layers=1),
        )
        language_model = tiny_language_model(adapter_rank=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for name, parameter in language_model.named_parameters():
                if "adapter_a" in name:
                    nn.init.normal_(parameter)
            self.model = PSG4D(config, default_vocabulary(), language_model)
        self.before = before

    def parameter_groups(self):
        adapters = [p for n, p in self.model.language_model.named_parameters() if "adapter_" in n]
        others = [*self.model.projector.parameters(), self.model.chain.slots]
        return [{"params": others, "lr": 1e-3}, {"params": adapters, "lr": 1e-2}]

    def forward(self, items, generator, of_step):
        self.before()
        losses = []
        for tokens in items:
            noisy = tokens + 0.1 * torch.randn(tokens.shape, generator=generator)
            hidden = self.model.chain.turn1(self.model.projector(noisy)).slot_hidden
            losses.append((hidden - hidden.new_ones(hidden.shape[-1])).square().mean())
        return {"pull": torch.stack(losses).mean()}
