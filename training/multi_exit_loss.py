"""`MultiExitLoss`: a loss of sentence-transformers at every exit of a MoSE, from one pass of the trunk."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MatryoshkaLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

logger = logging.getLogger("mose.train")

Features = dict[str, Any]
#: (exit of the first column, exit of the other columns) -> weight of the loss between them.
Terms = Mapping[tuple[int, int], float]


class MultiExitLoss(nn.Module):
    """Any loss of sentence-transformers, summed over the exits with the paper's weights: L = Σ_i w_i L_i.

    w_i is exit / blocks, and exit 0 counts as one block (`MoSEConfig.exit_weights`). With `align_weight` a, the
    exits are put into one space: L = Σ_i w_i (L_i + a · mean over j ≠ i of ½ (L_ij + L_ji)). L_ij has the first
    column (queries) at exit i and the others (documents) at exit j.

    The trunk runs once for each text. Losses that cache gradients run it a second time, as they do without this
    wrapper. Afterwards `aligned_exits` in the configuration says whether alignment was trained for, and
    `matryoshka_dims` for which dimensions.

    Args:
        model: has a MoSE as its first module.
        loss: the loss to wrap, made for the same model. It may be a `MatryoshkaLoss`.
        align_weight: a. It needs a loss of at least two columns.

    Example:
        >>> model = SentenceTransformer("OUT", trust_remote_code=True)
        >>> loss = MultiExitLoss(model, MultipleNegativesRankingLoss(model))
        >>> SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss).train()

    Raises:
        ValueError: `model` is no MoSE; `loss` is not one of this model, goes over layers itself, trains a second
            model, or is wrapped already; or the weight is not a finite number >= 0.
    """

    def __init__(self, model: SentenceTransformer, loss: nn.Module, align_weight: float = 0.0):
        super().__init__()
        check_wrapped(model, loss)
        if not 0 <= align_weight < math.inf:
            raise ValueError(f"align_weight must be a finite number >= 0, got {align_weight!r}.")

        self.model, self.loss, self.align_weight = model, loss, align_weight
        exits = trunk_of(model).exit_layers
        if align_weight and len(exits) < 2:
            raise ValueError(f"align_weight needs several exits; the model has only exit {exits[0]}.")

        weights = trunk_of(model).config.exit_weights
        self.exit_weights: dict[int, float] = {e: weights[e] for e in exits}
        self._is_recorded = False
        cached = next((part for part in loss.modules() if _caches_gradients(part)), None)
        self._is_cached = cached is not None
        if cached is not None:
            wrap_cached(cached, self._plain_model, self._terms)

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of a batch: a scalar, or scalars by name if the wrapped loss returns these.

        Args:
            sentence_features: one dictionary for each column, as sentence-transformers' collator makes them.
            labels: as the wrapped loss needs them.

        Raises:
            RuntimeError: another loss is around this one, or the wrapped loss calls the model irregularly.
            ValueError: there is one column, but `align_weight` needs two.
        """
        columns = list(sentence_features)
        if self.align_weight and len(columns) < 2:
            raise ValueError(f"align_weight needs at least 2 columns of texts, got {len(columns)}.")

        model = self._plain_model()
        if "forward" in vars(model):
            raise RuntimeError(
                "MultiExitLoss must be the outermost loss: MultiExitLoss(model, MatryoshkaLoss(…))."
            )
        if torch.is_grad_enabled() and not self._is_recorded:
            self._record_space()

        if self._is_cached:
            return self.loss(columns, labels)
        return self._sum_over_exits(model, columns, labels)

    def _sum_over_exits(
        self, model: SentenceTransformer, columns: list[Features], labels: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        # A guide needs one pass, too.
        guides = [
            part for part in self.loss.modules() if isinstance(part, SentenceTransformer) and part is not model
        ]
        one_pass = OnePass(lambda features: exit_embeddings(model, features))
        guide_passes = [(guide, OnePass(guide.forward)) for guide in guides]

        totals: dict[str, Tensor] = {}
        named = False
        with ExitStack() as stack:
            stack.enter_context(replaced_forward(model, one_pass))
            for guide, guide_pass in guide_passes:
                stack.enter_context(replaced_forward(guide, guide_pass))
            if self.align_weight:
                stack.enter_context(_columns_apart())

            for exits, weight in self._terms().items():
                for replay in (one_pass, *(guide_pass for _, guide_pass in guide_passes)):
                    replay.start_round(exits)

                value = self.loss(columns, labels)
                named = isinstance(value, dict)
                for name, part in (value if named else {"": value}).items():
                    totals[name] = totals.get(name, 0) + weight * part
        return totals if named else totals[""]

    def _terms(self) -> Terms:
        exits, terms = list(self.exit_weights), {(e, e): weight for e, weight in self.exit_weights.items()}
        if self.align_weight:
            share = self.align_weight / (2 * (len(exits) - 1))
            for i in exits:
                for j in (other for other in exits if other != i):
                    # L_ij is in the mean of exit i and in that of exit j.
                    terms[i, j] = share * (self.exit_weights[i] + self.exit_weights[j])
        return terms

    def _plain_model(self) -> SentenceTransformer:
        """Return the model without the wrappers that the Trainer puts around it."""
        model: Any = self.model
        while not isinstance(model, SentenceTransformer):
            if isinstance(model, nn.DataParallel):
                raise RuntimeError("MultiExitLoss cannot run under DataParallel. Start the script with torchrun.")
            model = getattr(model, "_orig_mod", None) or model.module
        return model

    def _record_space(self) -> None:
        trunk = trunk_of(self._plain_model())
        dims = {
            dim
            for part in self.loss.modules()
            if isinstance(part, MatryoshkaLoss)
            for dim in part.matryoshka_dims
        }
        smaller = sorted(dims - {trunk.config.resolve_truncate_dim()}, reverse=True)
        if trunk.config.aligned_exits and not self.align_weight:
            logger.warning("aligned_exits becomes False: this training does not keep it. Pass align_weight=1 to.")

        trunk.describe_space(aligned_exits=self.align_weight > 0, matryoshka_dims=smaller or None)
        self._is_recorded = True

    def get_config_dict(self) -> dict[str, Any]:
        """Return what a model card shows of the loss."""
        return {
            "loss": type(self.loss).__name__,
            "exit_weights": {str(e): weight for e, weight in self.exit_weights.items()},
            "align_weight": self.align_weight,
        }


def trunk_of(model: SentenceTransformer) -> Any:
    """Return the `MoSEModel` in a sentence-transformers model, without peft's wrappers.

    Raises:
        ValueError: the first module holds no MoSE.
    """
    trunk: Any = getattr(model[0], "auto_model", None)
    trunk = trunk.get_base_model() if hasattr(trunk, "get_base_model") else trunk
    # Not by its class: remote code has classes of its own.
    if getattr(getattr(trunk, "config", None), "model_type", None) != "mose" or not hasattr(trunk, "exit_layers"):
        raise ValueError(
            f"MultiExitLoss needs a MoSE as the first module of the model, got {type(trunk).__name__}."
        )
    return trunk


def check_wrapped(model: SentenceTransformer, loss: nn.Module) -> None:
    """Raise ValueError unless `MultiExitLoss` can wrap the loss."""
    trunk_of(model)
    name, parts = type(loss).__name__, list(loss.named_modules())
    if not any(part is model for _, part in parts):
        raise ValueError(f"{name} must be made for the same model: MultiExitLoss(model, {name}(model)).")

    for path, part in parts:
        if isinstance(part, AdaptiveLayerLoss | MultiExitLoss):
            raise ValueError(f"{type(part).__name__} goes over the exits itself. Pass the loss that it wraps.")
        # A guide is only read; a copy of the model would train at its deepest exit alone.
        is_guide = path.rpartition(".")[2] in ("guide", "teacher")
        if isinstance(part, SentenceTransformer) and part is not model and not is_guide:
            raise ValueError(
                f"{name} trains a second model ({path}), which MultiExitLoss cannot. Pass another loss."
            )
        if isinstance(vars(part).get("embed_minibatch"), EmbedExits):
            raise ValueError(f"{type(part).__name__} is in a MultiExitLoss already. Make a new one.")


def exit_embeddings(model: SentenceTransformer, features: Features) -> dict[int, Features]:
    """Return the features after all modules with the embedding of each exit, from one pass of the trunk."""
    transformer, *rest = model
    names = ("input_ids", "attention_mask")
    output = cast(Any, transformer).auto_model(**{name: features[name] for name in names}, output_all_exits=True)

    # The model has pooled already.
    rest = [module for module in rest if not isinstance(module, Pooling)]
    exits = {}
    for exit_layer, embedding in zip(trunk_of(model).exit_layers, output.exit_embeddings, strict=True):
        exits[exit_layer] = {**features, "sentence_embedding": embedding}
        for module in rest:
            exits[exit_layer] = module(exits[exit_layer])
    return exits


class OnePass:
    """A `forward` whose first round runs and whose later rounds return what it returned, at other exits.

    Args:
        run: features -> features, or features by exit.
    """

    def __init__(self, run: Callable[[Features], Any]):
        self.run = run
        self.outputs: list[Any] = []
        self.shapes: list[torch.Size] = []
        self.exits, self.calls, self.is_first = (0, 0), 0, True

    def start_round(self, exits: tuple[int, int]) -> None:
        """Begin a round, with the first call at one exit and the other calls at another."""
        self.exits, self.calls, self.is_first = exits, 0, not self.outputs

    def __call__(self, features: Features, **kwargs: Any) -> Features:
        """Return the features with an embedding."""
        call, shape = self.calls, features["input_ids"].shape
        self.calls += 1
        if self.is_first:
            self.outputs.append(self.run(features))
            self.shapes.append(shape)
        elif call >= len(self.outputs) or self.shapes[call] != shape:
            raise RuntimeError("The loss calls the model differently each time. MultiExitLoss cannot wrap it.")

        output = self.outputs[call]
        # A copy: losses write into the features that they get.
        return dict(output.get(self.exits[min(call, 1)], output))


@contextmanager
def replaced_forward(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the `forward` of a module inside the block."""
    vars(model)["forward"] = forward
    try:
        yield
    finally:
        del vars(model)["forward"]


def _columns_apart() -> Any:
    """Return a context in which sentence-transformers embeds each column by itself."""
    try:
        from sentence_transformers.base.losses.merged_forward import column_merging_disabled
    except ImportError:  # of older versions, which never merge columns
        return nullcontext()
    return column_merging_disabled()


# --- Losses that cache gradients ---------------------------------------------------------------------------


def _caches_gradients(part: nn.Module) -> bool:
    return hasattr(part, "embed_minibatch") and getattr(part, "uses_gradient_cache", True)


def wrap_cached(loss: nn.Module, model: Callable[[], SentenceTransformer], terms: Callable[[], Terms]) -> None:
    """Let a caching loss embed at all exits in each pass, and sum its value over `terms`.

    Such a loss embeds again in its backward pass, after `forward` has returned: so it is changed for good.
    """
    cached = cast(Any, loss)
    exits = EmbedExits(cached.embed_minibatch, model)
    cached.embed_minibatch = exits
    cached.calculate_loss = SumOverExits(cached.calculate_loss, exits, terms)


class EmbedExits:
    """`embed_minibatch` of a caching loss with embeddings of all exits, (texts, exits, dim)."""

    def __init__(self, embed: Callable[..., Any], model: Callable[[], SentenceTransformer]):
        self.embed, self.model = embed, model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `embed_minibatch` returns."""
        model = self.model()

        def forward(features: Features, **_: Any) -> Features:
            outputs = exit_embeddings(model, features)
            stacked = torch.stack([output["sentence_embedding"] for output in outputs.values()], dim=1)
            return {**features, "sentence_embedding": stacked}

        with replaced_forward(model, forward):
            return self.embed(*args, **kwargs)

    def positions(self) -> dict[int, int]:
        """Return the position of each exit in the stack."""
        return {e: position for position, e in enumerate(trunk_of(self.model()).exit_layers)}


class SumOverExits:
    """`calculate_loss` of a caching loss, summed over pairs of exits with their weights."""

    def __init__(self, calculate: Callable[..., Tensor], exits: EmbedExits, terms: Callable[[], Terms]):
        self.calculate, self.exits, self.terms = calculate, exits, terms

    def __call__(self, reps: list[list[Tensor]], *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; with gradients enabled, leave those of `reps` in them, as the wrapped one does."""
        positions, total = self.exits.positions(), torch.zeros((), device=reps[0][0].device)
        for (first, others), weight in self.terms().items():
            chosen = [positions[others if number else first] for number in range(len(reps))]
            parts = [
                [rep[:, place].detach().requires_grad_(torch.is_grad_enabled()) for rep in column]
                for column, place in zip(reps, chosen, strict=True)
            ]
            total = total + weight * self.calculate(parts, *args, **kwargs).detach()

            for column, place, column_parts in zip(reps, chosen, parts, strict=True):
                for rep, part in zip(column, column_parts, strict=True):
                    _add_gradient(rep, place, part, weight)
        return total


def _add_gradient(rep: Tensor, place: int, part: Tensor, weight: float) -> None:
    """Add the gradient at one exit to that of the stack; a column without one is ignored by the loss."""
    if part.grad is None:
        return
    if rep.grad is None:
        rep.grad = torch.zeros_like(rep)
    rep.grad[:, place] += weight * part.grad
