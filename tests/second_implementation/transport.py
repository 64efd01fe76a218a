"""Section 3 and 4.1: TLS 1.3 with ALPN over asyncio's streams, and whose certificate it is.

The standard library's ssl cannot export keying material, which both sign-ins need; pyOpenSSL can.
"""

import asyncio
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL

ALPN = b"parley/1"
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")  # RFC 4985


class NotTheDomain(ConnectionError):
    """The listener has not shown that it is the domain that was dialled, or does not speak Parley."""


class Tls:
    """A TLS connection: exact reads, writes, and the exporter."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: SSL.Connection) -> None:
        self._reader, self._writer, self._tls = reader, writer, tls
        self._kept = bytearray()

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except SSL.WantReadError:
                await self._fill()
            except SSL.Error as error:
                self._flush()
                raise NotTheDomain(f"no handshake: {error}") from error
            finally:
                self._flush()

    async def read(self, size: int) -> bytes:
        """Exactly so many octets. Raises EOFError where the connection ends before."""
        while len(self._kept) < size:
            try:
                self._kept += self._tls.recv(65536)
            except SSL.WantReadError:
                await self._fill()
            except SSL.Error as error:
                raise EOFError from error
        octets = bytes(self._kept[:size])
        del self._kept[:size]
        return octets

    def write(self, octets: bytes) -> None:
        for at in range(0, len(octets), 16384):
            self._tls.sendall(octets[at : at + 16384])
        self._flush()

    def exporter(self) -> bytes:
        return self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def has_alpn(self) -> bool:
        return self._tls.get_alpn_proto_negotiated() == ALPN

    def certificate(self) -> x509.Certificate:
        shown = self._tls.get_peer_certificate()
        assert shown is not None
        return shown.to_cryptography()

    def close(self) -> None:
        try:
            self._tls.shutdown()
        except SSL.Error:
            pass
        self._flush()
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _fill(self) -> None:
        self._flush()
        try:
            octets = await self._reader.read(65536)
        except OSError as error:
            raise EOFError from error
        if not octets:
            raise EOFError
        self._tls.bio_write(octets)

    def _flush(self) -> None:
        while True:
            try:
                self._writer.write(self._tls.bio_read(1 << 18))
            except SSL.WantReadError:
                return


def names_domain(certificate: x509.Certificate, domain: str) -> bool:
    """Section 4.1: an SRV-ID of the service if there is any, else a DNS-ID; no wildcards, no Common Name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    # an SRVName is an IA5String: tag 22, a length, and the text
    services = [
        name.value[2:].decode("ascii") for name in names.get_values_for_type(x509.OtherName) if name.type_id == SRV_NAME
    ]
    ours = [service.lower() for service in services if service.lower().startswith("_parley.")]
    if ours:
        return f"_parley.{domain}" in ours
    return domain in [name.lower() for name in names.get_values_for_type(x509.DNSName)]


async def dial(
    host: str, port: int, domain: str, trust: Path, alpn: bytes | None = ALPN, version: int = SSL.TLS1_3_VERSION
) -> Tls:
    """A connection to the server of the domain. Raises NotTheDomain, OSError."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(min(version, SSL.TLS1_3_VERSION))
    context.set_max_proto_version(version)
    if alpn:
        context.set_alpn_protos([alpn])
    context.load_verify_locations(str(trust))
    context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, error, depth, good: bool(good))
    connection = SSL.Connection(context, None)
    connection.set_tlsext_host_name(domain.encode())
    connection.set_connect_state()
    tls = Tls(*await asyncio.open_connection(host, port), connection)
    try:
        await tls.handshake()
        if alpn == ALPN and not tls.has_alpn():
            raise NotTheDomain("it does not speak Parley")
        if not names_domain(tls.certificate(), domain):
            raise NotTheDomain(f"its certificate does not name {domain}")
    except EOFError as error:
        raise NotTheDomain("hung up on in the handshake") from error
    except NotTheDomain:
        tls.abort()
        raise
    return tls


def listening_context(certificate: Path, key: Path) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_certificate_chain_file(str(certificate))
    context.use_privatekey_file(str(key))
    context.set_alpn_select_callback(
        lambda connection, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
    )
    return context


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: SSL.Context) -> Tls:
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    tls = Tls(reader, writer, connection)
    await tls.handshake()
    if not tls.has_alpn():
        raise NotTheDomain("the dialler does not speak Parley")
    return tls
