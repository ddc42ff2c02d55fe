"""The interface of a model family. Everything else (packing, cache, windows, questions) is shared.

A family drives transformers' own modules. It defines where a frame's tokens lie in the picture, how kept patches are
embedded, merged and projected, the text around a frame, and the positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecflow.errors import ModelError
from codecflow.grid import TokenGrid
from codecflow.vlm.attention import attending
from codecflow.vlm.decoder import Decoder, Layers, Packed
from codecflow.vlm.encoder import Encoder, TowerInput
from codecflow.vlm.encoder_graphs import EncoderGraphs
from codecflow.vlm.flops import TextCost
from codecflow.vlm.inputs import ModelInput
from codecflow.vlm.kernels import choose_kernels
from codecflow.vlm.kv_pool import KVShape, cache_keyword
from codecflow.vlm.preprocessing import Preprocessing
from codecflow.vlm.work import Frame

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Patches:
    """The kept patches of some frames, in order of frames.

    `pixels`: (patches, size, size, channels) uint8 on the CPU, in merge order; pinned for a GPU. `places`: (patches, 2), row
    and column in the frame's patch grid. `kept`: (tokens,), the kept tokens' indices in the frame's token grid, ascending
    per frame. `counts`, `tokens`, `shapes`: per frame the number of patches, of kept tokens, and the rows and columns of the
    patch grid.
    """

    pixels: Tensor
    places: Ints
    kept: Ints
    counts: list[int]
    tokens: list[int]
    shapes: list[tuple[int, int]]


class Family(ABC):
    """One loaded checkpoint of one family. `trained`: False where the checkpoint declares its weights random.

    `axes`: position axes of the text model (1; 3 for M-RoPE). `levels`: feature vectors per visual token: 1, plus one for
    each further layer at which features enter (DeepStack). `video_placeholder`: the chat template's text for a video.
    `patch`: side of a patch in pixels. `encoder`: the ViT's blocks as a packed loop, None where it does not support them.
    `group`: patches that a token merges; 1 where tokens do not merge their own patches. `precision`: of the language model's
    linear layers: auto, or one of dense.QUANTISED.
    """

    model_type: ClassVar[str]
    video_placeholder: ClassVar[str]
    axes: ClassVar[int] = 1
    levels: int = 1
    patch: int
    encoder: Encoder | None = None
    group: int = 1

    def __init__(self, model: Any, tokenizer: Any, processing: Mapping[str, Any], precision: str = "auto") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config: Any = model.config
        self.text_config: Any = self.config.get_text_config()
        self.processing = processing
        self.trained = not getattr(self.config, "codecflow_untrained", False)
        self.preprocess = Preprocessing.of(processing)
        weight = self.text.embed_tokens.weight
        self.dtype, self.device = weight.dtype, weight.device
        self.store(KVShape.of(self.text_config, self.dtype, self.device))
        self.decoder = Decoder.of(self.text, precision)
        self._keyword = cache_keyword(self.text)
        self.inv_freq = self.text.rotary_emb.inv_freq.cpu()
        self.end_id, self.stop_ids = self._ends()
        self._ids = lru_cache(maxsize=4096)(self._tokenise)  # all streams use the same frame tags
        self.known_grid = lru_cache(maxsize=64)(self.grid)
        self.vision_cost = lru_cache(maxsize=4096)(self.vision_flops)
        self.text_cost = TextCost.of(self.text_config)
        self.chat = lru_cache(maxsize=256)(self._chat)
        self.chat("")  # reports a template without videos at start, not at the first stream

    def store(self, kv: KVShape) -> None:
        """Sets how keys and values are stored in engines created after this call."""
        self.kv = kv
        heads = int(self.text_config.num_attention_heads)
        self.kernels = choose_kernels(self.device, self.dtype, heads, kv.kv_heads, kv.head_dim, eight_bit=kv.eight_bit)

    @property
    def core(self) -> Any:
        """transformers' multimodal model below the head."""
        return self.model.model

    @property
    def text(self) -> Any:
        """transformers' text model."""
        return self.core.language_model

    @property
    def narrows(self) -> bool:
        """Whether the last layer skips tokens whose hidden states are not needed."""
        return self.decoder is not None and self.decoder.narrows(self.levels)

    # --- pictures ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def input(self) -> ModelInput:
        """Its token grids and model input, without the model."""

    def grid(self, width: int, height: int) -> TokenGrid:
        """The token grid of a shown picture of this size, with the region of each token. Raises ModelError."""
        return self.input.grid(width, height)

    def prepare(self, frames: Sequence[Frame]) -> Patches:
        """The kept patches of frames that all have some, packed. Raises ValueError when a frame's are not those of its
        mask."""
        sizes = [self.input.size(*frame.size) for frame in frames]
        kept = [np.flatnonzero(frame.keep) for frame in frames]
        places = [self.input.places(own, size) for own, size in zip(kept, sizes, strict=True)]
        given = [frame.patches for frame in frames if frame.patches is not None]
        for frame, own, where in zip(frames, given, places, strict=True):
            if own.shape != (len(where), self.patch, self.patch, 3):
                raise ValueError(f"frame {frame.index}: patches {own.shape} for a mask that needs {len(where)}")
        counts = [len(own) for own in places]
        pinned = self.device.type == "cuda"
        patches = torch.empty((sum(counts), self.patch, self.patch, 3), dtype=torch.uint8, pin_memory=pinned)
        np.concatenate(given, out=patches.numpy())
        return Patches(
            patches,
            np.concatenate(places),
            np.concatenate(kept),
            counts,
            [len(own) for own in kept],
            [(height // self.patch, width // self.patch) for height, width in sizes],
        )

    def encode(self, frames: Patches) -> Tensor:
        """Features of the kept tokens of all frames: (tokens, levels, hidden). One packed forward of the ViT, from a CUDA
        graph where that is faster."""
        given = self.tower_input(frames)
        found = None if self.vision_graphs is None else self.vision_graphs(given)
        return self.features(given.on(self.device)) if found is None else found

    @cached_property
    def vision_graphs(self) -> EncoderGraphs | None:
        """None where a forward of the ViT is launched kernel by kernel."""
        if self.encoder is None:
            return None
        heads = self.encoder.heads
        kernel = choose_kernels(self.device, self.dtype, heads, heads, self.encoder.head_dim).ragged
        if kernel is None:  # attention by scaled_dot_product_attention depends on sizes
            return None
        return EncoderGraphs(self.features, self.encoder.weights(), kernel, self.group)

    @abstractmethod
    def tower_input(self, frames: Patches) -> TowerInput:
        """What the vision tower reads of the patches of frames; on the CPU."""

    @abstractmethod
    def features(self, given: TowerInput) -> Tensor:
        """(tokens, levels, hidden) of an input on the model's device: the vision tower, and what follows up to the language
        model."""

    def normalised(self, pixels: Tensor) -> Tensor:
        """`pixels`: (patches, size, size, channels) uint8 -> (patches, channels, size, size) in the model's dtype."""
        return self.preprocess.normalise(pixels.permute(0, 3, 1, 2)).to(self.dtype)

    @abstractmethod
    def vision_flops(self, patches: int, tokens: int) -> int:
        """FLOPs (a multiply-add is two) of `encode` for one frame with this many patches and kept tokens."""

    @abstractmethod
    def patches_of(self, tokens: int) -> int:
        """Patches that the ViT computes for a whole frame of `tokens` tokens."""

    # --- text ----------------------------------------------------------------------------------------------------------

    def frame_text(self, index: int, time_s: float) -> tuple[list[int], list[int]]:
        """Token ids before and after the visual tokens of the frame in slot `index`: the family's video template.

        Numbers and times must wrap around: a stream has no end, and tags would grow with them.
        """
        return [], []

    def frame_positions(self, grid: TokenGrid, kept: Ints, before: int, after: int) -> tuple[Ints, int]:
        """Positions of a frame's tokens relative to its first, (axes, before + kept + after) int64, and how many it takes.

        A kept token has the same position as in the whole frame. Dropped tokens leave gaps, so the distance between a cell
        in one frame and the same cell in the next does not depend on which tokens were kept in between.
        """
        cells, span = self.cell_positions((grid.rows, grid.columns), kept)
        positions = np.empty((self.axes, before + len(kept) + after), dtype=np.int64)
        positions[:, :before] = np.arange(before)
        positions[:, before : before + len(kept)] = cells + before
        positions[:, before + len(kept) :] = np.arange(before + span, before + span + after)
        return positions, before + span + after

    def cell_positions(self, shape: tuple[int, int], cells: Ints) -> tuple[Ints, int]:
        """Positions of `cells` (tokens,) of a grid of `shape` (rows, columns) relative to its first cell, (axes, tokens)
        int64, and how many positions a whole grid takes."""
        return cells[None], shape[0] * shape[1]

    def closing(self) -> Tensor | None:
        """Features that follow the newest frame, before each question: (tokens, hidden). None if there are none."""
        return None

    def _chat(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids before the video and after it (question and start of the answer), by the checkpoint's chat template."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, found, after = text.partition(self.video_placeholder)
        if not found:
            raise ModelError(f"the checkpoint's chat template has no {self.video_placeholder} for a video")
        return self.ids(before), self.ids(self.after_video(after))

    def after_video(self, text: str) -> str:
        """The template's text after the video, without the part that already ends every frame."""
        return text

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without added special tokens."""
        return list(self._ids(text))

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ends(self) -> tuple[int, frozenset[int]]:
        """The end-of-turn token, and all tokens that end an answer."""
        generation = getattr(self.model, "generation_config", None)
        given = [getattr(x, "eos_token_id", None) for x in (self.tokenizer, generation, self.text_config)]
        ids = [i for entry in given for i in (entry if isinstance(entry, list) else [entry]) if i is not None]
        turn = self.tokenizer.get_vocab().get("<|im_end|>")  # ends a turn in ChatML, which all these families use
        ids = ids if turn is None else [turn, *ids]
        if not ids:
            raise ModelError("the checkpoint names no token that ends an answer")
        return ids[0], frozenset(ids)

    @property
    def position_limit(self) -> int:
        """The first position beyond the model's limit. Below it, rotary tables that depend on length do not change."""
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            return int(rope["original_max_position_embeddings"])
        return int(self.text_config.max_position_embeddings)

    # --- language model ------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """(tokens,) -> (tokens, hidden)."""
        embedded: Tensor = self.text.embed_tokens(ids)
        return embedded

    def run_text(self, packed: Packed, layers: Layers | None = None) -> Tensor:
        """One packed forward of the text model: (tokens wanted, hidden), normalised. `layers`: replaces the decoder's own
        call."""
        if self.decoder is not None:
            cos, sin = self.text.rotary_emb(packed.embeds[None], self.position_ids(packed.positions))
            return (self.decoder if layers is None else layers)(packed, cos[0], sin[0])
        with attending(packed.layout):
            hidden = self.reference_text(packed)
        return hidden if packed.wanted is None else hidden[list(packed.wanted)]

    def position_ids(self, positions: Tensor) -> Tensor:
        """(axes, tokens) converted to the format of transformers' text model."""
        return positions

    def reference_text(self, packed: Packed) -> Tensor:
        """The same through transformers' own forward, for all tokens: (tokens, hidden). Requires `attending`."""
        output = self.text(
            inputs_embeds=packed.embeds[None],
            position_ids=self.position_ids(packed.positions),
            use_cache=False,
            **{self._keyword: packed.cache},
            **self.text_arguments(packed),
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def text_arguments(self, packed: Packed) -> dict[str, Any]:
        """Further arguments of transformers' text model."""
        return {}

    def logits(self, hidden: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, vocabulary), float32."""
        scores: Tensor = self.model.lm_head(hidden)
        return scores.float()
