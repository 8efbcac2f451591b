"""TGH, the transition-graph heuristic (arXiv 2605.07125): rings around the last items in the graph of what followed what.

An edge leads from each item to those that directly followed it in the train split. The first ring around an item holds
what is one edge away, the second what is two away and no nearer. Within a ring, items are ordered by how like they are to
the newest items of the history, and in the first ring by the edge as well: cosine + α · log(1 + count) / its maximum over
the item's edges. Of each ten places every ring has a fixed number, as the paper gives them for lists of ten; further tens
go on in the same way. What a ring lacks, the others give.

Two things are other than in the paper. Items are alike by the features in the catalog, rarer ones weighing more, where the
paper reads texts with a language model. And its numbers, which it gives by data set, are chosen on valid users here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.evaluation.floors.neighbors import forward_counts
from mind_dist.evaluation.floors.ranking import FloorRecommender, Scored, best_rows
from mind_dist.evaluation.floors.recency import Histories
from mind_dist.evaluation.floors.train_log import Rows, TrainLog
from mind_dist.evaluation.floors.tuning import Choice, Clock, Effort, Grid, Point, Tuned, search
from mind_dist.records import BehaviorSequence

_BLOCK = 10
"""Places that the rings share out."""

_DEEPEST = 500
"""Longest list that rings are ordered for."""

_MOST_USERS = 1_000

_KEPT_ROWS = 1 << 24
"""Rows of rings that are kept to be used again: 128 MB."""

Shares = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TransitionGraph:
    """Settings of TGH.

    Attributes:
        shares: For the last item, and perhaps the one before it: places out of ten for its first, second, third ring.
        edge_weight: α, what an edge counts beside likeness.
        anchor: The newest items that others are to be like.
    """

    shares: Shares = ((7, 2, 1),)
    edge_weight: float = 0.5
    anchor: int = 1


GRID: Grid = {
    "shares": (
        ((10,),),
        ((9, 1),),
        ((7, 2, 1),),
        ((7,), (3,)),
        ((6, 1), (3,)),
        ((5, 1), (3, 1)),
        ((6,), (4,)),
        ((5,), (5,)),
    ),
    "edge_weight": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    "anchor": (1, 2, 3, 5, 10, 20, 50),
}
STARTS = (TransitionGraph(), TransitionGraph(((5, 1), (3, 1)), 1.0, 5))


def tune(log: TrainLog, choice: Choice, effort: Effort | None = None) -> Tuned[TransitionGraph]:
    """Return the settings that find most on the users chosen by."""
    clock = Clock("transition graph", effort or Effort())
    graph = Graph.of(log)
    starts = [dataclasses.asdict(start) for start in STARTS]

    def quality_on(some: Choice) -> Callable[[Point], float]:
        return lambda point: some.quality(graph_recommender(graph, TransitionGraph(**point)))

    best, quality = search(GRID, starts, quality_on, choice.thinned(_MOST_USERS), clock)
    return clock.result(TransitionGraph(**best), quality)


def fit(log: TrainLog, settings: TransitionGraph) -> FloorRecommender:
    """Return TGH with these settings."""
    return graph_recommender(Graph.of(log), settings)


@dataclass(frozen=True)
class Graph:
    """What followed what directly, and how like items are.

    Attributes:
        log: What it was counted from.
        edges: Strength of each edge: log(1 + count) over the largest of its item, [N, N].
        likeness: A vector of length 1 for each item, from its features, [N, F]; zeros without any.
    """

    log: TrainLog
    edges: csr_array
    likeness: csr_array

    @classmethod
    def of(cls, log: TrainLog) -> Graph:
        """Count the graph of a train split."""
        edges = forward_counts(log, window=1, lag_power=0.0)
        edges.data = np.log1p(edges.data)
        largest = edges.max(axis=1).toarray().ravel() if edges.nnz else np.zeros(len(log.catalog))
        edges = (diags_array(1.0 / np.where(largest > 0, largest, 1.0)) @ edges).tocsr().astype(np.float32)
        return cls(log, edges, feature_vectors(log.catalog))

    def strengths(self, source: int, ring: Rows) -> NDArray[np.float32]:
        """Return the strength of the edges from an item to those of its first ring, ascending."""
        edges = slice(*self.edges.indptr[source : source + 2])
        order = np.argsort(self.edges.indices[edges])
        targets = self.edges.indices[edges][order]
        return np.asarray(self.edges.data[edges][order][np.searchsorted(targets, ring)])

    def rings(self, item: int, depth: int) -> list[Rows]:
        """Return what is one, two, … edges away from an item and no nearer, each ascending."""
        return self._rings(item, depth)

    @cached_property
    def _rings(self) -> Callable[[int, int], list[Rows]]:
        return lru_cache(maxsize=_KEPT_ROWS // max(1, len(self.log.catalog)))(self._compute_rings)

    def _compute_rings(self, item: int, depth: int) -> list[Rows]:
        nearer = np.zeros(len(self.log.catalog), dtype=np.bool_)
        nearer[item] = True
        found, ring = [], np.array([item])
        for _ in range(depth):
            reached = np.zeros(len(nearer), dtype=np.bool_)
            for start, stop in zip(self.edges.indptr[ring], self.edges.indptr[ring + 1], strict=True):
                reached[self.edges.indices[start:stop]] = True
            ring = np.flatnonzero(reached & ~nearer)
            nearer[ring] = True
            found.append(ring)
        return found


def feature_vectors(catalog: ItemCatalog) -> csr_array:
    """Return a vector of length 1 for each item: its features, each log(N / items that have it), [N, F]."""
    features, columns = np.unique(catalog.feature_keys, return_inverse=True)
    if not len(features):
        return csr_array((len(catalog), 1), dtype=np.float32)
    rarity = np.log(len(catalog) / np.bincount(columns)).astype(np.float32)
    shape = (len(catalog), len(features))
    found = csr_array((rarity[columns], columns, catalog.feature_offsets), shape=shape)
    lengths = np.sqrt(found.multiply(found).sum(axis=1))
    return (diags_array(1.0 / np.where(lengths > 0, lengths, 1.0)) @ found).tocsr().astype(np.float32)


def graph_recommender(graph: Graph, settings: TransitionGraph) -> FloorRecommender:
    """Return TGH on a graph."""

    def score(histories: Sequence[BehaviorSequence]) -> Iterator[Scored]:
        anchors = Histories(histories, graph.log.catalog, settings.anchor).matrix(settings.anchor, 1.0)
        middles = anchors @ graph.likeness
        lengths = np.sqrt(middles.multiply(middles).sum(axis=1))
        alike = (diags_array(1.0 / np.where(lengths > 0, lengths, 1.0)) @ middles) @ graph.likeness.T
        for row, history in enumerate(histories):
            likeness = np.zeros(len(graph.log.catalog), dtype=np.float32)
            inside = slice(*alike.indptr[row : row + 2])
            likeness[alike.indices[inside]] = alike.data[inside]
            yield _places(graph, settings, history, likeness)

    return FloorRecommender(graph.log, score)


def _places(
    graph: Graph, settings: TransitionGraph, history: BehaviorSequence, likeness: NDArray[np.float32]
) -> Scored:
    """Return minus each item's place in the list that the rings share out; of several places of one item, the first."""
    rows = graph.log.catalog.rows(history.item_keys)
    newest = rows[rows >= 0][::-1]
    found, offset = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))], 0
    for source, shares in zip(newest.tolist(), settings.shares, strict=False):
        for depth, (ring, share) in enumerate(zip(graph.rings(source, len(shares)), shares, strict=True)):
            values = likeness[ring] + (settings.edge_weight * graph.strengths(source, ring) if depth == 0 else 0.0)
            ordered = best_rows(ring, values, _DEEPEST * share // _BLOCK, graph.log)
            block, within = np.divmod(np.arange(len(ordered)), share)
            found.append((ordered, block * _BLOCK + offset + within))
            offset += share
    items, places = (np.concatenate(column) for column in zip(*found, strict=True))
    items, first = np.unique(items[np.argsort(places, kind="stable")], return_index=True)
    return items, -np.sort(places)[first].astype(np.float32)
