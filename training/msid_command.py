"""Train MSID, Face2Diffusion's encoder, on photos or crops of many people; training/README.md has the settings."""

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import comfy.model_management
import safetensors.torch
import torch
from tqdm import tqdm

from ..host_process import SetupError
from ..weights import saving
from . import adapter_command, loop, msid, prepare_command, shards
from .distributed import from_main, is_main
from .face_crops import CropSet, find_crops
from .paths import check_output
from .progress_line import ProgressLine
from .settings import check_data, check_settings, make_parser, read_config
from .watch import Watch, averaged, check_board


def main(arguments: list[str]) -> int:
    """Train and write the encoder; stopped with Ctrl-C it keeps what was learned, run again it goes on.

    Raises SetupError with a sentence where photos, settings or the output's folder do not serve.
    """
    options = _parse(arguments)
    try:
        _train(options)
    except (ValueError, RuntimeError, OSError) as error:
        raise SetupError(str(error), adapter_command.tell_left(options.output)) from error
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    text = (
        "folder with a sub-folder of photos for each person, table, or prepared; with aligned crops: folder of "
        "InsightFace's train.rec, or of tar shards"
    )
    return make_parser(prepare_command.MSID, __doc__, text, None).parse_args(arguments)


def _train(options: argparse.Namespace) -> None:
    values, about_data = read_config(options.config, options.set)
    settings, split = check_settings(msid.MsidSettings, values), check_data((), about_data, prepared=True).split
    if settings.face_scorer:
        raise ValueError("face_scorer is for validation pictures, of which msid has none: leave it out.")
    if not options.photos.exists():
        raise ValueError(f"There is no folder {options.photos} with photos.")
    check_output(options.output)
    check_board(settings, options.output)
    line = ProgressLine(settings)
    crops = _take_crops(options, about_data, split)
    people = from_main(crops.people.unique()) if split else torch.arange(crops.count)
    trained, *held = msid.hold_out(crops, settings.held_out, people) if settings.validate_steps else [crops]
    if is_main():
        print(f"{len(trained)} crops of {trained.count} people to train on, {options.photos}", flush=True)
    device, progress = comfy.model_management.get_torch_device(), loop.Progress()
    module = msid.make(trained.count, settings, device)
    watch = _watch(module, progress, settings, options.output, trained, held, device)
    groups = [loop.Group(dict(module.named_parameters()), settings.lr)]
    loss = msid.make_loss(module, trained, settings, device, split)
    train = partial(loop.train, groups, loss, settings, device)
    adapter_command.learn(train, settings, options.output, line, watch, progress)


def _take_crops(options: argparse.Namespace, about_data: dict, split: bool) -> CropSet:
    """Return the aligned crops; those of photos are made first, in a folder beside the output."""
    source, about_data = options.photos, {name: value for name, value in about_data.items() if name != "split"}
    if (source / shards.MANIFEST).is_file():
        adapter_command.check_prepared(source, shards.read_manifest(source), about_data)
    if (crops := find_crops(source, split)) is None:
        folder = options.output.with_suffix(".crops")
        prepare_command.prepare(source, folder, None, [prepare_command.MSID], about_data)
        return find_crops(folder)
    if not (source / shards.MANIFEST).is_file() and about_data:
        raise ValueError(f"{source} holds crops that are aligned already: leave [data] {min(about_data)} out.")
    return crops


def _watch(
    module: msid.MsidTraining, progress, settings: msid.MsidSettings, output: Path, trained, held, device
) -> Watch:
    """Return what writes the encoder and tells held-out people apart, if any, while the training goes on."""
    validates = held and is_main()
    pairs = msid.choose_pairs(held[0].people, settings.validation_batches * settings.batch) if validates else None
    statistics: dict[int, dict] = {}  # of the norms, by the last step of which they were taken

    @contextlib.contextmanager
    def settled() -> Iterator[msid.Msid]:
        """Let the network be for a while what is written of this step: averaged, with the norms' statistics its own."""
        network = module.network
        with averaged(module, progress):
            if progress.step in statistics:
                network.load_state_dict(statistics[progress.step], strict=False)
            else:
                msid.settle(network, trained, settings, device)
                statistics.clear()
                statistics[progress.step] = {name: tensor.clone() for name, tensor in network.named_buffers()}
            yield network

    def write(path: Path) -> None:
        with settled() as network:
            state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
            saving.write(path, safetensors.torch.save(state), "Training")  # before the weights are others again

    def validate(step: int) -> dict[str, float]:
        with settled() as network:
            accuracy = msid.verify(network, held[0], pairs, device)
        tqdm.write(
            f"step {step}: {accuracy:.2%} of {len(pairs.same)} pairs of {len(held[0].people.unique())} "
            "held-out people told rightly"
        )
        return {"accuracy": accuracy}

    return Watch(settings, settings.lr, output, write, validate if validates else None, best="accuracy")
