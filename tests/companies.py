"""Logs as three companies would bring them: generated, small, and with the flaws that real logs have.

shop    CSV with semicolons and decimal commas, string ids, four event types, a bot, double clicks, broken lines
news    Parquet from BigQuery: times as texts that end in " UTC", articles that are readable for two days
music   Parquet: integer ids, microseconds, tracks heard again and again, genres as lists, lengths as decimals
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """Users who mostly touch items of their own two categories, popular ones more often.

    Attributes:
        num_users: How many users there are.
        num_items: How many items.
        num_categories: Item i is of category i modulo this.
        num_events: Events of each user.
        seed: Seed of all draws.
    """

    num_users: int
    num_items: int
    num_categories: int
    num_events: int
    seed: int

    def events(self, days: int) -> Iterator[tuple[int, int, datetime]]:
        """Yield user, item and time of each event, in the order of time."""
        generator = np.random.default_rng(self.seed)
        tastes = generator.integers(self.num_categories, size=(self.num_users, 2))
        weights = 1 / (1 + np.arange(self.num_items // self.num_categories))
        shape = (self.num_users, self.num_events)
        places = generator.choice(len(weights), size=shape, p=weights / weights.sum())
        categories = np.take_along_axis(tastes, generator.integers(2, size=shape), axis=1)
        strays = generator.random(shape) < 0.1
        categories = np.where(strays, generator.integers(self.num_categories, size=shape), categories)
        items = places * self.num_categories + categories
        seconds = generator.integers(days * 86_400, size=shape)
        for place in np.argsort(seconds, axis=None, kind="stable").tolist():
            user, number = divmod(place, self.num_events)
            yield user, int(items[user, number]), START + timedelta(seconds=int(seconds[user, number]))


SHOP = World(num_users=250, num_items=120, num_categories=6, num_events=30, seed=1)
BOT = "K-99999"
BOT_EVENTS = 6_000
DOUBLE_CLICKS = 200
BROKEN_LINES = 5
NEVER_BOUGHT = "A-9001"


def write_shop(directory: Path) -> None:
    """Write `orders.csv`, `articles.csv` and `customers.csv`."""
    generator = np.random.default_rng(2)
    actions = ("view", "view", "view", "cart", "purchase", "remove")
    rows = [
        f"K-{user:05d};A-{1000 + item};{_ms(time)};{actions[generator.integers(len(actions))]}"
        for user, item, time in SHOP.events(days=30)
    ]
    again = generator.choice(len(rows), DOUBLE_CLICKS, replace=False).tolist()
    bot = [f"{BOT};A-{1000 + n % SHOP.num_items};{_ms(START) + n * 1000};view" for n in range(BOT_EVENTS)]
    broken = ["K-00001;A-1001"] * BROKEN_LINES
    _lines(directory / "orders.csv", "Kunde;Artikel;Zeit;Aktion", [*rows, *(rows[n] for n in again), *bot, *broken])
    articles = [
        f'A-{1000 + n};"Artikel {n}; rot";Gruppe {n % SHOP.num_categories};{_price(n)}' for n in range(SHOP.num_items)
    ]
    articles.append(f'{NEVER_BOUGHT};"Neu";Gruppe 0;9,99')
    _lines(directory / "articles.csv", "Artikel;Titel;Warengruppe;Preis (EUR)", articles)
    customers = [f"K-{user:05d};{20 + user % 50},0;{'DE' if user % 3 else 'AT'}" for user in range(SHOP.num_users)]
    _lines(directory / "customers.csv", "Kunde;Alter;Land", customers)


def _price(number: int) -> str:
    """Return a price with a decimal comma; every tenth article has none."""
    return "" if number % 10 == 9 else f"{1 + number % 40},50"


NEWS = World(num_users=200, num_items=300, num_categories=6, num_events=0, seed=3)
READ_PER_DAY = 3
NEWS_DAYS = 14
READABLE = timedelta(days=2)


def write_news(directory: Path) -> None:
    """Write `reads.parquet` and `articles.parquet`: an article is read only while it is readable."""
    generator = np.random.default_rng(NEWS.seed)
    published = np.sort(generator.random(NEWS.num_items)) * (NEWS_DAYS + 2) - 2
    topics = generator.integers(NEWS.num_categories, size=NEWS.num_items)
    tastes = generator.integers(NEWS.num_categories, size=(NEWS.num_users, 2))
    reads = []
    for user in range(NEWS.num_users):
        for day in np.sort(generator.random(READ_PER_DAY * NEWS_DAYS) * NEWS_DAYS):
            fresh = np.flatnonzero((published <= day) & (day < published + READABLE.days))
            liked = fresh[np.isin(topics[fresh], tastes[user])]
            choice = liked if len(liked) and generator.random() < 0.85 else fresh
            reads.append((float(day), f"reader/{user}", int(generator.choice(choice))))
    reads.sort()
    times = [_bigquery(START + timedelta(days=day)) for day, _, _ in reads]
    _parquet(
        directory / "reads.parquet",
        reader=[reader for _, reader, _ in reads],
        article=[f"n{article}" for _, _, article in reads],
        read_at=times,
    )
    _parquet(
        directory / "articles.parquet",
        article=[f"n{article}" for article in range(NEWS.num_items)],
        headline=[f"News {article} of topic {topics[article]}" for article in range(NEWS.num_items)],
        section=[f"section {topic}" for topic in topics],
        published=[_bigquery(START + timedelta(days=float(day))) for day in published],
        expires=[_bigquery(START + timedelta(days=float(day)) + READABLE) for day in published],
    )


def _bigquery(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond:06d} UTC"


MUSIC = World(num_users=200, num_items=150, num_categories=5, num_events=60, seed=4)


def write_music(directory: Path) -> None:
    """Write `plays.parquet` and `tracks.parquet`; three plays stand in the far future."""
    plays = list(MUSIC.events(days=20))
    wrong = [(user, item, datetime(2090, 1, 1, tzinfo=UTC)) for user, item, _ in plays[:3]]
    _parquet(
        directory / "plays.parquet",
        listener=[user for user, _, _ in [*plays, *wrong]],
        track=[10_000 + item for _, item, _ in [*plays, *wrong]],
        at_us=[_ms(time) * 1000 for _, _, time in [*plays, *wrong]],
    )
    numbers = range(MUSIC.num_items)
    table = pa.table(
        {
            "track": pa.array([10_000 + n for n in numbers]),
            "title": pa.array([f"Track {n}" for n in numbers]),
            "genres": pa.array([[f"genre {n % MUSIC.num_categories}", "music"] for n in numbers]),
            "minutes": pa.array([Decimal(n % 7) + Decimal("2.25") for n in numbers], pa.decimal128(6, 2)),
            "released": pa.array([START.date() - timedelta(days=100 * n) for n in numbers]),
        }
    )
    pq.write_table(table, directory / "tracks.parquet")


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _lines(path: Path, header: str, lines: Sequence[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n")


def _parquet(path: Path, **columns: Sequence[object]) -> None:
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
