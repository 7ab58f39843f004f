"""From aligned crop to face tokens: time of TransFace and of FACT's projector, and what stays in memory.

Test weights; sizes are the published ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import machine, open_host, spread, table, time_work

open_host()

import torch  # noqa: E402
from likeness.adapters.fact import FactAdapter  # noqa: E402
from likeness.attention_patches.sfags import project_face  # noqa: E402
from likeness.encoders.face_encoder import FaceEncoder  # noqa: E402
from likeness.encoders.loading import transface  # noqa: E402
from likeness.tests.support.checkpoints import drawn, fact_shapes, transface_shapes  # noqa: E402

WIDTHS = [320, 320, 640, 640, *[1280] * 6, *[640] * 3, *[320] * 3]
PHOTOS = (1, 4)
ROUNDS = 20


def time_photos(encoder: FaceEncoder, adapter: FactAdapter, photos: int, rounds: int = ROUNDS) -> list:
    """Return a row of the table: encoder and projector on `photos` crops, after one round to warm up."""
    device = encoder.patcher.load_device
    crops = torch.rand(photos, encoder.crop_size, encoder.crop_size, 3, generator=torch.Generator().manual_seed(1))
    features = encoder.encode(crops, True).features
    tokens = adapter.face_tokens(features)
    encoding, projecting = [], []
    for _ in range(rounds):
        encoding.append(time_work(lambda: encoder.encode(crops, True), device))
        projecting.append(time_work(lambda: adapter.face_tokens(features), device))
    return [photos, spread(encoding), spread(projecting), f"{list(tokens.shape)}"]


def megabytes(numbers: int) -> list[str]:
    """Return the megabytes of so many numbers in float32 and in float16."""
    return [f"{numbers * size / 1e6:.2f}" for size in (4, 2)]


def list_memory(encoder: FaceEncoder, adapter: FactAdapter) -> list[list]:
    """Return what the parts hold; the keys and values are those of a run with one photo, cond and uncond."""
    parts = {"TransFace": encoder.patcher, "projector": adapter.projector, "16 face blocks": adapter.face_blocks()}
    counts = {name: sum(p.numel() for p in patcher.model.parameters()) for name, patcher in parts.items()}
    tokens = adapter.face_tokens(torch.zeros(1, 144, 512)).expand(2, -1, -1)
    blocks = adapter.face_blocks().model
    projected = [project_face(block, tokens.to(block.alpha_attn)) for block in blocks]
    counts["keys and values of a run"] = sum(part.numel() for part in projected)
    return [[name, f"{count / 1e6:.3f}", *megabytes(count)] for name, count in counts.items()]


@torch.inference_mode()
def main() -> None:
    encoder = FaceEncoder("transface", "test.pt", "", transface(drawn(transface_shapes(), seed=1)))
    adapter = FactAdapter(drawn(fact_shapes(WIDTHS), seed=2), "test.ckpt")
    print(f"Machine: {machine()}\n")
    print(f"Time, ms: median (extremes) of {ROUNDS} rounds; the encoder always computes in float32.\n")
    columns = ["photos", "crops to TransFace tokens", "TransFace tokens to face tokens", "face tokens"]
    print(table(columns, [time_photos(encoder, adapter, photos) for photos in PHOTOS]))
    print("\nMemory, MB:\n")
    print(table(["part", "million numbers", "float32", "float16"], list_memory(encoder, adapter)))


if __name__ == "__main__":
    main()
