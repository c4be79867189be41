"""The egress guard before a real engine's door: whatever the engine would answer, one thing leaves.

Each test breaks the code that makes the answer, as a defect or an intruder would, and sees that the
guard keeps back what comes of it: with nothing but a code, an incident, and all charges kept.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import round_release
from client.engine import round_training as module
from client.engine import service as service_module
from client.engine.charges import Charge, ChargeRequest
from client.engine.charging import Charging
from client.engine.incidents import Incidents
from client.engine.permit import CodeIdentity, Permit
from client.engine.policy_fields import ArrayBound
from client.engine.release_evidence import SealedRelease
from client.engine.round_training import RoundTraining
from client.engine.seal import Seal, SealStore
from client.engine.sealed_rounds import SealedRounds
from client.engine.witnessing import RegionWitness
from common.audit.checkpoint import COSIGNATURE_V1, NoteKey, NoteSignature
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.egress_form import EgressRefusedError
from common.envelope import Envelope
from common.errors import StorageError
from common.parameters import arrays_digest, snap_to_grid
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.release_bounds import release_norm_bound
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask, publish
from tests.support.secure_regions import train_header
from tests.support.small_federation import home_of, make_federation

Federation = tuple[RunFolder, RunPlan, list[RegionSetUp]]
Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("egress") / "run", regions=1, quorum=1)


@pytest.fixture
def region(provisioned: Federation, tmp_path: Path) -> Iterator[OpenRegion]:
    folder, _, set_ups = provisioned
    shutil.copytree(folder.root, tmp_path / "run", symlinks=True)
    with open_region(home_of(RunFolder(tmp_path / "run")), set_ups[0]) as opened:
        yield opened


@pytest.fixture
def header(provisioned: Federation) -> Header:
    return train_header(provisioned[1])


def incidents(region: OpenRegion) -> list[Header]:
    entries = [Envelope.decode(data) for _, data in region.engine.log.entries()]
    return [each.record() for each in entries if each.kind == "incident"]


def assert_kept_back(region: OpenRegion, header: Header, why: str) -> None:
    """Nothing leaves but a code, and the region's log tells why."""
    for _ in range(2):
        reply, arrays = ask(region.engine, header, {})
        assert reply == {"status": "refused", "region": "region-1", "reason": "egress-refused"}
        assert arrays == {}
    (told,) = [each for each in incidents(region) if each["reason"] == "egress-refused"]
    assert why in str(told["detail"])


def tampering(change: Callable[[Header, Arrays], tuple[Header, Arrays]]) -> Callable[..., Any]:
    """Training whose answer is changed after everything was done as it should be."""
    train = RoundTraining.train

    def tampered(self: RoundTraining, *request: Any) -> tuple[Header, Arrays]:
        header, arrays = train(self, *request)
        return change(dict(header), dict(arrays))

    return tampered


def with_array(name: str, values: np.ndarray) -> Callable[[Header, Arrays], tuple[Header, Arrays]]:
    return lambda header, arrays: (header, {**arrays, name: values})


def with_field(name: str, value: JsonValue) -> Callable[[Header, Arrays], tuple[Header, Arrays]]:
    return lambda header, arrays: ({**header, name: value}, arrays)


