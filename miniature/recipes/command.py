"""`likeness.py train miniature PART`: make a part of the miniature's weights again, as it was made."""

import argparse
from functools import partial

import torch

from . import adapters, diffusion, facea, files, nets
from .common import OUTPUT, SETS, load_set

ADAPTERS = {**adapters.FACTS, **adapters.F2DS, **adapters.INFINITE}
STEPS = {
    **dict.fromkeys(adapters.FACTS, 1000), **dict.fromkeys(adapters.F2DS, 1500),
    **dict.fromkeys(adapters.INFINITE, 3000),
    "fact": 5000, "face2diffusion": 14_000, "infinite_id": 32_700,
    "fact_projector": 2000, "decoder": 1500, "base": 29_400, "inpainting": 2000,
}  # fmt: skip
PARTS = {
    "pictures": lambda: [load_set(split) for split in SETS],
    "autoencoder": diffusion.autoencoder,
    "latents": diffusion.latents,
    **{name: partial(nets.train_recogniser, name) for name in nets.RECOGNISERS},
    "finder": nets.find,
    "clip": nets.clip,
    "expression": nets.expressions,
    **{
        f"features-{name}": partial(nets.features, name)
        for name in ("transface", "msid", "msid_twin", "msid_deep", "arcface", "clip", "expression")
    },
    "decoder": diffusion.decoder,
    "base": diffusion.text_to_image,
    "inpainting": diffusion.train_inpainting,
    "fact_projector": adapters.projector,
    **{name: partial(adapters.train, name) for name in ADAPTERS},
    "facea": facea.demo_person,
    "export": files.export,
    "restore": files.restore,
}  # but for the last in an order in which each finds what it needs


def main(arguments: list[str]) -> int:
    """Run the parts named, or all in their order; each says how far it is."""
    parser = argparse.ArgumentParser(prog="likeness.py train miniature", description=__doc__)
    text = f"in this order: {', '.join(PARTS)}"
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], metavar="PART", help=text)
    parser.add_argument(
        "--steps", type=int, help="instead of the recipe's, for decoder, base, inpainting and the adapters"
    )
    parser.add_argument("--threads", type=int, default=1, help="one process a core is quickest (default: 1)")
    parser.add_argument("--cpu", action="store_true", help="do not use the GPU")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in options.part or [name for name in PARTS if name != "restore"]:
        print(f"{name} ...", flush=True)
        steps = (options.steps or STEPS[name],) if name in STEPS else ()
        PARTS[name](*steps)
    return 0
