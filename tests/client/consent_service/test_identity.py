"""Login tokens: what is accepted, and each way of cheating that is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.consent_service import identity as identity_module
from client.consent_service.config import LoginSettings
from client.consent_service.identity import LoginError, LoginTokens
from client.consent_service.login_keys import LoginKey, LoginKeys, parse_jwks
from common.errors import FormatError, InputError

ISSUER, AUDIENCE = "https://login.shop.example", "https://consent.shop.example"
NOW_S = 1_800_000_000
SETTINGS = LoginSettings(
    issuer=ISSUER, audience=AUDIENCE, algorithms=["EdDSA", "RS256"], jwks="jwks.json"
)
ED = Ed25519PrivateKey.generate()
RSA = generate_private_key(65537, 2048)
Make = Callable[..., LoginTokens]


def jwk_of(key: Ed25519PrivateKey | RSAPrivateKey, kid: str) -> dict[str, Any]:
    maker = jwt.algorithms.OKPAlgorithm if isinstance(key, Ed25519PrivateKey) else None
    maker = maker or jwt.algorithms.RSAAlgorithm
    return {**maker.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


JWKS = {"keys": [jwk_of(ED, "ed-1"), jwk_of(RSA, "rsa-1")]}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_tokens(settings: LoginSettings = SETTINGS, *, now_s: float = NOW_S) -> LoginTokens:
        path = tmp_path / "jwks.json"
        if not path.exists():
            path.write_text(json.dumps(JWKS))
        keys = LoginKeys(path, settings.algorithms)
        return LoginTokens(settings, keys, clock_s=lambda: now_s)

    return make_tokens


def claims(**changes: Any) -> dict[str, Any]:
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "customer-1",
        "iat": NOW_S,
        "nbf": NOW_S,
        "exp": NOW_S + 120,
        "jti": "one",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = ED, algorithm: str = "EdDSA", kid: str | None = "ed-1", **changes: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def unsafe(header: dict[str, Any], body: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token that no library would make."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = f"{part(json.dumps(header).encode())}.{part(json.dumps(body).encode())}"
    return f"{head}.{part(sign(head.encode()))}"


def test_a_token_says_who_acts(make: Make) -> None:
    who = make().verify(token(minor=True, guardian=True))
    assert (who.customer_ref, who.minor, who.guardian) == ("customer-1", True, True)
    assert "customer-1" not in repr(replace(who, customer_ref=""))
    plain = make().verify(token(RSA, "RS256", "rsa-1"))
    assert (plain.minor, plain.guardian) == (False, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other.example"},
        {"aud": "https://other.example"},
        {"aud": [AUDIENCE, "https://other.example"]},
        {"exp": NOW_S - 11, "iat": NOW_S - 60, "nbf": None},
        {"iat": NOW_S + 11, "nbf": NOW_S, "exp": NOW_S + 100},
        {"nbf": NOW_S + 11},
        {"exp": NOW_S + 301},
        {"exp": NOW_S},
        {"iat": True},
        {"exp": "never"},
        {"exp": 1 << 60},
        {"sub": ""},
        {"sub": "x" * 129},
        {"sub": "a\nb"},
        {"sub": 7},
        {"jti": ""},
        {"jti": "a b"},
        {"minor": "yes"},
        {"guardian": True},
        {"minor": False, "guardian": True},
        *({name: None} for name in ("iss", "aud", "sub", "iat", "exp", "jti")),
    ],
)
def test_claims_that_do_not_hold_are_refused(make: Make, changes: dict[str, Any]) -> None:
    tokens = make()
    tokens.verify(token())
    with pytest.raises(LoginError):
        tokens.verify(token(**changes))


def test_not_a_number_is_no_time(make: Make) -> None:
    with pytest.raises(LoginError):
        make().verify(token(exp=float("nan")))


def test_a_foreign_key_is_refused(make: Make) -> None:
    tokens = make()
    for forged in (
        token(Ed25519PrivateKey.generate()),
        token(kid="ed-2"),
        token(kid=None),
        token(kid="rsa-1"),
    ):
        with pytest.raises(LoginError):
            tokens.verify(forged)


@pytest.mark.parametrize("text", ["", ".", "a.b.c", "é", "x" * 9000, "eyJ9.e30.", "\x00"])
def test_what_is_no_token_is_refused(make: Make, text: str) -> None:
    with pytest.raises(LoginError):
        make().verify(text)


@pytest.mark.parametrize("kid", ["ed-1", "rsa-1"])
@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
def test_a_token_without_a_signature_is_refused(make: Make, kid: str, name: str) -> None:
    """Algorithm confusion: none."""
    forged = unsafe({"alg": name, "typ": "JWT", "kid": kid}, claims(), lambda _: b"")
    with pytest.raises(LoginError):
        make().verify(forged)


def forgeries_with_public_keys() -> list[str]:
    """Algorithm confusion: HS256 with a public key as the secret, in all its usual spellings."""
    public = ED.public_key()
    secrets = [
        (public.public_bytes_raw(), "ed-1"),
        (public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ed-1"),
        (json.dumps(jwk_of(ED, "ed-1")).encode(), "ed-1"),
        (RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "rsa-1"),
        (RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1), "rsa-1"),
    ]
    return [
        unsafe(
            {"alg": "HS256", "typ": "JWT", "kid": kid},
            claims(),
            lambda data, secret=secret: hmac.digest(secret, data, hashlib.sha256),  # type: ignore[misc]
        )
        for secret, kid in secrets
    ]


@pytest.mark.parametrize("forged", forgeries_with_public_keys())
def test_a_public_key_is_no_secret(make: Make, forged: str) -> None:
    with pytest.raises(LoginError):
        make().verify(forged)


def test_the_token_does_not_choose_how_it_is_checked(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the defence, which is the fixed algorithm, such a forgery is accepted."""
    forged = forgeries_with_public_keys()[0]
    tokens = make()
    with pytest.raises(LoginError):
        tokens.verify(forged)
    decode = jwt.decode

    def believing(text: str, key: Any, *, algorithms: list[str], **options: Any) -> Any:
        del algorithms
        named = jwt.get_unverified_header(text)["alg"]
        secret = key.public_bytes_raw() if named == "HS256" else key
        return decode(text, secret, algorithms=[named], **options)

    monkeypatch.setattr(identity_module.jwt, "decode", believing)
    assert tokens.verify(forged).customer_ref == "customer-1"


