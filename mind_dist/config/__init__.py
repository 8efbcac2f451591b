"""Settings: frozen dataclasses, their checks, and how they are read and written.

One declaration has three readers: `tyro` for command lines, pydantic for JSON and Serve arguments (`load`,
`parse`), plain attributes for code. A function takes its own section, never the whole.
Addresses and secrets come from the environment, in `Addresses` alone.
"""

from mind_dist.config.addresses import Addresses
from mind_dist.config.deployment import prefixed
from mind_dist.config.encoders import EncoderConfig, GruConfig, LagKernelsConfig, NoEncoderConfig, TransformerConfig
from mind_dist.config.extraction import (
    CausalConfig,
    ComirecDrConfig,
    ComirecSaConfig,
    ExtractionConfig,
    MindConfig,
    RoutingStart,
    TwoTowerConfig,
)
from mind_dist.config.http import HttpConfig
from mind_dist.config.item_tower import ItemTowerConfig
from mind_dist.config.kafka import KafkaConfig
from mind_dist.config.loading import dump, load, parse, with_kind
from mind_dist.config.model import ModelConfig, ModelKind
from mind_dist.config.node import cache_directory
from mind_dist.config.objective import (
    BestConfig,
    FullSoftmaxConfig,
    HardConfig,
    LabelAwareConfig,
    NegativesConfig,
    ObjectiveConfig,
    PenaltiesConfig,
    SampledConfig,
)
from mind_dist.config.preparing import (
    FeatureConfig,
    FilesConfig,
    LogConfig,
    MetadataConfig,
    PrepareConfig,
    SplitConfig,
    TimeUnit,
)
from mind_dist.config.publishing import PublishConfig
from mind_dist.config.serving import (
    MilvusConfig,
    ScalingConfig,
    ServingConfig,
    StatesConfig,
    ViewsConfig,
)
from mind_dist.config.training import TrainingConfig, check_from_log, check_together
from mind_dist.config.watching import WatchConfig

__all__ = [
    "Addresses",
    "BestConfig",
    "CausalConfig",
    "ComirecDrConfig",
    "ComirecSaConfig",
    "EncoderConfig",
    "ExtractionConfig",
    "FeatureConfig",
    "FilesConfig",
    "FullSoftmaxConfig",
    "GruConfig",
    "HardConfig",
    "HttpConfig",
    "ItemTowerConfig",
    "KafkaConfig",
    "LabelAwareConfig",
    "LagKernelsConfig",
    "LogConfig",
    "MetadataConfig",
    "MilvusConfig",
    "MindConfig",
    "ModelConfig",
    "ModelKind",
    "NegativesConfig",
    "NoEncoderConfig",
    "ObjectiveConfig",
    "PenaltiesConfig",
    "PrepareConfig",
    "PublishConfig",
    "RoutingStart",
    "SampledConfig",
    "ScalingConfig",
    "ServingConfig",
    "SplitConfig",
    "StatesConfig",
    "TimeUnit",
    "TrainingConfig",
    "TransformerConfig",
    "TwoTowerConfig",
    "ViewsConfig",
    "WatchConfig",
    "cache_directory",
    "check_from_log",
    "check_together",
    "dump",
    "load",
    "parse",
    "prefixed",
    "with_kind",
]
