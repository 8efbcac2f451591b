"""What Milvus can store, for preparing, which must keep to it, and for the index, which checks it again.

The figures are those of Milvus 2.3 and hold for later ones.
"""

FIRST_KEY, LAST_KEY = -(2**63) + 2, 2**63 - 2
"""Ids that users and items may have. Milvus cannot parse the lowest int64, the next is taken by the marker row of each
version, and Milvus 2.3 never returns a row of the highest."""