def consistent(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Other values, and a digest that goes with them."""
    changed = {name: array + np.float32(1) for name, array in arrays.items()}
    return {**header, "update": arrays_digest(changed)}, changed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_array("extra", np.ones(3, "<f4")), "digest"),
        (with_array("popularity", np.ones(3, "<f4")), "digest"),
        (with_array("popularity", np.ones(40, "<f8")), "digest"),
        (lambda header, arrays: (header, {}), "digest"),
        (consistent, "update"),
        (with_field("region", "region-2"), "another region"),
        (with_field("run", "run-2"), "no permit"),
        (with_field("round", 2), "sealed"),
        (with_field("mechanism", "factors"), "mechanism"),
        (with_field("update", "0" * 64), "update"),
        (with_field("round_entry", base64.b64encode(b"{}").decode()), "round entry"),
        (with_field("leaf_index", 0), "entry"),
        (with_field("inclusion_proof", ["0" * 64]), "proof"),
        (with_field("attempted", 0), "arrays"),
        (with_field("seconds", "12.3"), "form"),
        (with_field("metrics", {"loss": 1}), "form"),
        (with_field("status", "fine"), "form"),
    ],
)
def test_an_answer_that_is_not_what_was_sealed_stays(
    region: OpenRegion,
    header: Header,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Header, Arrays], tuple[Header, Arrays]],
    why: str,
) -> None:
    monkeypatch.setattr(RoundTraining, "train", tampering(change))
    if why == "no permit":
        assert ask(region.engine, header, {})[0]["reason"] == "not-permitted"
        return
    assert_kept_back(region, header, why)
    monkeypatch.undo()
    # What was sealed still leaves, and was charged once.
    assert ask(region.engine, header, {})[0]["status"] == "ok", region.engine.last_refusal
    assert len(region.engine.ledger.charges) == 1


def _noiseless(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) % 2, values, np.float32(0))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda values: np.zeros_like(values), "noise"),
        (_noiseless, "noise"),
        (lambda values: values + np.float32(2.0**-20), "grid"),
        (lambda values: np.full_like(values, np.nan), "finite"),
        (lambda values: np.full_like(values, np.inf), "finite"),
        (lambda values: values * np.float32(2**20), "norm"),
        (lambda values: values[:-1].copy(), "expected was"),
        (lambda values: values.astype("<f8"), "expected was"),
        (lambda values: values.reshape(-1, 1), "expected was"),
    ],
)
def test_numbers_that_no_release_has_stay_though_sealed_charged_and_logged(
    region: OpenRegion,
    header: Header,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[np.ndarray], np.ndarray],
    why: str,
) -> None:
    release = round_release.release

    def spoilt(*given: Any, **named: Any) -> Arrays:
        return {name: spoil(values) for name, values in release(*given, **named).items()}

    monkeypatch.setattr(round_release, "release", spoilt)
    # The check that the engine makes before it seals has been lost.
    monkeypatch.setattr(module, "check_release", lambda *_, **__: None)
    assert_kept_back(region, header, why)
    sealed = region.engine._seals.read(str(header["run"]), 1)
    assert sealed is not None
    assert len(region.engine.ledger.charges) == 1


def test_an_array_too_many_stays_though_sealed(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = round_release.release

    def lavish(*given: Any, **named: Any) -> Arrays:
        update = release(*given, **named)
        return {**update, "counts": update["popularity"].copy()}

    monkeypatch.setattr(round_release, "release", lavish)
    monkeypatch.setattr(module, "check_release", lambda *_, **__: None)
    assert_kept_back(region, header, "counts")


def test_an_array_that_the_policy_does_not_name_stays(region: OpenRegion, header: Header) -> None:
    """The permit's plan is held to the policy too; this one does not rest on that."""
    bound = ArrayBound(name="other", dtype="<f4", shape_max=[10_000])
    strict = region.engine.policy.model_copy(update={"arrays": [bound]})
    region.engine._guard._policy = strict
    assert_kept_back(region, header, "policy")


def test_the_norm_is_of_all_arrays_together(region: OpenRegion) -> None:
    """Each within the bound by itself, and beyond it as one update."""
    plan = default_plan(
        run_id="run-1",
        federation="small.example",
        scenario="small",
        regions=["region-1"],
        quorum=1,
        catalogue="c" * 64,
        n_items=40,
        train_from="2017-01-01T00:00:00.000Z",
        train_until="2017-12-01T00:00:00.000Z",
        epsilon="8",
        planned_customers=20,
        strategy="tied-autoencoder",
    )
    mechanism = plan.mechanism_of(2)
    bound = release_norm_bound(plan, mechanism)
    code = CodeIdentity("a" * 64, "b" * 64, "c" * 64)
    seal = Seal("0" * 64, b"", b"", 0, {})
    release = SealedRelease(Permit("p", plan, code, 0), 2, mechanism, seal, "0" * 64, 0, "c")

    def filled(norm: float) -> Arrays:
        return {
            spec.name: snap_to_grid(
                np.full(spec.shape, norm / np.sqrt(np.prod(spec.shape))), mechanism.grid_exponent
            )
            for spec in plan.released_arrays(mechanism.name)
        }

    guard = region.engine._guard
    guard._require_values(filled(0.5 * bound), release)
    with pytest.raises(EgressRefusedError, match="norm bound"):
        guard._require_values(filled(0.8 * bound), release)


def test_what_was_not_sealed_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealStore, "write", lambda *_: None)
    reply, arrays = ask(region.engine, header, {})
    assert (reply["reason"], arrays) == ("egress-refused", {})
    assert "nothing is sealed" in str(region.engine.last_refusal)


