"""Customer key files: exact bytes both ways, and a pseudonym that must follow from the secret."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import canonical_json
from common.audit.customer_key import CustomerKey, read_customer_key, write_customer_key
from common.errors import FormatError, InputError, StorageError, VerificationError

KEY = CustomerKey("retail-5.example", "region-1", "c-17", bytes(range(32)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def test_the_pseudonym_is_the_specified_hash() -> None:
    expected = hashlib.sha256(b"fedpref-sid/1" + bytes(range(32)) + b"c-17").hexdigest()
    assert KEY.sid == expected
    assert json.loads(KEY.encode()) == {
        "v": "fedpref-customer-key/1",
        "federation": "retail-5.example",
        "region": "region-1",
        "customer_ref": "c-17",
        "k_subject": bytes(range(32)).hex(),
        "sid": expected,
    }


@given(reference=TEXTS, secret=st.binary(min_size=32, max_size=32))
def test_what_is_written_reads_back(reference: str, secret: bytes) -> None:
    key = CustomerKey("f.example", "r-1", reference, secret)
    assert CustomerKey.parse(key.encode()) == key


def test_the_secret_is_not_shown() -> None:
    assert KEY.k_subject.hex() not in repr(KEY)
    assert repr(KEY.k_subject) not in repr(KEY)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("k_subject", "00" * 32, VerificationError),
        ("customer_ref", "c-18", VerificationError),
        ("sid", "0" * 64, VerificationError),
        ("sid", KEY.sid.upper(), FormatError),
        ("k_subject", "00" * 31, FormatError),
        ("customer_ref", 17, FormatError),
        ("customer_ref", "", FormatError),
        ("region", "../region-1", FormatError),
        ("federation", "a\nb", FormatError),
        ("v", "fedpref-customer-key/2", FormatError),
        ("more", 1, FormatError),
    ],
)
def test_a_changed_field_is_refused(field: str, value: object, error: type[Exception]) -> None:
    record = json.loads(KEY.encode()) | {field: value}
    with pytest.raises(error):
        CustomerKey.parse(canonical_json.encode(record))


def test_a_missing_field_and_another_spelling_are_refused() -> None:
    record = json.loads(KEY.encode())
    for name in record:
        with pytest.raises(FormatError):
            CustomerKey.parse(canonical_json.encode({k: record[k] for k in record if k != name}))
    with pytest.raises(FormatError, match="canonical"):
        CustomerKey.parse(json.dumps(record).encode())
    with pytest.raises(FormatError, match="bytes"):
        CustomerKey.parse(b" " * 5000)


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    write_customer_key(path, KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_customer_key(path) == KEY
    with pytest.raises(StorageError, match="missing"):
        write_customer_key(tmp_path / "missing" / "key.json", KEY)


def test_a_missing_or_malformed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    with pytest.raises(InputError, match=r"key\.json"):
        read_customer_key(path)
    path.write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"key\.json"):
        read_customer_key(path)
