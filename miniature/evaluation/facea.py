"""FaceA-Net in the miniature: a person is learned from three photos, then other people's heads become theirs."""

import torch

from ...adapters.facea_prompt import apply, encode_prompt
from ...inpaint.paint import Person, Sampling, sample
from ...inpaint.paste import mask_weight
from ...inpaint.refine import EVERY_FACE, CropStyle, greyed, outline
from ..models import base_model
from ..recipes.facea import learned
from .instruments import WEIGHTS, World
from .measure import Drawn
from .methods import FACEA
from .people import Held

_SAMPLING = Sampling(seed=0, steps=10, cfg=2.0, sampler_name="ddim", scheduler="ddim_uniform", denoise=1.0)
_STYLE = CropStyle(shape="hull", size=96, expand=16.0)  # hair and jaw too, without which nobody is who they are
_FEATHER = 4


def pictures(world: World, name: str, held: Held, drawn: Drawn) -> Drawn:
    """The base model's pictures `drawn` for a person, the heads in them repainted as the person, to their own words."""
    model, clip, vae = base_model.load_miniature(WEIGHTS, inpainting=True)
    identity = learned(held.who.number, **FACEA[name])
    patched, _ = apply(model, identity, 1.0)
    made = []
    for text, shown in zip(drawn.texts, drawn.pictures.unbind(1), strict=True):
        prompt = encode_prompt(clip, identity, text.format(who=f"a {held.word}"), "", True)
        person = Person(patched, *prompt, EVERY_FACE)
        painted = torch.stack([_repainted(world, each, person, vae) for each in shown.float() / 255])
        made.append((painted * 255).round().to(torch.uint8))
    return Drawn(torch.stack(made, dim=1), drawn.texts)


@torch.inference_mode()
def _repainted(world: World, picture: torch.Tensor, person: Person, vae) -> torch.Tensor:
    """A picture [h, w, 3] with its head painted anew; as it is where no face is found."""
    (found,) = world.faces(picture[None]).found
    if not found:
        return picture
    mask = outline(picture, found[0], "face", _STYLE).float()[None]
    latents = vae.encode(picture[None]), vae.encode(greyed(picture[None], mask))
    painted = vae.decode(sample(person, *latents, mask[None], 0, _SAMPLING))[0]
    return torch.lerp(picture, painted, mask_weight(mask[0].numpy(), _FEATHER, _STYLE.size)[..., None])
