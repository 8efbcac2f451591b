"""A trial: a model on the way, which can be stopped, resumed and measured on the valid users.

Time is the processor's, of this process: on a busy machine a trial waits longer and is trained as long.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.neural.model import CausalTransformer, Settings, recommend_by
from benchmarks.neural.windows import batches
from benchmarks.tasks import Stage
from mind_dist.evaluation import ExactRecommender

_WARMING = 10
"""Steps in which the moving average forgets what it began with."""


@dataclass(frozen=True)
class Look:
    """What the valid users said at a moment.

    Attributes:
        cpu_s: Processor seconds trained.
        epochs: Epochs trained.
        loss: Mean training loss since the look before.
        valid: How good the model is for the valid users.
    """

    cpu_s: float
    epochs: float
    loss: float
    valid: float


class Trial:
    """Settings, and the model they have led to so far.

    Args:
        stage: What is trained on.
        settings: How.
        seed: Of everything random.
    """

    def __init__(self, stage: Stage, settings: Settings, seed: int) -> None:
        torch.manual_seed(seed)
        self.settings, self.seed, self._catalog = settings, seed, stage.catalog
        self.model = CausalTransformer(len(stage.catalog), settings)
        self.averaged = copy.deepcopy(self.model) if settings.averaging else self.model
        self.looks: list[Look] = []
        self.num_steps, self.cpu_s = 0, 0.0
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, (0.9, 0.98), weight_decay=settings.weight_decay, fused=True
        )
        rows = (stage.catalog.rows(each.item_keys) for each in stage.dataset.sequences("train"))
        self._sequences = [each for each in rows if len(each) > 1]
        self._random = torch.get_rng_state()
        self._epoch, self._place = 0, 0
        self._steps: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._begin_epoch(0, 0)

    @property
    def best(self) -> Look:
        """The look at which the valid users were served best."""
        return max(self.looks, key=lambda look: look.valid)

    @property
    def num_looks_since_best(self) -> int:
        """How many looks there were since that."""
        return len(self.looks) - 1 - self.looks.index(self.best) if self.looks else 0

    @property
    def epochs(self) -> float:
        """Epochs trained."""
        return self._epoch + self._place / self._steps_an_epoch

    @property
    def recommender(self) -> ExactRecommender:
        """Recommends as the model does at each moment."""
        return recommend_by(self.averaged, self._catalog)

    def advance(self, until: Callable[[Trial], bool]) -> float:
        """Train until that is true; returns the mean loss."""
        losses = []
        torch.set_rng_state(self._random)
        while not until(self):
            started = time.process_time()
            losses.append(self._step())
            self.cpu_s += time.process_time() - started
        self._random = torch.get_rng_state()
        return float(np.mean(losses)) if losses else np.nan

    def look(self, loss: float, choice: Callable[[ExactRecommender], float]) -> Look:
        """Measure the model on the valid users."""
        self.looks.append(Look(self.cpu_s, self.epochs, loss, choice(self.recommender)))
        return self.looks[-1]

    def save(self, directory: Path) -> None:
        """Write all that is needed to go on, and the best weights so far."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": self._random,
            "progress": [self.num_steps, self.cpu_s, self._epoch, self._place],
            "looks": [list(asdict(look).values()) for look in self.looks],
        }
        if not self.num_looks_since_best:
            _write(self.averaged.state_dict(), directory / "best.pt")
        _write(state, directory / "state.pt")
        (directory / "looks.json").write_text(json.dumps([asdict(self.settings), *map(asdict, self.looks)], indent=1))

    def restore(self, directory: Path) -> None:
        """Go on from where `save` left off, if it ever did."""
        if not (directory / "state.pt").exists():
            return
        state = torch.load(directory / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._random = state["random"]
        self.num_steps, self.cpu_s, epoch, place = state["progress"]
        self.looks = [Look(*values) for values in state["looks"]]
        self._begin_epoch(epoch, place)

    def recall_best(self, directory: Path) -> None:
        """Return to the best weights there were; to recommend by, not to train on."""
        self.averaged.load_state_dict(torch.load(directory / "best.pt", weights_only=True))

    def _step(self) -> float:
        batch = next(self._steps, None)
        if batch is None:
            self._begin_epoch(self._epoch + 1, 0)
            batch = next(self._steps)
        generator = np.random.default_rng((self.seed, self._epoch, self._place))
        loss = self.model.loss(*batch, generator)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._place += 1
        self.num_steps += 1
        if self.averaged is not self.model:
            decay = min(self.settings.averaging, (1 + self.num_steps) / (_WARMING + self.num_steps))
            with torch.no_grad():
                torch._foreach_lerp_([*self.averaged.parameters()], [*self.model.parameters()], 1 - decay)
        return loss.item()

    def _begin_epoch(self, epoch: int, place: int) -> None:
        self._epoch, self._place = epoch, place
        steps = list(batches(self._sequences, self.settings.length, self.settings.positions, self.seed, epoch))
        self._steps_an_epoch = len(steps)
        self._steps = islice(steps, place, None)


def _write(state: dict[str, object], path: Path) -> None:
    """Write at once, whatever happens meanwhile."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
