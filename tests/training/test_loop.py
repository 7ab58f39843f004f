"""The loop that trainers share: steps, checkpoints from which it goes on bit for bit, and what stops it."""

import errno
import itertools
import logging
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from likeness.miniature import registration
from likeness.tests.support import rendered_people
from likeness.training import distributed, facea_run, loop, prepare_command
from likeness.training.curve import draw, outline
from likeness.training.distributed import describe_batch, name_start
from likeness.training.loop import Group, Progress, StoppedError, make_stream, train
from likeness.training.precision import compute_dtype, lower
from likeness.training.settings import TrainingSettings
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

CPU = torch.device("cpu")
TOGETHER = TrainingSettings(
    steps=9, seed=3, warmup=2, cosine=True, ema=0.9, clip=0.5
)  # what several processes train with


class Line:
    """A noisy line to fit: y = 3 x - 1, with the slope and the offset in groups of their own."""

    def __init__(self, slope_lr=0.1, offset_lr=0.02):
        self.slope, self.offset = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.groups = [Group({"slope": self.slope}, slope_lr), Group({"offset": self.offset}, offset_lr)]
        self.drawn = []

    def loss(self, generator, step=0):
        x = torch.randn(8, generator=generator)
        self.drawn.append(x)
        return (self.slope * x + self.offset - (3 * x - 1)).square().mean()

    def state(self):
        return torch.cat((self.slope, self.offset)).detach()


class Killed(BaseException):
    """What nobody catches."""


def stop_at(step, error=Killed):
    def after_step(progress):
        if progress.step == step:
            raise error

    return after_step


def test_it_learns_and_counts():
    line = Line(offset_lr=0.1)
    progress = train(line.groups, line.loss, TrainingSettings(steps=300, clip=0), CPU)
    assert progress.step == len(progress.losses) == 300 and progress.seconds > 0
    assert progress.losses[-1] < 0.02 < progress.losses[0]
    assert torch.allclose(line.state(), torch.tensor([3.0, -1.0]), atol=0.2)


def test_every_group_has_its_rate():
    line = Line(slope_lr=0.1, offset_lr=0.0)
    train(line.groups, line.loss, TrainingSettings(steps=1, weight_decay=0.0), CPU)
    assert line.slope.item() == pytest.approx(0.1) and line.offset.item() == 0, "AdamW's first step is the rate"


def test_the_seed_decides():
    ends = []
    for seed in (1, 1, 2):
        line = Line()
        train(line.groups, line.loss, TrainingSettings(steps=5, seed=seed), CPU)
        ends.append(line.state())
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_accumulated_losses_make_one_step():
    line = Line()
    progress = train(line.groups, line.loss, TrainingSettings(steps=2, accumulate=3), CPU)
    assert len(line.drawn) == 6 and progress.step == 2
    once = Line()
    whole = train(once.groups, lambda g, step: sum(once.loss(g) for _ in range(3)) / 3, TrainingSettings(steps=2), CPU)
    assert torch.allclose(line.state(), once.state(), atol=1e-6)
    assert progress.losses == pytest.approx(whole.losses, rel=1e-5)


def test_the_gradient_is_clipped():
    line = Line()
    norms = []

    def loss(generator, step):
        return line.loss(generator) * 1e4

    def seen(optimiser, *_):
        norms.append(torch.cat([p.grad for group in optimiser.param_groups for p in group["params"]]).norm().item())

    handle = register_optimizer_step_pre_hook(seen)
    train(line.groups, loss, TrainingSettings(steps=1, clip=0.5), CPU)
    train(line.groups, loss, TrainingSettings(steps=1, clip=0), CPU)
    handle.remove()
    assert norms[0] == pytest.approx(0.5, rel=1e-3) and norms[1] > 1e3


def rates_of(options):
    """What each step multiplies the rate by."""
    line, seen = Line(slope_lr=0.1), []
    handle = register_optimizer_step_pre_hook(lambda optimiser, *_: seen.append(optimiser.param_groups[0]["lr"] / 0.1))
    train(line.groups, line.loss, options, CPU)
    handle.remove()
    return seen


