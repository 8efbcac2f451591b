"""Settings: frozen dataclasses, their checks, and how they are read and written.

One declaration has three readers: `tyro` for command lines, pydantic for JSON and Serve arguments (`load`,
`parse`), plain attributes for code. A function takes its own section, never the whole.
Addresses and secrets come from the environment, in `Addresses` alone.
"""

from mind_dist.config.deployment import prefixed
from mind_dist.config.loading import dump, load, parse
from mind_dist.config.model import ModelConfig, ModelKind, RoutingStart
from mind_dist.config.preparing import (
    FeatureConfig,
    FilesConfig,
    LogConfig,
    MetadataConfig,
    PrepareConfig,
    SplitConfig,
    TimeUnit,
)
from mind_dist.config.serving import Addresses, KafkaConfig, MilvusConfig, PublishConfig, ServingConfig
from mind_dist.config.training import TrainingConfig

__all__ = [
    "Addresses",
    "FeatureConfig",
    "FilesConfig",
    "KafkaConfig",
    "LogConfig",
    "MetadataConfig",
    "MilvusConfig",
    "ModelConfig",
    "ModelKind",
    "PrepareConfig",
    "PublishConfig",
    "RoutingStart",
    "ServingConfig",
    "SplitConfig",
    "TimeUnit",
    "TrainingConfig",
    "dump",
    "load",
    "parse",
    "prefixed",
]
