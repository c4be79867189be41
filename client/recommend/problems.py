"""What the recommender service refuses, as programs and the try page get it."""

from __future__ import annotations

from client.web.problems import COMMON, Problem, by_code

NOT_ADMITTED = Problem(
    "not-admitted",
    401,
    "The request has no access token of this service.",
    "Send the token of the region's recommend/token file: Authorization: Bearer TOKEN.",
)
NOT_SIGNED_IN = Problem(
    "not-signed-in",
    401,
    "Nobody is signed in.",
    "Sign in with the access token; a session ends after a while.",
)
UNKNOWN_ITEM = Problem(
    "unknown-item",
    404,
    "The catalogue has no such item or category.",
    "Send references as the region's catalogue has them.",
)
REFRESH_RUNNING = Problem(
    "refresh-running",
    409,
    "Store and model are being read anew already.",
    "Ask again in a while if what changed since is to be taken in, too.",
)
UNAVAILABLE = Problem(
    "unavailable",
    503,
    "Nothing can be recommended at present.",
    "Try again in a while; the region's operator finds the reason with fedpref-region recommend"
    " check.",
)

PROBLEMS = by_code(
    (*COMMON, NOT_ADMITTED, NOT_SIGNED_IN, UNKNOWN_ITEM, REFRESH_RUNNING, UNAVAILABLE)
)