def test_the_rates_rise_and_fall():
    assert rates_of(TrainingSettings(steps=3)) == [1, 1, 1]
    assert rates_of(TrainingSettings(steps=6, warmup=3)) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    falling = [0.5 + 0.5 * math.cos(math.pi * step / 6) for step in range(6)]
    assert rates_of(TrainingSettings(steps=6, cosine=True)) == pytest.approx(falling) and falling[3] == pytest.approx(
        0.5
    )
    assert rates_of(TrainingSettings(steps=6, cosine=True, warmup=1)) == pytest.approx([0.5, *falling[1:]])


def test_the_average_is_that_of_the_steps():
    line, states = Line(), []

    def after_step(progress):
        states.append(line.state())

    progress = train(line.groups, line.loss, TrainingSettings(steps=30, ema=0.7), CPU, None, after_step)
    expected = torch.zeros(2, dtype=torch.float64)
    for step, state in enumerate(states):
        keep = min(0.7, (step + 1) / (step + 10))
        expected = keep * expected + (1 - keep) * state.double()
    average = torch.cat([progress.average["slope"], progress.average["offset"]])
    assert torch.allclose(average.double(), expected, atol=1e-6) and not torch.allclose(
        average, line.state(), atol=1e-2
    )
    assert not average.requires_grad
    assert train(Line().groups, line.loss, TrainingSettings(steps=1), CPU).average == {}


def test_an_average_begins_with_what_a_checkpoint_without_one_has(tmp_path):
    line, again = Line(), Line()
    train(line.groups, line.loss, TrainingSettings(steps=5), CPU, tmp_path / "a.pt")
    progress = train(again.groups, again.loss, TrainingSettings(steps=5, ema=0.9), CPU, tmp_path / "a.pt")
    assert torch.equal(torch.cat(list(progress.average.values())), line.state())


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_after_a_kill_it_goes_on_bit_for_bit(tmp_path, precision):
    options = TrainingSettings(steps=9, accumulate=2, precision=precision, warmup=2, cosine=True, ema=0.9)
    whole = Line()
    expected = train(whole.groups, whole.loss, options, CPU)
    first = Line()
    with pytest.raises(Killed):
        train(first.groups, first.loss, options, CPU, tmp_path / "c" / "a.pt", stop_at(4))
    second = Line()
    done = train(second.groups, second.loss, options, CPU, tmp_path / "c" / "a.pt")
    assert done.resumed_at == 4 and done.losses == expected.losses
    assert torch.equal(second.state(), whole.state()) and done.average.keys() == {"slope", "offset"}
    assert all(torch.equal(done.average[name], each) for name, each in expected.average.items())
    assert torch.equal(torch.stack(first.drawn + second.drawn), torch.stack(whole.drawn))


def test_what_came_after_the_last_checkpoint_is_done_again(tmp_path):
    """As after a SIGKILL, which leaves the file of an earlier step."""
    whole, killed, again = Line(), Line(), Line()
    options = TrainingSettings(steps=9, ema=0.9, warmup=2, checkpoint_seconds=0)
    expected = train(whole.groups, whole.loss, options, CPU)

    def after_step(progress):
        if progress.step == 6:
            shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")

    train(killed.groups, killed.loss, options, CPU, tmp_path / "a.pt", after_step)
    done = train(again.groups, again.loss, options, CPU, tmp_path / "b.pt")
    assert done.resumed_at == 5 and done.losses == expected.losses and torch.equal(again.state(), whole.state())
    assert all(torch.equal(done.average[name], each) for name, each in expected.average.items())


def test_a_checkpoint_fits_parameters_that_lie_otherwise_in_memory(tmp_path):
    def trained(layout, steps, checkpoint=None):
        start = torch.linspace(-1, 1, 48).view(4, 3, 2, 2)
        kernel = torch.nn.Parameter(start.to(memory_format=layout))

        def loss(generator, step):
            return (kernel * torch.randn(kernel.shape, generator=generator)).sum()

        progress = train(
            [Group({"kernel": kernel}, 0.1)], loss, TrainingSettings(steps=steps, ema=0.5), CPU, checkpoint
        )
        return torch.stack((kernel.detach(), progress.average["kernel"]))

    expected = trained(torch.contiguous_format, 5)
    trained(torch.channels_last, 2, tmp_path / "a.pt")
    assert torch.allclose(trained(torch.contiguous_format, 5, tmp_path / "a.pt"), expected, atol=1e-5)


