from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from hypothesis import given
from hypothesis import strategies as st

from common.audit.checkpoint import (
    COSIGNATURE_V1,
    MAX_SIGNATURES,
    Checkpoint,
    NoteKey,
    NoteSignature,
    add_cosignature,
    check_key_name,
    cosignature_time_s,
    open_checkpoint,
    open_note,
    parse_note,
    sign_note,
)
from common.audit.merkle import EMPTY_ROOT
from common.errors import FormatError, InputError, VerificationError
from tests.support.memory_signer import MemorySigner

VECTORS = Path("tests/vectors/c2sp")
ORIGIN = "retail-5.example/region-1"
WITNESS = "witness.example/w1"
LOG, OTHER, WATCHER = MemorySigner("log"), MemorySigner("other"), MemorySigner("witness")
LOG_KEY = NoteKey(ORIGIN, LOG.public_key)
WITNESS_KEY = NoteKey(WITNESS, WATCHER.public_key, COSIGNATURE_V1)
CHECKPOINT = Checkpoint(ORIGIN, 5, bytes(range(32)))


def vector(name):
    return (VECTORS / name).read_text(encoding="utf-8")


def signed(checkpoint=CHECKPOINT, name=ORIGIN, signer=LOG):
    return sign_note(checkpoint.body(), name, signer).encode()


def with_line(note, name, raw):
    line = f"\u2014 {name} {base64.b64encode(raw).decode()}\n"
    return note + line.encode()


class ExampleSigner:
    def __init__(self, signing_key):
        material = base64.b64decode(signing_key.split("+", 4)[4])
        self._private = Ed25519PrivateKey.from_private_bytes(material[1:])
        self.public_key = self._private.public_key().public_bytes_raw()
        self.key_id = ""

    def sign(self, message):
        return self._private.sign(message)


def test_the_published_example_verifies():
    key = NoteKey.parse(vector("verifier-key.txt"))
    note = open_note(vector("signed-note.txt").encode(), [key])
    assert note.text.startswith("If you think cryptography")
    assert [each.name for each in note.verified] == ["PeterNeumann"]
    assert key.id.hex() == "c74f20a3"
    assert key.verifier_key == vector("verifier-key.txt")


def test_signing_gives_the_published_example():
    example = vector("signed-note.txt")
    text = example[: example.index("\n\n") + 1]
    signer = ExampleSigner(vector("example-signing-key.txt"))
    assert sign_note(text, "PeterNeumann", signer) == example


def test_the_published_example_with_one_letter_changed_does_not_verify():
    key = NoteKey.parse(vector("verifier-key.txt"))
    with pytest.raises(VerificationError):
        open_note(vector("signed-note.txt").replace("answer", "Answer").encode(), [key])


def test_a_checkpoint_s_exact_bytes():
    root = base64.b64encode(CHECKPOINT.root).decode()
    assert CHECKPOINT.body() == f"{ORIGIN}\n5\n{root}\n"
    note = signed()
    key_id = hashlib.sha256(ORIGIN.encode() + b"\n\x01" + LOG.public_key).digest()[:4]
    line = base64.b64encode(key_id + LOG.sign(CHECKPOINT.body().encode())).decode()
    assert note.decode() == f"{CHECKPOINT.body()}\n\u2014 {ORIGIN} {line}\n"


def test_a_signed_checkpoint_opens():
    opened = open_checkpoint(signed(), LOG_KEY)
    assert opened.checkpoint == CHECKPOINT
    assert opened.note.encode().encode() == signed()
    assert opened.cosigned_at_s == {}


def test_another_key_s_checkpoint_is_refused():
    with pytest.raises(VerificationError, match="no signature of a known key"):
        open_checkpoint(signed(signer=OTHER), LOG_KEY)


def test_a_checkpoint_of_another_origin_is_refused_though_the_key_is_right():
    other = Checkpoint("retail-5.example/region-2", 5, CHECKPOINT.root)
    with pytest.raises(VerificationError, match="region-2"):
        open_checkpoint(signed(other), LOG_KEY)


