"""The model in the loop: projected gradients of samples under its weights of now, and one step on what was picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spicerack.data.batching import collate, plan_batches
from spicerack.training.options import ProxyOptions

if TYPE_CHECKING:
    import torch

    from spicerack.config import GradientConfig
    from spicerack.data.labels import Encoded
    from spicerack.models.loading import LoadedModel

TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class Measured:
    """Of each sample: its projected gradient (m, k) float32, and the mean loss of its trained tokens (m,) float64."""

    rows: np.ndarray
    losses: np.ndarray


class GradientReader:
    """Takes gradients under the weights that a model has at the moment.

    The projector is drawn once, so that rows taken at different times can be compared. Weights and their
    `requires_grad` are as before after every call.
    """

    def __init__(self, model: Any, config: GradientConfig) -> None:
        """Lay out the projector.

        Args:
            model: a causal language model, with or without adapters, on its device.
            config: tracked parameters, dimension, sketch, seed, reduction and batch size.

        Raises:
            ModelError: `config.parameters` matches nothing, or a weight that the model uses behind its module's back.
        """
        from spicerack.gradients.projection import Projection
        from spicerack.gradients.reached import check_reached
        from spicerack.models.parameters import tracked_parameters

        parameter = next(model.parameters())
        self.model, self.config = model, config
        parameters = tracked_parameters(model, config.parameters)
        check_reached(model, parameters)
        self.projection = Projection(
            parameters,
            dimension=config.dimension,
            sketch=config.sketch,
            seed=config.projection_seed,
            device=parameter.device,
            dtype=model.dtype,
        )

    @property
    def dimension(self) -> int:
        """K, the columns of a row."""
        return self.projection.dimension

    def measure(self, samples: Sequence[Encoded]) -> Measured:
        """Gradients and losses of samples, each with at least one trained token."""
        from spicerack.gradients.batch import batch_gradients
        from spicerack.gradients.capture import GradientCapture

        device = next(self.model.parameters()).device
        rows = np.zeros((len(samples), self.dimension), dtype=np.float32)
        losses = np.zeros(len(samples))
        lengths = np.array([len(sample.input_ids) for sample in samples])
        with GradientCapture(self.model, self.projection) as capture:
            for members in plan_batches(lengths, self.config.tokens_per_batch or TOKENS_PER_BATCH):
                batch = collate([samples[i] for i in members]).to(device)
                result = batch_gradients(capture, batch, self.config.reduction)
                rows[members] = result.rows.cpu().numpy()
                losses[members] = (result.loss_sum / result.trained.clamp(min=1)).double().cpu().numpy()
        return Measured(rows, losses)


class Proxy:
    """A model that is trained a step at a time between selections, by AdamW at a constant rate."""

    def __init__(self, loaded: LoadedModel, options: ProxyOptions, config: GradientConfig) -> None:
        """Put adapters on, or make every weight trainable.

        Args:
            loaded: the model without adapters; `release` gives it back.
            options: adapters and optimizer.
            config: of the gradients.

        Raises:
            ModelError: no module fits `lora_target_modules`, or the model has adapters already.
        """
        import torch

        from spicerack.errors import ModelError
        from spicerack.training.trainer import add_adapters, default_learning_rate, quiet_libraries

        if hasattr(loaded.model, "peft_config"):
            raise ModelError("the proxy has adapters already; merge them into it, or name the model without them")
        self.options, self.device = options, loaded.device
        with quiet_libraries():
            self.model = add_adapters(loaded.model, options)
        self.reader = GradientReader(self.model, config)
        self.tokens_per_batch = config.tokens_per_batch or TOKENS_PER_BATCH
        self.learning_rate = options.learning_rate or default_learning_rate(options)
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trainable,
            lr=self.learning_rate,
            betas=(options.adam_beta1, options.adam_beta2),
            eps=options.adam_epsilon,
            weight_decay=options.weight_decay,
        )
        self.steps = 0

    def measure(self, samples: Sequence[Encoded]) -> Measured:
        """Gradients and losses under the weights of now.

        Raises:
            ConfigurationError: none of several is finite any more, after a step.
        """
        measured = self.reader.measure(samples)
        if self.steps and len(samples) > 1 and not np.isfinite(measured.losses).any():
            raise self._lost("no sample has a finite loss")
        return measured

    def step(self, samples: Sequence[Encoded]) -> float:
        """One step of the optimizer on the mean loss over all trained tokens of the samples; returns that loss.

        Dropout is drawn from the seed and the number of the step, so that a step depends on nothing but the weights.

        Raises:
            ConfigurationError: the loss is no longer finite.
        """
        import torch

        from spicerack.training.loss_sum import labeled_loss_sum

        count = sum(sample.trained_tokens for sample in samples)
        size, total = self.options.per_device_train_batch_size, 0.0
        self.model.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((self.options.seed << 32) + self.steps)
            for start in range(0, len(samples), size):
                loss = labeled_loss_sum(self.model, self._inputs(samples[start : start + size])) / count
                loss.backward()
                total += float(loss.detach())
        if not np.isfinite(total):
            raise self._lost(f"the loss of the next is {total}")
        if self.options.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._trainable, self.options.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        self.steps += 1
        return total

    def _lost(self, what: str) -> Exception:
        from spicerack.errors import ConfigurationError

        return ConfigurationError(
            f"the proxy was lost in training: after {self.steps} steps at a learning rate of {self.learning_rate:g} "
            f"{what}; use a smaller --learning-rate, or --dtype float32"
        )

    def _inputs(self, samples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        import torch

        batch = collate(samples).to(self.device)
        mask = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        return {"input_ids": batch.input_ids, "labels": batch.labels, "attention_mask": mask}

    def release(self) -> None:
        """Take the adapters off; where every weight was trained, they stay trained."""
        if hasattr(self.model, "unload"):
            unload: Any = self.model.unload
            unload()
