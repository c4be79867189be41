"""Questions of keys that nobody can list, by name: what both sides understand by them."""

from __future__ import annotations

from typing import Final

from common.analytics.key_union import KeyUnion

SEARCH_TERMS: Final = "search-terms"
#: All of them, in the order in which they are asked.
KEY_QUESTIONS = (SEARCH_TERMS,)
#: The further table that each is asked of, and the column that has the keys.
KEYS_FROM = {SEARCH_TERMS: ("events", "query")}

#: Of how many terms one customer is counted, those that she searched for most: the square of a
#: power of two, so that counts are whole on the grid.
MOST_TERMS: Final = 4
#: How many terms an answer has room for, and how many bytes each: about twenty words, or so many
#: Chinese characters.
TERMS, TERM_BYTES = 256, 64
#: A plan's usual δ for keys, a hundredth of the usual δ: the threshold grows hardly at all when it
#: is smaller, and δ is spent for good.
KEY_DELTA: Final = "0.00000001"


def search_terms(key_delta: float = float(KEY_DELTA)) -> KeyUnion:
    """Which terms customers search for, and how many customers each.

    Args:
        key_delta: The probability with which a term of one customer alone may be released.

    Raises:
        InputError: It is out of range.
    """
    return KeyUnion(SEARCH_TERMS, MOST_TERMS, key_delta, keys=TERMS, key_bytes=TERM_BYTES)
