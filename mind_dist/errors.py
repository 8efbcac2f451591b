"""Every error this package raises on purpose: what happened, where, what to do.

    MindDistError
    ├── ConfigError            a setting is unknown or out of range (exit code 2)
    ├── DatasetError           a raw log or prepared dataset is missing, torn or unusable
    ├── PoisonEvent            one record cannot be decoded; it is dead-lettered
    ├── PoisonLimitExceeded    so many records are poison that the producer must be broken
    ├── PositionLost           a position is older than the oldest record still kept
    ├── AnotherLog             saved positions are of a topic that was made anew, or of another cluster's
    ├── UnreadableBatch        a batch of records cannot be decompressed or decoded
    ├── PartitionStalled       a partition delivers nothing, though it has not been read to its end
    ├── StateError             a user's state, or where it is kept, cannot be read
    ├── VersionError           a model version is missing, torn or altered
    ├── TrainingError          training cannot go on (a non-finite loss, say)
    │   └── StoppedBeforeSaving    it was asked to stop before there was anything to save
    ├── PublishError           a version was not activated; readers stay where they were
    │   ├── PublishUnderWay        another publisher has the lock
    │   ├── LeaseLost              another publisher has taken over, and does with versions as it sees fit
    │   └── UsersBehind            updaters have not made the rows of all users in time
    ├── VectorStoreError       the vector store refused a call
    ├── ServiceUnavailable     a broker, vector store or cluster could not be reached in time
    │   └── ServiceRefused         it was reached, and does not take us for who we say, or we do not trust it
    ├── PortInUse              somebody else has a port that a server of ours is to bind
    ├── StaleAssignment        a batch outlived its right to be written
    ├── UpdaterStopped         an updater's thread died, is stuck, or has been failing for too long
    ├── NotReady               no model version is active and loaded yet (HTTP 503)
    ├── InvalidRequest         a retrieval request is malformed (HTTP 422)
    ├── UnknownUser            nothing is known about a user (HTTP 404)
    ├── UnknownItem            the version has no vector of an item (HTTP 404)
    ├── Overloaded             all that does this kind of work is busy, and the queue is full (HTTP 503)
    ├── TooFast                more than the configured rate (HTTP 429)
    ├── TooLarge               a body above the configured size (HTTP 413)
    └── KeyInUse               a request with the same idempotency key runs now (HTTP 409)

Errors carry what they name as attributes; adapters translate their clients' exceptions into these at the boundary.
"""

from __future__ import annotations

import re

_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")
_SECRET_SETTING = re.compile(
    r"([?&][^=&\s]*(?:secret|password|token|credential|signature|access_key|account_key)[^=&\s]*=)"
    r"[^&\s]*[^&\s:,;'\")]",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return a text with the passwords and keys in its URIs masked.

    >>> without_secrets("s3://key:secret@bucket/data?secret_key=abc&region=eu: no such file")
    's3://***@bucket/data?secret_key=***&region=eu: no such file'
    """
    return _SECRET_SETTING.sub(r"\1***", _USER_AND_PASSWORD.sub("***", text))


class MindDistError(Exception):
    """Base of all errors raised on purpose; jobs print it as one line and exit with 1.

    Passwords and keys in URIs are masked in its message.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(without_secrets(each) if isinstance(each, str) else each for each in arguments))

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes, as Ray sends errors, whatever arguments a subclass takes."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[MindDistError], arguments: tuple[object, ...], attributes: dict[str, object]) -> MindDistError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class ConfigError(MindDistError):
    """A setting is unknown, mistyped or out of range.

    Attributes:
        path: Dotted path of the setting, such as `training.batch_size`.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class DatasetError(MindDistError):
    """A raw log or prepared dataset is missing, torn or unusable.

    Attributes:
        uri: The file or directory at fault.
    """

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(f"{uri}: {problem}")
        self.uri = uri


class PoisonEvent(MindDistError):
    """One record cannot be decoded as an event; the reason goes to the dead-letter header `error`."""


class PoisonLimitExceeded(MindDistError):
    """The share of poison records in the last window is above `max_poison_fraction`."""

    def __init__(self, num_poison: int, num_records: int, limit: float) -> None:
        super().__init__(
            f"{num_poison} of the last {num_records} records are poison, above the limit of {limit:.0%}: "
            "look at the dead-letter topic and mend the producer"
        )
        self.num_poison = num_poison
        self.num_records = num_records


class PositionLost(MindDistError):
    """A position to read from is older than the oldest record the log still keeps."""

    def __init__(self, partition: int, wanted: int, oldest: int) -> None:
        super().__init__(
            f"partition {partition}: position {wanted} is gone, the oldest record kept is {oldest}; "
            "raise the topic's retention, or start from a newer checkpoint"
        )
        self.partition = partition
        self.wanted = wanted
        self.oldest = oldest


class AnotherLog(MindDistError):
    """Saved positions are of another log than the one that is there: the topic was made anew, or the cluster is another.

    Attributes:
        owner: What has the positions.
        saved: The log whose positions they are.
        found: The log that is there.
    """

    def __init__(self, owner: str, saved: str, found: str, advice: str) -> None:
        super().__init__(
            f"{owner} has positions of {saved}, and there is now {found}: they mean nothing there, events would be "
            f"skipped or taken twice; {advice}"
        )
        self.owner = owner
        self.saved = saved
        self.found = found


class UnreadableBatch(MindDistError):
    """A batch of a partition cannot be decompressed or decoded; reading again would fail again.

    Attributes:
        topic: Topic of the partition.
        partition: The partition.
        position: Position of the first record that cannot be read.
        codec: Compression codec whose library is missing; empty when the batch is damaged.
        package: Package to install for that codec; empty when the batch is damaged.
    """

    def __init__(
        self, topic: str, partition: int, position: int, reason: str, *, codec: str = "", package: str = ""
    ) -> None:
        super().__init__(
            f"partition {partition} of topic {topic}: the batch at position {position} cannot be read"
            + (
                f": it is compressed with {codec}, and no library for it is installed: pip install {package}"
                if codec
                else f" ({reason}): it is damaged; go on behind it by storing a later position for the group, "
                "or by letting retention remove it"
            )
        )
        self.topic = topic
        self.partition = partition
        self.position = position
        self.codec = codec
        self.package = package


class PartitionStalled(MindDistError):
    """A partition delivered nothing for too long, though it has not been read to its end.

    Attributes:
        topic: Topic of the partition.
        partition: The partition.
        position: Position of the next record to read.
        end: Position up to which it was to be read.
        waited_s: How long nothing came, in seconds.
    """

    def __init__(self, topic: str, partition: int, position: int, end: int, waited_s: float) -> None:
        super().__init__(
            f"partition {partition} of topic {topic} delivered nothing for {waited_s:.0f} s at position {position}, "
            f"though its end is {end}: see whether the partition has a leader (kafka-topics.sh --describe), then start "
            "again: training goes on from its last checkpoint"
        )
        self.topic = topic
        self.partition = partition
        self.position = position
        self.end = end
        self.waited_s = waited_s


class StateError(MindDistError):
    """A user's state, or the place where states are kept, cannot be read."""


