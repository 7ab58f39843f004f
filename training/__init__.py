"""Training: the losses of the papers as functions, one loop for all trainers, and what they are trained on.

`settings` are read and checked in one place, also from files. `loop` steps, keeps checkpoints and goes on from them, in
several processes by `distributed`, in a `precision`, with a `progress_line` in the terminal. `lora` puts a LoRA beside
the layers of a copy of the host's model. FaceA-Net: `inpainting` makes of photos what the UNet receives, `facea` holds
Eq. 2, `facea_run` makes an identity of it, `curve` draws the losses, `command` is for the terminal. Nothing here knows
a node, so that a script can train too.

Adapters: `photos` reads folders of people, `portraits` keep what adapters are trained on, in memory or in `shards`
that `prepare_command` writes, `frozen` is the base model they are trained for, `fact`, `face2diffusion` and
`infinite_id` are the papers' losses, `adapter_loop` trains any of them, `recompute` saves memory and `compiling` time,
`watch` keeps log, snapshots and the best one, `validation` draws people held out by `sampling`, `adapter_command` is
for the terminal; `bases` holds the base models that other rooms register.
"""
