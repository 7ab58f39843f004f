"""The loop that trainers share: steps, checkpoints from which it goes on bit for bit, and what stops it."""

import logging

import pytest
import torch
from likeness.training.loop import Group, Progress, Settings, StoppedError, compute_dtype, settings, train
from torch.optim.optimizer import register_optimizer_step_pre_hook

CPU = torch.device("cpu")


class Line:
    """A noisy line to fit: y = 3 x - 1, with the slope and the offset in groups of their own."""

    def __init__(self, slope_lr=0.1, offset_lr=0.02):
        self.slope, self.offset = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.groups = [Group({"slope": self.slope}, slope_lr), Group({"offset": self.offset}, offset_lr)]
        self.drawn = []

    def loss(self, generator):
        x = torch.randn(8, generator=generator)
        self.drawn.append(x)
        return (self.slope * x + self.offset - (3 * x - 1)).square().mean()

    def state(self):
        return torch.cat((self.slope, self.offset)).detach()


class Killed(BaseException):
    """What nobody catches."""


def stop_at(step, progress, error=Killed):
    def after_step():
        if progress.step == step:
            raise error

    return after_step


def test_it_learns_and_counts():
    line = Line(offset_lr=0.1)
    progress = train(line.groups, line.loss, Settings(steps=300, clip=0), CPU)
    assert progress.step == len(progress.losses) == 300 and progress.seconds > 0
    assert progress.losses[-1] < 0.02 < progress.losses[0]
    assert torch.allclose(line.state(), torch.tensor([3.0, -1.0]), atol=0.2)


def test_every_group_has_its_rate():
    line = Line(slope_lr=0.1, offset_lr=0.0)
    train(line.groups, line.loss, Settings(steps=1, weight_decay=0.0), CPU)
    assert line.slope.item() == pytest.approx(0.1) and line.offset.item() == 0, "AdamW's first step is the rate"


def test_the_seed_decides():
    ends = []
    for seed in (1, 1, 2):
        line = Line()
        train(line.groups, line.loss, Settings(steps=5, seed=seed), CPU)
        ends.append(line.state())
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_accumulated_losses_make_one_step():
    line = Line()
    progress = train(line.groups, line.loss, Settings(steps=2, accumulate=3), CPU)
    assert len(line.drawn) == 6 and progress.step == 2
    once = Line()
    whole = train(once.groups, lambda g: sum(once.loss(g) for _ in range(3)) / 3, Settings(steps=2), CPU)
    assert torch.allclose(line.state(), once.state(), atol=1e-6)
    assert progress.losses == pytest.approx(whole.losses, rel=1e-5)


def test_the_gradient_is_clipped():
    line = Line()
    norms = []

    def loss(generator):
        return line.loss(generator) * 1e4

    def seen(optimiser, *_):
        norms.append(torch.cat([p.grad for group in optimiser.param_groups for p in group["params"]]).norm().item())

    handle = register_optimizer_step_pre_hook(seen)
    train(line.groups, loss, Settings(steps=1, clip=0.5), CPU)
    train(line.groups, loss, Settings(steps=1, clip=0), CPU)
    handle.remove()
    assert norms[0] == pytest.approx(0.5, rel=1e-3) and norms[1] > 1e3


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_after_a_kill_it_goes_on_bit_for_bit(tmp_path, precision):
    options = Settings(steps=9, accumulate=2, precision=precision)
    whole = Line()
    expected = train(whole.groups, whole.loss, options, CPU)
    first, progress = Line(), Progress()
    with pytest.raises(Killed):
        train(first.groups, first.loss, options, CPU, tmp_path / "c" / "a.pt", stop_at(4, progress), progress)
    second = Line()
    done = train(second.groups, second.loss, options, CPU, tmp_path / "c" / "a.pt")
    assert done.resumed_at == 4 and done.losses == expected.losses
    assert torch.equal(second.state(), whole.state())
    assert torch.equal(torch.stack(first.drawn + second.drawn), torch.stack(whole.drawn))


def test_an_error_within_a_step_leaves_the_state_before_it(tmp_path):
    whole, broken, progress = Line(), Line(), Progress()
    train(whole.groups, whole.loss, Settings(steps=6), CPU)

    def loss(generator):
        value = broken.loss(generator)  # the batch is drawn
        if len(broken.drawn) == 4:
            raise Killed
        return value

    with pytest.raises(Killed):
        train(broken.groups, loss, Settings(steps=6), CPU, tmp_path / "a.pt", progress=progress)
    assert progress.step == 3
    again = Line()
    train(again.groups, again.loss, Settings(steps=6), CPU, tmp_path / "a.pt")
    assert torch.equal(again.state(), whole.state()) and torch.equal(again.drawn[0], whole.drawn[3])


def test_a_checkpoint_is_written_now_and_then(tmp_path):
    """A process that is killed cannot clean up: what it wrote before is what there is."""
    line, path, seen = Line(), tmp_path / "a.pt", []
    train(
        line.groups,
        line.loss,
        Settings(steps=3, checkpoint_seconds=0),
        CPU,
        path,
        lambda: seen.append(path.exists() and len(torch.load(path, weights_only=True)["losses"])),
    )
    assert seen == [False, 1, 2] and [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_enough_steps_are_done_already(tmp_path):
    line = Line()
    train(line.groups, line.loss, Settings(steps=5), CPU, tmp_path / "a.pt")
    again = Line()
    progress = train(again.groups, again.loss, Settings(steps=3), CPU, tmp_path / "a.pt")
    assert progress.step == 5 and not again.drawn and torch.equal(again.state(), line.state())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_no_number_stops_it_and_the_last_good_state_stays(tmp_path, where):
    line, good = Line(), []

    def loss(generator):
        value = line.loss(generator)
        if len(line.drawn) < 4:
            return value
        good.append(line.state().clone())
        # The root's gradient at 0 is infinite, its value is not.
        return value * torch.nan if where == "loss" else value + (line.slope * 0).abs().sqrt().sum()

    progress = Progress()
    with pytest.raises(StoppedError, match="step 4. Lower the learning rates"):
        train(line.groups, loss, Settings(steps=9), CPU, tmp_path / "a.pt", progress=progress)
    assert progress.step == 3 and torch.equal(line.state(), good[0]) and torch.isfinite(good[0]).all()
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert len(saved["losses"]) == 3 and saved["parameters"]["slope"] == good[0][0]


def test_a_full_disk_does_not_stop_it(tmp_path, caplog):
    resource = pytest.importorskip("resource")
    line = Line()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            progress = train(line.groups, line.loss, Settings(steps=3), CPU, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert progress.step == 3 and not list(tmp_path.iterdir())
    assert "goes on without a checkpoint: " in caplog.text and "cannot be written" in caplog.text


def test_settings_and_precisions_are_checked():
    assert settings({"steps": 7}).steps == 7
    with pytest.raises(ValueError, match="no training setting 'lerning_rate'; there are steps, seed, "):
        settings({"lerning_rate": 1})
    assert compute_dtype("auto", CPU) == torch.float32 and compute_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(ValueError, match="'double' is no precision; choose one of auto, float32"):
        compute_dtype("double", CPU)
