"""One step of training: forward, backward, update. Nothing in it waits for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from models import architectures
from models.artifact.manifest import Architecture
from models.data import Dataset
from models.imaging.preprocess import Preprocess
from models.training.augmentation.pipeline import TrainingBatch, is_testlike
from models.training.checkpoint import Checkpoint
from models.training.device import compute_dtype, memory_format
from models.training.distributed.processes import ALONE, Processes
from models.training.distributed.sync_norm import synchronise_norms
from models.training.evaluate import normaliser
from models.training.input.sampling import batch_parts, batch_size, steps_per_epoch
from models.training.optim.ema import AveragedWeights
from models.training.optim.loss import class_weights, image_losses
from models.training.optim.optimizer import clip_gradients, make_optimizer, set_learning_rate
from models.training.optim.schedule import FIXRES_RATE, learning_rate
from models.training.optim.stochastic_depth import StochasticDepth
from models.training.recipe import Recipe
from models.training.state import TrainingState
from models.training.transfer.initial import load_weights
from models.training.transfer.trained_parts import check_trained_parts


def start(
    recipe: Recipe,
    architecture: Architecture,
    device: torch.device,
    labels: tuple[str, ...] = (),
    initial: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> TrainingState:
    """A network, newly initialised or with the weights of `initial`, and its optimiser.

    Every process gets the same weights.

    Raises:
        RecipeError: the network has fewer stages than `freeze` says, or no statistics to keep.
    """
    torch.manual_seed(recipe.seed)
    model = architectures.build(
        architecture.name, architecture.num_classes, architecture.in_channels, **architecture.options
    )
    check_trained_parts(model, recipe, pretrained=initial is not None)
    if initial is not None:
        load_weights(model, labels, initial)
    model = synchronise_norms(model, processes, device)
    model = model.to(device).to(memory_format=memory_format(model, device))  # type: ignore[call-overload]  # not in stubs
    state = TrainingState(model, make_optimizer(model, recipe))
    state.sums = state.sums.to(device)
    if recipe.ema:
        state.averaged = AveragedWeights(model, recipe.ema)
    if compute_dtype(recipe.compute, device) == torch.float16:
        state.scaler = GradScaler(device.type)
    return state


class TrainingStep:
    """The update of the weights by one batch.

    Args:
        state: the run.
        recipe: its options.
        training: its images, for their number and classes.
        preprocess: normalisation of the images.
        device: the device of the network.
        processes: the processes that each take a share of the batch.
    """

    def __init__(
        self,
        state: TrainingState,
        recipe: Recipe,
        training: Dataset,
        preprocess: Preprocess,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.state, self._recipe, self._device = state, recipe, device
        self._processes = processes
        self._normalise = normaliser(preprocess, device)
        self._images = len(training.labels)
        self._classes = len(training.classes)
        self._per_epoch = steps_per_epoch(len(training.labels), recipe.batch_size)
        self._dtype = compute_dtype(recipe.compute, device)
        self._layout = memory_format(state.model, device)
        self._depth = StochasticDepth(state.model, recipe.stochastic_depth) if recipe.stochastic_depth else None
        # On a GPU this mode uses CUDA graphs, for the kernels of small networks are shorter than their launches. The
        # next graph reuses the memory of the gradient, so the parts of a batch cannot add to it.
        mode = "reduce-overhead" if recipe.accumulate == 1 else "default"
        self._forward = torch.compile(state.model, mode=mode) if recipe.compile else state.model
        weights = class_weights(training.labels, self._classes) if recipe.balance == "weights" else None
        self._weights = None if weights is None else weights.to(device)

    @property
    def blocks(self) -> int:
        """Number of blocks that stochastic depth draws for."""
        return 0 if self._depth is None else len(self._depth.kept)

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step; the last phase at the test resolution has a cosine of its own."""
        recipe, per_epoch = self._recipe, self._per_epoch
        epochs = recipe.epochs - recipe.fixres_epochs
        if is_testlike(recipe, epoch):
            done, total = (epoch - epochs) * per_epoch + step, recipe.fixres_epochs * per_epoch
            return learning_rate(done, peak=recipe.peak_lr * FIXRES_RATE, warmup_steps=0, total_steps=total)
        return learning_rate(
            epoch * per_epoch + step,
            peak=recipe.peak_lr,
            warmup_steps=round(recipe.warmup_epochs * per_epoch),
            total_steps=epochs * per_epoch,
            schedule=recipe.schedule,
        )

    def __call__(self, batch: TrainingBatch) -> None:
        """Compute the gradient of a batch, in parts if the recipe says so, and update the weights.

        With several processes `batch` is the share of this one, and the gradient is that of the whole batch.
        """
        state, processes = self.state, self._processes
        count = batch_size(self._images, self._recipe.batch_size, state.step)
        sums = torch.zeros_like(state.sums)
        set_learning_rate(state.optimizer, self.rate(state.epoch, state.step))
        state.optimizer.zero_grad()
        batch = batch.to(self._device)
        for begin, end in batch_parts(count, self._recipe.accumulate, processes.rank, processes.count):
            losses = self._losses(batch.part(begin, end), sums)
            loss = losses.sum() / count
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        processes.add_gradients(state.model)
        self._update()
        state.sums += processes.add(sums)
        state.step += 1
        state.images_done += count
        if state.averaged is not None:
            state.averaged.update(state.epoch * self._per_epoch + state.step)

    def _losses(self, part: TrainingBatch, sums: Tensor) -> Tensor:
        """The loss of each image of a part of the batch, float32 [N]; adds to the sums of the batch."""
        recipe, labels = self._recipe, part.labels
        images = self._normalise(part.images)
        targets = torch.nn.functional.one_hot(labels, self._classes).float()
        if part.mixture is not None:
            images, targets = part.mixture.images(images), part.mixture.targets(labels, self._classes)
        if self._depth is not None:
            self._depth.draw(part.depth_draws)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            logits = self._forward(images.contiguous(memory_format=self._layout)).float()
        losses = image_losses(logits, targets, recipe.loss, recipe.label_smoothing, self._weights)
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            sums += torch.stack([losses.sum(dtype=torch.float64), correct.double()])
        return losses

    def _update(self) -> None:
        state = self.state
        if state.scaler is None:
            clip_gradients(state.model, self._recipe.clip)
            state.optimizer.step()
            return
        if self._recipe.clip:
            state.scaler.unscale_(state.optimizer)
            clip_gradients(state.model, self._recipe.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
