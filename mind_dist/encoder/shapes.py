"""The shapes in which a model is run: histories of alike lengths together, in few numbers of users.

The same history must give the same vectors to the last bit, whoever else is in the batch. How long the padded history is
follows from the history alone, so that is the same in every batch. How many users are computed together is not; a library
may take another way through a matrix product for another number of rows, and round otherwise. So beside `BASE_USERS` a
number of users is used only where it gives the same bits, which is looked at when a version is loaded: which way is
taken depends on the shapes and the machine, not on the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mind_dist.config import ModelConfig
from mind_dist.encoder.one_thread import one_thread
from mind_dist.model.interests import Behaviors, InterestModel, Interests
from mind_dist.records import Keys

BASE_USERS = 32
"""Users that a model always may be run on at once."""

_OTHER_USERS = (8, 16, 128)
_MOST_PLACES = 8192  # users × longest history: more at once is no faster, and leaves the cache
_SHORT_BELOW = 32  # histories that are never longer have one length: a call costs more than it saves

Run = Callable[[slice], Interests]


class Chunk(NamedTuple):
    """Users that are computed together.

    Attributes:
        users: Which, [n].
        num_users: How many there are once it is padded.
        length: Longest history once it is padded.
    """

    users: Keys
    num_users: int
    length: int


class Shapes:
    """Which shapes one model is run in.

    Args:
        model: In evaluation mode.
        config: Its settings.
        max_behaviors: The longest history it reads.
    """

    def __init__(self, model: InterestModel, config: ModelConfig, max_behaviors: int) -> None:
        short = -(-max_behaviors // 4)
        self._lengths = np.array([short, max_behaviors] if max_behaviors >= _SHORT_BELOW else [max_behaviors])
        self._sizes = {length: _reproducible(model, config, length) for length in self._lengths.tolist()}

    def chunks(self, counts: Keys) -> Iterator[Chunk]:
        """Cut users into chunks.

        Args:
            counts: Behaviors of each user, [n]; users without any are in no chunk.
        """
        lengths = self._lengths[np.searchsorted(self._lengths, counts)]
        for length, sizes in self._sizes.items():
            users = np.flatnonzero((lengths == length) & (counts > 0))
            while len(users):
                size = _size_for(len(users), sizes)
                yield Chunk(users[:size], size, length)
                users = users[size:]


def _size_for(num_users: int, sizes: Sequence[int]) -> int:
    """Return how many to compute next: no more calls than needed, unless most of a large one were padding."""
    fits = [size for size in sizes if size >= num_users and (size <= BASE_USERS or 4 * num_users >= 3 * size)]
    return min(fits) if fits else max(size for size in sizes if size <= num_users)


def _reproducible(model: InterestModel, config: ModelConfig, length: int) -> list[int]:
    """Return the numbers of users that give the same bits, ascending."""
    others = [size for size in _OTHER_USERS if size * length <= _MOST_PLACES]
    run, most = _probe(model, config, length, max([BASE_USERS, *others]))
    expected = _run_all(run, most, BASE_USERS)
    return sorted([BASE_USERS, *(size for size in others if torch.equal(_run_all(run, most, size), expected))])


def _run_all(run: Run, num_users: int, size: int) -> Tensor:
    """Return all that is said of users, computed so many at a time."""
    found = [run(slice(start, start + size)) for start in range(0, num_users, size)]
    return torch.cat([torch.cat([each.vectors.flatten(1), each.weights], dim=1) for each in found])


def _probe(model: InterestModel, config: ModelConfig, length: int, num_users: int) -> tuple[Run, int]:
    """Return what runs a model on some of a number of random users, and that number."""
    random = torch.Generator().manual_seed(0)  # of its own: a training's random numbers stay as they are
    vectors = torch.randn(num_users, length, config.dim, generator=random)
    keys = torch.randint(1 << 62, (num_users, length), generator=random)
    mask = torch.arange(length) < torch.randint(1, length + 1, (num_users, 1), generator=random)
    profile = torch.randn(num_users, config.num_profile_features, config.dim, generator=random)
    context = torch.randn(num_users, config.context_dim, generator=random)

    def run(users: slice) -> Interests:
        behaviors = Behaviors(vectors[users], keys[users], mask[users])
        joined = (part[users] if part.numel() else None for part in (profile, context))
        with one_thread(), torch.inference_mode():
            return model(behaviors, *joined)

    return run, num_users
