"""What FACT adds to one UNet call of SD1.5 at 512 px, against its bare matrix products and a straightforward form.

    base   the UNet alone
    ours   with FactPatch
    (a)    face rows are queries too, their keys and values are projected in every call, softmax in float32 by einsum
    floor  the matrix products (without bias) and attentions that ours cannot do without, timed as bare kernels at the
           same shapes, in the same process and also inside the same UNet call

Test weights; sizes and data flow are the true ones. The printed markdown can be pasted into RESULTS.md.
"""

from bench import StopWatch, machine, megabytes_at_most, open_host, spread, table, time_work

open_host()

import statistics  # noqa: E402

import comfy.model_management  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import optimized_attention  # noqa: E402
from likeness.adapters.fact import FactAdapter  # noqa: E402
from likeness.attention_patches.fact import apply_fact  # noqa: E402
from likeness.encoders.identity import FaceId  # noqa: E402
from likeness.tests.support.checkpoints import drawn, fact_shapes  # noqa: E402
from networks import WIDTH, unet  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

LEVELS = [1, 1, 2, 2, *[4] * 6, *[2] * 3, *[1] * 3]  # widths of the 16 blocks, in widths of the first level
STRENGTH = 0.5
CUDA_CASES = [(dtype, batch) for dtype in (torch.bfloat16, torch.float16) for batch in (1, 4)]
CPU_CASES = [(torch.float32, 1)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ROUNDS = {"cpu": (4, 10), "cuda": (20, 50)}  # whole UNet calls; passes over the blocks


def apply_face(model, dtype: torch.dtype, width: int):
    """Return a clone of `model`, whose first level is `width` wide, with a face applied and everything loaded."""
    projector = {"dim": 1024 * width // WIDTH, "inner": 768 * width // WIDTH // 64 * 64 or 64}
    shapes = fact_shapes([width * level for level in LEVELS], **projector)
    weights = {name: tensor.to(dtype) for name, tensor in drawn(shapes, seed=2).items()}
    adapter = FactAdapter(weights, "test.ckpt")
    features = torch.randn(1, 144, 512, generator=torch.Generator().manual_seed(3))
    crops = torch.zeros(1, 112, 112, 3)
    face_id = FaceId("transface", "test.pt", "", features, features.mean(dim=1), crops, masked=True)
    model = apply_fact(model, adapter, face_id, STRENGTH)
    comfy.model_management.load_models_gpu([model])
    return model


class StraightforwardFact:
    """(a): the definition taken literally, on the blocks and tokens of a FactPatch."""

    def __init__(self, patch):
        self.weights = dict(zip(patch.blocks, patch.weights.model))
        self.tokens = patch.tokens

    def __call__(self, x, extra_options):
        kinds = torch.tensor(extra_options["cond_or_uncond"], device=x.device)
        face = self.tokens.to(x)[kinds.repeat_interleave(len(x) // len(kinds))]
        block = self.weights[extra_options["block"]]
        rows = block.norm1(torch.cat((x, block.linear(face)), dim=1))
        attended = self.attend(rows, block.attn, extra_options["n_heads"])[:, : x.shape[1]]
        x = x + STRENGTH * torch.tanh(block.alpha_attn).to(x) * attended
        return x + STRENGTH * torch.tanh(block.alpha_dense).to(x) * block.ff(block.norm2(x))

    @staticmethod
    def attend(rows, attn, heads):
        q, k, v = (linear(rows, weight).unflatten(2, (heads, -1)) for weight in attn.to_qkv.weight.to(rows).chunk(3))
        similarity = torch.einsum("bihd,bjhd->bhij", q.float(), k.float()) * q.shape[-1] ** -0.5
        return attn.to_out(torch.einsum("bhij,bjhd->bihd", similarity.softmax(-1).to(v), v).flatten(2))


class TokenRecorder:
    """What every block is called with in one UNet call: its tokens and options."""

    def __init__(self):
        self.visits = []

    def __call__(self, x, extra_options):
        self.visits.append((x.clone(), extra_options))
        return x


def calls(model, batch: int, pixels: int):
    """Return a function that calls the UNet once on `batch` images of `pixels` a side, with given middle patches.

    Conditional and unconditional rows go together.
    """
    device = model.load_device
    generator = torch.Generator().manual_seed(4)
    latent = torch.randn(2 * batch, 4, pixels // 8, pixels // 8, generator=generator).to(device)
    text = torch.randn(2 * batch, 77, 768, generator=generator).to(device)
    sigma = torch.full((2 * batch,), 5.0, device=device)

    def call(patches=(), wrappers=None):
        options = {"cond_or_uncond": [0, 1], "sigmas": sigma[:batch], "patches": {"middle_patch": [*patches]}}
        return model.model.apply_model(
            latent, sigma, c_crossattn=text, transformer_options=options | {"wrappers": wrappers or {}}
        )

    return call


def list_floor_kernels(x: torch.Tensor, block, face_rows: int, heads: int) -> list:
    """Return the bare kernels of one block: four d x d products, the two of the gated MLP, one attention."""
    weights = [*block.attn.to_qkv.weight.to(x).chunk(3), block.attn.to_out[0].weight.to(x)]
    wide, narrow = block.ff.net[0].proj.weight.to(x), block.ff.net[2].weight.to(x)
    inner = torch.cat([x] * 4, dim=2)
    keys = torch.cat((x, x[:, :face_rows]), dim=1)
    values = keys.clone()
    return [
        *(lambda weight=weight: linear(x, weight) for weight in weights),
        lambda: linear(x, wide),
        lambda: linear(inner, narrow),
        lambda: optimized_attention(x, keys, values, heads),
    ]


def count_flops(x: torch.Tensor, face_rows: int) -> tuple[int, int]:
    """Return the FLOPs of a block: matrix products, 2 b n d (4 d + 8 d + 4 d), and attention, 4 b n (n + m) d."""
    b, n, d = x.shape
    return 32 * b * n * d * d, 4 * b * n * (n + face_rows) * d


class TimedPatch:
    """Runs a form as a middle patch and adds up the milliseconds spent in it during one UNet call."""

    def __init__(self, form, device):
        self.form = form
        self.watch = StopWatch(device)

    def __call__(self, x, extra_options):
        self.watch.mark()
        x = self.form(x, extra_options)
        self.watch.mark()
        return x


class FactFloor:
    """The bare kernels of every block, made ready for the tokens of a recorded call; their results are thrown away."""

    def __init__(self, visits: list, patch):
        blocks = dict(zip(patch.blocks, patch.weights.model))
        rows = patch.tokens.shape[1]
        self.kernels = {o["block"]: list_floor_kernels(x, blocks[o["block"]], rows, o["n_heads"]) for x, o in visits}

    def __call__(self, x, extra_options):
        for kernel in self.kernels[extra_options["block"]]:
            kernel()
        return x


def time_calls(call, forms: dict, wrappers: dict, device, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds of whole UNet calls and of the form in them, by form; the forms take turns.

    The first round warms up and is not counted.
    """
    times = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            patch = TimedPatch(form, device)
            patches = [patch] if form else []
            took = time_work(lambda: call(patches, wrappers if name == "ours" else {}), device)  # noqa: B023
            times[name] += [(took, patch.watch.total())] if turn else []
    return times


def time_blocks(visits: list, forms: dict, device, rounds: int) -> dict[str, list[list[float]]]:
    """Return milliseconds of single blocks, by form and round; the forms take turns on the same tokens."""
    times = {name: [] for name in forms}
    for turn in range(rounds + 1):
        passes = {name: [] for name in forms}
        for visit in visits:
            for name, form in forms.items():
                passes[name].append(time_work(lambda: form(*visit), device, queued=True))  # noqa: B023
        for name in forms:
            times[name] += [passes[name]] if turn else []
    return times


def find_largest_difference(visits: list, ours, straightforward) -> float:
    """Return the largest difference of ours from (a) in any block, relative to the largest value the block adds."""
    ratios = []
    for x, options in visits:
        expected = straightforward(x, options)
        ratios.append(float((ours(x, options) - expected).abs().max() / (expected - x).abs().max()))
    return max(ratios)


def run(dtype: torch.dtype, batch: int, width: int = WIDTH, pixels: int = 512, rounds=None) -> dict[str, float]:
    """Measure one case, print its section and return its figures: ratios, added milliseconds, peak megabytes.

    width, pixels: the published sizes or smaller ones; rounds: (whole UNet calls, passes over the blocks).

    (a) runs only after ours and the floor are timed: the gigabytes it frees leave the C library's allocator with
    memory to reuse, and ours, which then waits less for the system's pages, would look better than it is.
    """
    model = apply_face(unet("SD15", dtype, width), dtype, width)
    device = model.load_device
    ours = model.model_options["transformer_options"]["patches"]["middle_patch"][0]
    recorder, call = TokenRecorder(), calls(model, batch, pixels)
    call([recorder])
    call([ours], model.wrappers)
    visits = recorder.visits
    call_rounds, block_rounds = rounds or ROUNDS[device.type]
    print(f"\n### {str(dtype).removeprefix('torch.')}, batch {batch} (cond + uncond: {2 * batch} rows), {pixels} px\n")
    (face,) = ours.faces
    print(describe_work(visits, face.tokens.shape[1]))

    forms = {"ours": ours, "floor": FactFloor(visits, face)}
    whole = time_calls(call, {"base": None, **forms}, model.wrappers, device, call_rounds)
    blocks = time_blocks(visits, forms, device, block_rounds)
    straightforward = StraightforwardFact(face)
    difference = find_largest_difference(visits, ours, straightforward)
    if difference > TOLERANCE[dtype]:
        raise SystemExit(f"ours differs from (a) by {difference:.1e} of what is added: the times would say nothing")
    print(f"Largest difference of ours from (a): {difference:.1e} of what is added.\n")
    figures = {"added ms": statistics.median(added for _, added in whole["ours"])}
    figures["base ms"] = statistics.median(took for took, _ in whole["base"])
    figures["calls / floor"] = report_calls("Ours and the floor", whole)
    figures["blocks / floor"] = report_blocks(visits, blocks)
    figures["peak MB"] = megabytes_at_most(lambda: call([ours], model.wrappers), device)
    figures["base peak MB"] = megabytes_at_most(call, device)

    forms = {"ours": ours, "(a)": straightforward}
    whole = time_calls(call, {"base": None, **forms}, model.wrappers, device, -(-call_rounds // 2))
    figures["calls / (a)"] = report_calls("Ours and (a)", whole)
    figures["blocks / (a)"] = report_blocks(visits, time_blocks(visits, forms, device, -(-block_rounds // 2)))
    return figures


def describe_work(visits: list, face_rows: int) -> str:
    """Return a sentence with the GFLOP that all blocks add to a UNet call."""
    products, attentions = (sum(column) / 1e9 for column in zip(*(count_flops(x, face_rows) for x, _ in visits)))
    return f"Added work: {products:.1f} GFLOP of matrix products and {attentions:.1f} GFLOP of attention.\n"


def report_calls(title: str, whole: dict[str, list[tuple[float, float]]]) -> float:
    """Print added time as the clock inside the calls saw it and return ours by the last form's.

    Whole calls of the base vary by more than some forms add.
    """
    base = statistics.median(took for took, _ in whole["base"])
    *_, last = whole
    rows = []
    for name, samples in whole.items():
        totals, added = zip(*samples)
        against = statistics.median(a / b for (_, a), (_, b) in zip(samples, whole[last]))
        ratio = 1 + statistics.median(added) / base
        rows.append([name, spread(totals), spread(added), f"{ratio:.3f}", f"{against:.3f}"])
    print(f"\n{title} inside whole UNet calls, in turn, ms: median (extremes) of {len(whole['base'])} rounds:\n")
    print(table(["form", "whole call", "added", "1 + added / base", f"added / {last}"], rows))
    return statistics.median(a / b for (_, a), (_, b) in zip(whole["ours"], whole[last]))


def group_by_width(visits: list) -> dict[str, list[int]]:
    """Return the indices of the blocks of each size, and of all of them."""
    groups = {}
    for index, (x, _) in enumerate(visits):
        groups.setdefault(f"{x.shape[1]} x {x.shape[2]}", []).append(index)
    return groups | {"all": [*range(len(visits))]}


def report_blocks(visits: list, blocks: dict) -> float:
    """Print the two forms block by block, summed over blocks of equal sizes, and return the ratio over all blocks.

    Ratios are the medians of the rounds'.
    """
    first, second = blocks
    rows = []
    for name, indices in group_by_width(visits).items():
        ms = {form: [sum(times[i] for i in indices) for times in passes] for form, passes in blocks.items()}
        ratios = [a / b for a, b in zip(ms[first], ms[second])]
        rows.append([name, len(indices), *map(spread, ms.values()), spread(ratios)])
    print(f"\nThe blocks alone, in turn on the tokens of one call, ms: median (extremes) of {len(ratios)} rounds:\n")
    print(table(["tokens x width", "blocks", first, second, f"{first} / {second}"], rows))
    return statistics.median(ratios)


@torch.inference_mode()
def main() -> None:
    print(f"Machine: {machine()}")
    for case in CUDA_CASES if torch.cuda.is_available() else CPU_CASES:
        run(*case)


if __name__ == "__main__":
    main()
