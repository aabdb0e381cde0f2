"""A hash that is the same in every process, unlike Python's own of strings."""

import hashlib


def digest(*parts: object) -> int:
    """64 bits that depend on the parts' strings and their order."""
    joined = hashlib.blake2b(digest_size=8)
    for part in parts:
        joined.update(str(part).encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(joined.digest(), "big")
