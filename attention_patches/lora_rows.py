"""A LoRA that acts on some rows of a batch alone: beside the projections of the attentions, not in their weights.

In the weights a LoRA acts on every row, so also on Infinite-ID's text stream and on negative prompts. Here the
projections' inputs are noted in `attn1_patch` and `attn2_patch`, the LoRA's share of queries, keys and values is added
where the host's attentions can be replaced, and that of the output in `attn1_output_patch` and `attn2_output_patch`:

    y = W x  ->  y + s B A x   for the rows that it acts on

All of them are put in call by call, innermost, where the other nodes' patches are known: so they see what goes into the
projections and what comes out, and the order of nodes does not matter.
"""

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..adapters.unet_blocks import Block
from .calls import attend, describe_calls, is_positive, list_packs, read_call, read_rows
from .infinite_id import STREAMS

KEY = "likeness_lora_rows"
ALL, IDENTITY, WITH_NEGATIVE = LORA_ROWS = ("all", "identity", "identity and negative")
ATTENTIONS = ("attn1", "attn2")


class LoraOnRows:
    """A LoRA beside the UNet's attentions.

    layers:    index of each of its layers in the network, by block, attention and projection; weights: the patcher
    strength:  s
    heads:     of the attention in each block, for a pack that runs the host's blocks and does not tell
    rows:      IDENTITY: the positive rows, with Infinite-ID those of the identity stream; WITH_NEGATIVE: all rows, with
               Infinite-ID all of the identity stream
    """

    def __init__(self, layers: dict[tuple[Block, str, str], int], weights, heads: dict, strength: float, rows: str):
        self.layers = layers
        self.heads = heads
        self.weights = weights
        self.strength = strength
        self.rows = rows

    def apply(self, model):
        """Return a clone of `model` with this LoRA; whoever applies it hands its weights to the host."""
        model = model.clone()
        describe_calls(model)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self.around_call)
        return model

    def around_call(self, executor, model, conds, x, timestep, model_options):
        """Put the LoRA around what other nodes have put into the UNet: CALC_COND_BATCH wrapper."""
        options = model_options["transformer_options"]
        patches, replaced = (dict(options.get(name, {})) for name in ("patches", "patches_replace"))
        for attention in ATTENTIONS:
            slots = dict(replaced.get(attention, {}))
            ours = LoraAttention(self, attention, slots)
            blocks = {block for block, name, _ in self.layers if name == attention}
            keys = {block[:2] for block in blocks} | (blocks & slots.keys())
            replaced[attention] = slots | dict.fromkeys(keys, ours)
            patches[f"{attention}_patch"] = [*patches.get(f"{attention}_patch", []), ours.note_inputs]
            patches[f"{attention}_output_patch"] = [ours.add_to_output, *patches.get(f"{attention}_output_patch", [])]
        options = options | {"patches": patches, "patches_replace": replaced}
        return executor(model, conds, x, timestep, model_options | {"transformer_options": options})

    def add(self, output: Tensor, x: Tensor, layer: tuple, acting: tuple[bool, ...] | None) -> Tensor:
        """Return a projection's output with the LoRA's share of its input x, in the rows that it acts on; None: all."""
        if layer not in self.layers:
            return output
        branch = self.weights.model[self.layers[layer]]
        if acting is None or all(acting):
            return output.add(branch(x), alpha=self.strength)
        spans = _find_spans(acting)
        output = output.clone() if spans else output
        for span in spans:
            output[span].add_(branch(x[span]), alpha=self.strength)
        return output

    def find_rows(self, extra_options: dict, rows: int) -> tuple[bool, ...] | None:
        """Return on which of so many rows of a block it acts; None: on all."""
        streams = extra_options.get(STREAMS)
        if streams is None:
            return self._find_stream(extra_options, rows) if self.rows == IDENTITY else None
        if rows % (2 * streams.images):
            raise streams.refuse(rows)
        identity = self._find_stream(streams.describe_half(extra_options), rows // 2)
        runs = (identity[i : i + streams.images] for i in range(0, len(identity), streams.images))
        return tuple(row for run in runs for row in (*run, *[False] * streams.images))

    def _find_stream(self, extra_options: dict, rows: int) -> tuple[bool, ...]:
        if self.rows == WITH_NEGATIVE:
            return (True,) * rows
        described = read_rows(extra_options, rows)
        return tuple(is_positive(role) for role in described.roles for _ in described.images)


class LoraAttention:
    """What the host calls around one of the attentions of every block; one object serves all, see `MixedSelfAttention`.

    attention:  one of ATTENTIONS
    previous:   what stands in the place of the attention, by the host's keys; where there is nothing, its own runs
    notes:      by block and device what the attention at hand has got and given; an object lives as long as a call
    """

    def __init__(self, lora: LoraOnRows, attention: str, previous: dict):
        self.lora = lora
        self.attention = attention
        self.previous = previous
        self.notes = {}

    @torch.compiler.disable
    def note_inputs(self, x, context, value, extra_options):
        """Note what goes into the projections: the host's `attn1_patch` or `attn2_patch`."""
        self.notes[_name_block(extra_options), x.device] = x, context, value
        return x, context, value

    @torch.compiler.disable
    def __call__(self, q, k, v, extra_options):
        """Return the attention of queries, keys and values with the LoRA's shares: the host's replacement.

        k and v may have rows behind those of q (NAG), which are negative prompts', q more than k, each cut (HyperTile).
        """
        lora, block = self.lora, _name_block(extra_options)
        extra_options.setdefault("n_heads", lora.heads.get(block))
        inputs, outputs = self.notes.pop((block, q.device), None), (q, k, v)
        if inputs is None or any(x.shape[:2] != y.shape[:2] for x, y in zip(inputs, outputs)):
            raise RuntimeError(
                f"The LoRA of Apply Image Adapter cannot act on {lora.rows} rows alone here: a block's attention has "
                f"queries of {tuple(q.shape[:2])} rows and tokens and keys of {tuple(k.shape[:2])}, which are not "
                f"those that went into it. Beside Likeness there are patches of "
                f"{', '.join(list_packs(read_call(extra_options).options)) or 'another node'}: set lora_rows to "
                f"{ALL}, or use Apply Image Adapter without that node."
            )
        of_keys = lora.find_rows(extra_options, min(len(q), len(k)))
        of_queries = of_keys and tuple(row for row in of_keys for _ in range(len(q) // len(of_keys)))
        if of_keys and len(k) > len(of_keys):
            of_keys += (lora.rows == WITH_NEGATIVE,) * (len(k) - len(of_keys))
        q, k, v = (
            lora.add(y, x, (block, self.attention, name), acting)
            for name, x, y, acting in zip(
                ("to_q", "to_k", "to_v"), inputs, outputs, (of_queries, of_keys, of_keys), strict=True
            )
        )
        previous = self.previous.get(block) or self.previous.get(block[:2]) or attend
        output = previous(q, k, v, extra_options)
        self.notes[block, q.device] = output, of_queries
        return output

    @torch.compiler.disable
    def add_to_output(self, x, extra_options):
        """Add the share of the output's projection: the host's `attn1_output_patch` or `attn2_output_patch`."""
        block = _name_block(extra_options)
        output, acting = self.notes.pop((block, x.device))
        return self.lora.add(x, output, (block, self.attention, "to_out"), acting)


def _name_block(extra_options: dict) -> Block:
    return (*extra_options["block"], extra_options.get("block_index", 0))


def _find_spans(acting: tuple[bool, ...]) -> list[slice]:
    """Return the runs of True."""
    edges = [i for i in range(len(acting) + 1) if (i and acting[i - 1]) != (i < len(acting) and acting[i])]
    return [slice(*pair) for pair in zip(edges[::2], edges[1::2])]
