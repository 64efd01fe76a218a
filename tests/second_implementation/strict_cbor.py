"""CBOR as sections 6 and 8 want it: a strict reader, and deterministic encoding (RFC 8949 section 4.2.1)."""

from typing import Any

LEVELS = 16


class NotStrict(ValueError):
    """The octets are no item, or one of a kind that the protocol does not have."""


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for width, info in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << 8 * width:
            return bytes([major << 5 | info]) + number.to_bytes(width, "big")
    raise NotStrict("an integer of more than 64 bits")


def encode(item: Any) -> bytes:
    if isinstance(item, bool) or item is None:
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[item]
    if isinstance(item, int):
        return _head(0, item) if item >= 0 else _head(1, -1 - item)
    if isinstance(item, bytes):
        return _head(2, len(item)) + item
    if isinstance(item, str):
        octets = item.encode()
        return _head(3, len(octets)) + octets
    if isinstance(item, list):
        return _head(4, len(item)) + b"".join(map(encode, item))
    if isinstance(item, dict):
        pairs = sorted((encode(key), encode(value)) for key, value in item.items())
        return _head(5, len(item)) + b"".join(key + value for key, value in pairs)
    raise TypeError(f"{type(item)} is no item of the protocol")


def decode(octets: bytes, text_keys: bool = True) -> Any:
    """The one item that the octets are. Raises NotStrict."""
    item, end = _item(octets, 0, 1, text_keys)
    if end != len(octets):
        raise NotStrict("more after the item")
    return item


def _item(octets: bytes, at: int, level: int, text_keys: bool) -> tuple[Any, int]:
    if at >= len(octets):
        raise NotStrict("cut off")
    major, info = octets[at] >> 5, octets[at] & 31
    at += 1
    if major == 7:
        if info not in (20, 21, 22):
            raise NotStrict("a float, or a simple value of others")
        return {20: False, 21: True, 22: None}[info], at
    if info >= 28:
        raise NotStrict("without a length")
    number = info
    if info >= 24:
        width = 1 << info - 24
        if at + width > len(octets):
            raise NotStrict("cut off")
        number, at = int.from_bytes(octets[at : at + width], "big"), at + width
    if major <= 1:
        return (number if major == 0 else -1 - number), at
    if major <= 3:
        if at + number > len(octets):
            raise NotStrict("cut off")
        string = octets[at : at + number]
        try:
            return (string if major == 2 else string.decode()), at + number
        except UnicodeDecodeError as error:
            raise NotStrict("text that is not UTF-8") from error
    if major == 6:
        raise NotStrict("a tag")
    if level > LEVELS:
        raise NotStrict("too deep")
    if major == 4:
        array = []
        for _ in range(number):
            item, at = _item(octets, at, level + 1, text_keys)
            array.append(item)
        return array, at
    fields: dict[Any, Any] = {}
    for _ in range(number):
        key, at = _item(octets, at, level + 1, text_keys)
        if not isinstance(key, str) and (text_keys or not isinstance(key, int)):
            raise NotStrict("a key that is no text")
        if key in fields:
            raise NotStrict("a key twice")
        fields[key], at = _item(octets, at, level + 1, text_keys)
    return fields, at
