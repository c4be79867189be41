"""Sets a simulated federation up: keys, registry, homes, policies, notices, consents, permits.

A deployment does the same with its own commands and keeps the root keys offline. Every key,
signature and log entry here is real.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.consent_service.forms import FormSettings
from client.consent_service.notices import offered
from client.consent_service.registrar import ConsentRegistrar
from client.engine.home import KEY_ROLES, RegionHome
from client.engine.permit_desk import sign_permit
from client.engine.policy import RegionPolicy
from client.engine.preparation import RegionData
from client.engine.service import PrivacyEngine, open_engine
from client.engine.subjects import open_subject_keys
from client.installation.region_home import begin_records, make_home
from client.recommend.local_statistics import STATISTICS
from client.training.noise import NoiseSource
from common.audit.witness.home import WitnessHome
from common.audit.witness.store import WitnessStore
from common.canonical_json import JsonValue
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    PROFILING,
    RECOMMENDATIONS,
)
from common.durable_file import write_durably
from common.envelope import sign_record
from common.keys import MAX_REGISTRY_BYTES, Signer, build_registry, generate_key
from common.notice import parse_notice
from common.plan import RunPlan
from common.timestamps import format_time, now_ms
from server.config import ServerHome
from simulations.customers import CustomerChoices, CustomersActing, opening_choices
from simulations.run_folder import RunFolder
from simulations.scenarios import Scenario

SERVER_PARTY = "server"
SERVER_ROLES = ("log", "aggregator", "witness")
WITNESS_PARTY = "witness"
ROOT_KEYS = 3
ROOT_THRESHOLD = 2
_KEYS_VALID_S = 366 * 24 * 3600
_PERMIT_VALID_S = 7 * 24 * 3600
_ROUNDS_MAX = 64
# What regions may compute for their own recommenders, and how much ε each time.
_EPSILON_PER_QUERY = "2"

_NOTICE_LANG = "en"
_NOTICE_TEXT = (
    "We would like to learn what our customers prefer from the purchases you make with us. Your "
    "purchases stay in this data centre. Sums over many customers leave it, with noise added to "
    "them. The noise limits what anyone can learn from them about you, by a privacy budget that is "
    "stated for each training; it does not make it impossible to learn anything. With each round "
    "of training the size and the times of our log of choices leave too: they tell how many "
    "customers have chosen and how many have chosen anew since, not who, and are not noised. You "
    "may withdraw at any time; from the next training round on, your purchases are no longer used. "
    "What was learnt before stays in the model. If you agree to a profile, tags are worked out "
    "from what you buy and look at, in this data centre alone; you can read them and their reasons "
    "here, and they are deleted when you withdraw."
)
_NOTICE_TEXT_ZH = (
    "我们希望从您在本店的购买记录中了解顾客的偏好。您的购买记录保存在本数据中心，不会离开。离开的是许多顾客的汇总值，"
    "并已加入噪声。噪声按照每次训练所声明的隐私预算，限制任何人由此了解到关于您的信息；但并不意味着完全无法了解任何信息。"
    "每一轮训练还会传出本区域选择日志的大小和时间：它们能说明有多少顾客作出了选择、此后又有多少顾客重新作出选择，"
    "但不会说明是谁，且未加噪声。您可以随时撤回同意；最迟从下一轮训练起，不再使用您的购买记录。此前已学到的内容仍保留在模型中。"
    "如果您同意建立画像，本数据中心会根据您购买和浏览的内容得出标签，标签不会离开；您可以在此查看标签及其依据，撤回同意后即删除。"
)


@dataclass(frozen=True)
class RegionSetUp:
    """What one region is provisioned with.

    Attributes:
        region: Its party name.
        jurisdiction: Its country code.
        choose: Draws how its customers choose.
        epsilon_cap: The region's cap of ε per year, as a decimal string.
        delta_max: The largest δ, as a decimal string.
        withdrawal_in_round: What its policy does with a round in which someone withdraws.
    """

    region: str
    jurisdiction: str
    choose: Callable[[Sequence[str]], CustomerChoices]
    epsilon_cap: str
    delta_max: str
    withdrawal_in_round: Literal["finish", "discard"] = "finish"


def provision(
    folder: RunFolder, scenario: Scenario, plan: RunPlan, set_ups: Sequence[RegionSetUp], app: str
) -> None:
    """Makes everything a federation needs before its first round.

    Args:
        folder: The run's folder.
        scenario: The scenario.
        plan: The run's public constants.
        set_ups: One for each region of the plan.
        app: SHA-256 of the app bundle, in hex.

    Raises:
        PolicyError: A region's policy does not allow the plan.
    """
    signers = _make_keys(folder, [set_up.region for set_up in set_ups])
    registry = _sign_registry(scenario, signers)
    _make_server_home(folder, plan, registry)
    for set_up in set_ups:
        home = RegionHome(
            root=folder.region_home(set_up.region),
            region=set_up.region,
            federation=scenario.federation,
        )
        _make_region_home(home, folder, plan, set_up, registry)
        with open_region(home, set_up) as region:
            choices = opening_choices(region.customers, region.choices, analytics=plan.asks)
            region.registrar.record(choices)
            sign_permit(region.engine, plan, app=app, valid_for_s=_PERMIT_VALID_S)


@dataclass(frozen=True)
class OpenRegion:
    """A region whose engine is open and whose customers act."""

    engine: PrivacyEngine
    registrar: ConsentRegistrar
    customers: tuple[str, ...]
    choices: CustomerChoices
    channel: CustomersActing


@contextmanager
def open_region(
    home: RegionHome,
    set_up: RegionSetUp,
    *,
    noise: NoiseSource | None = None,
    data: RegionData | None = None,
) -> Iterator[OpenRegion]:
    """Opens a region's engine, with its consent registrar and its customers beside it.

    Args:
        home: The region's home.
        set_up: What it was provisioned with.
        noise: Noise that can be drawn again, for trials of faults; by default the system's.
        data: The region's store, if it was read already.
    """
    with open_engine(home, noise=noise, data=data) as engine:
        registrar = ConsentRegistrar(
            log=engine.log,
            state=engine.state,
            subjects=engine.subjects,
            signer=home.signer("consent"),
            form=FormSettings.read(home.root).form(
                offered(engine.state.notices, now_ms())[_NOTICE_LANG]
            ),
        )
        customers = tuple(sorted(engine.subjects.pseudonyms()))
        choices = set_up.choose(customers)
        yield OpenRegion(
            engine, registrar, customers, choices, CustomersActing(engine, registrar, choices)
        )


@contextmanager
def open_regions(
    folder: RunFolder, set_ups: Sequence[RegionSetUp]
) -> Iterator[dict[str, OpenRegion]]:
    """Opens every region of a run; closes all of them on exit."""
    with ExitStack() as stack:
        yield {
            set_up.region: stack.enter_context(
                open_region(RegionHome.read(folder.region_home(set_up.region)), set_up)
            )
            for set_up in set_ups
        }


def _make_keys(folder: RunFolder, regions: Sequence[str]) -> dict[tuple[str, str], Signer]:
    places = {(SERVER_PARTY, role): folder.server / "keys" for role in SERVER_ROLES}
    # The outside witness: a party without a log of its own.
    places[WITNESS_PARTY, "witness"] = folder.witness / "keys"
    for region in regions:
        places.update({(region, role): folder.region_home(region) / "keys" for role in KEY_ROLES})
    signers: dict[tuple[str, str], Signer] = {}
    for (party, role), keys in places.items():
        signers[party, role] = generate_key(keys / f"{role}.pem", _passphrase(keys))
    for number in range(1, ROOT_KEYS + 1):
        keys = folder.offline_root
        signers["root", str(number)] = generate_key(keys / f"root-{number}.pem", _passphrase(keys))
    return signers


def _passphrase(keys: Path) -> bytes:
    path = keys / "passphrase"
    if not path.exists():
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, secrets.token_hex(16).encode() + b"\n")
    return path.read_bytes().strip()


def _sign_registry(scenario: Scenario, signers: Mapping[tuple[str, str], Signer]) -> bytes:
    issued = now_ms()
    roots = [signer for (party, _), signer in signers.items() if party == "root"]
    record = build_registry(
        federation=scenario.federation,
        registry_version=1,
        issued_at=format_time(issued),
        prev=None,
        threshold=ROOT_THRESHOLD,
        witness_quorum=scenario.witness_quorum,
        root_public_keys=[signer.public_key for signer in roots],
        keys=[
            {
                "key_id": signer.key_id,
                "public_key": signer.public_key.hex(),
                "party": party,
                "role": role,
                "not_before": format_time(issued),
                "not_after": format_time(issued + _KEYS_VALID_S * 1000),
                "revoked_at": None,
            }
            for (party, role), signer in sorted(signers.items())
            if party != "root"
        ],
    )
    return sign_record(record, *roots[:ROOT_THRESHOLD], max_bytes=MAX_REGISTRY_BYTES)


def _make_server_home(folder: RunFolder, plan: RunPlan, registry: bytes) -> None:
    _store_registry(folder.server, registry)
    write_durably(folder.server / "plan.json", plan.to_bytes())
    for memory in (ServerHome(folder.server).witness, WitnessHome(folder.witness).store_path):
        WitnessStore.open(memory, create=True).close()


def _store_registry(home: Path, registry: bytes) -> None:
    (home / "registry").mkdir(parents=True, exist_ok=True)
    write_durably(home / "registry" / "1.json", registry, mode=0o644)


def _make_region_home(
    home: RegionHome, folder: RunFolder, plan: RunPlan, set_up: RegionSetUp, registry: bytes
) -> None:
    make_home(home)
    _store_registry(home.root, registry)
    # The store and the public catalogue lie where the scenario was prepared.
    (home.root / "data").symlink_to(os.path.relpath(folder.data / home.region / "data", home.root))
    home.catalogue.symlink_to(os.path.relpath(folder.catalogue, home.root))
    policy = _policy(set_up, plan)
    _form_settings(home, set_up.jurisdiction).write(home.root)
    notices = [_notice(home, set_up.jurisdiction), _notice_zh(home, set_up.jurisdiction)]
    begin_records(home, policy=policy, notices=[parse_notice(each) for each in notices])
    with open_subject_keys(home.subjects, home.stored_key) as subjects:
        subjects.enrol(_customers(home, policy))


def _customers(home: RegionHome, policy: RegionPolicy) -> list[str]:
    """The customers at home in the region, as its store knows them."""
    return RegionData(home, policy).customer_refs()


def _policy(set_up: RegionSetUp, plan: RunPlan) -> RegionPolicy:
    policy = RegionPolicy(
        region=set_up.region,
        purpose=FEDERATED_TRAINING,
        epsilon_cap_per_year=set_up.epsilon_cap,
        delta_max=set_up.delta_max,
        noise_multiplier_min="0.1",
        clipping_norm_max="1",
        rounds_max=max(_ROUNDS_MAX, plan.total_rounds),
        quorum_min=plan.quorum,
        quality_threshold="0.98",
        consent_age_max_s=600,
        withdrawal_in_round=set_up.withdrawal_in_round,
        notice_grace_s=30 * 86_400,
        modes=[plan.mode],
        queries=dict.fromkeys(STATISTICS, _EPSILON_PER_QUERY),
    )
    if not plan.asks:
        return policy
    # A made-up region allows what it is asked, each question for no more than the whole run.
    asked = {each.name: plan.epsilon for each in plan.questions}
    return RegionPolicy.model_validate({**policy.to_record(), "server_queries": asked})


def _notice(home: RegionHome, jurisdiction: str) -> dict[str, JsonValue]:
    return {
        "v": "fedpref-notice/1",
        "notice_id": f"pn-1-{jurisdiction.lower()}",
        "lang": _NOTICE_LANG,
        "controller": _controller(home),
        "purposes": [FEDERATED_TRAINING, RECOMMENDATIONS, FEDERATED_ANALYTICS, PROFILING],
        "recipients": f"the regions and the coordinator of {home.federation}: noised sums, and the "
        "sizes and times of this region's log",
        "retention": "purchases: 24 months; consent records: 10 years",
        "storage": f"the data centre {home.region}",
        "contact": f"privacy@{home.federation}",
        "text": _NOTICE_TEXT,
        "supersedes": None,
        "in_force_from": format_time(now_ms()),
    }


def _notice_zh(home: RegionHome, jurisdiction: str) -> dict[str, JsonValue]:
    """The same notice for customers who read Chinese."""
    return {
        **_notice(home, jurisdiction),
        "notice_id": f"pn-1-{jurisdiction.lower()}-zh",
        "lang": "zh",
        "recipients": f"{home.federation} 的各区域与协调方：加噪声的汇总值，"
        "以及本区域日志的大小和时间",
        "retention": "购买记录：24 个月；同意记录：10 年",
        "storage": f"{home.region} 的数据中心",
        "text": _NOTICE_TEXT_ZH,
    }


def _controller(home: RegionHome) -> str:
    return f"{home.region}.{home.federation}"


def _form_settings(home: RegionHome, jurisdiction: str) -> FormSettings:
    return FormSettings(
        legal_basis="eu-gdpr:A6-1-a",
        jurisdiction=jurisdiction,
        withdrawal=f"https://{home.federation}/consent",
        data=("pd:PurchasesAndSpendingHabit",),
    )
