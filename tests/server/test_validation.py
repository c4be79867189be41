"""Every defence against a malicious reply, each with the reply it is for."""

from __future__ import annotations

import base64
import gc
import io
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord

from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.bounded_inflation import OVERSIZE_STYPE
from common.canonical_json import JsonValue
from common.envelope import Envelope, sign_record
from common.messages import compose_message, decode_message, encode_arrays, encode_message
from common.parameters import arrays_digest, snap_to_grid
from common.plan import RunPlan
from common.release_bounds import release_norm_bound
from common.timestamps import now_ms
from server.grid_exchange import UNDECODABLE_REPLY
from server.validation import (
    Question,
    ReplyRefusedError,
    ReplyValidator,
    ValidatedUpdate,
)
from tests.support.fake_federation import (
    Arrays,
    FakeEngine,
    FakeFederation,
    Header,
    fake_plan,
    open_federation,
)
from tests.support.flower_messages import NODE, request
from tests.support.local_plan import local_plan
from tests.support.memory_signer import MemorySigner

REGION = "region-1"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeFederation]:
    with open_federation(tmp_path_factory.mktemp("federation"), fake_plan(2)) as federation:
        yield federation


@pytest.fixture
def engine(federation: FakeFederation) -> Iterator[FakeEngine]:
    """Region 1's engine, behaving, with nothing sealed."""
    engine = federation.engines[REGION]
    engine.sealed.clear()
    yield engine
    engine.tamper_arrays = engine.tamper_record = engine.tamper_reply = None


@pytest.fixture
def validator(federation: FakeFederation) -> ReplyValidator:
    return ReplyValidator(federation.plan, federation.home.read_registry())


def question(plan: RunPlan, number: int = 1, model_in: str | None = None) -> Question:
    return Question(
        region=REGION,
        node=NODE,
        server_round=number,
        attempt=1,
        mechanism=plan.mechanism_of(number),
        model_in=arrays_digest({}) if model_in is None else model_in,
    )


def ask(engine: FakeEngine, number: int = 1, model: Arrays | None = None) -> Message:
    """The engine's reply as it arrives."""
    header: Header = {
        "run": engine.plan.run_id,
        "round": number,
        "attempt": 1,
        "mechanism": engine.plan.mechanism_of(number).name,
        "plan": engine.plan.digest,
    }
    answer, arrays = engine.call("train", header, model or {})
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = raw_array(array)
    return Message(compose_message(answer, record), reply_to=request(header))


