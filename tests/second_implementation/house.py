"""What the tests stand in: a gateway of alpha.test in a process of its own, beside it second.test, which is ours."""

import asyncio
import datetime
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pycddl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.world import PASSWORD, Gateway, ctl

from . import frames, transport
from .peer import Peer
from .user import User
from .zone import Zone

T = TypeVar("T")
DOCS = Path(__file__).parent.parent.parent / "docs"
PORT = 5299


class Authority:
    """Certificates that name domains, or services of domains (section 4.1)."""

    def __init__(self, root: Path) -> None:
        self._root, self._key = root, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority of the second kind")])
        ca = self._build(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.path = root / "authority.pem"
        self.path.write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, names: Iterable[str] = (), services: Iterable[str] = ()) -> tuple[Path, Path]:
        """The paths of the certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        said: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        said += [x509.OtherName(transport.SRV_NAME, bytes([22, len(name)]) + name.encode()) for name in services]
        certificate = self._build(x509.Name([]), key, x509.SubjectAlternativeName(said))
        paths = self._root / f"{file}.pem", self._root / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _build(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
        return builder.sign(self._key, hashes.SHA256())


class House:
    """``run`` lets a test's coroutine, the DNS and second.test have their turns."""

    def __init__(self, root: Path, here: str, there: str, more: str = "") -> None:
        """``more`` is an account of the gateway in another domain, which its certificate does not name."""
        self.loop = asyncio.new_event_loop()
        self.here, self.there, self._root = here, there, root
        self.authority = Authority(root)
        text = (DOCS / "parley.cddl").read_text()
        check = pycddl.Schema(text).validate_cbor  # all that the gateway says; large ones would take long
        frames.Connection.check = staticmethod(lambda octets: len(octets) < 8192 and check(octets))
        self.check_payload = pycddl.Schema("start = payload\n" + text).validate_cbor
        self.zone = Zone()
        self.name("alpha.test", here)
        port = self.run(self.zone.listen("127.0.0.1"))
        self.nameserver = "127.0.0.1", port
        self.gateway = Gateway(root / "alpha", "alpha.test", here, ["alice", "bob", "carol"], port, retry=(0.2, 1))
        with (self.gateway.root / "trust.pem").open("a") as trust:
            trust.write(self.authority.path.read_text())
        config = self.gateway.config.read_text()
        self.gateway.config.write_text(config.replace("[dns]\n", "[dns]\ntrust_ad = true\n"))
        if more:
            of_gateway = "--config", self.gateway.config
            ctl(*of_gateway, "domain", "add", more.partition("@")[2])
            ctl(*of_gateway, "account", "add", more, "--password-stdin", stdin=f"{PASSWORD}\n")
        self.trust = self.gateway.root / "ca.pem"
        self.second = self.run(self.open("second.test"))
        self.gateway.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))

    def name(self, domain: str, address: str, port: int = PORT) -> None:
        """The domain has Parley from now on."""
        self.zone.records += [
            f"_parley._tcp.{domain}. 1 IN SRV 0 0 {port} mx.{domain}.",
            f"mx.{domain}. 1 IN A {address}",
        ]

    async def open(
        self, domain: str, names: Iterable[str] | None = None, services: Iterable[str] = (), *,
        by: Authority | None = None,
    ) -> Peer:  # fmt: skip
        """A server of another domain, whose certificate has these names."""
        certificate, key = (by or self.authority).issue(domain, [domain] if names is None else names, services)
        peer = Peer(domain, certificate, key, self.trust, self.nameserver)
        self.name(domain, self.there, await peer.listen(self.there))
        return peer

    async def dial(self, hello: bool = True, takes: int = 1 << 20) -> frames.Connection:
        tls = await transport.dial(self.here, PORT, "alpha.test", self.trust)
        return frames.Connection(tls, hello=hello, takes=takes)

    async def user(self, name: str, domain: str = "alpha.test") -> User:
        return await User.sign_in(self.here, PORT, self.trust, f"{name}@{domain}", PASSWORD)

    def stop(self) -> None:
        self.second.close()
        self.gateway.stop()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()