def test_an_error_within_a_step_leaves_the_state_before_it(tmp_path):
    whole, broken, progress = Line(), Line(), Progress()
    train(whole.groups, whole.loss, TrainingSettings(steps=6), CPU)

    def loss(generator, step):
        value = broken.loss(generator)  # the batch is drawn
        if len(broken.drawn) == 4:
            raise Killed
        return value

    with pytest.raises(Killed):
        train(broken.groups, loss, TrainingSettings(steps=6), CPU, tmp_path / "a.pt", progress=progress)
    assert progress.step == 3
    again = Line()
    train(again.groups, again.loss, TrainingSettings(steps=6), CPU, tmp_path / "a.pt")
    assert torch.equal(again.state(), whole.state()) and torch.equal(again.drawn[0], whole.drawn[3])


@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_a_step_that_is_half_done_is_never_saved(tmp_path, register, seconds):
    """Ctrl-C between the parameters' step and the loss that counts it: what was saved before is what there is."""
    options = TrainingSettings(steps=6, ema=0.9, checkpoint_seconds=seconds)
    whole, broken, again = Line(), Line(), Line()
    expected = train(whole.groups, whole.loss, options, CPU)
    path, steps = tmp_path / "a.pt", itertools.count(1)

    def stop(*_):
        if next(steps) == 4:
            raise KeyboardInterrupt

    handle = register(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(broken.groups, broken.loss, options, CPU, path)
    finally:
        handle.remove()
    assert path.exists() == (seconds == 0)
    done = train(again.groups, again.loss, options, CPU, path)
    assert done.resumed_at == (3 if seconds == 0 else 0) and done.losses == expected.losses
    assert torch.equal(again.state(), whole.state())
    assert all(torch.equal(done.average[name], each) for name, each in expected.average.items())


@pytest.mark.parametrize("damage", ["a byte", "cut", "empty", "a list", "of no training", "a pickle"])
def test_a_damaged_checkpoint_is_moved_aside_and_the_training_begins_anew(tmp_path, caplog, damage):
    path, options = tmp_path / "a.pt", TrainingSettings(steps=6)
    whole, stopped, again = Line(), Line(), Line()
    train(whole.groups, whole.loss, options, CPU)
    with pytest.raises(Killed):
        train(stopped.groups, stopped.loss, options, CPU, path, stop_at(4))
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-200], "empty": b"", "a pickle": b"\x80\x04N."}.get(damage, content))
    if damage in ("a list", "of no training"):
        torch.save([1] if damage == "a list" else {"losses": []}, path)
    damaged = path.read_bytes()
    done = train(again.groups, again.loss, options, CPU, path)
    assert done.resumed_at == 0 and torch.equal(again.state(), whole.state())
    assert (tmp_path / "a.damaged").read_bytes() == damaged
    assert f"The checkpoint {path} is damaged (" in caplog.text and "begins anew" in caplog.text


