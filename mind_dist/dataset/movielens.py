"""The named run for MovieLens-100K, whose files ship inside the `recbole` wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mind_dist.config import FeatureConfig, LogConfig, MetadataConfig, PrepareConfig
from mind_dist.errors import DatasetError


def movielens_100k(directory: str) -> PrepareConfig:
    """Return how MovieLens-100K (943 users, 1,682 films, 100,000 ratings) is prepared into a directory.

    The wheel's data files are read; the package itself is not imported.

    Raises:
        DatasetError: `recbole` is not installed.
    """
    files = _recbole_files() / "ml-100k"
    return PrepareConfig(
        output=directory,
        log=LogConfig(paths=(str(files / "ml-100k.inter"),), format="csv", delimiter="\t", quote="", time_unit="s"),
        items=MetadataConfig(
            paths=(str(files / "ml-100k.item"),),
            format="csv",
            delimiter="\t",
            quote="",
            features=(
                FeatureConfig("genres", kind="categories", column="class", separator=" "),
                FeatureConfig("release_year", kind="buckets"),
            ),
            columns=("movie_title",),
        ),
        users=MetadataConfig(
            paths=(str(files / "ml-100k.user"),),
            format="csv",
            delimiter="\t",
            quote="",
            features=(FeatureConfig("age", kind="buckets"), FeatureConfig("gender"), FeatureConfig("occupation")),
        ),
        num_buckets=8,
    )


def _recbole_files() -> Path:
    spec = importlib.util.find_spec("recbole")
    if spec is None or spec.origin is None:
        raise DatasetError("recbole", "not installed; its wheel carries MovieLens-100K: pip install --no-deps recbole")
    return Path(spec.origin).parent / "dataset_example"
