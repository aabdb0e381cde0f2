"""A hash that is the same in every process, unlike Python's own hash of strings."""

import hashlib


def digest(*parts: object) -> int:
    """Return 64 bits that depend on the strings of the parts and their order."""
    joined = hashlib.blake2b(digest_size=8)
    for part in parts:
        joined.update(str(part).encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(joined.digest(), "big")