def test_what_stopped_trainings_left_is_swept_but_for_the_newest(tmp_path):
    for age in range(8):
        (tmp_path / f"{age}.pt").touch()
        os.utime(tmp_path / f"{age}.pt", (1e9 - age, 1e9 - age))
    for name, seconds in (("old.pt.part", 7200), ("new.pt.part", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    facea_run._sweep(tmp_path / "7.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{age}.pt" for age in (0, 1, 2, 3, 4, 7)),
        "new.pt.part",
    ]
    facea_run._sweep(tmp_path / "nowhere" / "a.pt")


def test_a_checkpoint_is_written_now_and_then(tmp_path):
    """A process that is killed cannot clean up: what it wrote before is what there is."""
    line, path, seen = Line(), tmp_path / "a.pt", []
    train(
        line.groups,
        line.loss,
        TrainingSettings(steps=3, checkpoint_seconds=0),
        CPU,
        path,
        lambda progress: seen.append(path.exists() and len(torch.load(path, weights_only=True)["losses"])),
    )
    assert seen == [False, 1, 2] and [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_enough_steps_are_done_already(tmp_path):
    line = Line()
    train(line.groups, line.loss, TrainingSettings(steps=5), CPU, tmp_path / "a.pt")
    again = Line()
    progress = train(again.groups, again.loss, TrainingSettings(steps=3), CPU, tmp_path / "a.pt")
    assert progress.step == 5 and not again.drawn and torch.equal(again.state(), line.state())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_no_number_stops_it_and_the_last_good_state_stays(tmp_path, where):
    line, good = Line(), []

    def loss(generator, step):
        value = line.loss(generator)
        if len(line.drawn) < 4:
            return value
        good.append(line.state().clone())
        # The root's gradient at 0 is infinite, its value is not.
        return value * torch.nan if where == "loss" else value + (line.slope * 0).abs().sqrt().sum()

    progress, path = Progress(), tmp_path / "a.pt"
    with pytest.raises(StoppedError, match=f"step 4. Lower the learning rates.* is in {re.escape(str(path))}$"):
        train(line.groups, loss, TrainingSettings(steps=9, ema=0.9), CPU, path, progress=progress)
    assert progress.step == 3 and torch.equal(line.state(), good[0]) and torch.isfinite(good[0]).all()
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert len(saved["losses"]) == 3 and saved["parameters"]["slope"] == good[0][0]
    assert saved["average"].keys() == {"slope", "offset"} and all(map(torch.isfinite, saved["average"].values()))


def test_a_checkpoint_of_other_sizes_is_refused_and_stays(tmp_path):
    small, large, path = Line(), Line(), tmp_path / "a.pt"
    with pytest.raises(Killed):
        train(small.groups, small.loss, TrainingSettings(steps=9), CPU, path, stop_at(2))
    large.offset.data = torch.zeros(2)
    written = path.read_bytes()
    with pytest.raises(StoppedError, match=f"in {re.escape(str(path))} networks have other sizes, offset for one"):
        train(large.groups, large.loss, TrainingSettings(steps=9), CPU, path)
    assert path.read_bytes() == written


@pytest.mark.parametrize("path", [None, "a.pt"])
def test_no_checkpoint_is_named_where_there_is_none(tmp_path, path):
    line = Line()
    with pytest.raises(StoppedError, match="step 1. .*, or set precision to float32$"):
        train(line.groups, lambda g, step: line.loss(g) * torch.nan, TrainingSettings(), CPU, path and tmp_path / path)
    assert not list(tmp_path.iterdir())


def test_a_gradient_too_large_for_half_precision_is_a_step_left_out():
    line, states = Line(), []

    def after_step(progress):
        states.append(line.state())

    options = TrainingSettings(steps=3, precision="float16")
    progress = train(line.groups, lambda g, step: line.loss(g).half().float(), options, CPU, None, after_step)
    assert not states[0].any(), "the scale is 65536 at first, more than half precision can hold"
    assert states[1].all() and states[-1].isfinite().all() and all(map(math.isfinite, progress.losses))


def test_a_full_disk_does_not_stop_it(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    line = Line()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            progress = train(line.groups, line.loss, TrainingSettings(steps=3), CPU, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert progress.step == 3 and not list(tmp_path.iterdir())
    assert "goes on without a checkpoint: " in caplog.text and "cannot be written" in caplog.text


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch, caplog):
    line, undisturbed, write, calls = Line(), Line(), loop.saving.write, []

    def full_twice(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(loop.saving, "write", full_twice)
    progress = train(line.groups, line.loss, TrainingSettings(steps=4, checkpoint_seconds=0), CPU, tmp_path / "a.pt")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 and "No space left" in caplog.text
    assert progress.losses == train(undisturbed.groups, undisturbed.loss, TrainingSettings(steps=4), CPU).losses
    assert torch.load(tmp_path / "a.pt", weights_only=True)["losses"] == progress.losses


def test_a_network_computes_lowered_and_learns_in_full():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 4))
    x = torch.randn(64, 16)
    assert lower(network, torch.float32) is network
    network(x).square().mean().backward()
    exact = [each.grad for each in network.parameters()]
    network.zero_grad()
    made = lower(network, torch.bfloat16)(x.bfloat16())
    made.float().square().mean().backward()
    assert made.dtype == torch.bfloat16
    for parameter, gradient in zip(network.parameters(), exact):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert 0 < (parameter.grad - gradient).norm() < 0.02 * gradient.norm()


def test_many_losses_are_drawn_as_what_is_seen_of_them():
    losses = np.ones(50_000)
    losses[[12_345, 33_333]] = 9, 0
    shown = outline(losses, 500)
    assert len(shown) <= 1002 and {0, 12_345, 33_333, 49_999} <= set(shown) and (np.diff(shown) > 0).all()
    assert outline(losses[:1000], 500).tolist() == list(range(1000))
    assert draw(losses.tolist(), 60_000).size == (640, 360)


def test_a_stream_is_of_its_seed_rank_and_step():
    def drawn(*where):
        return torch.randn(4, generator=make_stream(*where))

    assert torch.equal(drawn(7), torch.randn(4, generator=torch.Generator().manual_seed(7)))
    wheres = [(7,), (8,), (7, 1), (8, 1), (7, 2), (7, 0, 1), (7, 1, 1), (7, 1, 10)]
    assert len({tuple(drawn(*where).tolist()) for where in wheres}) == len(wheres)
    assert torch.equal(drawn(7, 1, 10), drawn(7, 1, 10))


def test_another_number_of_processes_draws_anew(tmp_path, caplog):
    line, again, path = Line(), Line(), tmp_path / "a.pt"
    train(line.groups, line.loss, TrainingSettings(steps=4, seed=5), CPU, path)
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"generator": torch.stack([saved["generator"]] * 2)}, path)
    train(again.groups, again.loss, TrainingSettings(steps=6, seed=5), CPU, path)
    assert f"this training has 1, the one that wrote {path} had 2" in caplog.text
    assert torch.equal(again.drawn[0], torch.randn(8, generator=make_stream(5, 0, 4)))


