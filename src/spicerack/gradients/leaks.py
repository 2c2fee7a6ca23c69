"""Whether a model keeps the samples of one row apart: found out by trying, and decided by it.

It hangs on the attention implementation, on the release of transformers (some models tell it nothing of the positions,
so that its masks see one long sample), and on layers that carry a state along the row. So no list of models is kept.
Three short samples are run in one row. The middle one's hidden states must not depend on the others: their gradient by
the others' embeddings is zero, exactly and in every dtype, where attention is masked, and is not where anything leaks.
And all must be what they are alone, up to rounding: positions begin again with every sample.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from spicerack.config import Choice
from spicerack.data.batching import Batch
from spicerack.errors import ConfigurationError
from spicerack.gradients.head import Head, has_flash_attention
from spicerack.gradients.meter import is_out_of_memory
from spicerack.gradients.packing import packed_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spicerack.models.loading import LoadedModel

Packing = Literal["auto"] | bool
LENGTHS = (12, 9, 10)  # of the samples that are tried
MIDDLE = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])  # of the row
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of a hidden state, relative: far above rounding
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
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        return _tried(head)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return f"the try failed with {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    finally:
        for module in training:
            module.training = True


def _tried(head: Head) -> str | None:
    embedding: Any = head.model.get_input_embeddings()  # type: ignore[operator]
    batch = _three_samples(int(embedding.weight.shape[0]), embedding.weight.device)
    embedded: list[Tensor] = []

    def begin_graph(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    handle = embedding.register_forward_hook(begin_graph)
    try:
        with torch.enable_grad():
            row = packed_row(batch)
            together = head.hidden(batch.input_ids, batch.attention_mask, row)
            direction = torch.randn(LENGTHS[1], together.shape[-1], generator=torch.Generator().manual_seed(0))
            (slope,) = torch.autograd.grad(together[0, MIDDLE], embedded[:1], direction.to(together))
            # with a graph too: without one, quantized weights multiply by other kernels and are packed for them
            alone = [head.hidden(batch.input_ids[i : i + 1, :length], None)[0] for i, length in enumerate(LENGTHS)]
    finally:
        handle.remove()
    if not slope[0, MIDDLE].any():
        return "its hidden states do not depend on its embeddings, so nothing can be tried"
    for others in (slope[0, : MIDDLE.start], slope[0, MIDDLE.stop :]):
        if not bool((others == 0).all()):
            return "a sample's hidden states change with the tokens of another"
    return _differing(together[0].detach().double(), torch.cat(alone).detach().double(), together.dtype)


def _differing(together: Tensor, alone: Tensor, dtype: torch.dtype) -> str | None:
    """Compare hidden states (s, h): the middle one of the errors, since a rounding may route a token elsewhere."""
    errors = (together - alone).norm(dim=1) / alone.norm(dim=1)
    error = float(errors[MIDDLE.start :].median())
    if error <= TOLERANCE.get(dtype, HALF_TOLERANCE):
        return None
    return f"hidden states differ by {error:.1%} from those of the sample alone"


def _three_samples(vocabulary: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return Batch(input_ids=ids, labels=ids, attention_mask=mask).to(device)


def _named(loaded: LoadedModel) -> str:
    return f"{type(loaded.model).__name__} with {_attention(loaded)} attention"


def _attention(loaded: LoadedModel) -> str:
    return str(getattr(loaded.model.config, "_attn_implementation", None) or "its own")
