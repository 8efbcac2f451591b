"""ComiRec's extraction in plain loops over Python floats: the twins of `mind_dist.model.comirec`, one user at a time."""

from __future__ import annotations

import math

from tests.reference.mind_loops import Matrix, Vector, dot, softmax


def times(vector: Vector, matrix: Matrix) -> Vector:
    """Return the row vector times the matrix."""
    return [dot(vector, list(column)) for column in zip(*matrix, strict=True)]


def votes(behaviors: Matrix, maps: list[list[Matrix]]) -> list[Matrix]:
    """Return what each behavior says to each interest: `maps[a][j]` is for those of age a, the last one for older."""
    ages = range(len(behaviors) - 1, -1, -1)
    return [
        [times(behavior, matrix) for matrix in maps[min(age, len(maps) - 1)]]
        for behavior, age in zip(behaviors, ages, strict=True)
    ]


def self_attention(behaviors: Matrix, placed: Matrix, hidden: Matrix, attention: Matrix) -> tuple[Matrix, Matrix]:
    """Return the capsules, and by interest how much each behavior counts.

    Args:
        behaviors: What is seen.
        placed: The same with its places, by which it is looked at.
        hidden: W1, a row for each hidden number.
        attention: W2, a row for each interest.
    """
    hiddens = [[math.tanh(dot(row, place)) for row in hidden] for place in placed]
    coupling = [softmax([dot(row, numbers) for numbers in hiddens]) for row in attention]
    capsules = [
        [
            sum(share * behavior[d] for share, behavior in zip(shares, behaviors, strict=True))
            for d in range(len(placed[0]))
        ]
        for shares in coupling
    ]
    return capsules, coupling
