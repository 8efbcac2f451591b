"""What an encoder is made of, and the state of a run that was never written as such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mind_dist.checkpoint.manifest import Manifest
from mind_dist.checkpoint.rows import TableRows
from mind_dist.config import ModelConfig, TrainingConfig
from mind_dist.dataset.item_catalog import ItemCatalog


class VersionParts(Protocol):
    """What an encoder is made of: a version on disk, or one that training has at hand."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        ...

    @property
    def uri(self) -> str:
        """Where it is, for messages."""
        ...

    def model_config(self) -> ModelConfig:
        """Return the model's settings."""
        ...

    def training_config(self) -> TrainingConfig:
        """Return the settings it was trained with."""
        ...

    def dense(self) -> dict[str, Tensor]:
        """Return the dense parameters."""
        ...

    def items(self) -> TableRows:
        """Return the rows of the item table, in ascending key order."""
        ...

    def catalog(self) -> ItemCatalog:
        """Return the item catalog."""
        ...


@dataclass(frozen=True)
class UnsavedVersion:
    """The state of a run as a version that was never written; see `VersionParts`.

    Attributes:
        manifest: What it is, without files.
        model: The model's settings.
        training: The settings it was trained with.
        state: The dense parameters.
        rows: The rows of the item table, in ascending key order.
        item_catalog: The item catalog.
    """

    manifest: Manifest
    model: ModelConfig
    training: TrainingConfig
    state: dict[str, Tensor]
    rows: TableRows
    item_catalog: ItemCatalog

    @property
    def uri(self) -> str:
        """Return the step, in place of where it is."""
        return self.manifest.model_version

    def model_config(self) -> ModelConfig:
        """Return the model's settings."""
        return self.model

    def training_config(self) -> TrainingConfig:
        """Return the settings it was trained with."""
        return self.training

    def dense(self) -> dict[str, Tensor]:
        """Return the dense parameters."""
        return self.state

    def items(self) -> TableRows:
        """Return the rows of the item table."""
        return self.rows

    def catalog(self) -> ItemCatalog:
        """Return the item catalog."""
        return self.item_catalog
