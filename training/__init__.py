"""Training: the losses of the papers as functions, one loop for all trainers, and what they are trained on.

`loop` steps, keeps checkpoints and goes on from them; `lora` puts a LoRA beside the layers of a copy of the host's
model. FaceA-Net: `inpainting` makes of photos what the UNet receives, `facea` holds Eq. 2, `facea_run` makes an
identity of it, `curve` draws the losses. Nothing here knows a node, so that a script can train too.

Adapters: `photos` reads folders of people, `portraits` keep what adapters are trained on, `frozen` is the base model
they are trained for, `fact`, `face2diffusion` and `infinite_id` are the papers' losses. The miniature: `world` makes
portraits of drawn people; `autoencoder`, `base` with its `language`, `clip_pair`, `recogniser`, `expression` and
`finder` train its networks from nothing; `crops` and `degrade` prepare what they see, `inpainting_lessons` what the
inpainting base learns.
"""