def test_a_forged_line_under_the_log_s_key_id_is_refused():
    raw = LOG_KEY.id + b"\x00" * 64
    note = with_line(CHECKPOINT.body().encode() + b"\n", ORIGIN, raw)
    with pytest.raises(VerificationError, match="does not hold"):
        open_checkpoint(note, LOG_KEY)


def test_a_bad_signature_of_a_known_key_spoils_the_whole_note():
    note = with_line(signed(), WITNESS, WITNESS_KEY.id + b"\x00" * 72)
    with pytest.raises(VerificationError, match="witness"):
        open_checkpoint(note, LOG_KEY, [WITNESS_KEY])
    assert open_checkpoint(note, LOG_KEY).checkpoint == CHECKPOINT


def test_unknown_keys_are_ignored_even_with_a_known_name_or_id():
    note = with_line(signed(), ORIGIN, b"\x00\x00\x00\x01" + b"x" * 64)
    note = with_line(note, "elsewhere.example/log", LOG_KEY.id + b"x" * 64)
    opened = open_checkpoint(note, LOG_KEY)
    assert len(opened.note.signatures) == 3
    assert len(opened.note.verified) == 1


def test_a_cosignature_alone_is_no_checkpoint():
    note = add_cosignature(signed(), WITNESS, WATCHER, time_s=1_700_000_000).encode()
    lines = note.decode().splitlines(keepends=True)
    del lines[4]
    with pytest.raises(VerificationError, match="did not sign its checkpoint"):
        open_checkpoint("".join(lines).encode(), LOG_KEY, [WITNESS_KEY])


def test_cosignatures_are_those_of_the_specification():
    time_s = 1_700_000_000
    note = add_cosignature(signed(), WITNESS, WATCHER, time_s=time_s).encode()
    opened = open_checkpoint(note, LOG_KEY, [WITNESS_KEY])
    assert opened.cosigned_at_s == {WITNESS: time_s}
    line = opened.note.signatures[1]
    named = WITNESS.encode() + b"\n\x04" + WATCHER.public_key
    assert line.key_id == hashlib.sha256(named).digest()[:4]
    assert line.signature[:8] == time_s.to_bytes(8, "big")
    message = f"cosignature/v1\ntime {time_s}\n{CHECKPOINT.body()}".encode()
    Ed25519PublicKey.from_public_bytes(WATCHER.public_key).verify(line.signature[8:], message)


def test_a_cosignature_s_time_is_signed():
    note = add_cosignature(signed(), WITNESS, WATCHER, time_s=1_700_000_000).encode()
    line = parse_note(note).signatures[1]
    later = (1_700_000_001).to_bytes(8, "big") + line.signature[8:]
    with pytest.raises(VerificationError):
        open_checkpoint(with_line(signed(), WITNESS, line.key_id + later), LOG_KEY, [WITNESS_KEY])


def test_a_plain_signature_does_not_pass_for_a_cosignature_nor_the_reverse():
    plain = NoteKey(WITNESS, WATCHER.public_key)
    assert plain.id != WITNESS_KEY.id
    note = sign_note(CHECKPOINT.body(), WITNESS, WATCHER).encode()
    raw = parse_note(note).signatures[0].signature
    with pytest.raises(VerificationError, match="version 1"):
        open_note(
            with_line(CHECKPOINT.body().encode() + b"\n", WITNESS, WITNESS_KEY.id + raw),
            [WITNESS_KEY],
        )
    cosigned = add_cosignature(signed(), WITNESS, WATCHER, time_s=1).encode()
    raw = parse_note(cosigned).signatures[1].signature
    for part in (raw, raw[8:]):
        forged = with_line(CHECKPOINT.body().encode() + b"\n", WITNESS, plain.id + part)
        with pytest.raises(VerificationError):
            open_note(forged, [plain])