def test_only_the_algorithms_of_the_settings_count(make: Make) -> None:
    only = SETTINGS.model_copy(update={"algorithms": ["EdDSA"]})
    make(only).verify(token())
    with pytest.raises(LoginError):
        make(only).verify(token(RSA, "RS256", "rsa-1"))
    with pytest.raises(LoginError):
        make().verify(jwt.encode(claims(), RSA, algorithm="RS512", headers={"kid": "rsa-1"}))


def test_a_critical_extension_is_refused(make: Make) -> None:
    forged = jwt.encode(
        claims(), ED, algorithm="EdDSA", headers={"kid": "ed-1", "crit": ["exp"], "exp": 1}
    )
    with pytest.raises(LoginError):
        make().verify(forged)


def test_a_token_is_exchanged_once(make: Make) -> None:
    tokens = make()
    once = token()
    assert tokens.verify(once)
    assert tokens.exchange(once)
    with pytest.raises(LoginError, match="used before"):
        tokens.exchange(once)
    with pytest.raises(LoginError, match="used before"):
        tokens.verify(once)
    # Another signature over the same id is the same token.
    with pytest.raises(LoginError, match="used before"):
        tokens.exchange(token(RSA, "RS256", "rsa-1"))
    assert tokens.exchange(token(jti="two"))


