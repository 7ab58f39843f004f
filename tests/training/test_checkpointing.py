"""Gradient checkpointing and compilation: the same loss and the same gradients, blocks computed twice or compiled."""

import shutil
from dataclasses import replace

import pytest
import torch
import torch._dynamo
from comfy.ldm.modules.attention import BasicTransformerBlock, FeedForward
from likeness.tests.support import tiny_frozen
from likeness.training import compiling, face2diffusion, fact, infinite_id
from likeness.training.compiling import compile_parts
from likeness.training.frozen import freeze
from likeness.training.loop import make_stream

SHARED = {"batch": 2, "precision": "float32"}
FEATURES = {"transface": (4, 24), "msid": (1, 12), "expression": (6,), "clip": (5, 20), "arcface": (1, 512)}
TRAINERS = {
    "fact": (fact, fact.FactSettings(**SHARED, dim=64, depth=1, queries=3, gate=0.5)),
    "face2diffusion": (face2diffusion, face2diffusion.Face2DiffusionSettings(**SHARED, hidden=(16,))),
    "infinite-id": (infinite_id, infinite_id.InfiniteIdSettings(**SHARED, dim=64, depth=1, queries=3)),
}


def learn(method, checkpointing, compiled=False):
    """The loss of a step, the gradients by name, and how many transformer blocks were computed."""
    trainer, settings = TRAINERS[method]
    base, portraits = freeze(*tiny_frozen.host(), "float32", checkpointing, compiled), tiny_frozen.portraits(**FEATURES)
    count, calls = 0, []
    for block in base.model.diffusion_model.modules():
        if isinstance(block, BasicTransformerBlock):
            count += 1
            block.norm1.register_forward_hook(lambda *_: calls.append(1))
    module = trainer.make(base, portraits, replace(settings, checkpointing=checkpointing))
    more = [torch.zeros(5, 20)] if method == "infinite-id" else []
    loss = trainer.make_loss(base, module, portraits, *more, settings)(make_stream(3), 0)
    loss.backward()
    return loss.item(), {name: each.grad for name, each in module.named_parameters()}, len(calls) / count


@pytest.mark.parametrize("method", TRAINERS)
def test_checkpointing_changes_no_gradient(method):
    loss, gradients, once = learn(method, checkpointing=False)
    again, recomputed, twice = learn(method, checkpointing=True)
    assert again == loss and gradients.keys() == recomputed.keys() and twice > once
    for name, gradient in gradients.items():
        assert (gradient is None) == (recomputed[name] is None)
        if gradient is not None:
            assert torch.allclose(gradient, recomputed[name], rtol=1e-4, atol=1e-7), name


@pytest.mark.slow
def test_the_parts_of_a_unet_are_compiled_without_a_break(compiler, monkeypatch):
    """As torch traces them, run without a compiler, beside gradient checkpointing."""
    plain, expected, _ = learn("fact", checkpointing=False)
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda part: compiled.append(part) or compile_(part, backend="eager"))
    loss, gradients, _ = learn("fact", checkpointing=True, compiled=True)
    assert loss == pytest.approx(plain, rel=1e-5) and not torch._dynamo.utils.counters["graph_break"]
    assert len(compiled) == 2 * 22 + 16 and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 8
    for name, gradient in expected.items():
        assert gradient is None or torch.allclose(gradient, gradients[name], rtol=1e-4, atol=1e-7), name


@pytest.mark.slow
def test_a_compiled_part_computes_the_same(compiler):
    """By torch's own compiler."""
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler, which torch compiles with on a CPU")
    part, x = torch.nn.Sequential(FeedForward(8)), torch.randn(2, 3, 8, requires_grad=True)
    for parameter in part.parameters():  # the host leaves them as the memory was
        torch.nn.init.normal_(parameter)
    expected = part(x)
    (wanted,) = torch.autograd.grad(expected.square().mean(), x)
    compile_parts(part, torch.device("cpu"))
    (gradient,) = torch.autograd.grad((made := part(x)).square().mean(), x)
    assert torch.allclose(made, expected, atol=1e-6) and torch.allclose(gradient, wanted, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_where_nothing_compiles_it_is_refused(monkeypatch):
    monkeypatch.setattr(compiling, "has_triton", lambda: False)
    with pytest.raises(ValueError, match="compile = true needs Triton on a GPU"):
        compile_parts(torch.nn.Identity(), torch.device("cuda"))