def test_what_was_not_charged_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit_of = region.engine._permits.open

    def free(self: Charging, request: Any, permit: Any, mechanism: Any, *, anew: bool) -> Charge:
        asked = ChargeRequest(
            charge_id="0" * 26,
            run=request.run,
            model=permit.plan.model,
            purpose=permit.plan.purpose,
            server_round=request.server_round,
            attempt=request.attempt,
            mechanism=mechanism.name,
            noise_multiplier=mechanism.noise_multiplier,
            clipping_norm=mechanism.clipping_norm,
            sampling_probability=mechanism.sampling_probability,
            steps=mechanism.steps,
            permit_id=permit_of(request.run).permit_id,
            time=self._now(),
        )
        return Charge.after(self._ledger.head, asked, 1)

    monkeypatch.setattr(Charging, "charge", free)
    assert_kept_back(region, header, "ledger has no charge")
    assert region.engine.ledger.charges == ()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("noise_multiplier", "'1000'"),
        ("mechanism", "'factors'"),
        ("steps", "2"),
        ("run", "'run-2'"),
        ("time", "'2030-01-01T00:00:00.000Z'"),
    ],
)
def test_a_ledger_that_was_altered_lets_nothing_out(
    region: OpenRegion, header: Header, column: str, value: str
) -> None:
    """The guard reads the ledger's file, not what the engine has of it in memory."""
    assert ask(region.engine, header, {})[0]["status"] == "ok"
    connection = region.engine.ledger._connection
    connection.execute("DROP TRIGGER charges_no_update")
    connection.execute(f"UPDATE charges SET {column} = {value}")
    reply, arrays = ask(region.engine, header, {})
    assert (reply["status"], arrays) == ("refused", {})
    assert isinstance(region.engine.last_refusal, StorageError)


def test_what_was_charged_but_not_logged_so_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Charging, "_log_missing", lambda self: None)
    assert_kept_back(region, header, "its charge is not logged")


def test_what_was_not_logged_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealedRounds, "log", lambda *_, **__: 0)
    assert_kept_back(region, header, "logged one after the other")


def test_a_round_without_its_release_in_the_log_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = AuditLog.append

    def other(self: AuditLog, entries: Any, **named: Any) -> range:
        # The round's entry, and something else in the release's place.
        return append(self, entries[:1] * 2 if len(entries) == 2 else entries, **named)

    monkeypatch.setattr(AuditLog, "append", other)
    reply, arrays = ask(region.engine, header, {})
    assert (reply["reason"], arrays) == ("egress-refused", {})
    assert "one after the other" in str(region.engine.last_refusal)


def test_a_seal_that_was_swapped_stays(
    region: OpenRegion, header: Header, provisioned: Federation
) -> None:
    """A whole seal, signed and with its digest, of other values: of another home's round, say."""
    assert ask(region.engine, header, {})[0]["status"] == "ok"
    seals, run = region.engine._seals, provisioned[1].run_id
    seal = seals.read(run, 1)
    assert seal is not None
    other = {name: values + np.float32(1) for name, values in seal.arrays.items()}
    seals.write(run, 1, module.Seal(**{**vars(seal), "arrays": other}))
    assert_kept_back(region, header, "update is not what is sealed")