def test_several_processes_want_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    line = Line()
    with pytest.raises(ModuleNotFoundError, match="one of 2 processes .* pip install accelerate"):
        train(line.groups, line.loss, TrainingSettings(steps=1), CPU)


def test_a_start_is_named_by_those_that_live():
    store = torch.distributed.HashStore()
    store.set("call 2", "of a process that was killed")
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(lambda rank: name_start(store, rank, 3), (0, 1, 2)))
        again = list(pool.map(lambda rank: name_start(store, rank, 3), (2, 1, 0)))
    assert len(set(names)) == len(set(again)) == 1 and names[0] != again[0]


def test_gradients_are_shared_in_few_messages_that_stay_small(monkeypatch):
    monkeypatch.setattr(distributed, "_MESSAGE", 10)
    given = [torch.nn.Parameter(torch.zeros(size)) for size in (4, 6, 1, 20, 3, 3)]
    parts = list(distributed._divide(given))
    assert [[len(each) for each in part] for part in parts] == [[4, 6], [1], [20], [3, 3]]
    assert list(map(id, sum(parts, []))) == list(map(id, given))


def launch(folders, *options, count=2, more=(), succeeds=True):
    """Start `loop_processes.py` with accelerate on as many machines as there are folders, and wait until it is done."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = [*options, *f"--num_processes {count} --mixed_precision no --dynamo_backend no".split()]
    options += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--num_machines", str(len(folders))]
    script = Path(__file__).parents[1] / "support" / "loop_processes.py"
    machines = []
    for rank, folder in enumerate(folders):
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--machine_rank", str(rank)]
        machines.append(
            subprocess.Popen(
                [*command, script, folder, *more],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    with ThreadPoolExecutor() as pool:
        printed = list(pool.map(lambda machine: machine.communicate(timeout=900)[0], machines))
    assert all((machine.returncode == 0) == succeeds for machine in machines), "\n".join(printed)
    return printed


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes of `loop_processes.py` found, the folders of their machines, and what these printed.

    At first both are on one machine, where one is killed, started again and killed again; then each is on its own.
    """
    folders = [tmp_path_factory.mktemp(name) for name in ("machine", "other")]
    launch(folders[:1], "--multi_gpu", "--max_restarts", "1", more=["killed"], succeeds=False)
    assert not list(folders[0].glob("[01].pt")) and (folders[0] / "killed.ckpt").is_file()
    people = rendered_people.write(folders[0] / "people", 5)
    (people / "person2" / "broken.png").write_bytes(b"no picture")
    (folders[0] / "out").mkdir()
    printed = launch(folders, "--multi_gpu", more=["killed", people])
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank, folder in enumerate(folders)]
    return found, folders, printed


