"""Who sees which variant: one hash, the same in Envoy, in Python and in any language that has xxHash.

    bucket  = xxh64(salt + ":" + user) % 10000
    variant = the first whose cumulative weight lies above the bucket

Envoy 1.40 computes exactly this for `weighted_clusters` with `use_hash_policy` and a salted header. The last variant's
buckets are the highest ones, so raising its weight only ever moves users to it, and lowering it only ever back.
"""

from collections.abc import Mapping

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
    return pick(route.salt, route.weights, user)


def pick(salt: str, weights: Mapping[str, int], user: str) -> str:
    """The variant that a user sees under weights in their order, which add up to 10 000.

    Example:
        >>> [pick("exp42", {"blue": 5_000, "green": 5_000}, user) for user in ("ada", "grace", "edsger")]
        ['blue', 'blue', 'green']
    """
    place = bucket(salt, user)
    below = 0
    for variant, weight in weights.items():
        below += weight
        if place < below:
            return variant
    raise AssertionError(f"weights end at {below}, bucket is {place}")