def test_one_charge_pays_for_one_payload(region: OpenRegion, header: Header) -> None:
    assert ask(region.engine, header, {})[0]["status"] == "ok"
    paid = region.engine._guard._paid
    (charge,) = paid
    assert charge == region.engine.ledger.charges[0].request.charge_id
    paid[charge] = "0" * 64
    assert_kept_back(region, header, "another payload")


# Answers that have no arrays.


def test_a_checkpoint_of_another_log_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = region.engine.log.checkpoint().decode().replace("region-1", "region-2")
    monkeypatch.setattr(AuditLog, "checkpoint_at", lambda *_: foreign.encode())
    assert publish(region.engine, header)["reason"] == "egress-refused"


@pytest.mark.parametrize("proofs", [{"1": ["0" * 64]}, {"1": []}, {"9999": []}])
def test_a_consistency_proof_that_proves_nothing_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch, proofs: Header
) -> None:
    monkeypatch.setattr(RegionWitness, "proofs", lambda *_: proofs)
    assert publish(region.engine, header)["reason"] == "egress-refused"


@pytest.mark.parametrize(
    "line",
    [
        NoteSignature("region-1", b"1234", bytes(72)).line,
        NoteSignature("server", b"1234", bytes(72)).line,
    ],
)
def test_a_cosignature_by_another_key_stays(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    answers = [{"origin": "small.example/server", "size": 1, "line": line}]
    monkeypatch.setattr(RegionWitness, "cosign", lambda *_: answers)
    request: Header = {"run": header["run"], "checkpoints": []}
    assert region.engine.call("cosign", request, {})[0]["reason"] == "egress-refused"


def test_a_cosignature_has_no_room_for_more(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = NoteKey("region-1", region.engine.home.signer("witness").public_key, COSIGNATURE_V1)
    for size, leaves in ((72, True), (73, False), (200, False)):
        line = NoteSignature("region-1", key.id, bytes(size)).line
        answers = [{"origin": "small.example/server", "size": 1, "line": line}]
        monkeypatch.setattr(RegionWitness, "cosign", lambda *_, found=answers: found)
        request: Header = {"run": header["run"], "checkpoints": []}
        answer = region.engine.call("cosign", request, {})[0]
        assert (answer["status"] == "ok") is leaves


def test_who_the_engine_says_it_is_is_what_it_is(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = region.engine.call("describe", {}, {})[0]
    assert described["region"] == "region-1"
    monkeypatch.setattr(service_module, "engine_digest", lambda: "0" * 64)
    assert region.engine.call("describe", {}, {})[0]["reason"] == "egress-refused"


def test_a_code_that_is_not_on_the_list_stays(
    region: OpenRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Incidents,
        "refuse",
        lambda *_: {"status": "refused", "region": "region-1", "reason": "household-1823"},
    )
    answer, _ = region.engine.call("train", {}, {})
    assert answer == {"status": "refused", "region": "region-1", "reason": "refused"}


def test_the_guard_is_asked_of_every_answer(
    region: OpenRegion, header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(self: object, method: str, answer: Header, arrays: Arrays) -> None:
        asked.append(method)
        if answer.get("status") != "refused":
            raise EgressRefusedError("kept back")

    monkeypatch.setattr(service_module.EgressGuard, "check", refuse)
    requests: dict[str, Header] = {
        "describe": {},
        "publish": {"run": header["run"], "round": 1, "since": []},
        "cosign": {"run": header["run"], "checkpoints": []},
        "keep": {"run": header["run"], "size": 1, "cosignatures": []},
    }
    for method, request in requests.items():
        assert region.engine.call(method, request, {})[0]["reason"] == "egress-refused"
    assert asked == [each for method in requests for each in (method, method)]
