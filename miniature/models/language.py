"""The miniature's language in training: captions as tokens, and the host's CLIP text model over the words there are."""

from collections.abc import Sequence

import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
from torch import nn

from ...training.text_model import NAME, text_rows
from ..world.people import VECTOR_NAMES
from .base_model import TEXT

ROWS, SHORT = 77, 32  # of the text encoder; of them, those that hold the longest caption
_START, _END, _F, _L = 49406, 49407, 325, 331
_HOSTS = ("encoder.", "final_layer_norm.")  # parts of TextEncoder that are the host's, under its names


class Vocabulary:
    """The tokens of a world's captions, counted through; `rows` turns texts into them.

    tokens: int64 [n], the host's number of each.
    """

    def __init__(self, texts: Sequence[str]):
        self._tokenizer = SD1Tokenizer()
        self._known: dict[str, list[int]] = {}
        used = {_START, _END, _F, _L}.union(*map(self._word, {word for text in texts for word in _words(text)}))
        self.tokens = torch.tensor(sorted(used))
        self._index = {int(token): index for index, token in enumerate(self.tokens)}
        self.first_of_name = self._index[_F]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """Return padded tokens int64 [b, 77], counted from 0. Raises KeyError for a word that is not known."""
        rows = []
        for text in texts:
            tokens = [_START, *(token for word in _words(text) for token in self._word(word))]
            rows.append([self._index[token] for token in [*tokens, *[_END] * ROWS][:ROWS]])
        return torch.tensor(rows)

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            tokens = [token for token, *_ in self._tokenizer.tokenize_with_weights(word)["l"][0]]
            self._known[word] = tokens[1 : tokens.index(_END)]
        return self._known[word]


def _words(text: str) -> list[str]:
    """Return what CLIP's tokeniser takes one by one: words, and commas for themselves."""
    return text.lower().replace(",", " , ").split()


def manners(caption: str) -> dict[str, str]:
    """Return a caption in every manner of speaking: plain, "a person", by name, and none at all."""
    subject = "a woman" if " of a woman" in caption else "a man"
    said = {"plain": subject, "person": "a person", "named": NAME}
    return {how: caption.replace(f" of {subject}", f" of {words}", 1) for how, words in said.items()} | {"": ""}


class Captions:
    """Captions of n pictures as tokens, in every manner of speaking: [n, 77] each."""

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary):
        texts_by_manner = [manners(text) for text in texts]
        self.tokens = {
            how: vocabulary.rows([manner_texts[how] for manner_texts in texts_by_manner]).short()
            for how in texts_by_manner[0]
        }

    def draw(
        self, indices: torch.Tensor, shares: dict[str, float], long: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the tokens [b, n] of captions, each in a sampled manner.

        shares: how often each manner but the plain one is drawn. long: how often all rows are filled, which costs time
        and is what the host does; else there are as many as the longest caption needs.
        """
        chance = torch.rand(len(indices), generator=generator)
        tokens, below = self.tokens["plain"][indices], 0.0
        for how, share in shares.items():
            is_chosen = (chance >= below) & (chance < below + share)
            tokens = torch.where(is_chosen[:, None], self.tokens[how][indices], tokens)
            below += share
        return tokens[:, : ROWS if torch.rand((), generator=generator) < long else SHORT].long()


class TextEncoder(nn.Module):
    """The host's CLIP text model with the embeddings of a vocabulary only, and a map from people to their names."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        text = SD1ClipModel(model_options={"clip_l_model_config": TEXT}).clip_l.transformer.text_model
        self.encoder, self.final_layer_norm = text.encoder, text.final_layer_norm
        self.words = nn.Embedding(len(vocabulary), TEXT["hidden_size"])
        self.positions = nn.Parameter(torch.empty(ROWS, TEXT["hidden_size"]))
        self.names = nn.Linear(len(VECTOR_NAMES), 2 * TEXT["hidden_size"])
        self.name = vocabulary.first_of_name
        draw_weights(self)
        nn.init.normal_(self.words.weight, std=0.3)
        nn.init.normal_(self.positions, std=0.1)

    def forward(self, tokens: torch.Tensor, traits: torch.Tensor) -> torch.Tensor:
        """Return the rows [b, n, d] of tokens [b, n]; a name means the person with `traits` [b, ...]."""
        embeddings = self.words(tokens) + self.positions[: tokens.shape[1]]
        people, columns = (tokens == self.name).nonzero(as_tuple=True)
        first, second = self.names(traits[people]).chunk(2, dim=1)
        for word, column in ((first, columns), (second, columns + 1)):
            embeddings = embeddings.index_put((people, column), word.to(embeddings))
        return text_rows(self, embeddings)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what is learned, under the host's names; the map to names is not part of it."""
        tensors = {
            f"text_model.{name}": tensor for name, tensor in self.state_dict().items() if name.startswith(_HOSTS)
        }
        embeddings = {"token_embedding": self.words.weight, "position_embedding": self.positions}
        return tensors | {
            f"text_model.embeddings.{name}.weight": tensor.detach() for name, tensor in embeddings.items()
        }

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Go on from what `weights` gave."""
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
        with torch.no_grad():
            self.words.weight.copy_(tensors["embeddings.token_embedding.weight"])
            self.positions.copy_(tensors["embeddings.position_embedding.weight"])
            for name, parameter in self.named_parameters():
                if name.startswith(_HOSTS):
                    parameter.copy_(tensors[name])


def draw_weights(network: nn.Module) -> None:
    """Sample the usual start of layers, which the host leaves empty: variance kept, biases 0, norms 1."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
