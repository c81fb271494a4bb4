"""Who sees which variant: one hash, the same in Envoy, in Python and in any language that has xxHash.

    bucket  = xxh64(salt + ":" + user) % 10000
    variant = the first whose cumulative weight lies above the bucket

Envoy 1.40 computes exactly this for `weighted_clusters` with `use_hash_policy` and a salted header. The last variant's
buckets are the highest ones, so raising its weight only ever moves users to it, and lowering it only ever back.
"""

import xxhash

from headway.serving.platform import TOTAL_WEIGHT, Route


def bucket(salt: str, user: str) -> int:
    """A user's bucket, from 0 to 9999.

    Example:
        >>> bucket("exp42", "ada")
        26
    """
    return xxhash.xxh64_intdigest(f"{salt}:{user}".encode()) % TOTAL_WEIGHT


def assign(route: Route, user: str) -> str:
    """The variant that a user sees under a route.

    Example:
        >>> shares = [{"variant": "v1", "weight": 9_000}, {"variant": "v2", "weight": 1_000}]
        >>> route = Route.parse({"salt": "exp42", "shares": shares})
        >>> [assign(route, user) for user in ("ada", "grace", "edsger")]
        ['v1', 'v1', 'v1']
    """
    place = bucket(route.salt, user)
    below = 0
    for share in route.shares:
        below += share.weight
        if place < below:
            return share.variant
    raise AssertionError(f"weights end at {below}, bucket is {place}")
