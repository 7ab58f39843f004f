"""What scoring images costs: milliseconds an image and memory, for every network that scores, at its published size.

Test weights; sizes and data flow are the true ones. Images are 512 x 512 with one face, whose points are given: finding
faces is not counted. Memory is what the process takes at most beyond what it had with network and images loaded, for
all the images in one call: `likeness.py evaluate` gives as many at once, so that it is also that of a thousand.
Processor time is that of this process alone, whatever else runs. The printed markdown can be pasted into RESULTS.md.
"""

from bench import machine, open_host, table

open_host()

import gc  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import comfy.model_management  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from likeness.encoders.loading import load_expression_encoder  # noqa: E402
from likeness.faces.types import Face, Faces  # noqa: E402
from likeness.metrics.image_features import load_image_network  # noqa: E402
from likeness.metrics.loading import load_recogniser  # noqa: E402
from likeness.metrics.scoring import regress  # noqa: E402
from likeness.metrics.statistics import frechet_distance, kernel_distance  # noqa: E402
from likeness.metrics.text_image import load_text_image  # noqa: E402
from likeness.tests.support.checkpoints import deep3d_shapes, drawn  # noqa: E402
from likeness.tests.support.golden_cases import Case  # noqa: E402
from likeness.tests.support.tiny_text_image import write_tokenizer  # noqa: E402

IMAGES, SIDE = 16, 512
POINTS = np.array([[200, 210], [310, 208], [256, 270], [212, 330], [300, 328]], np.float32)
RECOGNISERS = {
    "FaceNet": "metric_facenet", "SphereFace-20a": "metric_sphereface20a", "AdaFace IR-50": "metric_adaface_ir50",
    "AdaFace IR-101": "metric_adaface_ir101",
}  # fmt: skip
NETWORKS = {"DINO ViT-S/16": "metric_dino_vits16", "Inception (FID)": "metric_inception_fid"}
B, L = {"hidden_size": 768, "intermediate_size": 3072}, {"hidden_size": 1024, "intermediate_size": 4096}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": 49408}
CLIPS = {
    "CLIP ViT-B/32": (TEXT | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
                      B | {"patch_size": 32, "num_attention_heads": 12}, 512),
    "CLIP ViT-L/14": (TEXT, L | {"patch_size": 14, "num_hidden_layers": 24, "num_attention_heads": 16}, 768),
}  # fmt: skip


def works(folder: Path, images: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield by name what scores the images."""
    faces = Faces(images, ((Face(POINTS, (180, 150, 330, 370), 0.9),),) * len(images))
    for name, case in (RECOGNISERS | NETWORKS).items():
        torch.save(Case(case).weights(), folder / "weights.pt")
        if name in RECOGNISERS:
            encoder = load_recogniser(str(folder / "weights.pt"))
            yield name, lambda encoder=encoder: encoder.encode_faces(faces).embedding
        else:
            network = load_image_network(folder / "weights.pt")
            yield name, lambda network=network: network.embed_images(images)
    for name, (text, vision, width) in CLIPS.items():
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)
        transformers.CLIPModel(config).save_pretrained(folder / name)
        clip = load_text_image(folder / name)
        yield name, lambda clip=clip: clip.embed_images(images)
    transformers.SiglipModel(transformers.SiglipConfig()).save_pretrained(folder / "siglip")  # the defaults are B/16
    siglip = load_text_image(write_tokenizer(folder / "siglip"))
    yield "SigLIP B/16", lambda: siglip.embed_images(images)
    torch.save({"net_recon": drawn(deep3d_shapes(), seed=2)}, folder / "deep3d.pth")
    expression = load_expression_encoder(str(folder / "deep3d.pth"))
    yield "Deep3DFaceRecon ResNet-50", lambda: regress(expression, faces)


class MemoryWatch(threading.Thread):
    """Notes the most memory that this process takes while `work` runs, beyond what it had before, in MB."""

    def __init__(self, work: Callable[[], object]):
        super().__init__(daemon=True)
        self.process, self.running = psutil.Process(), True
        before = self.most = self.process.memory_info().rss
        self.start()
        work()
        self.running = False
        self.join()
        self.megabytes = (self.most - before) / 1e6

    def run(self) -> None:
        while self.running:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.005)


@torch.inference_mode()
def main() -> None:
    images, rows = torch.rand(IMAGES, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0)), []
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works(Path(folder), images):
            memory = MemoryWatch(work).megabytes
            begin = time.perf_counter(), time.process_time()
            work()
            wall, own = time.perf_counter() - begin[0], time.process_time() - begin[1]
            thousand = f"{own / IMAGES * 1000 / 60:.1f}"
            print(f"{name}: {own / IMAGES * 1e3:.0f} ms", file=sys.stderr, flush=True)
            rows.append([name, f"{wall / IMAGES * 1e3:.0f}", f"{own / IMAGES * 1e3:.0f}", thousand, f"{memory:.0f}"])
            comfy.model_management.unload_all_models()
            gc.collect()
    features = torch.randn(2, 1000, 2048, generator=torch.Generator().manual_seed(1))
    distances = {}
    for name, distance in (("Frechet distance", frechet_distance), ("KID", kernel_distance)):
        begin = time.process_time()
        distance(*features)
        distances[name] = time.process_time() - begin
    print(f"Machine: {machine()}. {IMAGES} images.\n")
    head = ["network", "ms an image", "processor ms an image", "processor minutes for 1,000", "MB for all at once"]
    print(table(head, rows))
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in distances.items())
    print(f"\nOf two sets of 1,000 features of 2048: {seconds} of processor time.")


if __name__ == "__main__":
    main()
