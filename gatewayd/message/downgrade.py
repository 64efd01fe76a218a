"""Eight-bit mail for a server that takes seven bits only (RFC 6152 §3, RFC 3030 §3): bodies become base64.

Headers and seven-bit parts stay as they are, octet for octet. What is signed by others inside does not survive; what we
sign ourselves is signed afterwards.
"""

from __future__ import annotations

import base64
import re

from gatewayd.message import mime

_CTE = re.compile(rb"^content-transfer-encoding:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


def seven_bit(mail: bytes) -> bytes:
    """Untouched if it is that already. A header's eight-bit octets stay."""
    return _convert(mail, mime.parse(mail))


def _convert(mail: bytes, entity: mime.Entity) -> bytes:
    head, body = mail[entity.start : entity.body], mail[entity.body : entity.end]
    if body.isascii() and not _is_binary(body):
        return head + body
    if entity.children:
        pieces, at = [], entity.body
        for child in entity.children:
            pieces += [mail[at : child.start], _convert(mail, child)]
            at = child.end
        return _encoded(head, "7bit") + b"".join(pieces) + mail[at : entity.end]
    return _encoded(head, "base64") + base64.encodebytes(mime.decoded_body(mail, entity)).replace(b"\n", b"\r\n")


def _is_binary(body: bytes) -> bool:
    return b"\0" in body or body.count(b"\r\n") != body.count(b"\n") or body.count(b"\r\n") != body.count(b"\r")


def _encoded(head: bytes, encoding: str) -> bytes:
    """The header with another Content-Transfer-Encoding."""
    field = b"Content-Transfer-Encoding: %s\r\n" % encoding.encode()
    head, found = _CTE.subn(field, head, count=1)
    if found:
        return head
    fields = head.removesuffix(b"\r\n")
    missing = b"" if re.search(rb"^mime-version:", head, re.IGNORECASE | re.MULTILINE) else b"MIME-Version: 1.0\r\n"
    return fields + missing + field + b"\r\n"
