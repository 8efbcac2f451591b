"""What a new version may change of what readers of the active one depend on."""

from __future__ import annotations

from collections.abc import Iterator

from mind_dist.config import PublishConfig
from mind_dist.errors import PublishError
from mind_dist.index.vector_store import VersionInfo


def check_compatible(info: VersionInfo, active: VersionInfo | None, config: PublishConfig) -> None:
    """Check that readers of the active version can go on with a new one as they are.

    Another type of ids is never let through: all users would be strangers, and every event poison. The rest,
    `PublishConfig.allow_breaking` lets through.

    Raises:
        PublishError: They cannot, with what differs and the way on.
    """
    if active is None:
        return
    if info.id_type != active.id_type:
        difference = (
            f"{info.model_version} has {info.id_type} ids, the active {active.model_version} {active.id_type} ids"
        )
        raise PublishError(f"{difference}: publish it in a deployment of another name, set by MIND_DIST_DEPLOYMENT")
    if (changes := list(_breaking(info, active))) and not config.allow_breaking:
        difference = f"readers of the active {active.model_version} cannot go on with {info.model_version}"
        way = "set publishing.allow_breaking once they can, or publish it in a deployment of another name"
        raise PublishError(f"{difference}: {'; '.join(changes)}: {way}")


def _breaking(info: VersionInfo, active: VersionInfo) -> Iterator[str]:
    """Yield what would be wrong: queries of another width or scale, filters on columns that are gone."""
    if info.dim != active.dim:
        yield f"dim is {info.dim}, was {active.dim}"
    if info.similarity != active.similarity:
        yield f"similarity is {info.similarity}, was {active.similarity}"
    kinds = {column.name: column.kind for column in info.columns}
    for column in active.columns:
        kind = kinds.get(column.name)
        if kind is None:
            yield f"column {column.name} is gone"
        elif kind != column.kind:
            yield f"column {column.name} is of kind {kind}, was {column.kind}"
