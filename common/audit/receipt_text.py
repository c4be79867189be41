"""The words of customers' receipts, in English and Chinese."""

from __future__ import annotations

import re
from types import MappingProxyType

#: The languages that receipts are written in; the first is for all others.
LANGUAGES = ("en", "zh")

_CHINESE = re.compile(r"zh\b")
_RULES = MappingProxyType(
    {
        ("en", False): "Every round whose consent size is above this entry's index ({index}) "
        "excludes the customer, unless a later record of theirs gives consent anew.",
        ("zh", False): "凡同意记录数大于本条目序号（{index}）的训练轮次，均不包括该客户，"
        "除非该客户此后另有记录重新给予同意。",
        ("en", True): "No round whose consent size is {index} or less used this record's consent. "
        "Rounds whose consent size is above this entry's index ({index}) may include the customer "
        "until it expires, its notice lapses, or a later record of theirs ends it.",
        ("zh", True): "凡同意记录数不大于 {index} 的训练轮次，均未依据本记录的同意。"
        "同意记录数大于本条目序号（{index}）的训练轮次可以包括该客户，直至本同意到期、"
        "其告知失效，或该客户此后的记录将其终止。",
    }
)
_STRENGTHS = MappingProxyType(
    {
        ("en", True): "Enough other parties have cosigned a log that holds this record at this "
        "place: the region cannot take it back unnoticed.",
        ("zh", True): "已有足够的其他参与方联署了在此位置载有本记录的日志：该区域无法在不被察觉的"
        "情况下撤回本记录。",
        ("en", False): "The region has signed for this record and its place in the log, and cannot "
        "deny it. That others see the same log is not shown yet: too few other parties have "
        "cosigned. Fetch the receipt again after the next round.",
        (
            "zh",
            False,
        ): "该区域已就本记录及其在日志中的位置签名，不能否认。但联署的其他参与方尚不足，"
        "还不能证明其他人看到的是同一份日志。请在下一训练轮次之后重新获取回执。",
    }
)


def receipt_language(lang: str) -> str:
    """The language of a receipt for a customer's language, a BCP 47 tag."""
    return "zh" if _CHINESE.match(lang) else LANGUAGES[0]


def rule_text(index: int, *, grants: bool, lang: str) -> str:
    """What a consent record at an index means for rounds, in words."""
    return _RULES[lang, grants].format(index=index)


def strength(witnessed: bool, lang: str) -> str:
    """What a receipt proves and what not, by whether enough other parties cosigned."""
    return _STRENGTHS[lang, witnessed]
