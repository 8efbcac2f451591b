"""`Batch` → what one step computes on: distinct table rows, and every item as indexes into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from mind_dist.examples.source import Examples
from mind_dist.model.interests import Behaviors
from mind_dist.model.item_tower import ItemFeatures, ItemParts, item_parts, part_keys
from mind_dist.records import Keys
from mind_dist.training.item_table import ItemTable
from mind_dist.training.positions import TrainedPositions


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One rank's part of a step, before any row is read.

    The I items are those of the histories, the targets and the negatives, each once; the pool is the items that
    targets are told from. Items that are neither in the catalog nor in the table are left out everywhere, and B counts
    the windows that are left with a behavior and a target. Targets are told from the pool by the interests at E ends of
    each window, N = B · E.

    Attributes:
        row_keys: Table rows to look up, distinct and ascending, [U].
        parts: What the items are made of, of these rows and of continuous features, [I].
        history_keys: Item keys, [B, L].
        history: Indexes into the items, [B, L].
        history_mask: True where real, [B, L].
        ends: Behavior after which interests are trained, -1 for none, [B, E].
        pool: The negatives: indexes into the items, distinct, [P].
        pool_keys: Their keys, [P].
        num_shared: Target events of all windows, of all workers where they share them, that are in the pool; an event
            counts once for each window. 0 where targets are no negatives of each other.
        num_own: How many of them are each window's own, [B].
        own_in_pool: Their places in the pool, -1 for none, [B, W]; W is 0 where nothing is shared.
        windows: Window of each end, [N].
        targeted: The targets: indexes into the items, distinct, [G].
        targeted_keys: Their keys, [G].
        targets: Indexes into the targeted, [N, T].
        targets_in_pool: Places in the pool, -1 where not in it, [N, T].
        target_mask: True where real, known, and with a history, [N, T].
        profile: Indexes into the rows, [B, F].
        profile_mask: True where the row is there, [B, F].
        kinds: Features of the behaviors: indexes into the rows, [B, L, G].
        kinds_mask: True where the row is there, [B, L, G].
        context: Indexes into the rows, [N, C].
    """

    row_keys: Keys
    parts: ItemParts
    history_keys: Int64[Tensor, "B L"]
    history: Int64[Tensor, "B L"]
    history_mask: Bool[Tensor, "B L"]
    ends: Int64[Tensor, "B E"]
    pool: Int64[Tensor, " P"]
    pool_keys: Keys
    num_shared: int
    num_own: Int64[Tensor, " B"]
    own_in_pool: Int64[Tensor, "B W"]
    windows: Int64[Tensor, " N"]
    targeted: Int64[Tensor, " G"]
    targeted_keys: Keys
    targets: Int64[Tensor, "N T"]
    targets_in_pool: Int64[Tensor, "N T"]
    target_mask: Bool[Tensor, "N T"]
    profile: Int64[Tensor, "B F"]
    profile_mask: Bool[Tensor, "B F"]
    kinds: Int64[Tensor, "B L G"]
    kinds_mask: Bool[Tensor, "B L G"]
    context: Int64[Tensor, "N C"]

    @classmethod
    def of(
        cls,
        examples: Examples,
        trained: TrainedPositions,
        drawn: Keys,
        table: ItemTable,
        features: ItemFeatures,
        *,
        shared: Keys | None = None,
        id_dropout: float = 0.0,
        generator: np.random.Generator | None = None,
    ) -> StepInputs:
        """Find out which rows a batch and its negatives need, and where each of them goes.

        Args:
            examples: The windows.
            trained: Where in them interests are trained, and on what.
            drawn: Negatives drawn from the items.
            table: The rows there are.
            features: Side features of items.
            shared: Items of target events that are negatives of each other (`TrainedPositions.events`), those of this
                worker's windows among them; one for each window and event. None where they are not.
            id_dropout: This share of the items, drawn by the generator, is made of its side features alone.
            generator: Where chance comes from.
        """
        own, is_own = trained.events
        own, is_own = (own, is_own) if shared is not None else (own[:, :0], is_own[:, :0])
        negatives = drawn if shared is None else np.concatenate([drawn, shared])
        items, (history, targets, negatives, own) = _distinct(examples.history, trained.targets, negatives, own)
        others = (examples.profile, examples.behavior_keys, trained.contexts)
        row_keys = np.unique(np.concatenate([part_keys(items, features), *(keys.ravel() for keys in others)]))
        row_keys = row_keys[table.has(row_keys)]
        without_id = generator.random(len(items)) < id_dropout if id_dropout and generator is not None else None
        parts = item_parts(items, features, row_keys, without_id)
        known: NDArray[np.bool_] = parts.known.numpy()
        order, history_mask, ends = _known_behaviors(examples.history_mask & known[history], trained.ends)
        target_mask = trained.mask & known[targets] & (ends >= 0)[:, :, None]
        targeted, pool = np.unique(targets[target_mask]), np.unique(negatives[known[negatives]])
        profile, profile_mask = _find_rows(row_keys, examples.profile)
        length, num_ends = _longest(history_mask), _longest(np.asarray(target_mask.any(axis=2)))
        order, history_mask = order[:, :length], history_mask[:, :length]
        ends, targets, target_mask = ends[:, :num_ends], targets[:, :num_ends], target_mask[:, :num_ends]
        told = target_mask.any(axis=(1, 2))  # windows without a known target or behavior teach nothing
        kinds, kinds_mask = _find_rows(row_keys, _in_order(examples.behavior_keys, order)[told])
        context, _ = _find_rows(row_keys, _first(trained.contexts, len(examples), num_ends)[told])
        num_targets = targets.shape[2]
        targets = np.where(target_mask, targets, targeted[:1].sum())[told].reshape(-1, num_targets)
        return cls(
            row_keys,
            parts,
            history_keys=torch.from_numpy(np.take_along_axis(examples.history, order, axis=1)[told]),
            history=torch.from_numpy(np.take_along_axis(history, order, axis=1)[told]),
            history_mask=torch.from_numpy(history_mask[told]),
            ends=torch.from_numpy(ends[told]),
            pool=torch.from_numpy(pool),
            pool_keys=items[pool],
            num_shared=0 if shared is None else len(shared),
            num_own=torch.from_numpy(is_own.sum(axis=1)[told]),
            own_in_pool=torch.from_numpy(np.where(is_own, _find(pool, own), -1)[told]),
            windows=torch.arange(int(told.sum())).repeat_interleave(ends.shape[1]),
            targeted=torch.from_numpy(targeted),
            targeted_keys=items[targeted],
            targets=torch.from_numpy(np.searchsorted(targeted, targets)),
            targets_in_pool=torch.from_numpy(_find(pool, targets)),
            target_mask=torch.from_numpy(target_mask[told].reshape(-1, num_targets)),
            profile=torch.from_numpy(profile[told]),
            profile_mask=torch.from_numpy(profile_mask[told]),
            kinds=torch.from_numpy(kinds),
            kinds_mask=torch.from_numpy(kinds_mask),
            context=torch.from_numpy(context).flatten(0, 1),
        )

    @property
    def num_targets(self) -> int:
        """Targets that count in the loss."""
        return int(self.target_mask.sum())

    @property
    def trained(self) -> Bool[Tensor, " N"]:
        """Ends that have a target."""
        return self.target_mask.any(dim=1)

    def behaviors(self, items: Float[Tensor, "I D"], rows: Float[Tensor, "U D"]) -> Behaviors:
        """Return the histories as the model takes them: of each behavior the item, and what kind of behavior it is."""
        vectors = _gather(items, self.history)
        if self.kinds.shape[2]:
            kinds = torch.nn.functional.embedding(self.kinds.to(rows.device), rows)
            vectors = vectors + (kinds * self.kinds_mask.to(rows.device)[..., None]).sum(dim=2)
        return Behaviors(vectors, self.history_keys.to(items.device), self.history_mask.to(items.device))

    def profiles(self, rows: Float[Tensor, "U D"]) -> Float[Tensor, "B F D"] | None:
        """Return the profiles' vectors, zeros where missing; None when the model takes none."""
        if not self.profile.shape[1]:
            return None
        return _gather(rows, self.profile) * self.profile_mask.to(rows.device)[:, :, None]

    def contexts(self, rows: Float[Tensor, "U D"]) -> Float[Tensor, "N J"] | None:
        """Return the contexts' vectors side by side; None when the model takes none."""
        return _gather(rows, self.context).flatten(start_dim=1) if self.context.shape[1] else None


