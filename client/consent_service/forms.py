"""What all consents of a region have in common, and how a form is made of it with a notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.consent import ConsentForm
from common.durable_file import write_durably
from common.errors import FormatError, InputError
from common.notice import LoggedNotice
from common.validate import array, exact_fields, whole_number

#: The file's name in a region's home.
FILE_NAME = "consent-form.json"
WEB_FORM = "web-form"

_VERSION = "fedpref-consent-form/1"
_TEXTS = ("legal_basis", "jurisdiction", "withdrawal")
_FIELDS = frozenset({"v", "data", "lasts_s", *_TEXTS})


@dataclass(frozen=True)
class FormSettings:
    """A region's settings for consent.

    Attributes:
        legal_basis: One of `common.consent.LEGAL_BASES`.
        jurisdiction: ISO 3166-1 alpha-2 code, or an ISO 3166-2 subdivision.
        withdrawal: Where customers withdraw: an https: or mailto: address.
        data: The categories of personal data, as DPV-PD terms.
        lasts_s: After how many seconds a consent expires; None if it does not.
    """

    legal_basis: str
    jurisdiction: str
    withdrawal: str
    data: tuple[str, ...]
    lasts_s: int | None = None

    def form(self, notice: LoggedNotice, method: str = WEB_FORM) -> ConsentForm:
        """The form by which customers decide about a notice.

        Raises:
            FormatError: A setting is malformed.
        """
        return ConsentForm(
            type="explicit",
            legal_basis=self.legal_basis,
            controller=notice.notice.controller,
            jurisdiction=self.jurisdiction,
            lang=notice.notice.lang,
            method=method,
            withdrawal=self.withdrawal,
            notice_id=notice.notice.notice_id,
            notice_sha256=notice.sha256,
            data=self.data,
        )

    def write(self, home: Path) -> None:
        """Writes the settings into a region's home."""
        record: dict[str, JsonValue] = {
            "v": _VERSION,
            "legal_basis": self.legal_basis,
            "jurisdiction": self.jurisdiction,
            "withdrawal": self.withdrawal,
            "data": list(self.data),
            "lasts_s": self.lasts_s,
        }
        write_durably(home / FILE_NAME, canonical_json.encode(record))

    @classmethod
    def read(cls, home: Path) -> FormSettings:
        """Reads the settings of a region's home.

        Raises:
            InputError: They are missing or malformed: names the file and the field.
        """
        path = home / FILE_NAME
        try:
            fields = exact_fields(canonical_json.decode(path.read_bytes()), _FIELDS, "The form")
            texts = {name: fields[name] for name in _TEXTS}
            texts |= {f"data {i}": item for i, item in enumerate(array(fields["data"], "data"))}
            if fields["v"] != _VERSION or any(type(text) is not str for text in texts.values()):
                raise FormatError(f"It is no {_VERSION}, or a field of it is no text.")
            lasts = fields["lasts_s"]
            return cls(
                **{name: str(fields[name]) for name in _TEXTS},
                data=tuple(str(item) for item in array(fields["data"], "data")),
                lasts_s=None if lasts is None else whole_number(lasts, "lasts_s", least=1),
            )
        except OSError as error:
            raise InputError(
                f"The region's consent settings {path} cannot be read: {error.strerror}.",
                remedy="Restore the file from the region's backup.",
            ) from error
        except FormatError as error:
            raise InputError(
                f"The region's consent settings {path} are malformed: {error.message}",
                remedy="Restore the file from the region's backup.",
            ) from error
