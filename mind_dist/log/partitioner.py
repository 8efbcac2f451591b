"""Record key → partition, as Kafka's own producers choose it: murmur2 of the key, modulo the number of partitions.

The hash of a user's key is kept with the history, so that when partitions are added the history can follow its user.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def key_hash(key: bytes) -> int:
    """Return the murmur2 hash of a record's key, without its sign bit.

    >>> key_hash(b"7") % 4
    3
    """
    length = len(key)
    value = _SEED ^ length
    whole = length - length % 4
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        value = value * _MULTIPLIER & _MASK ^ word
    if whole < length:
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK
    value = (value ^ value >> 13) * _MULTIPLIER & _MASK
    return (value ^ value >> 15) & 0x7FFFFFFF


def home_partition(hash_of_key: int, num_partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives to keys of this hash."""
    return hash_of_key % num_partitions