def _find_rows(row_keys: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the row of each key, any where it has none or the key is 0, and which of them have one."""
    rows = np.searchsorted(row_keys, keys)
    found = (np.append(row_keys, 0)[rows] == keys) & (keys != 0)
    return np.where(found, rows, 0), found


def _in_order(keys: Keys, order: NDArray[np.int64]) -> Keys:
    """Return the rows of each window in this order, [B, L, G]; where no features are read, G is 0."""
    return (
        np.take_along_axis(keys, order[:, :, None], axis=1) if keys.shape[2] else np.empty((*order.shape, 0), np.int64)
    )


def _first(contexts: Keys, num_windows: int, num_ends: int) -> Keys:
    """Return the contexts of the first ends, [B, E, C]; where none are read, C is 0."""
    return contexts[:, :num_ends] if contexts.shape[2] else np.empty((num_windows, num_ends, 0), np.int64)


def _known_behaviors(
    mask: NDArray[np.bool_], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Close the gaps that unknown behaviors leave: return the order of places, what is real then, and ends then."""
    before = np.concatenate([np.zeros((len(mask), 1), dtype=np.int64), mask.cumsum(axis=1)], axis=1)
    order = np.argsort(~mask, axis=1, kind="stable")
    return order, np.take_along_axis(mask, order, axis=1), np.take_along_axis(before, ends + 1, axis=1) - 1


def _find(ascending: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each wanted index, -1 where it is not there."""
    places = np.searchsorted(ascending, wanted)
    return np.where(np.append(ascending, -1)[places] == wanted, places, -1)


def _longest(mask: NDArray[np.bool_]) -> int:
    """Return how many columns hold all that is real, at least one: what is left of the others is padding."""
    real = np.flatnonzero(mask.any(axis=0))
    return int(real[-1]) + 1 if len(real) else 1


def _distinct(*groups: Keys) -> tuple[Keys, list[NDArray[np.int64]]]:
    """Return the distinct keys of some arrays, ascending, and each array as indexes into them."""
    keys, inverse = np.unique(np.concatenate([group.ravel() for group in groups]), return_inverse=True)
    parts = np.split(inverse, np.cumsum([group.size for group in groups])[:-1])
    return keys, [part.reshape(group.shape) for part, group in zip(parts, groups, strict=True)]


def _gather(vectors: Float[Tensor, "I D"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
    return torch.nn.functional.embedding(index.to(vectors.device), vectors)
