"""`gatewayctl init`: a directory with authority, certificate and configuration, ready to serve. Running it again keeps
what is there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatewayd.address import Domain
from gatewayd.config import Config
from gatewayd.crypto.certificates import issue, make_authority

PORTS = {
    "smtp": 25,
    "submission": 587,
    "submissions": 465,
    "imap": 143,
    "imaps": 993,
    "pop3": 110,
    "pop3s": 995,
    "parley": 5299,
    "http": 2080,
}
LOOPBACK_PORTS = {  # above 1024: no rights needed
    "smtp": 2525,
    "submission": 2587,
    "submissions": 2465,
    "imap": 2143,
    "imaps": 2993,
    "pop3": 2110,
    "pop3s": 2995,
    "parley": 5299,
    "http": 2080,
}


def make_directory(
    directory: Path,
    domain: Domain,
    hostname: Domain,
    address: str,
    ports: Mapping[str, int],
    *,
    postmaster: str = "",
    smtp_port: int = 25,
    nameservers: tuple[str, ...] = (),
) -> Path:
    """Returns the configuration's path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    state = directory / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    _make_certificates(directory, domain, hostname, address)
    config = directory / "gatewayd.toml"
    if not config.exists():
        host = f"[{address}]" if ":" in address else address
        lines = [
            f'hostname = "{hostname}"',
            'state_dir = "state"',
            *([f'postmaster = "{postmaster}"'] if postmaster else []),
            "",
            "[tls]",
            'certificate = "certificate.pem"',
            'key = "key.pem"',
            'trust = "ca.pem"',
            "",
            "[listen]",
            *(f'{name} = ["{host}:{port}"]' for name, port in ports.items()),
            "",
            "[relay]",
            f"smtp_port = {smtp_port}",
        ]
        if nameservers:
            lines += ["", "[dns]", "nameservers = [" + ", ".join(f'"{text}"' for text in nameservers) + "]"]
        _write(config, ("\n".join(lines) + "\n").encode(), 0o644)
    return config


LABELS = {
    "smtp": "SMTP",
    "submission": "submission (STARTTLS)",
    "submissions": "submission (TLS)",
    "imap": "IMAP (STARTTLS)",
    "imaps": "IMAP (TLS)",
    "pop3": "POP3 (STLS)",
    "pop3s": "POP3 (TLS)",
    "parley": "Parley",
    "http": "health and metrics",
}


def first_steps(directory: Path, config: Config, users: Sequence[tuple[str, str]]) -> str:
    """Where everything listens, and commands to paste; `users` are (address, password), two of them at least."""
    at = {name: getattr(config.listen, name)[0] for name in LABELS if getattr(config.listen, name)}
    lines = ["", *(f"  {label:<22} {at[name].host}:{at[name].port}" for name, label in LABELS.items() if name in at)]
    (first, password), (second, _) = users[:2]
    ca, parley = directory / "ca.pem", Path(sys.argv[0]).with_name("parley")

    def place(name: str) -> str:
        return f"{at[name].host}:{at[name].port}"

    def talk(user: str) -> str:
        return f"PARLEY_PASSWORD={password} {parley} --ca {ca} --server {place('parley')} --user {user}"

    curl = f"curl --cacert {ca} --user"
    lines += [
        "",
        "Try, in another terminal:",
        "",
        f"  swaks --server {place('smtp')} --from somebody@elsewhere.test --to {second}",
        f"  printf 'From: {first}\\nSubject: Hello\\n\\nBy submission.\\n' | \\",
        f"    {curl} {first}:{password} --ssl-reqd smtp://{place('submission')} --crlf \\",
        f"    --mail-from {first} --mail-rcpt {second} --upload-file -",
        f"  {curl} {second}:{password} 'imaps://{place('imaps')}/INBOX' --request 'FETCH 1:* (FLAGS ENVELOPE)'",
        f"  {curl} {second}:{password} pop3s://{place('pop3s')}/1",
        f"  mutt -e 'set certificate_file={ca}' -f 'imaps://{second}:{password}@{place('imaps')}/INBOX'",
        f"  {talk(first)} send {second} 'Hello by Parley'",
        f"  {talk(second)} inbox",
        f"  {talk(second)} chat",
        f"  curl http://{place('http')}/health",
        "",
    ]
    return "\n".join(lines)


def _make_certificates(directory: Path, domain: Domain, hostname: Domain, address: str) -> None:
    ca, ca_key = directory / "ca.pem", directory / "ca-key.pem"
    if not (ca.exists() and ca_key.exists()):
        key, certificate = make_authority(f"gatewayd authority of {domain}"[:64])
        _write(ca_key, key, 0o600)
        _write(ca, certificate, 0o644)
    if not ((directory / "certificate.pem").exists() and (directory / "key.pem").exists()):
        names = list(dict.fromkeys([domain.name, hostname.name, "localhost", "127.0.0.1", address]))
        key, certificate = issue(ca_key.read_bytes(), ca.read_bytes(), names, [domain.name])
        _write(directory / "key.pem", key, 0o600)
        _write(directory / "certificate.pem", certificate, 0o644)


def _write(path: Path, octets: bytes, mode: int) -> None:
    """Whole or not at all; a key is never readable by others, not even for a moment."""
    partial = path.with_name(path.name + ".new")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(octets)
    partial.rename(path)