@pytest.mark.slow
def test_two_processes_step_by_the_mean_of_their_gradients(processes):
    (main, other), *_ = processes
    line = Line()
    turns = itertools.cycle([make_stream(TOGETHER.seed, rank) for rank in range(2)])
    progress = train(line.groups, lambda *_: line.loss(next(turns)), replace(TOGETHER, accumulate=2), CPU)
    for found in main["whole"], other["whole"]:
        assert torch.equal(found["state"], line.state())
        assert torch.equal(found["average"], torch.cat(list(progress.average.values())))
        assert found["losses"] == pytest.approx(progress.losses, rel=1e-6)
    assert torch.equal(torch.stack(main["whole"]["drawn"]), torch.stack(line.drawn[::2]))
    assert torch.equal(torch.stack(other["whole"]["drawn"]), torch.stack(line.drawn[1::2]))


@pytest.mark.slow
def test_four_processes_step_by_the_mean_of_their_gradients(tmp_path):
    launch([tmp_path], "--multi_gpu", count=4)
    line = Line()
    turns = itertools.cycle([make_stream(TOGETHER.seed, rank) for rank in range(4)])
    progress = train(line.groups, lambda *_: line.loss(next(turns)), replace(TOGETHER, accumulate=4), CPU)
    for rank in range(4):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["batch"] == "4 processes, batch 3: 12 samples a step"
        assert torch.allclose(found["whole"]["state"], line.state(), atol=1e-6)
        assert found["whole"]["losses"] == pytest.approx(progress.losses, rel=1e-5)
        assert torch.equal(torch.stack(found["whole"]["drawn"]), torch.stack(line.drawn[rank::4]))


@pytest.mark.slow
def test_where_one_of_two_is_killed_the_others_start_again_and_then_the_same_command_goes_on(processes):
    """To the same bit as where nobody was killed."""
    for found in processes[0]:
        killed, whole = found["killed"], found["whole"]
        assert killed["resumed_at"] in (5, 6) and killed["losses"] == whole["losses"], "one start was in vain"
        assert torch.equal(killed["state"], whole["state"])


@pytest.mark.slow
def test_machines_without_a_common_disk_prepare_and_train(processes, tmp_path, monkeypatch):
    """Each has its part of the same shards; the first one alone writes the rest."""
    _, (main, other), printed = processes
    monkeypatch.setattr(prepare_command, "SHARD", 4)
    registration.register()
    prepare_command.prepare(main / "people", tmp_path, None, [prepare_command.MSID], rendered_people.DATA)

    def read(folder, number):
        return {file.name: file.read_bytes() for file in folder.glob(f"shard-{number:06d}.*")}

    owners = {0: main, 1: other, 2: main}
    assert all(read(owner / "prepared", number) == read(tmp_path, number) for number, owner in owners.items())
    assert {path.name for path in (other / "prepared").iterdir()} == {"prepared.json", *read(tmp_path, 1)}
    assert (main / "prepared" / "left_out.csv").read_text() == (tmp_path / "left_out.csv").read_text()
    assert "10 of 11 photos in 3 shards" in printed[0] and "1 left out: it cannot be read" in printed[0]
    assert (main / "out" / "msid.safetensors").is_file() and {path.name for path in other.iterdir()} == {
        "prepared",
        "1.pt",
    }


