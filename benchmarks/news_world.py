"""A generated newsroom whose items live two days: its raw log, its articles, and how they become a dataset.

Items belong to topics, which show in their category and in the words of their titles, and draw readers as their quality says,
most while they are new. A reader takes part of what is on the front page, where quality and age alone count, and the
rest from a few topics of their own, where the same counts within the topic. So popularity is worth knowing, and so are
interests. Three weeks of it are split by time; nearly all items of the test days came after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.datasets import prepared
from mind_dist.config import FeatureConfig, LogConfig, MetadataConfig, PrepareConfig, SplitConfig
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.records import Keys

_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_START_MS = 1_704_067_200_000
"""Monday, 1 January 2024."""

_TITLE_WORDS, _TOPIC_WORDS = 6, 4
_VOCABULARY, _COMMON_WORDS = 30, 300
_TOPICS_PER_CATEGORY = 6


@dataclass(frozen=True)
class World:
    """A newsroom and its readers.

    Attributes:
        num_topics: Topics, six of them a category.
        items_per_day: Articles that come out each day.
        num_users: Readers.
        events_per_user: Mean number of articles a reader opens in all.
        days: Length of the log.
        test_days: Days at its end to be found; the one before them is for validation.
        lifetime_h: Hours an article is shown.
        front_page: Share of the events that are taken from the front page.
        fade_h: Hours in which an article's draw falls to 1 / e.
        quality_spread: Standard deviation of the log of an article's quality.
        seed: Seed of it all.
    """

    num_topics: int = 60
    items_per_day: int = 300
    num_users: int = 2500
    events_per_user: float = 20.0
    days: int = 21
    test_days: int = 2
    lifetime_h: float = 48.0
    front_page: float = 0.4
    fade_h: float = 10.0
    quality_spread: float = 1.2
    seed: int = 0


@dataclass(frozen=True)
class Articles:
    """What came out.

    Attributes:
        topics: Of each article, [N].
        qualities: How much each draws, [N].
        published_ms: When, ascending, [N].
        titles: Words, [N].
    """

    topics: Keys
    qualities: NDArray[np.float64]
    published_ms: Keys
    titles: list[str]


def articles_of(world: World, generator: np.random.Generator) -> Articles:
    """Return the articles of all days, and of the two before the log begins."""
    num_days = world.days + 2
    hours = generator.normal(12.0, 4.0, size=(num_days, world.items_per_day)).clip(0, 23.99)  # most around noon
    published = _START_MS + (np.arange(-2, world.days)[:, None] * _DAY_MS + hours * _HOUR_MS).astype(np.int64)
    num_items = published.size
    sizes = generator.dirichlet(np.full(world.num_topics, 2.0))
    topics = generator.choice(world.num_topics, num_items, p=sizes)
    qualities = generator.lognormal(0.0, world.quality_spread, num_items)
    titles = [_title(int(topic), generator) for topic in topics]
    return Articles(topics, qualities, np.sort(published.reshape(-1)), titles)


def _title(topic: int, generator: np.random.Generator) -> str:
    """Return words: most of the topic's own, the others of anybody's, the first of each the most frequent."""
    own = (generator.pareto(1.0, _TOPIC_WORDS) * 4).astype(int) % _VOCABULARY
    common = (generator.pareto(1.0, _TITLE_WORDS - _TOPIC_WORDS) * 20).astype(int) % _COMMON_WORDS
    return " ".join([*(f"t{topic}w{word}" for word in own), *(f"w{word}" for word in common)])


def write_world(world: World, directory: Path) -> None:
    """Write a raw log, `log.parquet`, and the articles, `items.parquet`."""
    generator = np.random.default_rng(world.seed)
    articles = articles_of(world, generator)
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(_log(world, articles, generator), directory / "log.parquet")
    expires = articles.published_ms + int(world.lifetime_h * _HOUR_MS)
    columns = {
        "item_id": np.arange(len(articles.titles)),
        "category": [f"section {topic // _TOPICS_PER_CATEGORY}" for topic in articles.topics],
        "title": articles.titles,
        "published": pa.array(articles.published_ms).cast(pa.timestamp("ms", "UTC")),
        "expires": pa.array(expires).cast(pa.timestamp("ms", "UTC")),
    }
    pq.write_table(pa.table(columns), directory / "items.parquet")


def _log(world: World, articles: Articles, generator: np.random.Generator) -> pa.Table:
    """Return everybody's events: each reader opens an article once."""
    rows = []
    for user in range(world.num_users):
        topics = generator.choice(world.num_topics, 3, replace=False)
        shares = np.sort(generator.dirichlet((4.0, 2.0, 1.0)))[::-1]
        seen: set[int] = set()
        for moment in _moments(world, generator):
            from_front = generator.random() < world.front_page
            topic = None if from_front else int(generator.choice(topics, p=shares))
            item = _choose(world, articles, moment, topic, generator)
            if item not in seen:
                seen.add(item)
                rows.append((user, item, moment))
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


def _moments(world: World, generator: np.random.Generator) -> list[int]:
    """Return when a reader reads, in order: some read ten times as much as others, most of it by day."""
    mean = world.events_per_user * generator.lognormal(-0.32, 0.8)  # whose mean is 1
    count = 1 + generator.poisson(mean)
    days, hours = generator.integers(world.days, size=count), generator.normal(14.0, 5.0, count).clip(0, 23.99)
    moments: list[int] = np.sort(_START_MS + (days * _DAY_MS + hours * _HOUR_MS).astype(np.int64)).tolist()
    return moments


def _choose(world: World, articles: Articles, moment: int, topic: int | None, generator: np.random.Generator) -> int:
    """Return an article shown at a moment, of a topic if one is given and has any."""
    start = np.searchsorted(articles.published_ms, moment - int(world.lifetime_h * _HOUR_MS), side="right")
    shown = np.arange(start, np.searchsorted(articles.published_ms, moment, side="right"))
    if topic is not None and (of_topic := shown[articles.topics[shown] == topic]).size:
        shown = of_topic
    ages_h = (moment - articles.published_ms[shown]) / _HOUR_MS
    draw = articles.qualities[shown] * np.exp(-ages_h / world.fade_h)
    return int(generator.choice(shown, p=draw / draw.sum()))


def prepare_config(world: World, raw: Path, output: str) -> PrepareConfig:
    """Return how the raw log becomes a dataset: every article counts, the split is by time."""
    test_ms = _START_MS + (world.days - world.test_days) * _DAY_MS
    return PrepareConfig(
        output,
        LogConfig((str(raw / "log.parquet"),), time_unit="ms"),
        MetadataConfig(
            (str(raw / "items.parquet"),),
            features=(FeatureConfig("category"), FeatureConfig("title", "categories", separator=" ")),
            available_from="published",
            available_until="expires",
        ),
        split=SplitConfig("time", train_before_ms=test_ms - _DAY_MS, valid_before_ms=test_ms),
        min_item_events=1,
        min_user_events=3,
        num_buckets=4,
    )


def open_world(world: World, cache: Path) -> PreparedDataset:
    """Return the dataset of a world, prepared once."""
    directory = cache / f"news-{world.seed}"
    if not (directory / "raw" / "log.parquet").exists():
        write_world(world, directory / "raw")
    return prepared(directory / "dataset", lambda output: prepare_config(world, directory / "raw", output))
