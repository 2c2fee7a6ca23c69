"""The trainer's loss where a label stands, and nowhere else.

TRL's trainer forms no logits of positions without a label where Triton runs. Elsewhere, on a CPU, it scores every
position: with a vocabulary of 49k and short answers that is most of a step. Here the hidden states of labeled
positions alone go through the model's own head. Loss and gradients are those of TRL; entropy and accuracy of the
training tokens, which TRL logs and nothing here reads, are not computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from trl import SFTTrainer

from spicerack.training.loss_sum import labeled_loss_sum

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WITHOUT_TRITON = ("cpu", "mps")


class LabeledTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the loss above; a model that trains its router too keeps TRL's own."""

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the labeled tokens of all batches that are accumulated into a step."""
        if return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.accelerator.autocast():
            total = labeled_loss_sum(model, inputs)
        count = (inputs["labels"][:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return total / torch.as_tensor(count, device=total.device).clamp(min=1)


def trainer_class(device: torch.device) -> type[SFTTrainer]:
    """The trainer for a device: TRL's own where its kernels run."""
    return LabeledTrainer if device.type in WITHOUT_TRITON else SFTTrainer
