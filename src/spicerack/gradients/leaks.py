"""What a token's hidden state depends on: found out by trying, and decided by it.

Does a model keep the samples of one row apart (`why_not_packed`)? Does it look at what follows a token (`why_masked`)?
It hangs on the attention implementation, on the release of transformers (some models tell it nothing of the positions,
so that its masks see one long sample), and on layers that carry a state along the row. So no list of models is kept.
Three short samples are run in one row. The middle one's hidden states must not depend on the others: their gradient by
the others' embeddings is zero, exactly and in every dtype, where attention is masked, and is not where anything leaks.
And all must be what they are alone, up to rounding: positions begin again with every sample.

Pads that stand behind a sample need no mask where no token looks ahead. Without one attention takes its causal kernels,
which skip half of the products and are the only ones that some fused kernels have.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spicerack.config import Choice
from spicerack.data.batching import Batch
from spicerack.errors import ConfigurationError
from spicerack.gradients.head import Head, has_flash_attention
from spicerack.gradients.meter import is_out_of_memory
from spicerack.gradients.packing import packed_row
from spicerack.models.modes import evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spicerack.models.loading import LoadedModel

Packing = Literal["auto"] | bool
LENGTHS = (12, 9, 10)  # of the samples that are tried
MIDDLE = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])  # of the row
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of a hidden state, relative: far above rounding
UNRELATED = "its hidden states do not depend on its embeddings, so nothing can be tried"
HALF_TOLERANCE = 0.05  # the same in half precision, where SmolLM2's middle token differs by less than 0.01


def choose_packing(loaded: LoadedModel, wanted: Packing) -> tuple[bool, Choice | None]:
    """Whether the samples of a batch are given to the model in one row, and what there is to say where it was open.

    Args:
        loaded: the model, with the attention implementation that the pass has.
        wanted: `auto`: where flash attention runs on a GPU. It alone takes samples of any lengths as they are, and has
            to drop and restore the pads of a padded batch in every layer; others pay for a row with the square of its
            length, or with blocks that are longer than most samples.

    Raises:
        ConfigurationError: `wanted` is true, and the model does not keep the samples apart.
    """
    if wanted is False:
        return False, None
    if wanted is True:
        if reason := why_not_packed(loaded.model):
            raise ConfigurationError(
                f"packing=true, but in one row {_named(loaded)} does not give what it gives for each sample alone: "
                f"{reason}; use packing=false, or another attn_implementation (flash_attention_2 on a GPU)"
            )
        return True, None
    if loaded.device.type == "cpu":
        return False, Choice("packing", "off", "on a CPU: batches cut by length have few pads, one long row has a cost")
    if not has_flash_attention(loaded.model):
        reason = f"{_attention(loaded)} attention: one row pays with flash attention (attn_implementation) alone"
        return False, Choice("packing", "off", reason)
    if reason := why_not_packed(loaded.model):
        return False, Choice("packing", "off", f"{_named(loaded)} does not keep samples in one row apart: {reason}")
    return True, Choice("packing", "on", f"no pads with {_attention(loaded)}, and samples were seen to stay apart")


def why_not_packed(model: PreTrainedModel) -> str | None:
    """Why a model must not be given samples in one row; None where it was seen to give what it gives for each alone.

    The model is left as it was.
    """
    head = Head(model)
    if "position_ids" not in inspect.signature(head.decoder.forward).parameters:
        return f"{type(head.decoder).__name__} takes no position_ids"
    return _try_out(head, _apart_in_one_row)


def why_masked(model: PreTrainedModel) -> str | None:
    """Why pads behind a sample have to be masked; None where no hidden state was seen to depend on what follows it.

    The model is left as it was.
    """
    return _try_out(Head(model), _looking_back)


def _try_out(head: Head, attempt: Callable[[Head], str | None]) -> str | None:
    try:
        with evaluating(head.model):
            return attempt(head)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return f"the try failed with {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _apart_in_one_row(head: Head) -> str | None:
    batch = _three_samples(head)
    with _graph_from_embeddings(head) as embedded:
        together = head.hidden(batch.input_ids, batch.attention_mask, packed_row(batch))
        slope = _slope(together, MIDDLE, embedded[0])
        # with a graph too: without one, quantized weights multiply by other kernels and are packed for them
        alone = [head.hidden(batch.input_ids[i : i + 1, :length], None)[0] for i, length in enumerate(LENGTHS)]
    if not slope[MIDDLE].any():
        return UNRELATED
    for others in (slope[: MIDDLE.start], slope[MIDDLE.stop :]):
        if not bool((others == 0).all()):
            return "a sample's hidden states change with the tokens of another"
    return _differing(together[0], torch.cat(alone), MIDDLE.start)


def _looking_back(head: Head) -> str | None:
    ids, first = _three_samples(head).input_ids[:1], slice(0, LENGTHS[1])
    with _graph_from_embeddings(head) as embedded:
        followed = head.hidden(ids, None)
        slope = _slope(followed, first, embedded[0])
        alone = head.hidden(ids[:, first], None)[0]
    if not slope[first].any():
        return UNRELATED
    if not bool((slope[first.stop :] == 0).all()):
        return "a hidden state changes with the tokens that follow"
    return _differing(followed[0, first], alone, 0)


@contextmanager
def _graph_from_embeddings(head: Head) -> Iterator[list[Tensor]]:
    """A graph that begins at the embeddings (1, s, h) of each run, which are listed."""
    embedding: Any = head.model.get_input_embeddings()  # type: ignore[operator]
    embedded: list[Tensor] = []

    def begin_graph(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    handle = embedding.register_forward_hook(begin_graph)
    try:
        with torch.enable_grad():
            yield embedded
    finally:
        handle.remove()


def _slope(hidden: Tensor, part: slice, embedded: Tensor) -> Tensor:
    """The gradient (s, h) of some direction of a row's hidden states in `part`, by all its embeddings."""
    length = part.stop - part.start
    direction = torch.randn(length, hidden.shape[-1], generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(hidden[0, part], [embedded], direction.to(hidden))
    return slope[0]


def _differing(together: Tensor, alone: Tensor, start: int) -> str | None:
    """Compare hidden states (s, h) from `start` on: the middle error, since a rounding may route a token elsewhere."""
    truth = alone.detach().double()
    errors = (together.detach().double() - truth).norm(dim=1) / truth.norm(dim=1)
    error = float(errors[start:].median())
    if error <= TOLERANCE.get(together.dtype, HALF_TOLERANCE):
        return None
    return f"hidden states differ by {error:.1%} from those of the sample alone"


def _three_samples(head: Head) -> Batch:
    weight: Tensor = head.model.get_input_embeddings().weight  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(weight), (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return Batch(input_ids=ids, labels=ids, attention_mask=mask).to(weight.device)


def _named(loaded: LoadedModel) -> str:
    return f"{type(loaded.model).__name__} with {_attention(loaded)} attention"


def _attention(loaded: LoadedModel) -> str:
    return str(getattr(loaded.model.config, "_attn_implementation", None) or "its own")
