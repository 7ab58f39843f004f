"""FaceA-Net in the miniature: a person is learned from three photos, then other people's heads become theirs."""

import torch

from ...adapters.facea_prompt import apply, encode_prompt
from ...inpaint.paint import FacePerson, SamplerSettings, sample
from ...inpaint.paste import mask_weight
from ...inpaint.refine import EVERY_FACE, CropStyle, grey_out, outline
from ..models import base_model
from ..recipes.facea import learn_person
from .instruments import WEIGHTS, World
from .measure import SampledImages
from .methods import FACEA
from .people import HeldOutPerson

_SAMPLING = SamplerSettings(seed=0, steps=10, cfg=2.0, sampler_name="ddim", scheduler="ddim_uniform", denoise=1.0)
_STYLE = CropStyle(shape="hull", size=96, expand=16.0)  # hair and jaw too, without which nobody is who they are
_FEATHER = 4


def repaint(world: World, name: str, held: HeldOutPerson, sampled: SampledImages) -> SampledImages:
    """Return the base model's images for a person with their heads repainted as that person, by the same prompts."""
    model, clip, vae = base_model.load_miniature(WEIGHTS, inpainting=True)
    identity = learn_person(held.subject.number, **FACEA[name])
    patched, _ = apply(model, identity, 1.0)
    made = []
    for text, images in zip(sampled.texts, sampled.images.unbind(1), strict=True):
        prompt = encode_prompt(clip, identity, text.format(who=f"a {held.word}"), "", True)
        person = FacePerson(patched, *prompt, EVERY_FACE)
        painted = torch.stack([repaint_image(world, image, person, vae) for image in images.float() / 255])
        made.append((painted * 255).round().to(torch.uint8))
    return SampledImages(torch.stack(made, dim=1), sampled.texts)


@torch.inference_mode()
def repaint_image(world: World, image: torch.Tensor, person: FacePerson, vae) -> torch.Tensor:
    """Return an image [h, w, 3] with its head painted anew; as it is where no face is found."""
    (faces,) = world.faces(image[None]).per_image
    if not faces:
        return image
    mask = outline(image, faces[0], "face", _STYLE).float()[None]
    latents = vae.encode(image[None]), vae.encode(grey_out(image[None], mask))
    painted = vae.decode(sample(person, *latents, mask[None], 0, _SAMPLING))[0]
    return torch.lerp(image, painted, mask_weight(mask[0].numpy(), _FEATHER, _STYLE.size)[..., None])