class VersionError(MindDistError):
    """A model version is missing, torn or altered.

    Attributes:
        uri: The version's directory.
    """

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(f"{uri}: {problem}")
        self.uri = uri


class TrainingError(MindDistError):
    """Training cannot go on; the last good checkpoint is kept."""


class StoppedBeforeSaving(TrainingError):
    """A run was asked to stop before it had trained anything: there is no version of it, and nothing is lost."""


class PublishError(MindDistError):
    """A version was not activated; readers stay on the one they had."""


class PublishUnderWay(PublishError):
    """Another publish of the deployment is under way; nothing is wrong with the version."""


class UsersBehind(PublishError):
    """Updaters did not make the rows of all users in time; nothing is wrong with the version."""


class LeaseLost(PublishError):
    """A publisher that was not heard of for long finds that another one has taken over."""


class VectorStoreError(MindDistError):
    """The vector store refused a call, and trying again would not help."""


class ServiceUnavailable(MindDistError):
    """A service could not be reached in time.

    Attributes:
        service: What it is: `Kafka`, `Milvus`, `Ray`.
        address: Where it was expected.
        waited_s: For how long it was tried, in seconds.
    """

    def __init__(self, service: str, address: str, waited_s: float, reason: str = "") -> None:
        super().__init__(self._told(service, address, waited_s, reason))
        self.service = service
        self.address = address
        self.waited_s = waited_s

    @staticmethod
    def _told(service: str, address: str, waited_s: float, reason: str) -> str:
        detail = f" ({reason})" if reason else ""
        return f"{service} at {address} did not answer within {waited_s:.0f} s{detail}"


class ServiceEnded(MindDistError):
    """A local process that was to serve has ended.

    Attributes:
        service: What it was: `Kafka`, `Milvus`, `Ray`.
    """

    def __init__(self, service: str, address: str, log: str) -> None:
        super().__init__(f"{service} at {address} has ended; its log is {log}")
        self.service = service


class ServiceRefused(ServiceUnavailable):
    """A service was reached, and does not take us for who we say, or we do not trust its certificate.

    It may pass, as when a password is being changed; so whoever tries again after `ServiceUnavailable` does here, too.
    """

    @staticmethod
    def _told(service: str, address: str, waited_s: float, reason: str) -> str:  # noqa: ARG004 - the base's signature
        return f"{service} at {address} and we do not accept each other: {reason}"


class PortInUse(MindDistError):
    """Somebody else has a port that a server of ours is to bind.

    Attributes:
        port: The port.
        holder: The processes that listen on it; empty where they cannot be seen.
    """

    def __init__(self, purpose: str, host: str, port: int, holder: str, advice: str) -> None:
        super().__init__(
            f"port {port} at {host}, wanted for {purpose}, is held by {holder or 'another process'}: "
            f"stop it, or {advice}"
        )
        self.port = port
        self.holder = holder


class StaleAssignment(MindDistError):
    """A batch took so long that another worker may own its partitions now; it is not written."""


class UpdaterStopped(MindDistError):
    """An updater's thread died, is stuck, or has been failing for too long: its replica must be replaced."""


class NotReady(MindDistError):
    """Nothing can be served yet: no model version is active and loaded here."""


class InvalidRequest(MindDistError):
    """A retrieval request is malformed: a limit out of range, NaN, an unknown filter column."""


class UnknownUser(MindDistError):
    """Nothing is known about a user, and the request brought no usable behaviors."""


class UnknownItem(MindDistError):
    """The version has no vector of an item."""


class Overloaded(MindDistError):
    """All threads for a kind of work are busy, and as many requests as may wait do."""

    def __init__(self, work: str, most: int) -> None:
        super().__init__(f"{most} requests of the kind {work} are under way: try again")
        self.work = work


class TooFast(MindDistError):
    """More than the configured rate.

    Attributes:
        wait_s: After so many seconds there is room again.
    """

    def __init__(self, what: str, per_s: float, wait_s: float) -> None:
        super().__init__(f"more than {per_s:g} {what} a second: try again in {wait_s:.1f} s")
        self.wait_s = wait_s


class TooLarge(MindDistError):
    """A body above the configured size."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the body has more than {most:,} bytes (http.max_body_bytes): send less at once")


class KeyInUse(MindDistError):
    """A request with the same idempotency key runs now."""
