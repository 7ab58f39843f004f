"""Face2Diffusion: time from aligned crop to words, and time of a sampling step with and without them.

Test weights; sizes are the published ones. The printed markdown can be pasted into RESULTS.md.
"""

import statistics

from bench import machine, open_host, spread, table, time_work

open_host()

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer  # noqa: E402
from comfy.supported_models_base import ClipTarget  # noqa: E402
from likeness.adapters.face2diffusion import Face2DiffusionAdapter  # noqa: E402
from likeness.adapters.face_prompt import encode, make_face_prompt  # noqa: E402
from likeness.encoders.face_encoder import FaceEncoder  # noqa: E402
from likeness.encoders.loading import msid  # noqa: E402
from likeness.tests.support.checkpoints import drawn, mapping_shapes, msid_shapes  # noqa: E402
from networks import unet  # noqa: E402

ROUNDS = 20
STEP_ROUNDS = 8
TEXT = "photo of {face} in a red coat, city street at dusk"
PIXELS = 256  # so that a run on a CPU ends


def time_stages(encoder: FaceEncoder, adapter: Face2DiffusionAdapter, clip, rounds: int) -> list[list]:
    """Return rows of the table: every stage on its own, and from crop to words."""
    device = encoder.patcher.load_device
    crop = torch.rand(1, encoder.crop_size, encoder.crop_size, 3, generator=torch.Generator().manual_seed(1))
    face_id = encoder.encode(crop, False)
    words = adapter.words(face_id)
    stages = {
        "crop to identity (MSID)": lambda: encoder.encode(crop, False),
        "identity to words (mapping)": lambda: adapter.words(face_id),
        "crop to words": lambda: adapter.words(encoder.encode(crop, False)),
        "prompt, stock encoder": lambda: clip.encode_from_tokens_scheduled(clip.tokenize(TEXT)),
        "prompt with a face": lambda: encode(clip, make_face_prompt(clip, TEXT, [words])),
    }
    for work in stages.values():
        work()
    samples = {name: [] for name in stages}
    for _ in range(rounds):
        for name, work in stages.items():
            samples[name].append(time_work(work, device))
    return [[name, spread(values)] for name, values in samples.items()]


def time_steps(words: torch.Tensor, clip, model, pixels: int, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of one UNet call for prompt and negative prompt: with words, without, without again."""
    comfy.model_management.load_models_gpu([model])
    with_words = encode(clip, make_face_prompt(clip, TEXT, [words]))[0][0]
    plain, negative = (clip.encode_from_tokens(clip.tokenize(text)) for text in (TEXT, ""))
    device = model.load_device
    x = torch.randn(1, 4, pixels // 8, pixels // 8, generator=torch.Generator().manual_seed(2))
    x = x.to(device).expand(2, -1, -1, -1)
    sigma = torch.full((2,), 3.0, device=device)
    contexts = {"plain": plain, "with words": with_words, "plain again": plain}
    rows = {name: torch.cat((context, negative)).to(device) for name, context in contexts.items()}
    samples = {name: [] for name in rows}
    for turn in range(1 + rounds):  # the first one warms up
        for name, context in rows.items():
            time = time_work(lambda context=context: model.model.apply_model(x, sigma, c_crossattn=context), device)
            if turn:
                samples[name].append(time)
    return samples


def ratio(samples: dict[str, list[float]], name: str) -> float:
    """Return the median of the rounds' ratios to the plain prompt."""
    return statistics.median(a / b for a, b in zip(samples[name], samples["plain"]))


def text_encoder():
    """Return CLIP-L with test weights."""
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel))
    for parameter in clip.cond_stage_model.parameters():
        parameter.data.normal_(std=0.02)
    return clip


def run(model, pixels: int, rounds: int, once_rounds: int = ROUNDS) -> dict[str, float]:
    """Measure a UNet of SD1.5, print both tables and return the figures; once_rounds: of what runs once per picture."""
    encoder = FaceEncoder("msid", "test.pt", "", msid(drawn(msid_shapes(), seed=1)))
    adapter = Face2DiffusionAdapter(drawn(mapping_shapes(), seed=2), "test.pt")
    clip = text_encoder()
    print(f"Once per picture, ms: median (extremes) of {once_rounds} rounds; encoder and mapping compute in float32.\n")
    print(table(["stage", "ms"], time_stages(encoder, adapter, clip, once_rounds)))
    print(f"\nOne UNet call, prompt and negative prompt at {pixels} px, in turn: median (extremes) of {rounds} rounds.")
    print("The ratio is the median of the rounds' ratios; 'plain again' shows the noise of the measurement.\n")
    words = adapter.words(encoder.encode(torch.rand(1, 112, 112, 3), False))
    samples = time_steps(words, clip, model, pixels, rounds)
    rows = [[name, spread(values), f"{ratio(samples, name):.3f}"] for name, values in samples.items()]
    print(table(["prompt", "ms", "ratio to plain"], rows))
    return {"step / plain": ratio(samples, "with words"), "plain again / plain": ratio(samples, "plain again")}


@torch.inference_mode()
def main() -> None:
    print(f"Machine: {machine()}\n")
    run(unet("SD15", comfy.model_management.unet_dtype()), PIXELS, STEP_ROUNDS)


if __name__ == "__main__":
    main()
