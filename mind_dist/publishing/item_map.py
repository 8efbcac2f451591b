"""Item vectors → a place for each in the plane, to look at: the two directions in which items differ most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mind_dist.index.vector_store import Column, Vectors
from mind_dist.limits import MAP_COLUMNS

_CHUNK = 65_536
_AXES = len(MAP_COLUMNS)


def map_columns(item_vectors: Vectors) -> dict[Column, list[float]]:
    """Return the columns of the map."""
    places = item_map(item_vectors)
    return {Column(name, "real"): places[:, axis].tolist() for axis, name in enumerate(MAP_COLUMNS)}


def item_map(item_vectors: Vectors) -> NDArray[np.float64]:
    """Return the first two principal components of each item's vector, [N, 2].

    Nothing is drawn at random, and each axis points to where its direction's largest number is positive: so the same version
    always has the same map.

    Args:
        item_vectors: As searched, [N, D].

    >>> item_map(np.array([[0, 3], [0, -3], [1, 0], [-1, 0]], np.float32)).round(6).tolist()
    [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    """
    num_items, dim = item_vectors.shape
    mean, products = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, num_items, _CHUNK):
        part = item_vectors[start : start + _CHUNK].astype(np.float64)
        mean += part.sum(axis=0) / num_items
        products += part.T @ part / num_items
    _, directions = np.linalg.eigh(products - np.outer(mean, mean))  # by variance, ascending
    axes = directions[:, ::-1][:, :_AXES]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    places = np.zeros((num_items, _AXES))
    for start in range(0, num_items, _CHUNK):
        part = item_vectors[start : start + _CHUNK].astype(np.float64)
        places[start : start + _CHUNK, : axes.shape[1]] = (part - mean) @ axes
    return places