def test_a_spent_token_stays_spent_for_as_long_as_it_is_valid(tmp_path: Path, make: Make) -> None:
    make()
    clock = [float(NOW_S)]
    keys = LoginKeys(tmp_path / "jwks.json", SETTINGS.algorithms)
    tokens = LoginTokens(SETTINGS, keys, clock_s=lambda: clock[0])
    once = token()
    tokens.exchange(once)
    for passed_s in (60, 120, 129):
        clock[0] = NOW_S + passed_s
        # Another login makes the guard forget what it may.
        with pytest.raises(LoginError, match="used before"):
            tokens.exchange(once)
        tokens.exchange(token(jti=f"at-{passed_s}", iat=NOW_S + 60, exp=NOW_S + 200))
    clock[0] = NOW_S + 200
    with pytest.raises(LoginError, match="expired"):
        tokens.exchange(once)
    tokens.exchange(token(jti="last", iat=NOW_S + 190, exp=NOW_S + 260))
    assert "one" not in tokens._spent


def test_a_restart_does_not_forget_what_was_spent(make: Make) -> None:
    once = token()
    make().exchange(once)
    restarted = make(now_s=NOW_S + 5)
    with pytest.raises(LoginError, match="before the service began"):
        restarted.exchange(once)
    assert restarted.exchange(token(iat=NOW_S + 5, jti="new"))


# Keys


def test_keys_are_rotated_without_a_restart(make: Make, tmp_path: Path) -> None:
    tokens, path = make(), tmp_path / "jwks.json"
    new = Ed25519PrivateKey.generate()
    with pytest.raises(LoginError):
        tokens.verify(token(new, kid="ed-2"))
    path.write_text(json.dumps({"keys": [jwk_of(ED, "ed-1"), jwk_of(new, "ed-2")]}))
    assert tokens.verify(token(new, kid="ed-2"))
    assert tokens.verify(token())
    path.write_text(json.dumps({"keys": [jwk_of(new, "ed-2")]}))
    with pytest.raises(LoginError):
        tokens.verify(token())


def test_a_damaged_key_file_lets_nobody_in(make: Make, tmp_path: Path) -> None:
    tokens, path = make(), tmp_path / "jwks.json"
    path.write_text("{")
    for _ in range(2):
        with pytest.raises(InputError):
            tokens.verify(token())
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        tokens.verify(token())


def small_order() -> dict[str, Any]:
    """The identity point: one signature verifies every message."""
    raw = base64.urlsafe_b64encode(b"\x01" + bytes(31)).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": raw, "kid": "weak"}


SECRET_JWK = jwt.algorithms.OKPAlgorithm.to_jwk(ED, as_dict=True)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [7],
        [{**jwk_of(ED, "a"), "kid": ""}],
        [{key: value for key, value in jwk_of(ED, "a").items() if key != "kid"}],
        [jwk_of(ED, "a"), jwk_of(RSA, "a")],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}],
        [{**SECRET_JWK, "kid": "a"}],
        [small_order()],
        [jwk_of(generate_private_key(65537, 1024), "a")],
        [{"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "a"}],
        [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "a"}],
        [{**jwk_of(ED, "a"), "use": "enc"}],
        [jwk_of(ED, f"key-{number}") for number in range(65)],
    ],
)
def test_unsound_key_sets_are_refused(entries: list[Any]) -> None:
    with pytest.raises(FormatError):
        parse_jwks(json.dumps({"keys": entries}).encode(), ["EdDSA", "RS256"], "jwks")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys":{}}', b"[" * 100_000, b" " * 2_000_000]
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_jwks(data, ["EdDSA"], "jwks")


def test_a_key_has_the_one_algorithm_of_its_kind() -> None:
    keys = parse_jwks(json.dumps(JWKS).encode(), ["EdDSA", "RS256"], "jwks")
    assert {kid: key.algorithm for kid, key in keys.items()} == {"ed-1": "EdDSA", "rsa-1": "RS256"}
    assert isinstance(keys["ed-1"], LoginKey)


def test_the_clock_is_the_systems_by_default(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    keys = LoginKeys(tmp_path / "jwks.json", SETTINGS.algorithms)
    now_s = int(time.time())
    assert LoginTokens(SETTINGS, keys).verify(token(iat=now_s, nbf=now_s, exp=now_s + 60))