def test_what_divides_networks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    line = Line()
    with pytest.raises(
        RuntimeError, match="told to train with FSDP, which divides a network among processes. Here each"
    ):
        train(line.groups, line.loss, TrainingSettings(steps=1), CPU)


@pytest.mark.slow
def test_each_step_of_two_processes_sees_two_batches(processes):
    for found in processes[0]:
        assert found["batch"] == "2 processes, batch 3: 6 samples a step"
        assert len(found["whole"]["drawn"]) == TOGETHER.steps


@pytest.mark.slow
def test_accelerates_cpu_option_starts_one_process_and_that_is_said(tmp_path):
    launch([tmp_path], "--cpu")
    (file,) = tmp_path.glob("[0-9].pt")
    told = torch.load(file, weights_only=True)["batch"]
    assert told.startswith("1 process, batch 3: 3 samples a step. accelerate launch started one process only")


def test_samples_of_a_step_are_told(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert describe_batch(4, 1) == "1 process, batch 4: 4 samples a step"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert describe_batch(4, 3) == "2 processes, batch 4, 3 batches a step: 24 samples a step"


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(processes):
    found, (folder, other), _ = processes
    for each in found:
        whole, first, second = (each[name] for name in ("whole", "first", "second"))
        assert len(first["losses"]) == second["resumed_at"] == 4 and second["losses"] == whole["losses"]
        assert torch.equal(second["state"], whole["state"]) and torch.equal(second["average"], whole["average"])
        assert torch.equal(torch.stack(first["drawn"] + second["drawn"]), torch.stack(whole["drawn"]))
    saved = torch.load(folder / "line.ckpt", weights_only=True)
    assert len(saved["generator"]) == 2 and len(saved["losses"]) == 9 and not list(other.glob("*.ckpt"))


@pytest.mark.slow
def test_a_gradient_that_one_process_has_not_is_nothing_of_it(processes):
    for shared in (each["shared"] for each in processes[0]):
        assert shared["total"] == (276 + 2 * 276 + 24) / 2
        assert torch.equal(shared["both"], 1.5 * torch.arange(24.0).view(2, 3, 2, 2))
        assert torch.equal(shared["one"], torch.full((2, 3, 2, 2), 0.5)) and shared["nobody"] is None
        assert shared["stride"] == torch.empty(2, 3, 2, 2).to(memory_format=torch.channels_last).stride()


def test_the_checkpoints_of_faces_learned_before_are_found(monkeypatch):
    monkeypatch.setattr(facea_run, "fingerprint", lambda model: "the base")
    base, photos = SimpleNamespace(model=None), SimpleNamespace(digest=lambda: "the photos")

    def key(**given):
        return facea_run._digest(base, photos, facea_run.Task(), facea_run.Settings(**given))

    assert key() == "704f803cb86c05feb86322b52a5cc4fd4d736e04dcd6fda60b634842053093aa", "as version 0.3.0 has it"
    assert key(steps=7, checkpoint_seconds=1.0) == key()
    assert len({key(), key(warmup=5), key(ema=0.9), key(cosine=True), key(cosine=True, steps=7)}) == 5


def test_precisions_are_checked():
    assert compute_dtype("auto", CPU) == torch.float32 and compute_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(ValueError, match="'double' is no precision; choose one of auto, float32"):
        compute_dtype("double", CPU)


def test_two_processes_do_not_train_into_one_checkpoint(tmp_path):
    from filelock import FileLock

    checkpoint, line = tmp_path / "new" / "a.pt", Line()
    other = FileLock(checkpoint.with_suffix(".lock"))  # held as another process would
    checkpoint.parent.mkdir()
    with other, pytest.raises(StoppedError, match="the same training runs already, in another process that holds"):
        train(line.groups, line.loss, TrainingSettings(steps=2), CPU, checkpoint)
    assert not line.drawn
    train(line.groups, line.loss, TrainingSettings(steps=2), CPU, checkpoint)
    assert [path.name for path in checkpoint.parent.glob("a*")] == ["a.pt"]