def test_a_witness_cosigns_once_and_only_checkpoints():
    note = add_cosignature(signed(), WITNESS, WATCHER, time_s=1).encode()
    with pytest.raises(FormatError, match="two signatures of one key"):
        add_cosignature(note, WITNESS, WATCHER, time_s=2)
    with pytest.raises(FormatError):
        add_cosignature(sign_note("hello\n", ORIGIN, LOG).encode(), WITNESS, WATCHER, time_s=1)


@pytest.mark.parametrize("time_s", [-1, 1 << 63])
def test_a_cosignature_has_a_posix_time(time_s):
    with pytest.raises(InputError):
        add_cosignature(signed(), WITNESS, WATCHER, time_s=time_s)
    with pytest.raises(VerificationError):
        cosignature_time_s(NoteSignature("w", b"1234", b"\xff" * 8 + b"x" * 64))


GOOD = signed().decode()
HEAD, _, LINE = GOOD.partition("\n\n")


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        HEAD + "\n",
        GOOD.removesuffix("\n"),  # no final newline
        GOOD + "\n",  # a blank line after the signatures
        f"{HEAD}\n{LINE}",  # no blank line
        f"{HEAD}\n\n",  # no signature
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("5\n", "5\t\n", 1),
        GOOD.replace("5\n", "5\x00\n", 1),
        GOOD.replace("\u2014", "-"),
        GOOD.replace("\u2014 ", "\u2014"),
        GOOD.replace("\u2014 ", "\u2014  "),
        GOOD.replace(f"\u2014 {ORIGIN} ", f"\u2014 {ORIGIN}\u00a0"),
        GOOD.replace(f"\u2014 {ORIGIN}", "\u2014 "),
        GOOD.replace(f"\u2014 {ORIGIN}", f"\u2014 {ORIGIN}+x"),
        GOOD.replace(f"\u2014 {ORIGIN}", f"\u2014 {ORIGIN}\u2003x"),
        GOOD[:-1] + " \n",
        GOOD[:-1] + " x\n",
        GOOD.removesuffix("=\n") + "\n",  # padding left out
        f"{HEAD}\n\n\u2014 {ORIGIN} AAAAAA==\n",  # a key id, no signature
        f"{HEAD}\n\n\u2014 {ORIGIN} !!!!\n",
        f"{HEAD}\n\n{LINE}{LINE}",  # one key twice
        f"{HEAD}\n\n{LINE}" + "".join(f"\u2014 k{n} AAAAAAAA\n" for n in range(MAX_SIGNATURES)),
    ],
)
def test_malformed_notes_are_refused(note):
    with pytest.raises(FormatError):
        open_checkpoint(note.encode(), LOG_KEY)


def test_a_note_is_utf_8_of_bounded_size():
    with pytest.raises(FormatError, match="UTF-8"):
        open_note(b"\xff" + signed(), [LOG_KEY])
    with pytest.raises(FormatError, match="longer"):
        open_note(b"x" * 200_000, [LOG_KEY])


def test_base64_has_one_form():
    # The last letter of an 68-byte value has bits to spare; another letter decodes to the same.
    letter = GOOD[-3]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sibling = alphabet[alphabet.index(letter) ^ 1]
    other = GOOD[:-3] + sibling + GOOD[-2:]
    decoded = [base64.b64decode(note.split(" ")[-1]) for note in (GOOD, other)]
    assert decoded[0] == decoded[1]
    with pytest.raises(FormatError, match="canonical"):
        open_checkpoint(other.encode(), LOG_KEY)


def test_at_least_16_signatures_are_accepted():
    note = signed()
    for number in range(MAX_SIGNATURES - 1):
        note = with_line(note, f"w{number}.example", number.to_bytes(4) + b"x" * 72)
    assert MAX_SIGNATURES >= 16
    assert open_checkpoint(note, LOG_KEY).checkpoint == CHECKPOINT


