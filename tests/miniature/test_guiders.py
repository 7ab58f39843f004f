"""The likeness of people in the miniature under the host's guiders, against its ordinary guidance.

The host's SelfAttentionGuidance stops at so small a latent, in the bare miniature, too: it is measured at a larger one.
"""

import comfy.samplers
import pytest
import torch
from likeness.metrics.similarity import identity_similarity
from likeness.miniature.evaluation import instruments
from likeness.miniature.evaluation.methods import fact, infinite_id
from likeness.miniature.evaluation.people import hold_out
from likeness.tests.support import menu

PEOPLE, STEPS, NOISE = 6, 10, 0.08  # of the mean over so few people
PATCHES = {"FACT": fact(), "image adapter": infinite_id()}


@pytest.fixture(scope="module")
def world():
    return instruments.load()


@torch.inference_mode()
def measure_likeness(world, patch: str, name: str, node: str = "", side: int = 8, people: int = PEOPLE) -> float:
    """The mean similarity of people painted under the guider of a node, behind another node or not.

    side: of the latent, 8 for the size that the miniature learned
    """
    scores = []
    for number, held in enumerate(hold_out(people)):
        model, conditioning = PATCHES[patch](world, held)
        model = menu.call(node, model, None, world.text(""))[0] if node else model
        positive, negative = conditioning("a photo of {who}"), world.text("")
        (guider,) = menu.call(name, model, positive, negative, other=world.model)
        guider.set_cfg(3.0, 3.0) if name == "DualCFGGuider" else guider.set_cfg(3.0)
        sampling = world.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
        start = instruments.noise([(number, 0, 0)], side)
        euler = comfy.samplers.sampler_object("euler")
        faces = world.faces(world.vae.decode(guider.sample(start, torch.zeros_like(start), euler, sigmas, seed=0)))
        embeddings = world.embed_faces(faces).mean(dim=0)[None] if any(faces.per_image) else torch.zeros(1, 1)
        photos = world.embed_faces(held.others).unsqueeze(0)
        found = torch.tensor([any(faces.per_image)])
        scores.append(identity_similarity(embeddings.expand(1, photos.shape[-1]), photos, found).nan_to_num(0.0))
    return float(torch.stack(scores).mean())


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES)
def test_every_guider_keeps_the_likeness(world, patch):
    plain = measure_likeness(world, patch, "CFGGuider")
    guided = {name: measure_likeness(world, patch, name) for name in ("DualCFGGuider", "DualModelGuider")}
    guided["PAG"] = measure_likeness(world, patch, "CFGGuider", "PerturbedAttentionGuidance")
    guided["PerpNeg"] = measure_likeness(world, patch, "CFGGuider", "PerpNeg")
    print(patch, plain, guided)
    wide = measure_likeness(world, patch, "CFGGuider", side=16, people=PEOPLE // 2)
    sag = measure_likeness(world, patch, "CFGGuider", "SelfAttentionGuidance", side=16, people=PEOPLE // 2)
    print(wide, sag)
    assert wide > 0.3 and sag > wide - NOISE
    assert plain > 0.3 and {name: likeness for name, likeness in guided.items() if likeness < plain - NOISE} == {}
