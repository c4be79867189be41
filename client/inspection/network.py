"""The coordinator's SuperLink and the witnesses: reachable, certified, and of the same time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.inspection.tls_probe import TIMEOUT_S, TlsAnswer, probe_server, witness_date
from client.settings import RegionSettings
from common.errors import FederationError, InputError, VerificationError
from common.timestamps import format_time

#: By how much another clock may differ, in seconds: as much as snapshots and the verifier allow.
CLOCK_SLACK_S = 60
#: The operator is told of certificates that end within so many days.
SOON_DAYS = 30
_MAX_CA_BYTES = 1 << 20
_DAY_MS = 24 * 3600 * 1000


def check_authority(subject: Inspected, findings: Findings) -> bool:
    """Checks the certificate authority's file.

    Returns:
        Whether certificates can be held against it.
    """
    settings = subject.settings
    if settings is None:
        return False
    path = settings.coordinator.ca
    place = subject.setting("[coordinator] ca")
    if subject.is_hidden(path):
        findings.note(f"{path} is the node's alone: only root can check it.")
        return False
    try:
        certificates = _read_authority(path)
    except InputError as error:
        findings.add(Kind.CERTIFICATES, place, error.message, error.remedy)
        return False
    for certificate in certificates:
        _check_dates(
            certificate,
            f"The authority in {path}",
            place,
            "the kit of a newer authority",
            subject.at_ms,
            findings,
        )
        if not _is_authority(certificate):
            findings.add(
                Kind.CERTIFICATES,
                place,
                f"{path} is not the certificate of an authority (basicConstraints CA).",
                "Copy ca.crt from the coordinator's kit.",
                exit_code=VerificationError.exit_code,
            )
    return True


def check_superlink(subject: Inspected, findings: Findings, *, authority_reads: bool) -> None:
    """Checks that the SuperLink answers, and what it shows.

    Args:
        subject: The region.
        findings: Takes the problems.
        authority_reads: Whether certificates can be held against the authority's file.
    """
    settings = subject.settings
    if settings is None:
        return
    coordinator = settings.coordinator
    place = subject.setting("[coordinator] address")
    try:
        answer = probe_server(
            coordinator.host,
            coordinator.port,
            name=coordinator.certified_name,
            authority=coordinator.ca if authority_reads else None,
        )
    except ssl.SSLError as error:
        findings.add(
            Kind.CERTIFICATES,
            place,
            f"{coordinator.address} answers, but there is no TLS with it: {error.reason or error}.",
            "Name the SuperLink's port for regions; the region connects by TLS only.",
        )
        return
    except OSError as error:
        findings.add(
            Kind.REACHABILITY,
            place,
            f"{coordinator.address} cannot be reached within {TIMEOUT_S:g} s: "
            f"{error.strerror or error}.",
            "Check the address, the firewall, and that the SuperLink runs.",
            exit_code=FederationError.exit_code,
        )
        return
    _check_certificate(settings, answer, subject, findings)
    _compare_clock(f"the SuperLink {coordinator.address}", answer.date_ms, place, subject, findings)


def check_witnesses(subject: Inspected, findings: Findings) -> None:
    """Checks that the outside witnesses answer, and that their clocks agree."""
    if subject.settings is None:
        return
    place = subject.setting("[witnesses] addresses")
    for address in subject.settings.witnesses.addresses:
        try:
            date_ms = witness_date(address)
        except OSError as error:
            findings.add(
                Kind.REACHABILITY,
                place,
                f"The witness {address} does not answer within {TIMEOUT_S:g} s: "
                f"{getattr(error, 'reason', None) or error.strerror or error}.",
                "Check the address; ask the witness's operator.",
                exit_code=FederationError.exit_code,
            )
            continue
        _compare_clock(f"the witness {address}", date_ms, place, subject, findings)


def _check_certificate(
    settings: RegionSettings, answer: TlsAnswer, subject: Inspected, findings: Findings
) -> None:
    place = subject.setting("[coordinator] address")
    _check_dates(
        answer.certificate,
        f"The certificate of {settings.coordinator.address}",
        place,
        "a new one at the coordinator",
        subject.at_ms,
        findings,
    )
    if answer.trusted is False:
        findings.add(
            Kind.CERTIFICATES,
            subject.setting("[coordinator] ca"),
            f"The certificate of {settings.coordinator.address} is not by the authority in "
            f"{settings.coordinator.ca}: {answer.untrusted_because}.",
            "Copy ca.crt from the coordinator's kit; if it is that one, somebody else answers at "
            "this address.",
            exit_code=VerificationError.exit_code,
        )
    if answer.named is False:
        findings.add(
            Kind.CERTIFICATES,
            place,
            f"Its certificate is for {', '.join(_names(answer.certificate)) or 'no name'}, not for "
            f"{settings.coordinator.certified_name}.",
            "Name the host as its certificate does, or state server_name; else ask for a "
            "certificate with this name.",
            exit_code=VerificationError.exit_code,
        )


def _read_authority(path: Path) -> list[x509.Certificate]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CA_BYTES)
    except OSError as error:
        raise InputError(
            f"The certificate authority {path} cannot be read: {error.strerror}.",
            remedy="Copy ca.crt from the coordinator's kit.",
        ) from error
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise InputError(
            f"{path} is not a certificate in PEM form.",
            remedy="Copy ca.crt from the coordinator's kit.",
        ) from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def _check_dates(
    certificate: x509.Certificate,
    whose: str,
    place: str,
    whom: str,
    at_ms: int,
    findings: Findings,
) -> None:
    begins_ms = _ms(certificate.not_valid_before_utc)
    ends_ms = _ms(certificate.not_valid_after_utc)
    if at_ms < begins_ms:
        findings.add(
            Kind.CERTIFICATES,
            place,
            f"{whose} is not valid before {format_time(begins_ms)}, and the clock says "
            f"{format_time(at_ms)}.",
            "Correct the clock if it is behind; else wait.",
            exit_code=VerificationError.exit_code,
        )
    elif at_ms >= ends_ms:
        findings.add(
            Kind.CERTIFICATES,
            place,
            f"{whose} expired at {format_time(ends_ms)}.",
            f"Ask for {whom}; correct the clock if it is ahead.",
            exit_code=VerificationError.exit_code,
        )
    elif ends_ms - at_ms < SOON_DAYS * _DAY_MS:
        days = (ends_ms - at_ms) // _DAY_MS
        findings.note(f"{whose} ends in {days} days: ask for {whom}.")


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)


def _compare_clock(
    whose: str, date_ms: int | None, place: str, subject: Inspected, findings: Findings
) -> None:
    if date_ms is None:
        findings.note(f"{whose[:1].upper()}{whose[1:]} tells no time; the clock was not compared.")
        return
    # The probes take a while themselves: what was read at the beginning is read again.
    apart_s = (subject.machine.now_ms() - date_ms) / 1000
    if abs(apart_s) > CLOCK_SLACK_S:
        side = "ahead of" if apart_s > 0 else "behind"
        findings.add(
            Kind.CLOCK,
            place,
            f"This machine's clock is {abs(apart_s):,.0f} s {side} that of {whose}; "
            f"{CLOCK_SLACK_S} s are allowed.",
            "Set the clock by NTP; if it is right, tell the other side's operator.",
        )