ROOT = base64.b64encode(CHECKPOINT.root).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n5\n{ROOT}",
        f"{ORIGIN}\n5\n{ROOT}\nextension\n",
        f"{ORIGIN}\n5\n{ROOT}\n\n",
        f"\n5\n{ROOT}\n",
        f"two words\n5\n{ROOT}\n",
        f"{ORIGIN}\n05\n{ROOT}\n",
        f"{ORIGIN}\n+5\n{ROOT}\n",
        f"{ORIGIN}\n-5\n{ROOT}\n",
        f"{ORIGIN}\n5 \n{ROOT}\n",
        f"{ORIGIN}\n\u0665\n{ROOT}\n",
        f"{ORIGIN}\n{1 << 63}\n{ROOT}\n",
        f"{ORIGIN}\n\n{ROOT}\n",
        f"{ORIGIN}\n5\n{ROOT[:-4]}\n",
        f"{ORIGIN}\n5\n{ROOT.rstrip('=')}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(b'x' * 31).decode()}\n",
        f"{ORIGIN}\n0\n{ROOT}\n",  # the empty tree has one root
    ],
)
def test_malformed_checkpoints_are_refused(text):
    with pytest.raises(FormatError):
        Checkpoint.parse(text)


@given(st.integers(1, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_round_trip(size, root):
    checkpoint = Checkpoint(ORIGIN, size, root)
    assert Checkpoint.parse(checkpoint.body()) == checkpoint


def test_the_empty_log_s_checkpoint():
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert Checkpoint.parse(empty.body()) == empty


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\x01b", "\ud800"])
def test_key_names_have_no_space_plus_or_control(name):
    with pytest.raises(FormatError):
        NoteKey(name, LOG.public_key)


@pytest.mark.parametrize(
    "text",
    ["", "no newline", "tab\there\n", "nul\x00\n"],
)
def test_texts_that_cannot_stand_in_a_note_are_not_signed(text):
    with pytest.raises(FormatError):
        sign_note(text, ORIGIN, LOG)


def test_a_text_with_blank_lines_round_trips():
    text = "one\n\n\ntwo\n"
    assert open_note(sign_note(text, ORIGIN, LOG).encode(), [LOG_KEY]).text == text


@pytest.mark.parametrize(
    "verifier_key",
    [
        "",
        "name",
        "name+00000000",
        "name+00000000+",
        LOG_KEY.verifier_key.replace(LOG_KEY.id.hex(), "00000000"),
        LOG_KEY.verifier_key.replace(LOG_KEY.id.hex(), LOG_KEY.id.hex().upper() + "x"),
        LOG_KEY.verifier_key + "=",
        "name+00000000+" + base64.b64encode(b"\x02" + LOG.public_key).decode(),
        "name+00000000+" + base64.b64encode(b"\x01" + LOG.public_key[:31]).decode(),
    ],
)
def test_malformed_verifier_keys_are_refused(verifier_key):
    with pytest.raises(FormatError):
        NoteKey.parse(verifier_key)


def test_verifier_keys_round_trip():
    assert NoteKey.parse(LOG_KEY.verifier_key) == LOG_KEY
    assert NoteKey.parse(WITNESS_KEY.verifier_key) == WITNESS_KEY


def test_two_known_keys_of_one_name_and_id_are_refused():
    with pytest.raises(InputError):
        open_note(signed(), [LOG_KEY, LOG_KEY])


def test_a_key_name_is_any_text_without_spaces_pluses_and_control_characters() -> None:
    # What C2SP signed-note says, character by character.
    for code in [*range(0x3100), 0xD800, 0xDFFF, 0xFEFF, 0x1F600]:
        character = chr(code)
        fits = not (
            character == "+" or character.isspace() or code < 0x20 or 0xD800 <= code < 0xE000
        )
        for name in (character, f"a{character}b"):
            if fits:
                check_key_name(name)
            else:
                with pytest.raises(FormatError):
                    check_key_name(name)
    with pytest.raises(FormatError):
        check_key_name("")