def raw_array(array: np.ndarray) -> Array:
    """An array as Flower sends it, of whatever dtype: a liar does not use our codec."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return Array(array.dtype.name, tuple(array.shape), "numpy.ndarray", buffer.getvalue())


def reason(validator: ReplyValidator, reply: Message, asked: Question) -> str:
    with pytest.raises(ReplyRefusedError) as caught:
        validator.validate(reply, asked, now_ms=now_ms())
    return caught.value.reason


def test_an_honest_reply_counts(engine: FakeEngine, validator: ReplyValidator) -> None:
    update = validator.validate(ask(engine), question(engine.plan), now_ms=now_ms())
    assert isinstance(update, ValidatedUpdate)
    assert update.used.region == REGION
    assert update.used.update == arrays_digest(engine.release(1))
    np.testing.assert_array_equal(update.arrays["popularity"], engine.release(1)["popularity"])


def test_a_repeated_request_gets_the_same_and_it_counts_again(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    asked = question(engine.plan)
    first, second = (validator.validate(ask(engine), asked, now_ms=now_ms()) for _ in range(2))
    assert first.used == second.used


def change(values: np.ndarray, value: float) -> np.ndarray:
    changed = values.copy()
    changed.flat[0] = value
    return changed


ARRAY_LIES: dict[str, tuple[str, Callable[[Arrays], Arrays]]] = {
    "nan": ("not-finite", lambda a: {"popularity": change(a["popularity"], np.nan)}),
    "infinite": ("not-finite", lambda a: {"popularity": change(a["popularity"], np.inf)}),
    "off-grid": ("off-grid", lambda a: {"popularity": change(a["popularity"], 1 / 3)}),
    "huge": ("norm-too-large", lambda a: {"popularity": change(a["popularity"], 2.0**40)}),
    "no-noise": ("without-noise", lambda a: {"popularity": np.zeros_like(a["popularity"])}),
    "shorter": ("wrong-shape", lambda a: {"popularity": a["popularity"][:-1]}),
    "one": ("wrong-shape", lambda a: {"popularity": a["popularity"][:1]}),
    "column": ("wrong-shape", lambda a: {"popularity": a["popularity"].reshape(-1, 1)}),
    "double": ("wrong-dtype", lambda a: {"popularity": a["popularity"].astype("<f8")}),
    "integer": ("wrong-dtype", lambda a: {"popularity": a["popularity"].astype("<i4")}),
    "complex": ("malformed-reply", lambda a: {"popularity": a["popularity"].astype("<c8")}),
    "big-endian": ("malformed-reply", lambda a: {"popularity": a["popularity"].astype(">f4")}),
    "object": ("malformed-reply", lambda a: {"popularity": np.array([{}], dtype=object)}),
    "extra": ("wrong-arrays", lambda a: {**a, "bonus": a["popularity"][:1]}),
    "renamed": ("wrong-arrays", lambda a: {"factor_gradient": a["popularity"]}),
    "none": ("wrong-arrays", lambda a: {}),
    "oversize": ("oversize", lambda a: {"popularity": np.zeros(10_000, "<f4")}),
}


@pytest.mark.parametrize("lie", ARRAY_LIES)
def test_arrays_that_the_region_signed_but_the_plan_does_not_allow(
    lie: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    expected, engine.tamper_arrays = ARRAY_LIES[lie]
    assert reason(validator, ask(engine), question(engine.plan)) == expected


def test_the_norm_bound_lets_honest_noise_through_and_little_more(federation: Any) -> None:
    for mechanism in federation.plan.mechanisms:
        bound = release_norm_bound(federation.plan, mechanism)
        (spec,) = federation.plan.released_arrays(mechanism.name)
        generator = np.random.default_rng(1)
        noise = generator.normal(scale=mechanism.noise_stddev, size=(2000, *spec.shape))
        norms = np.linalg.norm(noise.reshape(2000, -1), axis=1)
        planned = federation.plan.planned_customers * float(mechanism.clipping_norm)
        assert norms.max() + planned < bound
        assert bound < 20 * planned + 4 * norms.max()


CONTEXT_LIES: dict[str, tuple[str, str, JsonValue]] = {
    "other-run": ("run", "other-run", "run-2"),
    "replayed-round": ("round", "other-round", 2),
    "round-true": ("round", "other-round", True),
    "attempt": ("attempt", "other-attempt", 2),
    "region": ("region", "other-region", "region-2"),
    "mechanism": ("mechanism", "other-mechanism", "factors"),
}


@pytest.mark.parametrize("lie", CONTEXT_LIES)
def test_a_reply_of_another_context(
    lie: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    name, expected, value = CONTEXT_LIES[lie]
    engine.tamper_reply = lambda header, arrays: ({**header, name: value}, arrays)
    assert reason(validator, ask(engine), question(engine.plan)) == expected


RECORD_LIES: dict[str, tuple[str, dict[str, JsonValue]]] = {
    "run": ("other-run", {"run": "run-2"}),
    "round": ("other-round", {"round": 2}),
    "attempt": ("other-attempt", {"attempt": 2}),
    "attempt-true": ("other-attempt", {"attempt": True}),
    "region": ("other-region", {"region": "region-2"}),
    "mechanism": ("other-mechanism", {"mechanism": "factors"}),
    "plan": ("other-plan", {"plan": "0" * 64}),
    "model-in": ("other-model-in", {"model_in": "0" * 64}),
    "update": ("other-update", {"update": "0" * 64}),
    "dp": ("other-noise", {"dp": {}}),
    "unknown-field": ("malformed-entry", {"bonus": 1}),
}


@pytest.mark.parametrize("lie", RECORD_LIES)
def test_a_signed_round_entry_of_something_else(
    lie: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    expected, fields = RECORD_LIES[lie]
    engine.tamper_record = lambda record: record.update(fields)
    assert reason(validator, ask(engine), question(engine.plan)) == expected


@pytest.mark.parametrize("name", ["noise_multiplier", "clipping_norm", "sampling_probability"])
def test_a_signed_round_entry_that_states_other_noise(
    name: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    def tamper(record: Header) -> None:
        dp = record["dp"]
        assert isinstance(dp, dict)
        dp[name] = "0.001"

    engine.tamper_record = tamper
    assert reason(validator, ask(engine), question(engine.plan)) == "other-noise"


def test_a_reply_is_gone_as_soon_as_it_was_judged(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    reply = ask(engine)
    content = weakref.ref(reply.content)
    gc.disable()
    try:
        update = validator.validate(reply, question(engine.plan), now_ms=now_ms())
        del reply, update
        # As large as the model, it must not wait for Python to look for cycles.
        assert content() is None
    finally:
        gc.enable()


def test_arrays_swapped_after_signing(engine: FakeEngine, validator: ReplyValidator) -> None:
    plan = engine.plan
    other = {
        "popularity": snap_to_grid(
            np.linspace(1, 2, plan.n_items), plan.mechanisms[0].grid_exponent
        )
    }
    engine.tamper_reply = lambda header, _: (header, other)
    assert reason(validator, ask(engine), question(plan)) == "wrong-digest"
    engine.tamper_reply = lambda header, _: ({**header, "update": arrays_digest(other)}, other)
    assert reason(validator, ask(engine), question(plan)) == "other-update"


def entry_of(header: Header) -> bytes:
    return base64.b64decode(str(header["round_entry"]))


def with_entry(entry: bytes) -> Callable[[Header, Arrays], tuple[Header, Arrays]]:
    text = base64.b64encode(entry).decode()
    return lambda header, arrays: ({**header, "round_entry": text}, arrays)


@pytest.mark.parametrize("signer", ["region-2 trainer", "region-1 log", "nobody"])
def test_a_round_entry_signed_by_another_key(
    signer: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    header, _ = decode_message(ask(engine).content)
    record = Envelope.decode(entry_of(header)).record()
    engine.tamper_reply = with_entry(sign_record(record, MemorySigner(signer)))
    assert reason(validator, ask(engine), question(engine.plan)) == "wrong-signer"


def test_a_round_entry_with_a_second_bad_signature(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    header, _ = decode_message(ask(engine).content)
    record = Envelope.decode(entry_of(header)).record()
    both = sign_record(record, engine.trainer, MemorySigner("nobody"))
    engine.tamper_reply = with_entry(both)
    assert reason(validator, ask(engine), question(engine.plan)) == "wrong-signer"


def test_an_unsigned_or_altered_round_entry(engine: FakeEngine, validator: ReplyValidator) -> None:
    header, _ = decode_message(ask(engine).content)
    entry = entry_of(header)
    unsigned = entry[: entry.index(b'"signatures"')] + b'"signatures":[]}'
    for altered in (unsigned, b"", b"{}", entry + b" ", b"\xff" * 100):
        engine.tamper_reply = with_entry(altered)
        assert reason(validator, ask(engine), question(engine.plan)) == "malformed-entry"
    for text in ("not base64!", 7, None):
        engine.tamper_reply = lambda h, a, t=text: ({**h, "round_entry": t}, a)
        assert reason(validator, ask(engine), question(engine.plan)) == "malformed-entry"


def test_another_kind_of_record_signed_by_the_region(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    header, _ = decode_message(ask(engine).content)
    record = Envelope.decode(entry_of(header)).record()
    entry = make_entry({**record, "v": "fedpref-release/1"}, engine.trainer)
    engine.tamper_reply = with_entry(entry)
    assert reason(validator, ask(engine), question(engine.plan)) == "malformed-entry"


def test_a_key_that_is_not_valid_now(engine: FakeEngine, validator: ReplyValidator) -> None:
    reply = ask(engine)
    for moment in (0, now_ms() + 2 * 3_600_000):
        with pytest.raises(ReplyRefusedError) as caught:
            validator.validate(reply, question(engine.plan), now_ms=moment)
        assert caught.value.reason == "wrong-signer"


def test_a_round_entry_that_was_never_logged(
    engine: FakeEngine, validator: ReplyValidator, federation: FakeFederation
) -> None:
    header, _ = decode_message(ask(engine).content)
    record = Envelope.decode(entry_of(header)).record()
    unlogged = make_entry({**record, "charge_id": "1" * 26}, engine.trainer)
    engine.tamper_reply = with_entry(unlogged)
    assert reason(validator, ask(engine), question(engine.plan)) == "not-logged"


def test_a_proof_of_logging_that_is_another_or_none(
    engine: FakeEngine, validator: ReplyValidator, tmp_path: Any
) -> None:
    engine.log.append([b"another entry"])
    header, _ = decode_message(ask(engine).content)
    proof, note = header["inclusion_proof"], header["checkpoint"]
    assert isinstance(proof, list)
    assert isinstance(note, str)
    index = header["leaf_index"]
    assert isinstance(index, int)
    with AuditLog.open(
        tmp_path / "fork.sqlite",
        origin=engine.log.origin,
        signer=MemorySigner("nobody"),
        create=True,
    ) as fork:
        fork.append([entry_of(header)])
        forged = fork.checkpoint().decode()
    lies: list[tuple[str, dict[str, JsonValue]]] = [
        ("not-logged", {"inclusion_proof": proof[:-1]}),
        ("not-logged", {"inclusion_proof": [*proof, "00" * 32]}),
        ("not-logged", {"inclusion_proof": ["zz" * 32] * len(proof)}),
        ("not-logged", {"inclusion_proof": [None]}),
        ("not-logged", {"leaf_index": index + 1}),
        ("not-logged", {"leaf_index": -1}),
        ("not-logged", {"leaf_index": 0}),
        ("not-logged", {"checkpoint": note.replace(f"\n{engine.log.size}\n", "\n999\n")}),
        ("not-logged", {"checkpoint": ""}),
        ("not-logged", {"checkpoint": forged, "leaf_index": 0, "inclusion_proof": []}),
        ("malformed-reply", {"inclusion_proof": ["00" * 32] * 100}),
        ("malformed-reply", {"inclusion_proof": "00"}),
        ("malformed-reply", {"leaf_index": True}),
        ("malformed-reply", {"leaf_index": "0"}),
        ("malformed-reply", {"checkpoint": 5}),
    ]
    for expected, fields in lies:
        engine.tamper_reply = lambda h, a, f=fields: ({**h, **f}, a)
        assert reason(validator, ask(engine), question(engine.plan)) == expected, fields


def test_another_log_that_the_region_signed(
    engine: FakeEngine, validator: ReplyValidator, federation: FakeFederation, tmp_path: Any
) -> None:
    entry = entry_of(decode_message(ask(engine).content)[0])
    with AuditLog.open(
        tmp_path / "aside.sqlite",
        origin="aside.example/region-1",
        signer=federation.signers[REGION, "log"],
        create=True,
    ) as aside:
        aside.append([entry])
        fields: dict[str, JsonValue] = {
            "leaf_index": 0,
            "checkpoint": aside.checkpoint().decode(),
            "inclusion_proof": [],
        }
    engine.tamper_reply = lambda h, a: ({**h, **fields}, a)
    assert reason(validator, ask(engine), question(engine.plan)) == "not-logged"


def test_a_log_checkpoint_of_another_region(
    engine: FakeEngine, validator: ReplyValidator, federation: FakeFederation
) -> None:
    other = federation.engines["region-2"].log
    entry = entry_of(decode_message(ask(engine).content)[0])
    (index,) = other.append([entry])
    fields: dict[str, JsonValue] = {
        "leaf_index": index,
        "checkpoint": other.checkpoint().decode(),
        "inclusion_proof": [node.hex() for node in other.inclusion_proof(index, other.size)],
    }
    engine.tamper_reply = lambda h, a: ({**h, **fields}, a)
    assert reason(validator, ask(engine), question(engine.plan)) == "not-logged"


def test_a_reply_for_another_model(engine: FakeEngine, validator: ReplyValidator) -> None:
    asked = question(engine.plan, model_in="1" * 64)
    assert reason(validator, ask(engine), asked) == "other-model-in"


def test_a_replay_of_an_earlier_round(engine: FakeEngine, validator: ReplyValidator) -> None:
    first = ask(engine)
    header, arrays = decode_message(first.content)
    replayed = {**header, "round": 2, "mechanism": "factors"}
    reply = Message(encode_message(replayed, arrays), reply_to=request({}))
    asked = question(engine.plan, 2, arrays_digest({}))
    assert reason(validator, reply, asked) == "wrong-arrays"
    # The same with the right arrays, signed for round 1.
    factors = engine.release(2)
    reply = Message(
        encode_message({**replayed, "update": arrays_digest(factors)}, factors),
        reply_to=request({}),
    )
    assert reason(validator, reply, asked) == "other-round"


def test_another_node_in_the_regions_name(engine: FakeEngine, validator: ReplyValidator) -> None:
    reply = ask(engine)
    reply.metadata.__dict__["_src_node_id"] = NODE + 1
    assert reason(validator, reply, question(engine.plan)) == "other-node"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("budget-exhausted", "budget-exhausted"),
        ("x" * 100, "refused"),
        ("Row of Jane Doe\x1b[2J", "refused"),
        ("Ünïcode", "refused"),
        (None, "refused"),
        (5, "refused"),
        ("", "refused"),
    ],
)
def test_a_region_that_refuses_is_heard_only_in_codes(
    said: JsonValue, expected: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    header: Header = {"status": "refused", "region": REGION, "reason": said}
    reply = Message(encode_message(header, {}), reply_to=request({}))
    assert reason(validator, reply, question(engine.plan)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, "node-error"),
        (2, "node-error"),
        (3, "message-unavailable"),
        (4, "no-reply"),
        (5, "node-unavailable"),
        (UNDECODABLE_REPLY, "undecodable-reply"),
    ],
)
def test_flowers_own_errors(
    code: int, expected: str, engine: FakeEngine, validator: ReplyValidator
) -> None:
    error = Error(code=code, reason="the text of an exception with a row of data")
    # The SuperLink makes these itself, in its own name.
    reply = Message(error, reply_to=request({}, node=NODE))
    reply.metadata.__dict__["_src_node_id"] = 1
    with pytest.raises(ReplyRefusedError) as caught:
        validator.validate(reply, question(engine.plan), now_ms=now_ms())
    assert caught.value.reason == expected
    assert "row of data" not in caught.value.message


def test_a_claim_of_many_examples_is_no_reply(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    reply = ask(engine)
    reply.content["metrics"] = MetricRecord({"num-examples": 10**9})
    assert reason(validator, reply, question(engine.plan)) == "malformed-reply"


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"status": "ok"},
        {"status": True},
        {"status": "ok", "num_examples": 5},
        {"status": ["refused"]},
    ],
)
def test_a_header_that_is_no_replys(
    header: Header, engine: FakeEngine, validator: ReplyValidator
) -> None:
    arrays = encode_arrays(engine.release(1))
    reply = Message(compose_message(header, arrays), reply_to=request({}))
    assert reason(validator, reply, question(engine.plan)) == "malformed-reply"


def test_one_more_field_than_a_replys(engine: FakeEngine, validator: ReplyValidator) -> None:
    engine.tamper_reply = lambda h, a: ({**h, "weight": 1000}, a)
    assert reason(validator, ask(engine), question(engine.plan)) == "malformed-reply"


def test_an_array_that_flower_was_kept_from_inflating(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    reply = ask(engine)
    reply.content["arrays"] = ArrayRecord({"popularity": Array("", (), OVERSIZE_STYPE, b"")})
    assert reason(validator, reply, question(engine.plan)) == "oversize"


def test_what_a_refusal_says_never_quotes_the_reply(
    engine: FakeEngine, validator: ReplyValidator
) -> None:
    engine.tamper_reply = lambda h, a: ({**h, "run": "EVIL"}, a)
    with pytest.raises(ReplyRefusedError) as caught:
        validator.validate(ask(engine), question(engine.plan), now_ms=now_ms())
    assert "EVIL" not in caught.value.message


def test_the_norm_bound_is_on_all_arrays_of_an_update_together(federation: Any) -> None:
    plan = local_plan("tied-autoencoder")
    judge = ReplyValidator(plan, federation.home.read_registry())
    mechanism = plan.mechanism_of(2)
    specs = plan.released_arrays(mechanism.name)
    assert len(specs) > 1
    bound = release_norm_bound(plan, mechanism)

    def update(share: float) -> dict[str, np.ndarray]:
        """Arrays that each have this share of the bound for a norm."""
        return {
            spec.name: snap_to_grid(
                np.full(spec.shape, share * bound / np.sqrt(np.prod(spec.shape))),
                mechanism.grid_exponent,
            )
            for spec in specs
        }

    judge._check_values(update(0.99 / len(specs) ** 0.5), mechanism)
    with pytest.raises(ReplyRefusedError) as refusal:
        judge._check_values(update(0.9), mechanism)
    assert refusal.value.reason == "norm-too-large"
